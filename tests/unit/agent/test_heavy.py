"""Several trajectories, one budget, one reflection."""

from __future__ import annotations

import asyncio
import functools

import pytest

from baltoro.agent.events import Run
from baltoro.agent.heavy import HeavyChatModel, attempts_of, most_common, resume_heavy, run_heavy
from baltoro.agent.loop import Agent, Limits
from baltoro.agent.prices import Price
from baltoro.agent.progress import NOTHING
from baltoro.agent.recorded import read_trace, read_works
from baltoro.agent.trace import Trace
from baltoro.chat.chat_model import (
    ChatRequest,
    Completion,
    ContentDelta,
    EndpointError,
    Sampling,
    Usage,
    complete,
)
from baltoro.config import BaltoroError

QUESTION = [{"role": "user", "content": "How many?"}]


def reply(content: str, tokens: int = 10, finish_reason: str = "stop") -> Completion:
    return Completion(
        reasoning_content="Hm.",
        content=content,
        tool_calls=[],
        finish_reason=finish_reason,
        usage=Usage(prompt=100, completion=tokens, reasoning=4, cached=50),
    )


class Guesser:
    """Answers `Guess SEED`, where a seed is given; to a reflection, with the last attempt."""

    name = "guesser"

    def __init__(self, failing: int = 0):
        self.failing = failing  # so many trajectories do not get through
        self.requests: list[ChatRequest] = []
        self.at_once = self.most_at_once = 0

    async def stream(self, request: ChatRequest):
        self.requests.append(request)
        if len(self.requests) <= self.failing:
            raise EndpointError("gone", 400)
        text = request.messages[-1]["content"]
        reflecting = "[Attempt 1]" in text
        said = text.split()[-1] if reflecting else str(request.sampling.seed)
        yield ContentDelta(said)
        yield reply(said)


async def drive(model: Guesser, n: int = 8, trace: Trace | None = None, **limits):
    price = Price(input=1.0, cached=0.1, output=2.0, source="test", date="2026-01-01")

    def make(observers):
        return Agent(model, sampling=Sampling(seed=0), observers=observers, price=price)

    def observe(name: str | None):
        return [trace.of(name)] if trace else []

    return await run_heavy(make, QUESTION, n, limits=Limits(**limits), observe=observe)


async def test_every_attempt_is_shown_to_the_reflection_and_all_is_in_the_trace(tmp_path):
    model = Guesser()
    with Trace(tmp_path / "t.jsonl") as trace:
        run = await drive(model, trace=trace)
    seeds = [str(i * 100_003) for i in range(8)]
    assert run.attempts == seeds
    assert (run.stop_reason, run.answer) == ("answered", seeds[-1])
    asked = model.requests[-1].messages[-1]["content"]
    assert asked.startswith("How many?\n")
    assert all(f"[Attempt {i}]\n{seed}" in asked for i, seed in enumerate(seeds, 1))
    assert run.usage == Usage(prompt=900, completion=90, reasoning=36, cached=450)
    assert run.cost is not None
    assert run.cost.total == pytest.approx((450 * 1.0 + 450 * 0.1 + 90 * 2.0) / 1e6)
    recorded = read_trace(tmp_path / "t.jsonl")
    assert [each.name for each in recorded] == [*map(str, range(1, 9)), "reflection"]
    assert [each.answer for each in recorded] == [*seeds, seeds[-1]]


async def test_all_trajectories_share_one_budget():
    run = await drive(Guesser(), max_tokens=35)
    # Trajectories begin together, so each may have begun before the budget was used up.
    assert run.reflection is None
    assert run.answer is not None
    model = Guesser()
    run = await drive(model, n=2, max_tokens=25)
    assert model.requests[-1].sampling.max_tokens == 5


async def test_replies_at_the_same_time_stay_within_the_budget_and_leave_some_for_the_reflection():
    class Rambler(Guesser):
        """Says as much as it may, and nothing before all that could begin have begun."""

        async def stream(self, request: ChatRequest):
            self.requests.append(request)
            for _ in range(50):
                await asyncio.sleep(0)
            tokens = request.sampling.max_tokens
            yield ContentDelta("Hm")
            yield reply("Hm", tokens, "length")

    model = Rambler()
    run = await drive(model, max_tokens=5000)
    assert run.usage.completion <= 5000
    assert {each.stop_reason for each in run.runs} == {"token_limit"}
    shares = [request.sampling.max_tokens for request in model.requests]
    assert len(shares) == 9
    assert min(shares) >= 5000 // 9


