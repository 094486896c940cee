"""The HTTP model against a real socket that answers byte for byte what a test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

from baltoro.chat.chat_model import (
    ChatRequest,
    Completion,
    ContentDelta,
    EndpointError,
    Event,
    ReasoningDelta,
    Sampling,
    ToolCallDelta,
    Usage,
    complete,
)
from baltoro.chat.dialects import GENERIC
from baltoro.chat.http import HttpChatModel, sse_data
from baltoro.chat.messages import ToolCall
from baltoro.chat.scripted import ScriptedChatModel
from baltoro.server.app import create_app

HELLO = ChatRequest(messages=[{"role": "user", "content": "hello"}])
STREAM = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@dataclass
class Endpoint:
    url: str
    requests: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)

    def model(self, **options: Any) -> HttpChatModel:
        return HttpChatModel(f"{self.url}/v1", "m", "secret", **options)


@asynccontextmanager
async def endpoint(pieces: Sequence[bytes]) -> AsyncIterator[Endpoint]:
    """Answers every request with `pieces` and hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        here.requests.append((first, headers, body))
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    here = Endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    async with server:
        yield here


def sse(*chunks: Any) -> bytes:
    data = [c if isinstance(c, str) else json.dumps(c, ensure_ascii=False) for c in chunks]
    return "".join(f"data: {line}\n\n" for line in data).encode()


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def call(index: int, arguments: str, **fields: Any) -> dict[str, Any]:
    name = {"name": fields.pop("name")} if "name" in fields else {}
    return {"index": index, "function": {"arguments": arguments, **name}, **fields}


async def events_of(body: bytes, **options: Any) -> list[Event]:
    async with endpoint([STREAM.encode(), body]) as here:
        return [event async for event in here.model(**options).stream(HELLO)]


async def completion_of(*chunks: Any, **options: Any) -> Completion:
    last = (await events_of(sse(*chunks), **options))[-1]
    assert isinstance(last, Completion)
    return last


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
async def test_events_are_the_same_wherever_the_packets_are_cut(ending: str):
    lines = [": comment", 'data: {"x":"世\u2028\x85"}', "", "data:[DONE]", ""]
    body = ending.join(lines).encode()

    async def packets(*ends: int) -> AsyncIterator[bytes]:
        for start, end in pairwise([0, *ends, len(body)]):
            yield body[start:end]

    cuts = [range(1, len(body)), *([place] for place in range(len(body)))]
    for cut in cuts:
        data = [line async for line in sse_data(packets(*cut))]
        assert data == ['{"x":"世\u2028\x85"}', "[DONE]"]


async def test_reply_streams_as_it_is_said():
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 4},
    }
    body = b": a comment\n\n" + sse(
        delta(role="assistant", content=""),
        delta(reasoning_content="think 世"),
        delta(reasoning_content="界"),
        delta(content="one\u2028line"),
        delta(tool_calls=[call(0, "", id="functions.f:0", type="function", name="f")]),
        delta(tool_calls=[call(0, '{"x":')]),
        delta(tool_calls=[call(0, "1}")]),
        delta("tool_calls"),
        {"choices": [], "usage": usage},
        "[DONE]",
    )
    assert await events_of(body) == [
        ReasoningDelta("think 世"),
        ReasoningDelta("界"),
        ContentDelta("one\u2028line"),
        ToolCallDelta(0, "functions.f:0", "f", ""),
        ToolCallDelta(0, None, None, '{"x":'),
        ToolCallDelta(0, None, None, "1}"),
        Completion(
            reasoning_content="think 世界",
            content="one\u2028line",
            tool_calls=[ToolCall("functions.f:0", "f", '{"x":1}')],
            finish_reason="tool_calls",
            usage=Usage(prompt=5, completion=9, reasoning=4, cached=3),
        ),
    ]


async def test_both_names_of_the_reasoning_field_are_read():
    reply = await completion_of(delta(reasoning="r"), delta("stop", content="c"), "[DONE]")
    assert (reply.reasoning_content, reply.content) == ("r", "c")


async def test_empty_reasoning_is_present_and_null_is_not():
    assert (await completion_of(delta("stop", reasoning_content=""))).reasoning_content == ""
    assert (await completion_of(delta("stop", reasoning_content=None))).reasoning_content is None


