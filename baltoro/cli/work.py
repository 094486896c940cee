"""One `baltoro agent`: the model with its tools, watched, traced, paused and gone on with."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from baltoro.agent.context import window
from baltoro.agent.events import Run
from baltoro.agent.heavy import HeavyRun, MakeAgent, Observe, resume_heavy, run_heavy
from baltoro.agent.loop import Agent, Observer
from baltoro.agent.prices import Price
from baltoro.agent.progress import Limits
from baltoro.agent.recorded import Recorded, read_works
from baltoro.agent.trace import Trace
from baltoro.agent.view import Lanes, TerminalView, cost_line, readable_arguments, safe
from baltoro.chat.chat_model import ChatModel, Sampling
from baltoro.chat.http import HttpChatModel
from baltoro.chat.messages import Message, ToolCall
from baltoro.config import BaltoroError
from baltoro.tools.by_name import Kit
from baltoro.tools.python_session import PythonSession
from baltoro.tools.tool import Tool

T = TypeVar("T")


@dataclass(kw_only=True)
class Work:
    """What the options of `baltoro agent` say."""

    model: ChatModel
    tools: str
    mcp: Sequence[str] = ()
    make_kit: Callable[[], Kit] = Kit
    limits: Limits
    price: Price | None
    sampling: Sampling
    context: str
    max_context: int | None
    approve: bool
    trace: Path | None
    quiet: bool

    def __post_init__(self) -> None:
        """Raises `BaltoroError` for what can not work, before anything is done."""
        self.window = window(self.context, self.max_context or known_context(self.model))
        if self.limits.max_money is not None and self.price is None:
            raise BaltoroError(
                f"--max-money needs the price of {self.model.name}, which is not known. Give a "
                "table with --prices, or install genai-prices."
            )

    def run(self, messages: Sequence[Message], heavy: int = 1) -> Run | HeavyRun:
        if heavy == 1:
            return asyncio.run(self._single(messages))

        def begin(make: MakeAgent, observe: Observe) -> Coroutine[Any, Any, HeavyRun]:
            return run_heavy(make, messages, heavy, limits=self.limits, observe=observe)

        return asyncio.run(self._heavy(heavy, begin))

    def resume(self) -> Run | HeavyRun:
        """Go on with what the trace holds last."""
        if self.trace is None:
            raise BaltoroError("--resume needs --trace FILE, the trace of the run to go on with.")
        works = read_works(self.trace)
        if not works:
            raise BaltoroError(f"{self.trace} holds no run.")
        recorded = works[-1]
        if isinstance(recorded, Recorded):
            return asyncio.run(self._resume(recorded))
        state = recorded.interrupted()

        def go_on(make: MakeAgent, observe: Observe) -> Coroutine[Any, Any, HeavyRun]:
            return resume_heavy(make, state, limits=self.limits, observe=observe)

        return asyncio.run(self._heavy(state.n, go_on, recorded.runs))

    async def _single(self, messages: Sequence[Message]) -> Run:
        with self._observers() as observers:
            async with self._kit() as tools:
                agent = self._agent(tools, observers, Person())
                return await pausing([agent], agent.run(messages))

    async def _resume(self, recorded: Recorded) -> Run:
        state = recorded.interrupted()
        with self._observers() as observers:
            async with self._kit() as tools:
                agent = self._agent(tools, observers, Person())
                self._go_on_with(agent, recorded)
                return await pausing([agent], agent.resume(state))

    def _go_on_with(self, agent: Agent, recorded: Recorded) -> None:
        """Let the agent's tools know that they go on. Raises `BaltoroError` if it has others."""
        if agent.tools.schemas != recorded.tools:
            names = ", ".join(tool["function"]["name"] for tool in recorded.tools)
            raise BaltoroError(
                f"the run in {self.trace} had other tools ({names or 'none'}). Resume it "
                "with the options that it was started with."
            )
        for tool in agent.tools.tools.values():
            if isinstance(tool, PythonSession):
                tool.lost_state = any(step.called for step in recorded.steps)

    async def _heavy(
        self,
        n: int,
        work: Callable[[MakeAgent, Observe], Coroutine[Any, Any, HeavyRun]],
        before: Sequence[Recorded] = (),
    ) -> HeavyRun:
        """`n` trajectories and a reflection; `before`: those of them that began already."""
        agents: list[Agent] = []
        lanes, person = Lanes(), Person()
        begun = {run.name: run for run in before}
        async with contextlib.AsyncExitStack() as stack:
            trace = stack.enter_context(Trace(self.trace)) if self.trace else None
            # The reflection calls no tools.
            kits = [await stack.enter_async_context(self._kit()) for _ in range(n)]

            def make(observers: Sequence[Observer]) -> Agent:
                tools = kits[len(agents)] if len(agents) < n else []
                name = str(len(agents) + 1)
                agent = self._agent(tools, observers, person, name)
                agents.append(agent)
                if recorded := begun.get(name):
                    self._go_on_with(agent, recorded)
                return agent

            def observe(name: str | None) -> list[Observer]:
                watching: list[Observer] = [] if self.quiet or not name else [lanes.of(name)]
                return [*watching, trace.of(name)] if trace else watching

            result = await pausing(agents, work(make, observe))
        if not self.quiet:
            paused = result.stop_reason == "paused"
            print("Paused." if paused else safe(result.answer or "(no answer)"))
            if result.cost:
                print(cost_line(result.cost), file=sys.stderr)
        return result

    def _agent(
        self,
        tools: Sequence[Tool],
        observers: Sequence[Observer],
        person: Person,
        name: str | None = None,
    ) -> Agent:
        return Agent(
            self.model,
            tools,
            limits=self.limits,
            sampling=self.sampling,
            observers=observers,
            window=self.window,
            price=self.price,
            approve=partial(person.allows, trajectory=name) if self.approve else None,
        )

    @contextlib.contextmanager
    def _observers(self):
        with contextlib.ExitStack() as stack:
            tokens = self.window.tokens
            view = [] if self.quiet else [TerminalView(summary=True, context_tokens=tokens)]
            trace = [stack.enter_context(Trace(self.trace))] if self.trace else []
            yield [*view, *trace]

    @contextlib.asynccontextmanager
    async def _kit(self) -> AsyncIterator[list[Tool]]:
        kit = self.make_kit()
        try:
            tools = kit.make(self.tools)
            if not self.mcp:
                yield tools
                return
            from baltoro.tools.mcp import mcp_tools

            async with mcp_tools(self.mcp) as more:
                yield [*tools, *more]
        finally:
            await kit.close()


