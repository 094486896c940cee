"""The agent's loop with a scripted model and real tools."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

from baltoro.agent.events import Called, Event, Finished, Replied, Returned, Run, Started
from baltoro.agent.loop import Agent, Limits
from baltoro.chat.chat_model import (
    ChatRequest,
    Completion,
    ContextLengthError,
    ReasoningDelta,
    Sampling,
    Usage,
)
from baltoro.chat.messages import Message, ToolCall
from baltoro.chat.scripted import ScriptedChatModel
from baltoro.tools.lookup import Lookup
from baltoro.tools.python import PythonTool

QUESTION: list[Message] = [{"role": "user", "content": "Where does the chain end?"}]


def call(name: str, index: int, **arguments: Any) -> str:
    return (
        f"<|tool_call_begin|>functions.{name}:{index}<|tool_call_argument_begin|>"
        f"{json.dumps(arguments)}<|tool_call_end|>"
    )


def calling(thought: str, *calls: str) -> str:
    section = f"<|tool_calls_section_begin|>{''.join(calls)}<|tool_calls_section_end|>"
    return f"<think>{thought}</think>{section}"


def chain(length: int) -> tuple[Lookup, ScriptedChatModel]:
    """A table in which each entry names the next, and a model that follows it to the end."""
    table = {f"k{i}": f"k{i + 1}" for i in range(length)}
    replies = [calling(f"Step {i}.", call("get", i, key=f"k{i}")) for i in range(length)]
    replies.append(f"<think>No more.</think>It ends at k{length}.")
    return Lookup(table, description="Get an entry."), ScriptedChatModel(replies)


def results(run: Run) -> list[str]:
    return [m["content"] for m in run.messages if m["role"] == "tool"]


async def test_three_hundred_calls_lose_nothing():
    tool, model = chain(300)
    run = await Agent(model, [tool], limits=Limits(max_steps=301)).run(QUESTION)

    assert (run.stop_reason, run.answer) == ("answered", "It ends at k300.")
    assert (run.steps, run.tool_calls) == (301, 300)
    assert results(run) == [f"k{i + 1}" for i in range(300)]
    for step, request in enumerate(model.requests):
        # Each request is the one before and what was added: reply with reasoning, then result.
        assert request.messages == run.messages[: 1 + 2 * step]
        assert request.tools == model.requests[0].tools
    for i in range(300):
        reply, result = run.messages[1 + 2 * i], run.messages[2 + 2 * i]
        assert reply["reasoning_content"] == f"Step {i}."
        assert [c["id"] for c in reply["tool_calls"]] == [f"functions.get:{i}"]
        assert result["tool_call_id"] == f"functions.get:{i}"


async def test_an_answer_without_tools_is_one_step():
    model = ScriptedChatModel(["<think>Easy.</think>9.9 is bigger."])
    run = await Agent(model).run(QUESTION)
    assert (run.stop_reason, run.answer, run.steps) == ("answered", "9.9 is bigger.", 1)
    assert run.messages[-1]["reasoning_content"] == "Easy."


async def test_the_python_tool_works_out_what_the_model_asks():
    model = ScriptedChatModel(
        [calling("Multiply.", call("python", 0, code="4182 * 977")), "<think></think>4085814"]
    )
    run = await Agent(model, [PythonTool()]).run(QUESTION)
    assert results(run) == ["4085814"]


async def test_calls_of_one_reply_run_at_the_same_time_and_keep_their_order():
    class Meeting:
        """Returns once two calls are inside, the later one first."""

        name = "meet"
        description = "Wait for the other one."
        parameters: ClassVar[dict[str, Any]] = {"type": "object"}
        barrier = asyncio.Barrier(2)

        async def call(self, arguments: dict[str, Any]) -> str:
            await self.barrier.wait()
            if arguments["who"] == "first":
                await asyncio.sleep(0.01)
            return arguments["who"]

    calls = call("meet", 0, who="first"), call("meet", 1, who="second")
    model = ScriptedChatModel([calling("Both.", *calls), "<think></think>Done."])
    run = await Agent(model, [Meeting()], limits=Limits(max_seconds=300)).run(QUESTION)
    assert results(run) == ["first", "second"]
    assert [m.get("tool_call_id") for m in run.messages[2:4]] == [
        "functions.meet:0",
        "functions.meet:1",
    ]


async def test_mistakes_in_calls_are_told_to_the_model_and_the_run_goes_on():
    model = ScriptedChatModel(
        [
            calling("Try.", call("gte", 0, key="k0"), call("get", 1, kye="k0")),
            "<think></think>Sorry.",
        ]
    )
    tool, _ = chain(1)
    run = await Agent(model, [tool]).run(QUESTION)
    unknown, unfit = results(run)
    assert unknown == "There is no tool 'gte'. Did you mean 'get'? The tools are: get."
    assert "'key' is a required property" in unfit
    assert run.stop_reason == "answered"


async def test_at_the_step_limit_every_call_still_has_its_result():
    tool, model = chain(5)
    run = await Agent(model, [tool], limits=Limits(max_steps=3)).run(QUESTION)
    assert (run.stop_reason, run.answer, run.steps) == ("step_limit", None, 3)
    assert results(run) == ["k1", "k2", "Not run: the step limit of this task is reached."]


async def test_the_token_limit_counts_all_replies_and_caps_the_next():
    tool, model = chain(5)
    first = ScriptedChatModel(model.replies)
    one = await Agent(first, [tool], limits=Limits(max_steps=1)).run(QUESTION)
    tokens = one.usage.completion

    limits = Limits(max_tokens=2 * tokens + 1)
    run = await Agent(model, [tool], limits=limits, sampling=Sampling(max_tokens=tokens)).run(
        QUESTION
    )
    assert run.stop_reason == "token_limit"
    assert [r.sampling.max_tokens for r in model.requests] == [tokens, tokens, 1]
    assert run.usage.completion >= 2 * tokens


async def test_a_run_ends_at_its_time_limit_in_the_middle_of_a_reply():
    class Slow(ScriptedChatModel):
        async def stream(self, request: ChatRequest) -> AsyncIterator[Any]:
            yield ReasoningDelta("Hm.")
            await asyncio.sleep(60)

    run = await Agent(Slow([]), limits=Limits(max_seconds=0.05)).run(QUESTION)
    assert (run.stop_reason, run.answer) == ("time_limit", None)
    assert run.messages == QUESTION


async def test_a_run_ends_at_its_time_limit_in_the_middle_of_a_call():
    model = ScriptedChatModel(
        [calling("Wait.", call("python", 0, code="import time\ntime.sleep(60)"))]
    )
    run = await Agent(model, [PythonTool()], limits=Limits(max_seconds=2)).run(QUESTION)
    assert run.stop_reason == "time_limit"
    assert results(run) == ["Stopped: the time limit of this task is reached."]


async def test_a_reply_that_is_cut_runs_none_of_its_calls():
    cut = calling("Look.", call("get", 0, key="k0"))[:-60]
    tool, _ = chain(1)
    run = await Agent(ScriptedChatModel([cut]), [tool]).run(QUESTION)
    assert run.stop_reason == "reply_cut"
    assert "tool_calls" not in run.messages[-1]
    assert results(run) == []


async def test_thinking_alone_is_asked_again_and_then_given_up():
    empty = "<think>So it is.</think>"
    run = await Agent(ScriptedChatModel([empty, "<think>Say it.</think>Yes."])).run(QUESTION)
    assert (run.stop_reason, run.answer, run.steps) == ("answered", "Yes.", 2)
    assert len(run.messages) == 2

    run = await Agent(ScriptedChatModel([empty] * 3)).run(QUESTION)
    assert (run.stop_reason, run.answer, run.messages) == ("no_answer", None, QUESTION)


async def test_a_thinking_reply_that_was_drawn_greedily_is_asked_again_by_chance():
    model = ScriptedChatModel(["<think>Hm.</think>", "<think>Hm.</think>It is 4."])
    await Agent(model, sampling=Sampling(temperature=0.0)).run(QUESTION)
    assert [request.sampling.temperature for request in model.requests] == [0.0, 1.0]


async def test_what_ends_a_run_ends_the_calls_beside_it_first():
    class Slow(Lookup):
        read_only = False
        ended = False

        async def call(self, arguments: dict[str, Any]) -> str:
            try:
                await asyncio.sleep(60)
            finally:
                self.ended = True
            return ""

    async def approve(asked: ToolCall) -> bool:
        if "k1" in asked.arguments:
            return True
        await asyncio.sleep(0.01)
        raise RuntimeError("the terminal is gone")

    both = calling("Both.", call("get", 0, key="k1"), call("get", 1, key="k2"))
    tool = Slow({}, description="Get an entry.")
    with pytest.raises(RuntimeError, match="terminal"):
        await Agent(ScriptedChatModel([both]), [tool], approve=approve).run(QUESTION)
    assert tool.ended


async def test_with_a_seed_every_step_has_its_own():
    tool, model = chain(3)
    await Agent(model, [tool], sampling=Sampling(seed=7)).run(QUESTION)
    assert [r.sampling.seed for r in model.requests] == [7, 8, 9, 10]


async def test_ids_of_other_endpoints_become_native():
    class Foreign(ScriptedChatModel):
        """Calls every call of every reply `call_0`."""

        async def stream(self, request: ChatRequest) -> AsyncIterator[Any]:
            turn = len(request.messages) // 2
            usage = Usage(prompt=0, completion=1, reasoning=0, cached=0)
            calls = [ToolCall("call_0", "get", f'{{"key": "k{turn}"}}')] if turn < 3 else []
            yield Completion(
                reasoning_content=None,
                content=None if calls else "k3",
                tool_calls=calls,
                finish_reason="tool_calls" if calls else "stop",
                usage=usage,
            )

    tool, _ = chain(3)
    run = await Agent(Foreign([]), [tool]).run(QUESTION)
    assert results(run) == ["k1", "k2", "k3"]
    ids = [m["tool_call_id"] for m in run.messages if m["role"] == "tool"]
    assert ids == ["functions.get:0", "functions.get:1", "functions.get:2"]


async def test_a_finished_run_can_be_gone_on_from():
    tool, model = chain(2)
    agent = Agent(model, [tool])
    run = await agent.run(QUESTION)
    model.replies += [calling("Again.", call("get", 2, key="k0")), "<think></think>k1."]
    more = await agent.run([*run.messages, {"role": "user", "content": "And from k0?"}])
    assert more.answer == "k1."
    assert more.messages[: len(run.messages)] == run.messages


async def test_one_agent_can_have_several_runs_at_the_same_time():
    class Echo(ScriptedChatModel):
        async def stream(self, request: ChatRequest) -> AsyncIterator[Any]:
            await asyncio.sleep(0)
            model = ScriptedChatModel([f"<think></think>{request.messages[0]['content']}"])
            async for event in model.stream(request):
                yield event

    agent = Agent(Echo([]))
    runs = await asyncio.gather(
        *(agent.run([{"role": "user", "content": f"word{i}"}]) for i in range(20))
    )
    assert [run.answer for run in runs] == [f"word{i}" for i in range(20)]


async def test_observers_hear_everything_in_order():
    tool, model = chain(1)
    heard: list[Event] = []
    run = await Agent(model, [tool], observers=[heard.append]).run(QUESTION)
    kinds = [
        type(event)
        for event in heard
        if isinstance(event, Started | Replied | Called | Returned | Finished)
    ]
    assert kinds == [Started, Replied, Called, Returned, Replied, Finished]
    assert heard[-1] == Finished(run)
    assert "".join(e.text for e in heard if isinstance(e, ReasoningDelta)) == "Step 0.No more."


async def test_a_fault_in_the_model_travels_up():
    with pytest.raises(RuntimeError, match="script has only 0 replies"):
        await Agent(ScriptedChatModel([])).run(QUESTION)


class SmallContext(ScriptedChatModel):
    """Takes no more than so many messages."""

    def __init__(self, replies: list[str], most: int):
        super().__init__(replies)
        self.most = most

    def stream(self, request: ChatRequest) -> AsyncIterator:
        if len(request.messages) > self.most:
            raise ContextLengthError("the prompt is too long.")
        return super().stream(request)


async def test_a_conversation_that_outgrows_the_model_ends_with_its_context_full():
    tool, model = chain(9)
    run = await Agent(SmallContext(model.replies, most=5), [tool]).run(QUESTION)
    assert (run.stop_reason, run.answer, run.steps) == ("context_full", None, 3)


async def test_a_task_that_does_not_fit_at_all_is_an_error():
    with pytest.raises(ContextLengthError):
        await Agent(SmallContext(["never"], most=0), []).run(QUESTION)