async def test_usage_is_found_where_moonshot_puts_it():
    chunk = delta("stop", content="c")
    chunk["choices"][0]["usage"] = {"prompt_tokens": 7, "completion_tokens": 2, "cached_tokens": 6}
    usage = (await completion_of(chunk, "[DONE]")).usage
    assert usage == Usage(prompt=7, completion=2, reasoning=0, cached=6)


async def test_thinking_that_is_not_counted_is_estimated_by_its_share_of_the_reply():
    reply = await completion_of(
        delta(reasoning_content="t" * 60),
        delta(content="c" * 8, tool_calls=[call(0, "{'x': 1}", name="find")]),
        {**delta("tool_calls"), "usage": {"prompt_tokens": 7, "completion_tokens": 40}},
    )
    assert reply.usage == Usage(prompt=7, completion=40, reasoning=30, cached=0)
    silent = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 1}}
    assert (await completion_of(delta("stop"), silent)).usage.reasoning == 0


async def test_usage_that_is_not_told_is_estimated_from_the_texts():
    reply = await completion_of(delta(reasoning_content="t" * 30), delta("stop", content="c" * 11))
    # {"role": "user", "content": "hello"} has 20 characters in its names and texts.
    assert reply.usage == Usage(prompt=5, completion=11, reasoning=8, cached=0)
    silent = await completion_of(delta("stop"))
    assert silent.usage == Usage(prompt=5, completion=0, reasoning=0, cached=0)


async def test_declared_tools_count_in_an_estimated_prompt():
    tool = {"type": "function", "function": {"name": "f", "parameters": {"required": ["x" * 400]}}}
    async with endpoint([STREAM.encode(), sse(delta("stop", content="c"))]) as here:
        request = ChatRequest(messages=HELLO.messages, tools=[tool])
        assert (await complete(here.model(), request)).usage.prompt > 100


async def test_half_of_a_surrogate_pair_is_sent_as_a_replacement_and_a_cut_pair_is_joined():
    texts = ["half \ud83d.", "\ude00", "\ud83d" + "\ude00", "ü 世 🗼"]
    async with endpoint([STREAM.encode(), sse(delta("stop", content="c"))]) as here:
        messages = [{"role": "user", "content": text} for text in texts]
        await complete(here.model(), ChatRequest(messages=messages))
    [(_, headers, body)] = here.requests
    assert [m["content"] for m in body["messages"]] == ["half �.", "�", "😀", "ü 世 🗼"]
    assert headers["content-type"] == "application/json"


async def test_calls_that_all_have_index_0_are_told_apart_by_their_ids():
    reply = await completion_of(
        delta(tool_calls=[call(0, "{}", id="a", name="f"), call(0, "[]", id="b", name="g")]),
        delta("tool_calls"),
    )
    assert reply.tool_calls == [ToolCall("a", "f", "{}"), ToolCall("b", "g", "[]")]


async def test_call_without_an_id_gets_a_native_one():
    reply = await completion_of(delta("tool_calls", tool_calls=[call(0, "{}", name="f")]))
    assert reply.tool_calls == [ToolCall("functions.f:0", "f", "{}")]


async def test_token_ids_are_traced_in_the_form_of_vllm():
    first = {**delta(content="a"), "prompt_token_ids": [1, 2], "weights_version": "w"}
    first["choices"][0] |= {"token_ids": [3], "logprobs": {"content": [{"logprob": -0.5}]}}
    second = delta("stop", content="b")
    second["choices"][0] |= {"token_ids": [4, 5], "logprobs": None}
    trace = (await completion_of(first, second, "[DONE]", return_token_ids=True)).trace
    assert trace is not None
    assert (trace.prompt_ids, trace.generated_ids) == ([1, 2], [3, 4, 5])
    assert (trace.logprobs, trace.weights_version) == ([-0.5], "w")


async def test_request_reaches_the_endpoint_with_its_key():
    async with endpoint([STREAM.encode(), sse(delta("stop", content="c"), "[DONE]")]) as here:
        await complete(here.model(), HELLO)
    [(first_line, headers, body)] = here.requests
    assert first_line == "POST /v1/chat/completions HTTP/1.1"
    assert headers["authorization"] == "Bearer secret"
    assert body == GENERIC.body("m", HELLO)


