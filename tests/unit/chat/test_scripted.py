"""The scripted model behaves as any other `ChatModel`."""

from __future__ import annotations

import pytest

from baltoro.chat.chat_model import ChatRequest, Completion, ContentDelta, ReasoningDelta, complete
from baltoro.chat.messages import ToolCall
from baltoro.chat.scripted import ScriptedChatModel

CALL = "<|tool_call_begin|>functions.ns.f:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
TOOL = {"type": "function", "function": {"name": "ns.f"}}


async def test_replies_come_in_their_order():
    model = ScriptedChatModel([f"<think>look</think>{CALL}", "<think>seen</think>done"])
    messages = [{"role": "user", "content": "q"}]
    first = await complete(model, ChatRequest(messages=messages, tools=[TOOL]))
    assert first.tool_calls == [ToolCall("functions.ns.f:0", "ns.f", "{}")]
    assert first.finish_reason == "tool_calls"
    messages.append(first.to_message())
    second = await complete(model, ChatRequest(messages=messages))
    assert (second.reasoning_content, second.content) == ("seen", "done")
    assert second.finish_reason == "stop"
    assert [len(request.messages) for request in model.requests] == [1, 2]


async def test_deltas_come_before_the_completion():
    events = [
        event
        async for event in ScriptedChatModel(["<think>a</think>b"]).stream(ChatRequest(messages=[]))
    ]
    assert events[:-1] == [ReasoningDelta("a"), ContentDelta("b")]
    assert isinstance(events[-1], Completion)


async def test_unclosed_thinking_ends_for_its_length():
    reply = await complete(ScriptedChatModel(["<think>a"]), ChatRequest(messages=[]))
    assert (reply.reasoning_content, reply.finish_reason) == ("a", "length")


async def test_script_that_is_over_says_so():
    with pytest.raises(RuntimeError, match="only 0 replies"):
        await complete(ScriptedChatModel([]), ChatRequest(messages=[]))
