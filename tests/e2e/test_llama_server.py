"""`baltoro serve --upstream` in front of llama.cpp's real server, which runs the bundled model.

BALTORO_PEERS names a folder of `benchmarks/speed/peers/setup.sh`, which builds that server. It
takes the template that comes with it, and is asked in two ways: as it is meant to be used, and
without its parsing of the thinking.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from jsonschema import Draft202012Validator

from baltoro.bench.serve import free_port
from baltoro.chat.tokenizer import Tokenizer
from baltoro.checkpoint.bundled import bundled_models
from baltoro.server.rules import Rules
from baltoro.server.serve import ServeConfig, open_app

PEERS = Path(os.environ.get("BALTORO_PEERS", "."))
SERVER = PEERS / "llama/bin/llama-server"
TEMPLATE = "vendor/llama.cpp/models/templates/Kimi-K2-Thinking.jinja"
WRITE_GGUF = Path(__file__).parents[2] / "benchmarks/speed/peers/write_gguf.py"
START_SECONDS = 60.0

SYSTEM = {"role": "system", "content": "You are tiny, a small model with few skills."}
PYTHON: dict[str, Any] = {
    "type": "object",
    "properties": {"code": {"type": "string"}},
    "required": ["code"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {"name": "python", "description": "Run Python code.", "parameters": PYTHON},
    }
]

pytestmark = pytest.mark.skipif(
    not SERVER.exists() or "tiny" not in bundled_models(),
    reason="BALTORO_PEERS names no folder with llama.cpp, or the bundled model is not there",
)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    command = [sys.executable, WRITE_GGUF, bundled_models()["tiny"], target, "--tokenizer"]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    return target


@pytest.fixture(scope="module", params=["auto", "none"], ids=["parsed", "thinking-left-in"])
def llama(request: pytest.FixtureRequest, gguf: Path) -> Iterator[str]:
    """The address of the server."""
    template = next(path for path in PEERS.glob(f"*/{TEMPLATE}"))
    port = free_port()
    command = [SERVER, "-m", gguf, "--port", port, "--jinja", "--chat-template-file", template]
    command += ["--reasoning-format", request.param, "-c", 16384, "-np", 2, "-t", 1, "--alias", "l"]
    with subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until_ready(process, url)
            yield url
        finally:
            process.terminate()


def wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/health").status_code == 200:
                return
        time.sleep(0.1)
    pytest.fail("llama-server did not start")


@pytest.fixture
def front(llama: str, start_server: Callable[..., str], sdk: openai.OpenAI) -> openai.OpenAI:
    app, _ = open_app(ServeConfig(upstream=f"{llama}/v1", rules=Rules(heavy=2)), [])
    return sdk.with_options(base_url=f"{start_server(app)}/v1")


def ask(front: openai.OpenAI, stream: bool, **fields: Any) -> Any:
    """The reply's choice; whatever it is, no mark of the format is in it."""
    body = {"model": "l", "max_tokens": 600, **fields}
    if stream:
        with front.chat.completions.stream(**body) as events:
            choice = events.get_final_completion().choices[0]
    else:
        choice = front.chat.completions.create(**body).choices[0]
    said = choice.message.model_dump_json()
    assert not any(mark in said for mark in ("<|", "<think>", "</think>")), said
    return choice


def question(text: str) -> list[Any]:
    return [SYSTEM, {"role": "user", "content": text}]


def test_llama_cpp_cuts_text_as_the_models_own_tokenizer(llama: str):
    tokenizer = Tokenizer.load(bundled_models()["tiny"])
    for text in ("Which is bigger: 9.11 or 9.9?", 'print("x", 12+34)\n\n  {"a": [1]}  é 日本'):
        reply = httpx.post(f"{llama}/tokenize", json={"content": text})
        assert reply.json()["tokens"] == tokenizer.encode(text)


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_and_answer_are_told_apart(front: openai.OpenAI, stream: bool):
    answers = []
    for seed in range(4):
        choice = ask(front, stream, messages=question("Which is bigger: 9.11 or 9.9?"), seed=seed)
        assert choice.finish_reason == "stop"
        assert choice.message.reasoning_content
        answers.append(choice.message.content)
    assert sum("9.9" in answer for answer in answers) >= 3  # the model may err; it is not ours here


@pytest.mark.parametrize("stream", [False, True])
def test_calls_are_native_complete_and_valid(front: openai.OpenAI, stream: bool):
    for seed in range(4):
        choice = ask(
            front,
            stream,
            messages=question("What is 12345 times 6789?"),
            tools=TOOLS,
            tool_choice="required",
            seed=seed,
        )
        assert choice.finish_reason == "tool_calls"
        for index, call in enumerate(choice.message.tool_calls):
            assert (call.id, call.function.name) == (f"functions.python:{index}", "python")
            Draft202012Validator(PYTHON).validate(json.loads(call.function.arguments))


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_loop_counts_on_and_outlives_a_client_that_drops_the_thinking(
    front: openai.OpenAI, stream: bool
):
    messages = question("What is 12345 times 6789?")
    first = ask(front, stream, messages=messages, tools=TOOLS, tool_choice="required", seed=1)
    calls = [call.model_dump() for call in first.message.tool_calls]
    messages.append({"role": "assistant", "content": "", "tool_calls": calls})
    messages += [
        {"role": "tool", "tool_call_id": call["id"], "content": "83810205"} for call in calls
    ]
    again = ask(front, stream, messages=messages, tools=TOOLS, tool_choice="required", seed=2)
    assert again.message.tool_calls[0].id == f"functions.python:{len(calls)}"
    answer = ask(front, stream, messages=messages, tools=TOOLS, seed=3)
    assert answer.finish_reason in ("stop", "tool_calls")


def test_heavy_mode_is_had_from_it(front: openai.OpenAI):
    choice = ask(front, False, model="l-heavy", messages=question("What is 17 + 25?"), seed=0)
    assert len(choice.trajectories) == 2
    assert choice.message.content