def test_reasoning_goes_back_with_its_message():
    reply = Completion(
        reasoning_content="r",
        content=None,
        tool_calls=[ToolCall("functions.f:0", "f", "{}")],
        finish_reason="tool_calls",
        usage=Usage(prompt=0, completion=0, reasoning=0, cached=0),
    )
    body = GENERIC.body("m", ChatRequest(messages=[reply.to_message()]))
    assert body["messages"][0]["reasoning_content"] == "r"


def test_fields_beyond_openais_are_sent_only_where_they_change_something():
    assert not {"top_k", "min_p", "seed", "stop", "tools", "return_token_ids"} & set(
        GENERIC.body("m", HELLO)
    )
    sampling = Sampling(top_k=4, min_p=0.1, seed=0, stop=("x",), thinking_budget=9, logprobs=True)
    body = GENERIC.body("m", ChatRequest(messages=[], tools=[{}], sampling=sampling), True)
    assert {"top_k": 4, "min_p": 0.1, "seed": 0, "stop": ["x"], "tools": [{}]}.items() <= (
        body.items()
    )
    assert (body["thinking_token_budget"], body["top_logprobs"]) == (9, 0)
    assert body["return_token_ids"] is True


async def test_refused_connection_is_explained():
    async with endpoint([]) as here:
        pass
    with pytest.raises(EndpointError, match=r"cannot connect to .*Is the server running\?"):
        await complete(here.model(), HELLO)


async def test_address_without_a_scheme_is_explained():
    with pytest.raises(EndpointError, match=r"'localhost:1/v1' is not an address"):
        await complete(HttpChatModel("localhost:1/v1", "m"), HELLO)


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (400, '{"error": {"message": "too long."}}', r"answered 400: too long\.$"),
        (401, '{"detail": "no key"}', r"answered 401: no key\. Pass the endpoint's API key\."),
        (404, "not here", r"answered 404: not here\. Does the base URL end with /v1"),
        (500, "", r"answered 500: Oops\."),
    ],
)
async def test_refusal_is_passed_on(status: int, body: str, sentence: str):
    head = f"HTTP/1.1 {status} Oops\r\nContent-Length: {len(body)}\r\n\r\n"
    async with endpoint([(head + body).encode()]) as here:
        with pytest.raises(EndpointError, match=sentence) as caught:
            await complete(here.model(), HELLO)
    assert caught.value.status == status


async def test_stream_that_stops_before_the_end_is_no_reply():
    with pytest.raises(EndpointError, match="broke off its stream"):
        await completion_of(delta(content="half"))


async def test_connection_that_breaks_is_no_reply():
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9999\r\n\r\n"
    async with endpoint([head, sse(delta(content="half"))]) as here:
        with pytest.raises(EndpointError, match=r"the connection to .* broke"):
            await complete(here.model(), HELLO)


async def test_reply_ends_at_its_finish_reason_where_done_is_missing():
    assert (await completion_of(delta("length", content="c"))).finish_reason == "length"


async def test_error_in_the_middle_of_a_stream_is_passed_on():
    with pytest.raises(EndpointError, match=r"in the middle of its reply: out of memory\.$"):
        await completion_of(delta(content="a"), {"error": {"message": "out of memory"}})


async def test_event_that_is_not_json_is_shown():
    with pytest.raises(EndpointError, match=r"not a JSON object: '\{oops'"):
        await completion_of("{oops")


async def test_web_page_in_place_of_a_stream_is_explained():
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi"
    async with endpoint([page]) as here:
        with pytest.raises(EndpointError, match="'text/html' instead of an event stream"):
            await complete(here.model(), HELLO)


async def test_reply_through_the_server_is_the_models_reply(start_server):
    script = [
        "<think>two 世界</think>Let me see.<|tool_calls_section_begin|>"
        '<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"x": 1}<|tool_call_end|>'
        "<|tool_call_begin|>functions.f:1<|tool_call_argument_begin|>{}<|tool_call_end|>"
        "<|tool_calls_section_end|>",
        "<think>seen</think>done",
        "<think>never clo",
    ]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    request = ChatRequest(messages=HELLO.messages, tools=[tool])
    direct = ScriptedChatModel(script)
    url = start_server(create_app(ScriptedChatModel(script)))
    for _ in script:
        expected = await complete(direct, request)
        got = await complete(HttpChatModel(f"{url}/v1/", "scripted"), request)
        assert got == expected
