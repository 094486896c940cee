"""Calls, the form of the answer and the thinking: what reaches the model, and what comes back."""

from __future__ import annotations

import pytest

from baltoro.chat.chat_model import Completion, ToolChoice, Usage
from baltoro.chat.messages import ToolCall
from baltoro.server.reasoning import ReasoningStore

TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("look", "go")
]
CALL = (
    "<think>I look there.</think><|tool_calls_section_begin|><|tool_call_begin|>functions.look:0"
    '<|tool_call_argument_begin|>{"at": 1}<|tool_call_end|><|tool_calls_section_end|><|im_end|>'
)
ANSWER = "<think>Seen.</think>Done.<|im_end|>"
ASK = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("given", "choice"),
    [
        ({}, ToolChoice()),
        ({"tool_choice": "auto"}, ToolChoice()),
        ({"tool_choice": "none"}, ToolChoice(mode="none")),
        ({"tool_choice": "required"}, ToolChoice(mode="required")),
        (
            {"tool_choice": {"type": "function", "function": {"name": "go"}}},
            ToolChoice(mode="required", names=("go",)),
        ),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {
                        "mode": "auto",
                        "tools": [{"type": "function", "function": {"name": "look"}}],
                    },
                }
            },
            ToolChoice(names=("look",)),
        ),
        ({"parallel_tool_calls": False}, ToolChoice(parallel=False)),
    ],
)
def test_every_form_of_tool_choice_is_understood(scripted, given, choice):
    server = scripted(ANSWER)
    assert server.post({"tools": TOOLS, **given}).status_code == 200
    assert server.model.requests[0].tool_choice == choice


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_a_choice_that_forces_nothing_needs_no_tools(scripted, choice):
    assert scripted(ANSWER).post({"tool_choice": choice}).status_code == 200


@pytest.mark.parametrize(
    ("given", "schema"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": [1]}}},
            {"enum": [1]},
        ),
    ],
)
def test_the_form_of_the_answer_becomes_a_schema(scripted, given, schema):
    server = scripted(ANSWER)
    server.post({"response_format": given})
    assert server.model.requests[0].response_schema == schema


def test_thinking_of_finished_turns_is_kept_on_request(scripted):
    server = scripted(ANSWER, ANSWER)
    server.post({})
    server.post({"thinking": {"type": "enabled", "keep": "all"}})
    assert [request.keep_thinking for request in server.model.requests] == [False, True]


def test_an_answer_has_room_behind_the_thinking(scripted):
    server = scripted(ANSWER)
    server.post({"max_tokens": 100})
    assert server.model.requests[0].sampling.leave_room


def test_thinking_comes_under_a_second_name_on_request(scripted):
    server = scripted(ANSWER, ANSWER, ANSWER)
    plain = server.ask().choices[0].message
    assert not hasattr(plain, "reasoning")
    both = server.ask(extra_body={"reasoning_alias": True}).choices[0].message
    assert both.reasoning == both.reasoning_content == "Seen."
    stream = server.ask(extra_body={"reasoning_alias": True}, stream=True)
    parts = [getattr(chunk.choices[0].delta, "reasoning", "") for chunk in stream]
    assert "".join(parts) == "Seen."


def test_empty_thinking_is_streamed_as_such(scripted):
    server = scripted("<think></think>Hi.<|im_end|>", "Hi.")
    for present in (True, False):
        deltas = [chunk.choices[0].delta for chunk in server.ask(stream=True)]
        texts = [d.reasoning_content for d in deltas if hasattr(d, "reasoning_content")]
        assert texts == ([""] if present else ["Hi."])


def history(reasoning: str | None, call_id: str = "functions.look:0", arguments: str = '{"at":1}'):
    """A turn with a call as a client writes it down, and its result."""
    call = {"id": call_id, "type": "function"}
    call["function"] = {"name": "look", "arguments": arguments}
    turn = {"role": "assistant", "content": "", "tool_calls": [call]}
    if reasoning is not None:
        turn["reasoning_content"] = reasoning
    return [ASK, turn, {"role": "tool", "tool_call_id": call_id, "content": "42"}]


def reasoning_seen(server, messages, **headers) -> str | None:
    server.openai.chat.completions.create(
        model="scripted", messages=messages, tools=TOOLS, extra_headers=headers
    )
    return server.model.requests[-1].messages[1].get("reasoning_content")


@pytest.mark.parametrize(
    "turn",
    [history(None), history(None, arguments='{"at": 1}'), history(None, call_id="look:0")],
)
def test_thinking_that_a_client_dropped_is_put_back(scripted, turn):
    server = scripted(CALL, ANSWER)
    server.ask(tools=TOOLS)
    assert reasoning_seen(server, turn) == "I look there."


def test_thinking_that_a_client_sends_is_left_as_it_is(scripted):
    server = scripted(CALL, ANSWER, ANSWER)
    server.ask(tools=TOOLS)
    assert reasoning_seen(server, history("")) == ""
    assert reasoning_seen(server, history("Mine.")) == "Mine."


def test_no_conversation_gets_the_thinking_of_another(scripted):
    server = scripted(CALL, ANSWER, ANSWER, ANSWER)
    server.ask(tools=TOOLS)
    other = [{"role": "user", "content": "Another question"}, *history(None)[1:]]
    assert reasoning_seen(server, other) is None
    assert reasoning_seen(server, history(None, arguments='{"at":2}')) == "I look there."
    assert reasoning_seen(server, history(None), Authorization="Bearer other") is None


async def thought(store: ReasoningStore, question: str, thinking: str) -> None:
    """A reply with a call passes the store."""

    async def reply():
        yield Completion(
            reasoning_content=thinking,
            content=None,
            tool_calls=[ToolCall("functions.look:0", "look", '{"at":1}')],
            finish_reason="tool_calls",
            usage=Usage(prompt=1, completion=1, reasoning=1, cached=0),
        )

    asked = [{"role": "user", "content": question}]
    assert [_ async for _ in store.remembering(reply(), asked, "")]


def recalled(store: ReasoningStore, question: str) -> str | None:
    turns = [{"role": "user", "content": question}, *history(None)[1:]]
    return store.restored(turns, "")[1].get("reasoning_content")


async def test_what_nobody_asks_for_is_forgotten_first():
    store = ReasoningStore(max_bytes=2000)
    for n in range(4):
        await thought(store, str(n), "x" * 300)
        assert recalled(store, "0") == "x" * 300
    assert [recalled(store, str(n)) for n in (1, 3)] == [None, "x" * 300]


async def test_thinking_with_half_a_surrogate_pair_is_put_back_as_it_was():
    store = ReasoningStore()
    await thought(store, "q", "\ud83d\ude00\ud83d")
    assert recalled(store, "q") == "\ud83d\ude00\ud83d"
