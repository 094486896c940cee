"""Long conversations in a small context."""

from __future__ import annotations

from dataclasses import replace

import pytest

from baltoro.agent.context import HIDDEN, STRATEGIES, SUMMARY_HEAD, Window, estimate, window
from baltoro.agent.events import Event, Replied, Shortened, Violated
from baltoro.agent.loop import Agent
from baltoro.agent.retries import Retries
from baltoro.chat.chat_model import ChatRequest, Completion, EndpointError, Sampling, Usage
from baltoro.chat.messages import ToolCall
from baltoro.config import BaltoroError
from baltoro.tools.lookup import Lookup

SYSTEM = {"role": "system", "content": "Be brief."}
TASK = {"role": "user", "content": "Follow k0."}
LENGTH = 60
TABLE = {f"k{i}": f"k{i + 1} " + "and more text " * 20 for i in range(LENGTH)}


class Follower:
    """Follows the chain: the next key is in the last result. Says how many tokens it was sent."""

    name = "follower"

    def __init__(self) -> None:
        self.requests: list[ChatRequest] = []
        self.next = 0

    async def stream(self, request: ChatRequest):
        self.requests.append(request)
        last = request.messages[-1]
        if last["role"] == "user" and last["content"].startswith("Your context"):
            yield self.completion(request, content=f"So far I reached k{self.next}.")
            return
        if last["role"] == "tool":
            self.next = int(last["content"].split()[0][1:])
        if self.next == LENGTH:
            yield self.completion(request, content="Done.")
            return
        call = ToolCall("", "get", f'{{"key": "k{self.next}"}}')
        yield self.completion(request, calls=[call])

    def completion(self, request, content=None, calls=()):
        return Completion(
            reasoning_content=f"At k{self.next}.",
            content=content,
            tool_calls=list(calls),
            finish_reason="tool_calls" if calls else "stop",
            usage=Usage(prompt=estimate(request.messages), completion=20, reasoning=9, cached=0),
        )


async def drive(chosen: Window):
    heard: list[Event] = []
    model = Follower()
    tool = Lookup(TABLE, description="Get.")
    agent = Agent(
        model, [tool], window=chosen, sampling=Sampling(max_tokens=200), observers=[heard.append]
    )
    return await agent.run([SYSTEM, TASK]), model, heard


@pytest.mark.parametrize("strategy", [*STRATEGIES, "keep-last-3"])
async def test_each_strategy_finishes_a_task_that_does_not_fit(strategy: str):
    run, model, heard = await drive(window(strategy, 4000))
    assert (run.stop_reason, run.answer) == ("answered", "Done.")
    assert run.tool_calls == LENGTH
    assert max(estimate(request.messages) for request in model.requests) <= 4100
    # The conversation is whole; only what was sent of it is shorter.
    assert sum(m["role"] == "tool" and m["content"] in TABLE.values() for m in run.messages) == 60
    changes = [event for event in heard if isinstance(event, Shortened)]
    replies = sum(isinstance(event, Replied) for event in heard)
    assert 1 <= len(changes) <= replies / 5
    assert all(change.tokens_after < change.tokens_before for change in changes)
    assert not [event for event in heard if isinstance(event, Violated)]


async def test_hide_all_keeps_calls_and_thinking_and_the_latest_result():
    _, _model, heard = await drive(window("hide-all", 4000))
    (first, *_) = [event for event in heard if isinstance(event, Shortened)]
    results = [m["content"] for m in first.by if m["role"] == "tool"]
    assert set(results[:-1]) == {HIDDEN}
    assert results[-1] != HIDDEN
    thoughts = [m["reasoning_content"] for m in first.by if m["role"] == "assistant"]
    assert thoughts == [f"At k{i}." for i in range(len(thoughts))]


async def test_keep_last_drops_whole_turns_and_never_the_task():
    _, _, heard = await drive(window("keep-last-3", 4000))
    (first, *_) = [event for event in heard if isinstance(event, Shortened)]
    assert first.by[:2] == [SYSTEM, TASK]
    assert [m["role"] for m in first.by[2:]] == ["assistant", "tool"] * 3