async def test_answers_are_voted_on_where_their_reflection_fails():
    class Forgetful(Guesser):
        """Its context is too small for a reflection."""

        async def stream(self, request: ChatRequest):
            if "[Attempt 1" in request.messages[-1]["content"]:
                raise EndpointError("maximum context length", 400)
            yield ContentDelta("42")
            yield reply("42")

    run = await drive(Forgetful())
    assert (run.stop_reason, run.answer, run.reflection) == ("answered", "42", None)
    served = await complete(HeavyChatModel(Forgetful(), 3), ChatRequest(messages=QUESTION))
    assert (served.content, served.usage.completion) == ("42", 30)
    assert len(served.trajectories) == 3


async def test_only_the_reflection_is_drawn_hardly_by_chance():
    model, served = Guesser(), Guesser()
    await drive(model)
    await complete(HeavyChatModel(served, 8), ChatRequest(messages=QUESTION))
    for requests in (model.requests, served.requests):
        assert [request.sampling.temperature for request in requests] == [1.0] * 8 + [0.2]


async def test_a_trajectory_that_fails_is_left_out_and_only_all_of_them_are_an_error():
    run = await drive(Guesser(failing=3))
    assert len(run.attempts) == 5
    with pytest.raises(EndpointError):
        await drive(Guesser(failing=8))


def ended(answer: str | None, partial: str | None = None) -> Run:
    return Run(
        stop_reason="answered" if answer else "reply_cut",
        answer=answer,
        partial=partial,
        messages=QUESTION,
        steps=1,
        tool_calls=0,
        usage=NOTHING,
        seconds=0.0,
    )


def test_what_a_run_knew_so_far_is_reflected_on_only_where_no_run_has_an_answer():
    unfinished = ended(None, "Last thought: 4 or 5")
    assert attempts_of([ended("4"), unfinished, ended("5")]) == ["4", "5"]
    assert attempts_of([unfinished, unfinished, ended(None)]) == ["Last thought: 4 or 5"] * 2


async def test_paused_trajectories_are_not_reflected_on_and_only_they_go_on(tmp_path):
    class Pausing(Guesser):
        """The user pauses while the third trajectory thinks."""

        begun = 0

        async def stream(self, request: ChatRequest):
            self.begun += 1
            if self.begun == 3:
                for agent in agents:
                    agent.pause()
            await asyncio.sleep(0.001)
            async for event in super().stream(request):
                yield event

    agents: list[Agent] = []

    def make(observers):
        agents.append(Agent(model, sampling=Sampling(seed=0), observers=observers))
        return agents[-1]

    path = tmp_path / "t.jsonl"
    model = Pausing()
    with Trace(path) as trace:

        def observe(name: str | None):
            return [trace.of(name)]

        first = await run_heavy(make, QUESTION, 4, observe=observe)
        assert (first.stop_reason, first.answer, first.reflection) == ("paused", None, None)
        model = Guesser()
        state = read_works(path)[-1].interrupted()
        answered = [run.answer for run in state.runs.values() if isinstance(run, Run)]
        run = await resume_heavy(make, state, observe=observe)
    assert run.answer == str(3 * 100_003)
    assert run.attempts == [str(i * 100_003) for i in range(4)]
    asked = [request.sampling.seed for request in model.requests[:-1]]
    assert sorted(map(str, asked)) == sorted({*run.attempts} - {*answered})
    assert run.usage.completion == 50


async def test_a_reflection_that_was_interrupted_is_all_that_goes_on(tmp_path):
    path = tmp_path / "t.jsonl"
    with Trace(path) as trace:
        await drive(Guesser(), n=3, trace=trace)
    lines = path.read_text().splitlines()
    place = next(i for i, line in enumerate(lines) if '"reflection"' in line)
    path.write_text("\n".join(lines[: place + 1]) + "\n")
    model = Guesser()
    make = functools.partial(Agent, model)
    state = read_works(path)[-1].interrupted()
    run = await resume_heavy(lambda observers: make(observers=observers), state)
    assert run.answer == str(2 * 100_003)
    assert len(model.requests) == 1
    assert run.usage.completion == 40


def test_the_most_common_answer_wins_and_the_first_of_a_tie():
    assert most_common(["a", "b", None, "b"]) == "b"
    assert most_common(["a", "b"]) == "a"
    assert most_common([None]) is None


async def test_a_server_can_offer_heavy_mode_as_a_model():
    guesser = Guesser()
    model = HeavyChatModel(guesser, 3)
    assert model.name == "guesser-heavy"
    request = ChatRequest(messages=QUESTION, sampling=Sampling(seed=5))
    reply = await complete(model, request)
    assert reply.content == str(5 + 2 * 100_003)
    assert reply.usage.completion == 40
    with pytest.raises(BaltoroError, match="without tools, or ask guesser"):
        await complete(model, ChatRequest(messages=QUESTION, tools=[{}]))