def known_context(model: ChatModel) -> int | None:
    """How many tokens a model takes, where that is known."""
    if isinstance(model, HttpChatModel):
        return model.max_context
    engine = getattr(model, "engine", None)
    return engine.max_context if engine is not None else None


async def pausing(agents: Sequence[Agent], work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; the first Ctrl-C pauses its agents, a second one ends everything."""
    loop = asyncio.get_running_loop()

    def pause() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        for agent in agents:
            agent.pause()

    with contextlib.suppress(NotImplementedError, RuntimeError):  # not on every system or thread
        loop.add_signal_handler(signal.SIGINT, pause)
    try:
        return await work
    finally:
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.remove_signal_handler(signal.SIGINT)


class Person:
    """Who sits at the terminal, and is asked by all trajectories."""

    def __init__(self) -> None:
        # A question is shown when the one before has its answer, so that an answer is to what the
        # person has read.
        self.listening = asyncio.Lock()

    async def allows(self, call: ToolCall, trajectory: str | None = None) -> bool:
        """Whether a call may be made; the end of the input does not allow it."""
        whose = f"[{trajectory}] " if trajectory else ""
        async with self.listening:
            text = safe(f"{whose}{call.name}: {readable_arguments(call)}")
            print(f"\n{text}\nRun this? [y/N] ", end="", file=sys.stderr, flush=True)
            return (await typed_line()).strip().lower() in ("y", "yes")


async def typed_line() -> str:
    """A line of the standard input. At a terminal being cancelled leaves nobody waiting for it: a
    thread in `input` would keep a paused run from ending."""
    if not sys.stdin.isatty():
        return await asyncio.to_thread(sys.stdin.readline)
    loop, terminal = asyncio.get_running_loop(), sys.stdin.fileno()
    typed = asyncio.Event()
    loop.add_reader(terminal, typed.set)
    try:
        await typed.wait()
    finally:
        loop.remove_reader(terminal)
    return sys.stdin.readline()
