"""Required calls over HTTP beside jsonschema: every one complete and valid, whatever the schema.

The schemas are our own (`own_schemas.py`) and the function declarations of the Berkeley Function
Calling Leaderboard, read from the package `bfcl-eval` where it is installed (`pip install --no-deps
bfcl-eval`) or from its unpacked wheel, if the environment variable BFCL_DATA names its `data`
folder. The models are the bundled one and one with random weights and the same tokenizer, which
writes noise wherever it is free. `make test` takes a sample, `-m long` takes all.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator, validators
from own_schemas import SCHEMAS
from small_engine import BLOCK_TOKENS, CONFIG, random_tensors

from baltoro.chat.tokenizer import Tokenizer
from baltoro.checkpoint.bundled import bundled_models
from baltoro.engine.chat import EngineChatModel
from baltoro.engine.engine import Engine
from baltoro.kernels.load import load_step_model

MAX_TOKENS = (64, 65, 80, 128, 300)
CLIENTS = 8
REFUSED_OF_OURS = 10
# Declarations that no call satisfies: an integer or a list whose enum holds only strings.
CONTRADICTIONS_OF_BFCL = 3

# How the leaderboard itself turns its types into those of JSON Schema.
BFCL_TYPES = {
    "object": "dict HashMap Hashtable",
    "array": "list tuple ArrayList Array Queue Stack set",
    "string": "any char Any String String[] ",
    "integer": "byte short long Bigint",
    "number": "float double",
    "boolean": "bool Boolean",
}
JSON_TYPES = {name: kind for kind, names in BFCL_TYPES.items() for name in names.split(" ")}

Named = tuple[str, Any]  # a tool's name and its parameters


@pytest.fixture(scope="module")
def random_weights() -> Iterator[EngineChatModel]:
    if "tiny" not in bundled_models():
        pytest.skip("the bundled model is not there: make it with recipes/tiny.sh")
    tokenizer = Tokenizer.load(bundled_models()["tiny"])
    config = replace(
        CONFIG,
        vocab_size=tokenizer.vocab_size,
        max_position_embeddings=16384,
        eos_token_id=(tokenizer.special.im_end, tokenizer.special.eos),
    )
    step_model = load_step_model(
        config, random_tensors(config), num_blocks=8192, block_tokens=BLOCK_TOKENS, threads=1
    )
    with EngineChatModel("random", Engine(step_model), tokenizer) as model:
        yield model


@pytest.fixture(params=["tiny", "random_weights"])
def model(request: pytest.FixtureRequest) -> EngineChatModel:
    name = "bundled_model" if request.param == "tiny" else request.param
    return request.getfixturevalue(name)


def bfcl() -> list[Named]:
    """Every function that the leaderboard declares, once."""
    spec = importlib.util.find_spec("bfcl_eval")
    given = os.environ.get("BFCL_DATA")
    if given is None and (spec is None or not spec.submodule_search_locations):
        pytest.skip("the data of bfcl-eval is not there: pip install --no-deps bfcl-eval")
    folder = Path(given or Path(spec.submodule_search_locations[0]) / "data")  # type: ignore[union-attr]
    found: dict[str, Named] = {}
    for file in sorted(folder.rglob("*.json")):
        if "possible_answer" in file.parts:
            continue
        for record in _records(file):
            functions = record.get("function", [record] if "parameters" in record else [])
            for function in functions if isinstance(functions, list) else []:
                key = json.dumps(function, sort_keys=True)
                found[key] = (function["name"], _with_json_types(function["parameters"]))
    assert len(found) > 3000
    return list(found.values())


def _records(file: Path) -> Iterator[dict[str, Any]]:
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            return  # not a file of records
        if isinstance(record, dict):
            yield record


def _with_json_types(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    result = {k: _with_json_types(v) if k != "default" else v for k, v in schema.items()}
    if isinstance(properties := schema.get("properties"), dict):
        result["properties"] = {k: _with_json_types(v) for k, v in properties.items()}
    if isinstance(kind := schema.get("type"), str):
        result["type"] = JSON_TYPES.get(kind, kind)
    return result


def oracle(schema: Any) -> Any:
    """Plain jsonschema, of the draft that the schema is of."""
    newest = Draft202012Validator
    if '"additionalItems"' in json.dumps(schema) or '"dependencies"' in json.dumps(schema):
        newest = Draft7Validator
    draft = validators.validator_for(schema, newest)
    return draft(schema, format_checker=draft.FORMAT_CHECKER)


class Client:
    """Asks for a call to one tool, and takes the reply apart."""

    def __init__(self, server: Any, stream: bool):
        self.server, self.stream = server, stream

    def ask(self, number: int, tool: Named) -> str | None:
        """Why the schema was refused, or None after a call that is right."""
        name, parameters = tool
        body = {
            "model": self.server.model.name,
            "messages": [{"role": "user", "content": f"Call {name}."}],
            "tools": [{"type": "function", "function": {"name": name, "parameters": parameters}}],
            "tool_choice": "required",
            "temperature": 1.0,
            "seed": number,
        }
        most = MAX_TOKENS[number % len(MAX_TOKENS)]
        try:
            finish, calls = self.reply(body, most)
        except Exception as error:
            refusal = getattr(error, "body", None) or {}
            if refusal.get("code") == "unsupported_schema":
                return refusal["message"]
            if refusal.get("code") != "max_tokens_too_small":
                raise
            least = int(re.search(r"takes (\d+)", refusal["message"])[1])  # type: ignore[index]
            assert least > most >= 64  # no shorter call exists that was found
            finish, calls = self.reply(body, least)
        assert finish == "tool_calls", (name, finish)
        assert calls
        for index, (call_id, called, arguments) in enumerate(calls):
            assert (call_id, called) == (f"functions.{name}:{index}", name)
            oracle(parameters).validate(json.loads(arguments))
        return None

    def reply(self, body: dict[str, Any], max_tokens: int) -> tuple[str, list[tuple]]:
        create = self.server.openai.chat.completions.create
        if not self.stream:
            choice = create(**body, max_tokens=max_tokens).choices[0]
            calls = choice.message.tool_calls or []
            made = [(call.id, call.function.name, call.function.arguments) for call in calls]
            return choice.finish_reason, made
        parts: dict[int, list[str]] = {}
        finish = ""
        for chunk in create(**body, max_tokens=max_tokens, stream=True):
            finish = chunk.choices[0].finish_reason or finish
            for part in chunk.choices[0].delta.tool_calls or []:
                known = parts.setdefault(part.index, [part.id, part.function.name, ""])
                known[2] += part.function.arguments or ""
        return finish, [tuple(parts[index]) for index in sorted(parts)]


def refusals(server: Any, tools: list[Named]) -> list[str]:
    """Asks for every call, streamed and not; what is not refused must be right."""
    reasons: list[str] = []
    for stream in (True, False):
        client = Client(server, stream)
        with ThreadPoolExecutor(CLIENTS) as pool:
            answers = list(pool.map(client.ask, range(len(tools)), tools))
        reasons = [reason for reason in answers if reason is not None]
    return reasons


def ours() -> list[Named]:
    return [(re.sub(r"\W", "_", name), schema) for name, schema in SCHEMAS.items()]


def test_calls_of_our_own_schemas_are_complete_and_valid(
    model: EngineChatModel, serve_model: Callable
):
    assert len(refusals(serve_model(model), ours()[3::9])) <= 3


def test_calls_of_the_leaderboards_functions_are_complete_and_valid(
    model: EngineChatModel, serve_model: Callable
):
    assert refusals(serve_model(model), bfcl()[::120]) == []


@pytest.mark.long
def test_all_calls_of_our_own_schemas_are_complete_and_valid(
    model: EngineChatModel, serve_model: Callable
):
    assert len(refusals(serve_model(model), ours())) == REFUSED_OF_OURS <= len(SCHEMAS) / 10


@pytest.mark.long
def test_all_calls_of_the_leaderboards_functions_are_complete_and_valid(
    model: EngineChatModel, serve_model: Callable
):
    reasons = refusals(serve_model(model), bfcl())
    assert len(reasons) == CONTRADICTIONS_OF_BFCL
    assert all("unsatisfiable" in reason for reason in reasons)