async def test_a_summary_takes_the_place_of_the_turns_it_is_about():
    _, _, heard = await drive(window("summarize", 2000))
    changes = [event for event in heard if isinstance(event, Shortened)]
    assert len(changes) >= 2
    task = changes[-1].by[1]["content"]
    assert task.startswith("Follow k0.")
    assert task.count(SUMMARY_HEAD) == 1
    assert "So far I reached k" in task


async def test_an_endpoint_that_fails_while_notes_are_written_is_asked_again_and_all_is_counted():
    class Busy(Follower):
        """Fails at the first notes. Adds up what it has used."""

        failed, used = False, 0

        async def stream(self, request: ChatRequest):
            notes = request.messages[-1]["content"].startswith("Your context")
            if notes and not self.failed:
                self.failed = True
                raise EndpointError("busy", 503, passing=True)
            async for event in super().stream(request):
                self.used += event.usage.prompt
                yield event

    model, heard = Busy(), list[Event]()
    agent = Agent(
        model,
        [Lookup(TABLE, description="Get.")],
        window=window("summarize", 4000),
        sampling=Sampling(max_tokens=200),
        retries=Retries(first_wait_seconds=0.001),
        observers=[heard.append],
    )
    run = await agent.run([SYSTEM, TASK])
    assert (run.stop_reason, model.failed) == ("answered", True)
    assert run.usage.prompt == model.used
    noted = [event.usage for event in heard if isinstance(event, Shortened)]
    replied = [event.completion.usage for event in heard if isinstance(event, Replied)]
    assert sum(usage.prompt for usage in (*noted, *replied) if usage) == model.used


async def test_a_shortened_prompt_is_sized_as_the_endpoint_counts():
    class Dense(Follower):
        """Counts half as many tokens as are estimated."""

        def completion(self, request, content=None, calls=()):
            reply = super().completion(request, content, calls)
            return replace(reply, usage=replace(reply.usage, prompt=reply.usage.prompt // 2))

    heard = list[Event]()
    tool = Lookup(TABLE, description="Get.")
    agent = Agent(Dense(), [tool], window=window("hide-all", 2000), observers=[heard.append])
    assert (await agent.run([SYSTEM, TASK])).stop_reason == "answered"
    changes = [event for event in heard if isinstance(event, Shortened)]
    assert changes
    assert all(change.tokens_after < 0.6 * estimate(change.by) for change in changes)


async def test_a_prompt_that_an_endpoint_refuses_as_too_long_ends_the_run_with_what_is_known():
    class Small(Follower):
        async def stream(self, request: ChatRequest):
            if len(request.messages) > 20:
                raise EndpointError("this exceeds the maximum context length", 400)
            async for event in super().stream(request):
                yield event

    agent = Agent(Small(), [Lookup(TABLE, description="Get.")], window=window("none", None))
    run = await agent.run([SYSTEM, TASK])
    assert run.stop_reason == "context_full"
    assert "Found: k" in (run.partial or "")


async def test_without_a_strategy_a_full_context_ends_the_run_with_what_is_known():
    run, _, _ = await drive(window("none", 4000))
    assert (run.stop_reason, run.answer) == ("context_full", None)
    assert "Found: k" in (run.partial or "")


async def test_a_result_that_fits_no_context_ends_the_run():
    tool = Lookup({"k0": "x" * 50_000}, description="Get.")
    agent = Agent(Follower(), [tool], window=window("hide-all", 4000))
    run = await agent.run([TASK])
    assert run.stop_reason == "context_full"


def test_an_unknown_strategy_is_answered_with_the_known_ones():
    with pytest.raises(BaltoroError, match=r"no context strategy 'forget'.*hide-all, keep-last-k"):
        window("forget", 10)
    with pytest.raises(BaltoroError, match="no context strategy"):
        window("keep-last-0", 10)
