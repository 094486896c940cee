"""Trigger F1 and schema accuracy of an endpoint's calls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from players import Player

from baltoro.config import BaltoroError
from baltoro.engine.open_model import open_model
from baltoro.evals.tool_calls import measure, read_requests
from baltoro.evals.triggers import requests

TOOL = {
    "type": "function",
    "function": {
        "name": "height",
        "parameters": {
            "type": "object",
            "properties": {"name": {"type": "string"}},
            "required": ["name"],
        },
    },
}


def lines(*expected: bool | None) -> list[dict]:
    """A request for each, which says what is expected of it."""
    asked = [{"messages": [{"role": "user", "content": str(i)}], "tools": [TOOL]} for i in range(9)]
    return [
        line if each is None else line | {"should_call": each}
        for line, each in zip(asked, expected, strict=False)
    ]


async def test_f1_is_that_of_calling_a_tool():
    says = {"0": [("height", {"name": "K2"})], "1": "No.", "2": [("height", {"name": "K2"})]}
    player = Player(lambda request: says[request.messages[0]["content"]])
    found = await measure(player, lines(True, True, False))
    assert (found.called_as_expected, found.called_in_vain) == (1, 1)
    assert found.f1 == 0.5
    assert found.to_json()["schema_accuracy"] == 1.0


async def test_calls_that_do_not_fit_their_schema_are_counted_and_shown():
    says = {
        "0": [("height", {"name": 2})],
        "1": [("depth", {})],
        "2": [("height", {"name": "K2"}), ("height", {})],
        "3": [("height", {"name": "K2"})],
    }
    player = Player(lambda request: says[request.messages[0]["content"]])
    found = await measure(player, lines(None, None, None, None))
    assert (found.replies_with_calls, found.valid) == (4, 1)
    assert found.faults[1] == "there is no tool depth"
    assert found.f1 == 0.0


async def test_a_reference_endpoints_finish_reason_says_what_is_expected():
    asked = [line | {"finish_reason": "tool_calls"} for line in lines(None, None)]
    asked[1]["finish_reason"] = "stop"
    says = {"0": [("height", {"name": "K2"})], "1": "No."}
    found = await measure(Player(lambda request: says[request.messages[0]["content"]]), asked)
    assert (found.f1, found.expected_calls) == (1.0, 1)


async def test_the_bundled_model_calls_where_a_problem_needs_a_tool(tmp_path: Path):
    path = tmp_path / "requests.jsonl"
    path.write_text("\n".join(map(json.dumps, requests(8, seed=1))) + "\n")
    with open_model("tiny") as model:
        found = await measure(model, read_requests(path))
    assert (found.f1, found.schema_accuracy) == (1.0, 1.0)
    assert found.replies_with_calls == 8


def test_a_file_of_something_else_is_a_sentence(tmp_path: Path):
    path = tmp_path / "requests.jsonl"
    path.write_text(json.dumps(lines(True)[0]) + "\n{}\n")
    with pytest.raises(BaltoroError, match="line 2 is no request"):
        read_requests(path)
