"""/v1/messages through the anthropic SDK, in front of scripted replies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import anthropic
import httpx
import pytest

from baltoro.chat.chat_model import Completion, ContentDelta, ReasoningDelta
from baltoro.server.anthropic_replies import NO_USAGE, MessageReply, signature

ANSWER = "<think>0.9 is more.</think>9.9 is bigger."
CALL = (
    "<think>Let me compute.</think>I look.<|tool_calls_section_begin|><|tool_call_begin|>"
    'functions.python:0<|tool_call_argument_begin|>{"code": "print(1)"}<|tool_call_end|>'
    "<|tool_calls_section_end|>"
)
PYTHON = {
    "name": "python",
    "description": "Run Python.",
    "input_schema": {
        "type": "object",
        "properties": {"code": {"type": "string"}},
        "required": ["code"],
    },
}
THINKING = {"type": "enabled", "budget_tokens": 2000}
USER = {"role": "user", "content": "Hi"}


@pytest.fixture(scope="session")
def anthropic_sdk() -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url="http://127.0.0.1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def ask(scripted, anthropic_sdk) -> Callable:
    """A scripted server and the SDK pointed at it."""

    def serve(*replies: str, **options):
        server = scripted(*replies, **options)
        return server, anthropic_sdk.with_options(base_url=server.url)

    return serve


def create(client: anthropic.Anthropic, **fields):
    asked = {"model": "scripted", "max_tokens": 100, "messages": [USER], **fields}
    return client.messages.create(**asked)


def test_thinking_and_text_are_blocks_of_their_own(ask):
    _, client = ask(ANSWER)
    message = create(client, thinking=THINKING)
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.content[0].thinking == "0.9 is more."
    assert message.content[1].text == "9.9 is bigger."
    assert (message.stop_reason, message.role, message.model) == (
        "end_turn",
        "assistant",
        "scripted",
    )
    assert message.usage.output_tokens > 0


def test_thinking_nobody_asked_for_is_done_and_not_shown(ask):
    server, client = ask(ANSWER)
    assert [block.type for block in create(client).content] == ["text"]
    assert server.model.requests[0].sampling.thinking_budget is None


def test_a_stream_opens_and_closes_each_block_in_turn(ask):
    _, client = ask(CALL)
    fields = {"model": "scripted", "max_tokens": 100, "messages": [USER]}
    with client.messages.stream(**fields, tools=[PYTHON], thinking=THINKING) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_message()
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 3
    thinking, text, call = message.content
    assert (thinking.type, text.text, call.name) == ("thinking", "I look.", "python")
    assert thinking.signature
    assert call.id == "functions.python:0"
    assert call.input == {"code": "print(1)"}
    assert message.stop_reason == "tool_use"
    assert message.usage.output_tokens > 0


def test_a_tool_loop_carries_thinking_back_with_its_signature(ask):
    server, client = ask(CALL, "<think>1.</think>It is 1.")
    first = create(client, tools=[PYTHON], thinking=THINKING)
    result = {"type": "tool_result", "tool_use_id": first.content[2].id, "content": "1"}
    history = [
        USER,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result, {"type": "text", "text": "Well?"}]},
    ]
    second = create(client, tools=[PYTHON], thinking=THINKING, messages=history)
    assert second.content[1].text == "It is 1."
    _, turn, answer, question = server.model.requests[1].messages
    assert turn["reasoning_content"] == "Let me compute."
    assert turn["tool_calls"][0]["id"] == answer["tool_call_id"] == "functions.python:0"
    assert json.loads(turn["tool_calls"][0]["function"]["arguments"]) == {"code": "print(1)"}
    assert (answer["content"], question["content"]) == ("1", "Well?")
    function = server.model.requests[1].tools[0]["function"]
    assert function["parameters"] == PYTHON["input_schema"]


def test_a_changed_thinking_block_is_refused_and_a_foreign_one_is_read(ask):
    server, client = ask(ANSWER, ANSWER)
    thinking = create(client, thinking=THINKING).content[0]
    changed = {**thinking.model_dump(), "thinking": "something else"}
    turn = {"role": "assistant", "content": [changed, {"type": "text", "text": "x"}]}
    with pytest.raises(anthropic.BadRequestError, match="signature"):
        create(client, messages=[USER, turn, USER])
    changed["signature"] = "EqQBCgIYAhIM"
    create(client, messages=[USER, turn, USER])
    assert server.model.requests[1].messages[1]["reasoning_content"] == "something else"


def test_an_assistants_turn_at_the_end_is_gone_on_with(ask):
    server, client = ask("and more")
    create(client, messages=[USER, {"role": "assistant", "content": "One"}])
    assert server.model.requests[0].messages[-1]["partial"] is True


def test_fields_become_those_of_the_chat_endpoint(ask):
    server, client = ask(ANSWER)
    create(
        client,
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        stop_sequences=["END"],
        extra_body={"temperature": 0.5, "top_k": 5},  # which not every version of the SDK knows
        thinking=THINKING,
        metadata={"user_id": "u"},
    )
    request = server.model.requests[0]
    assert request.messages[0] == {"role": "system", "content": "Be brief."}
    sampling = request.sampling
    assert (sampling.stop, sampling.temperature, sampling.top_k) == (("END",), 0.5, 5)
    assert (sampling.max_tokens, sampling.thinking_budget) == (100, 2000)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"messages": [{"role": "robot", "content": "x"}]}, r"messages\[0\].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            r"messages\[0\].content\[0\].*text only",
        ),
        ({"messages": []}, "empty"),
        (
            {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            "a tool of your own",
        ),
        ({"extra_body": {"temperature": "hot"}}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"tool_choice": {"type": "tool"}, "tools": [PYTHON]}, "tool_choice.name"),
    ],
)
def test_mistakes_are_answered_in_the_apis_own_shape(ask, fields, words):
    _, client = ask(ANSWER)
    with pytest.raises(anthropic.BadRequestError, match=words) as caught:
        create(client, **fields)
    assert caught.value.body["type"] == "error"
    assert caught.value.body["error"]["type"] == "invalid_request_error"


def test_the_key_may_come_in_the_apis_own_header(ask, anthropic_sdk):
    from baltoro.server.keys import Key, digest

    server, client = ask(ANSWER, keys=[Key(digest=digest("right"), name="a")])
    with pytest.raises(anthropic.AuthenticationError):
        create(client)
    assert create(client.with_options(api_key="right")).content
    url = f"{server.url}/anthropic/v1/messages"
    wrong = httpx.post(url, json={}, headers={"x-api-key": "wrong"}, verify=False, timeout=60)
    assert wrong.json()["error"]["type"] == "authentication_error"


async def test_each_block_of_thinking_has_its_own_signature():
    end = Completion(
        reasoning_content="First.Then.",
        content="I look.",
        tool_calls=[],
        finish_reason="stop",
        usage=NO_USAGE,
    )

    async def choices():
        for event in (
            ReasoningDelta("First."),
            ContentDelta("I look."),
            ReasoningDelta("Then."),
            end,
        ):
            yield 0, event

    reply = MessageReply("scripted", shows_thinking=True)
    deltas = [item["delta"] async for item in reply.chunks(choices()) if "delta" in item]
    signed = [delta["signature"] for delta in deltas if delta.get("type") == "signature_delta"]
    assert signed == [signature("First."), signature("Then.")]
