"""A trace that was cut anywhere is read up to there, goes on, and is read again."""

from __future__ import annotations

import json

import pytest

from baltoro.agent.events import Shortened
from baltoro.agent.loop import Agent
from baltoro.agent.recorded import Recorded, by_label, read_trace, read_works
from baltoro.agent.trace import Trace
from baltoro.chat.chat_model import Usage
from baltoro.chat.scripted import ScriptedChatModel
from baltoro.config import BaltoroError
from baltoro.tools.lookup import Lookup

QUESTION = [{"role": "user", "content": "Welche Größe hat 東京?"}]
CALL = (
    "<think>Ich schaue nach — 調べます 🗼.</think><|tool_calls_section_begin|><|tool_call_begin|>"
    'functions.get:0<|tool_call_argument_begin|>{"key": "東京"}<|tool_call_end|>'
    "<|tool_calls_section_end|>"
)
ANSWER = "<think>Schön.</think>Es sind 2194 km², 約1400万人."
TOOLS = [Lookup({"東京": "2194 km² für 1400万"}, description="Auskünfte über Städte.")]


async def whole_trace(path) -> bytes:
    with Trace(path) as trace:
        await Agent(ScriptedChatModel([CALL, ANSWER]), TOOLS, observers=[trace]).run(QUESTION)
    return path.read_bytes()


async def go_on(path) -> str | None:
    """Resume the run of a trace, or start it anew where none had begun; its answer."""
    runs = [work for work in read_works(path) if isinstance(work, Recorded)]
    with Trace(path) as trace:
        if not runs:
            model = ScriptedChatModel([CALL, ANSWER])
            return (await Agent(model, TOOLS, observers=[trace]).run(QUESTION)).answer
        steps = len(runs[-1].steps)
        model = ScriptedChatModel([CALL, ANSWER][steps:])
        agent = Agent(model, TOOLS, observers=[trace])
        return (await agent.resume(runs[-1].interrupted())).answer


async def test_a_trace_cut_at_any_byte_is_read_and_gone_on_with(tmp_path):
    whole = await whole_trace(tmp_path / "whole.jsonl")
    path = tmp_path / "cut.jsonl"
    for end in range(len(whole) - 1):
        path.write_bytes(whole[:end])
        assert await go_on(path) == "Es sind 2194 km², 約1400万人.", f"cut at byte {end}"
        assert read_trace(path)[-1].answer == "Es sind 2194 km², 約1400万人.", f"cut at byte {end}"


@pytest.mark.parametrize("kept", [1, 7, 60])
async def test_a_trace_that_was_cut_twice_in_a_row_is_read(tmp_path, kept):
    path = tmp_path / "run.jsonl"
    whole = await whole_trace(path)
    lines = whole.split(b"\n")
    path.write_bytes(b"\n".join([*lines[:3], lines[3][:kept], b'{"event": "resu']))
    assert await go_on(path) is not None
    assert read_trace(path)[-1].answer is not None


@pytest.mark.parametrize("damage", [b"\xff\xfe", b'{"event": "call', b"3", b"{}"])
async def test_damage_in_the_middle_is_an_error_with_its_line(tmp_path, damage):
    path = tmp_path / "run.jsonl"
    lines = (await whole_trace(path)).split(b"\n")
    path.write_bytes(b"\n".join([*lines[:2], damage, *lines[3:]]))
    with pytest.raises(BaltoroError, match=r"run\.jsonl, line 3 is no line of a trace"):
        read_trace(path)


def test_half_of_a_surrogate_pair_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "run.jsonl"
    started = {"event": "started", "time": 0.0, "model": "m", "tools": []}
    with Trace(path) as trace:
        trace.write({**started, "messages": [{"role": "user", "content": "half \ud83d"}]})
    assert read_trace(path)[0].messages[0]["content"] == "half \ud83d"


def test_the_notes_of_a_shortening_are_part_of_a_runs_usage(tmp_path):
    path = tmp_path / "run.jsonl"
    used = Usage(prompt=50, completion=9, reasoning=4, cached=0)
    with Trace(path) as trace:
        trace.write({"event": "started", "time": 0.0, "model": "m", "tools": [], "messages": []})
        trace(Shortened(1, "summarize", 0, [], 60, 10, used))
        trace(Shortened(2, "hide-all", 0, [], 60, 10))
    assert read_trace(path)[0].usage == used
    assert json.loads(path.read_text().splitlines()[1])["usage"]["prompt"] == 50


def test_runs_are_called_by_their_name_otherwise_by_their_place(tmp_path):
    path = tmp_path / "run.jsonl"
    with Trace(path) as trace:
        for name in (None, "2", None, "2"):
            line = {"event": "started", "time": 0.0, "model": "m", "tools": [], "messages": []}
            trace.write(line if name is None else {**line, "run": name})
    labels = list(by_label(read_trace(path)))
    assert labels == ["run 1", "run 2", "run 3", "run 2, number 4 of the file"]
    assert list(by_label(read_trace(path)[:1])) == [""]
