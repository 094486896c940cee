"""Heavy mode: several trajectories at the same problem, then one reflection over all of them.

The trajectories share their prefix, one budget and the trace, in which each has its name; the
reflection is a run of its own there, called `reflection`. All of it goes on after a crash.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import reduce

from baltoro.agent.context import Window
from baltoro.agent.events import Event as RunEvent
from baltoro.agent.events import Finished, Heavy, Replied, Run
from baltoro.agent.loop import Agent, Interrupted, Observer
from baltoro.agent.prices import Cost
from baltoro.agent.progress import NOTHING, Budget, Limits, added, partial_answer
from baltoro.chat.chat_model import (
    ChatModel,
    ChatRequest,
    Completion,
    ContentDelta,
    ContextLengthError,
    EndpointError,
    Event,
    ReasoningDelta,
    Sampling,
    ToolCallDelta,
    Trajectory,
    Usage,
    as_generator,
)
from baltoro.chat.messages import Message
from baltoro.chat.reflection import reflecting
from baltoro.config import BaltoroError
from baltoro.tools.tool import ToolBox

SEED_STEP = 100_003  # between trajectories; their steps count seeds up by 1
REFLECTION = "reflection"
REFLECTION_TEMPERATURE = 0.2  # at most; see `calm`
NO_RUNS: Mapping[str, Run | Interrupted] = {}

MakeAgent = Callable[[Sequence[Observer]], Agent]  # with tools of its own, and these observers
# Who watches the run of this name; None asks for who is told of heavy mode itself.
Observe = Callable[[str | None], Sequence[Observer]]


@dataclass(frozen=True, kw_only=True)
class HeavyRun:
    """Several trajectories and what was made of them."""

    stop_reason: str  # answered | no_answer | paused | what stopped the trajectories
    answer: str | None
    runs: list[Run]  # the trajectories
    reflection: Run | None  # None when there was nothing to compare
    usage: Usage  # of all together
    cost: Cost | None
    seconds: float

    @property
    def attempts(self) -> list[str]:
        return attempts_of(self.runs)


@dataclass(frozen=True, kw_only=True)
class InterruptedHeavy:
    """Heavy mode as its trace leaves it; at its beginning no run is there yet."""

    n: int
    messages: list[Message]
    runs: Mapping[str, Run | Interrupted] = field(default_factory=dict)  # those that began, by name
    usage: Usage = NOTHING  # of all of them
    seconds: float = 0.0


async def run_heavy(
    make_agent: MakeAgent,
    messages: Sequence[Message],
    n: int = 8,
    *,
    limits: Limits | None = None,
    observe: Observe = lambda name: (),
) -> HeavyRun:
    """Let `n` agents work on the same messages, then let the model reflect on what they say.

    `limits` hold for all together, `max_steps` for each. A trajectory whose endpoint fails for
    good is left out; the error is raised only when none is left. Where the reflection fails, or
    nothing is left for it, the most frequent answer counts. When the agents are paused there is no
    reflection.
    """
    for observer in observe(None):
        observer(Heavy(n, list(messages)))
    state = InterruptedHeavy(n=n, messages=list(messages))
    return await resume_heavy(make_agent, state, limits=limits, observe=observe)


async def resume_heavy(
    make_agent: MakeAgent,
    state: InterruptedHeavy,
    *,
    limits: Limits | None = None,
    observe: Observe = lambda name: (),
) -> HeavyRun:
    """Go on with what was interrupted: runs that ended stay as they are, the others go on."""
    agents = [make_agent(observe(str(i + 1))) for i in range(state.n)]
    judge = judging(make_agent(observe(REFLECTION)))
    ended = {name: run for name, run in state.runs.items() if isinstance(run, Run)}
    # The reflection has its share of the budget as well.
    budget = Budget(limits or agents[0].limits, agents[0].price, state.n + 1 - len(ended))
    budget.count(state.usage)
    budget.earlier_seconds = state.seconds
    final = state.runs.get(REFLECTION)
    if final is None:
        runs = await trajectories(agents, state.messages, budget, state.runs)
    else:  # what it reflects on is settled
        runs = [ended[name] for i in range(state.n) if (name := str(i + 1)) in ended]
    attempts = attempts_of(runs)
    paused = any(run.stop_reason == "paused" for run in runs)
    try:
        if isinstance(final, Interrupted):
            final = await judge.resume(final, budget=budget)
        elif final is None and len(attempts) > 1 and budget.limit is None and not paused:
            final = await judge.run(reflecting(state.messages, attempts), budget=budget)
    except (EndpointError, ContextLengthError):
        final = None  # the answers that are there are worth more than an error
    paused = paused or (final is not None and final.stop_reason == "paused")
    answer = (final and final.answer) or most_common([run.answer for run in runs])
    stopped = runs[0].stop_reason if runs else "no_answer"
    return HeavyRun(
        stop_reason="paused" if paused else "answered" if answer else stopped,
        answer=None if paused else answer,
        runs=runs,
        reflection=final,
        usage=budget.usage,
        cost=budget.cost if budget.price else None,
        seconds=budget.seconds,
    )


def judging(agent: Agent) -> Agent:
    """The same agent for the reflection: without tools, and done when it has said something."""
    agent.tools = ToolBox([])
    agent.window = Window()
    agent.sampling = calm(agent.sampling)
    agent.limits = replace(agent.limits, max_steps=1 + agent.limits.max_empty)
    return agent


def calm(sampling: Sampling) -> Sampling:
    """As trajectories are drawn, but hardly by chance: it is for choosing, not for finding."""
    return replace(sampling, temperature=min(sampling.temperature, REFLECTION_TEMPERATURE))


async def trajectories(
    agents: Sequence[Agent],
    messages: Sequence[Message],
    budget: Budget,
    before: Mapping[str, Run | Interrupted] = NO_RUNS,
) -> list[Run]:
    """The runs of all agents, at the same time. The first one begins alone, so that the others
    find the prompt in the cache. `before`: runs that ended or began already, by name."""
    begun = asyncio.Event()

    def note(event: RunEvent) -> None:
        if isinstance(event, ReasoningDelta | ContentDelta | ToolCallDelta):
            begun.set()

    async def work(place: int, agent: Agent) -> Run:
        if place:
            await begun.wait()
        else:
            agent.observers = (*agent.observers, note)
        seed = agent.sampling.seed
        if seed is not None:
            agent.sampling = replace(agent.sampling, seed=seed + place * SEED_STEP)
        try:
            earlier = before.get(str(place + 1))
            if isinstance(earlier, Run):
                return earlier
            if earlier is not None:
                return await agent.resume(earlier, budget=budget)
            return await agent.run(messages, budget=budget)
        finally:
            begun.set()

    results = await asyncio.gather(
        *(work(place, agent) for place, agent in enumerate(agents)), return_exceptions=True
    )
    runs = [each for each in results if isinstance(each, Run)]
    failures = [each for each in results if isinstance(each, BaseException)]
    for failure in failures:
        if not runs or not isinstance(failure, EndpointError):
            raise failure
    return runs


def attempts_of(runs: Sequence[Run]) -> list[str]:
    return worth_reflecting([run.answer for run in runs], [run.partial for run in runs])


def worth_reflecting(answers: Sequence[str | None], partials: Sequence[str | None]) -> list[str]:
    """The answers, and only where there is none how far each run came. The scraps of an unfinished
    run beside finished ones lead astray."""
    return [text for text in answers if text] or [text for text in partials if text]


def most_common(answers: Sequence[str | None]) -> str | None:
    """The answer that most trajectories give; the first of them where it is a tie."""
    counts = Counter(answer for answer in answers if answer)
    return counts.most_common(1)[0][0] if counts else None


class HeavyChatModel:
    """Answers each request in heavy mode: what a server offers beside a model as NAME-heavy.

    Each attempt is told as a `Trajectory` when it is complete; what streams then is the
    reflection, or the most frequent answer where that fails. Usage counts everything.
    """

    def __init__(self, model: ChatModel, n: int = 8):
        self.model = model
        self.n = n

    @property
    def name(self) -> str:
        return f"{self.model.name}-heavy"

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Raises `BaltoroError` for a request that `check` refuses."""
        self.check(request)
        told, begun = list[Trajectory](), False
        async with aclosing(self.attempts(request)) as attempts:
            async for trajectory in attempts:
                told.append(trajectory)
                yield trajectory
        told.sort(key=lambda trajectory: trajectory.index)
        used = [trajectory.completion.usage for trajectory in told]
        texts = texts_of([trajectory.completion for trajectory in told])
        if texts:
            request = replace(
                request,
                messages=reflecting(request.messages, texts),
                sampling=calm(request.sampling),
            )
        try:
            async with aclosing(as_generator(self.model.stream(request))) as events:
                async for event in events:
                    begun = True
                    if isinstance(event, Completion):
                        usage = reduce(added, used, event.usage)
                        event = replace(event, usage=usage, trace=None, trajectories=told)
                    yield event
        except (EndpointError, ContextLengthError):
            voted = most_common([trajectory.completion.content for trajectory in told])
            if begun or voted is None:
                raise
            yield ContentDelta(voted)
            chosen = next(each.completion for each in told if each.completion.content == voted)
            yield replace(chosen, usage=reduce(added, used), trajectories=told)

    def check(self, request: ChatRequest) -> None:
        """Raises `BaltoroError` for what whole trajectories can't do."""
        if request.tools and request.tool_choice.mode != "none":
            raise BaltoroError(
                f"{self.name} runs whole trajectories, in which a client's tools cannot be "
                f"called. Send the request without tools, or ask {self.model.name}."
            )
        if request.messages[-1].get("partial"):
            raise BaltoroError(
                f"{self.name} compares whole answers, so it cannot go on from a partial message. "
                f"Leave it out, or ask {self.model.name}."
            )
        if request.keep_thinking:
            raise BaltoroError(
                f"the trajectories of {self.name} see no thinking of finished turns. Leave out "
                f"'keep' in 'thinking', or ask {self.model.name}."
            )

    async def attempts(self, request: ChatRequest) -> AsyncGenerator[Trajectory, None]:
        """All trajectories as they end. Closing it ends them."""
        arrived: asyncio.Queue[Trajectory | None] = asyncio.Queue()
        limits = Limits(max_steps=2, max_empty=2)
        agents = [
            Agent(
                self.model,
                sampling=request.sampling,
                limits=limits,
                observers=[_Watch(index, arrived)],
            )
            for index in range(self.n)
        ]
        working = asyncio.create_task(trajectories(agents, request.messages, Budget(limits)))
        working.add_done_callback(lambda _: arrived.put_nowait(None))
        try:
            while (trajectory := await arrived.get()) is not None:
                yield trajectory
            await working
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)


class _Watch:
    """Puts one trajectory into the queue when it has ended."""

    def __init__(self, index: int, arrived: asyncio.Queue[Trajectory | None]):
        self.index = index
        self.arrived = arrived
        self.last: Completion | None = None

    def __call__(self, event: RunEvent) -> None:
        if isinstance(event, Replied):
            self.last = event.completion
        elif isinstance(event, Finished) and self.last is not None:
            reason = self.last.finish_reason
            whole = replace(
                self.last,
                tool_calls=[],  # to tools that it made up
                finish_reason="stop" if reason == "tool_calls" else reason,
                usage=event.run.usage,
                trace=None,
            )
            self.arrived.put_nowait(Trajectory(index=self.index, completion=whole))


def texts_of(replies: Sequence[Completion]) -> list[str]:
    partials = [partial_answer([reply.to_message()]) for reply in replies]
    return worth_reflecting([reply.content for reply in replies], partials)
