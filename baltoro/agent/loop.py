"""The loop of an agent: think, call tools, read their results, think on, answer.

    agent = Agent(open_model("tiny"), [PythonTool()])
    run = await agent.run([{"role": "user", "content": "What is 4182 * 977?"}])

The list of messages is the whole state. Each reply is appended with its reasoning, because the
next turn thinks on from it, and each of its calls gets exactly one result. `Conversation` below is
one run; what it leaves to others: `progress` (limits), `context` (what is sent of a long history),
`repeats` (circles), `invariants` (what holds for every request), `retries` (endpoints that fail).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from baltoro.agent.context import Prompt, Window, estimate
from baltoro.agent.events import (
    Called,
    Dropped,
    Event,
    Finished,
    Replied,
    Resumed,
    Retried,
    Returned,
    Run,
    Shortened,
    Started,
    Violated,
)
from baltoro.agent.invariants import Breach, Invariants
from baltoro.agent.prices import Cost, Price
from baltoro.agent.progress import NOT_RUN, NOTHING, Budget, Limits, Progress
from baltoro.agent.repeats import RESAMPLES, Repeats
from baltoro.agent.retries import Retries, is_too_long
from baltoro.chat.chat_model import (
    ChatModel,
    ChatRequest,
    Completion,
    ContextLengthError,
    EndpointError,
    Sampling,
    ToolChoice,
    Usage,
    complete,
)
from baltoro.chat.messages import Message, ToolCall
from baltoro.chat.template import next_call_index
from baltoro.tools.tool import Tool, ToolBox

Observer = Callable[[Event], None]
Approve = Callable[[ToolCall], Coroutine[Any, Any, bool]]
T = TypeVar("T")

NO_TOOLS = ToolChoice(mode="none")
IN_DOUBT = (
    "Interrupted: this call had begun, and whether it took effect is not known. "
    "Check that before you repeat it."
)
NOT_ALLOWED = f"{NOT_RUN} the user did not allow this call. Find another way, or ask."


@dataclass(frozen=True, kw_only=True)
class Interrupted:
    """A run as its trace leaves it: everything that is needed to go on with it."""

    model: str
    messages: list[Message]  # without the results of an unfinished turn
    prompt: Prompt = field(default_factory=Prompt)
    steps: int = 0
    tool_calls: int = 0
    usage: Usage = NOTHING
    seconds: float = 0.0
    resampled: int = 0
    tools_withdrawn: bool = False
    undecided: Completion | None = None  # a reply that nothing was done about yet
    results: dict[str, Message] = field(default_factory=dict)  # of the last turn, by id
    begun: frozenset[str] = frozenset()  # calls of the last turn that began, by id


class Agent:
    """A model with tools. One agent can have several runs at the same time."""

    def __init__(
        self,
        model: ChatModel,
        tools: Sequence[Tool] = (),
        *,
        limits: Limits | None = None,
        sampling: Sampling | None = None,  # of each reply
        observers: Sequence[Observer] = (),  # told of everything as it happens
        window: Window | None = None,  # how much fits, and what is done about more
        retries: Retries | None = None,
        price: Price | None = None,  # of the model
        approve: Approve | None = None,  # asked before a call that may change something
    ):
        self.model = model
        self.tools = ToolBox(tools)
        self.limits = limits or Limits()
        self.sampling = sampling or Sampling()
        self.observers = observers
        self.window = window or Window()
        self.retries = retries or Retries()
        self.price = price
        self.approve = approve
        self.pausing = False
        self.waiting: set[asyncio.Task[Any]] = set()

    async def run(self, messages: Sequence[Message], *, budget: Budget | None = None) -> Run:
        """Go on from `messages` until the model answers or a limit is reached.

        Several runs can share a `budget`. Raises `EndpointError` when the model can not be
        reached, patience included.
        """
        self.tell(Started(self.model.name, list(messages), self.tools.schemas))
        conversation = Conversation(self, messages, budget or Budget(self.limits, self.price))
        return await self._finish(conversation, None)

    async def resume(self, interrupted: Interrupted, *, budget: Budget | None = None) -> Run:
        """Go on with an interrupted run. What was done is not done again: a call that had begun
        is repeated only if its tool changes nothing; otherwise the model is told of the doubt.

        A `budget` that several runs share has counted what they used before already.
        """
        if budget is None:
            budget = Budget(self.limits, self.price)
            budget.count(interrupted.usage)
            budget.earlier_seconds = interrupted.seconds
        conversation = Conversation.restored(self, interrupted, budget)
        known = interrupted.results
        doubt = [
            call
            for call in calls_of(interrupted.messages[-1])
            if call.id in interrupted.begun and call.id not in known
        ]
        self.tell(Resumed(doubt))
        return await self._finish(conversation, await conversation.catch_up(interrupted))

    def pause(self) -> None:
        """Stop all runs of this agent where they are; each returns with the reason `paused`."""
        self.pausing = True
        for task in self.waiting:
            task.cancel()

    async def _finish(self, conversation: Conversation, stop_reason: str | None) -> Run:
        try:
            while stop_reason is None:
                stop_reason = await conversation.step()
        finally:
            conversation.budget.runs -= 1
        run = conversation.progress.finish(stop_reason)
        self.tell(Finished(run))
        return run

    def tell(self, event: Event) -> None:
        for observer in self.observers:
            observer(event)

    async def pausable(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`. Raises `Paused` when the agent is paused before it is there."""
        task = asyncio.ensure_future(work)
        self.waiting.add(task)
        try:
            if self.pausing:
                task.cancel()
            return await task
        except asyncio.CancelledError:
            if self.pausing:
                raise Paused from None
            raise
        finally:
            self.waiting.discard(task)


class Paused(Exception):
    """The user paused the agent."""


class Conversation:
    """One run of an agent."""

    def __init__(self, agent: Agent, messages: Sequence[Message], budget: Budget):
        self.agent = agent
        self.budget = budget
        self.progress = Progress(agent.limits, messages, budget)
        self.prompt = Prompt()
        self.shortened = False  # since the last request
        self.scarce = False  # whether the budget left the last reply fewer tokens than it may have
        self.noted: Usage | None = None  # of the notes for the last shortening
        # The last prompt, and how many tokens it had.
        self.counted: tuple[list[Message], int] = ([], 0)
        self.invariants = Invariants(next_call_index(messages) - 1)
        self.repeats = Repeats(agent.tools.repeatable)
        self.slots = asyncio.Semaphore(agent.limits.max_parallel)
        self.asking = asyncio.Lock()  # a person is asked one question at a time
        self.tools_tokens = len(json.dumps(agent.tools.schemas)) // 3

    @classmethod
    def restored(cls, agent: Agent, state: Interrupted, budget: Budget) -> Conversation:
        self = cls(agent, state.messages, budget)
        self.prompt = state.prompt
        progress = self.progress
        progress.given = 0
        progress.steps, progress.tool_calls = state.steps, state.tool_calls
        progress.usage = state.usage
        progress.cost = agent.price.cost(state.usage) if agent.price else Cost()
        progress.resampled, progress.tools_withdrawn = state.resampled, state.tools_withdrawn
        for place, message in enumerate(state.messages):
            if calls := calls_of(message):
                self.invariants.reasoning[calls[0].id] = message.get("reasoning_content")
                results = state.messages[place + 1 : place + 1 + len(calls)]
                if len(results) == len(calls):
                    self.repeats.add(calls, results)
        return self

    async def catch_up(self, state: Interrupted) -> str | None:
        """Finish the step in which the run was interrupted."""
        if state.undecided is not None:
            return await self.settle(state.undecided)
        calls = calls_of(self.progress.messages[-1])
        return await self.observe(calls, state) if calls else None

    async def step(self) -> str | None:
        """One reply and the results of its calls. Returns why the run stops, if it does."""
        try:
            async with asyncio.timeout_at(self.budget.deadline):
                if not await self.make_room():
                    return "context_full"
                reply = await self.reply()
        except ContextLengthError:
            if not self.progress.steps:
                raise  # the task itself is too long
            return "context_full"
        except TimeoutError:
            return "time_limit"
        except Paused:
            return "paused"
        return await self.settle(reply)

    async def settle(self, reply: Completion) -> str | None:
        """Keep a reply and run its calls, or drop it. Returns why the run stops, if it does."""
        progress = self.progress
        if reply.finish_reason == "length":
            progress.append(replace(reply, tool_calls=[]))  # a call that is cut short is none
            return "token_limit" if self.scarce else "reply_cut"
        if not reply.content and not reply.tool_calls:
            # Thinking alone answers nobody: the reply is dropped and the model asked again.
            progress.empty += 1
            self.tell(Dropped(progress.steps, 0, "resample"))
            return "no_answer" if progress.empty == progress.limits.max_empty else progress.limit
        progress.empty = 0
        if progress.tools_withdrawn:
            if reply.content:
                progress.append(replace(reply, tool_calls=[]))
            return "loop"
        if progress.limits.break_circles and (cycle := self.repeats.cycle(reply.tool_calls)):
            return self.break_circle(cycle)
        progress.resampled = 0
        progress.append(reply)
        self.invariants.kept(reply)
        return await self.observe(reply.tool_calls) if reply.tool_calls else "answered"

    def break_circle(self, cycle: int) -> str | None:
        """Drop the reply; draw another, and when that does not help take the tools away."""
        progress = self.progress
        progress.resampled += 1
        progress.tools_withdrawn = progress.resampled > RESAMPLES
        if progress.tools_withdrawn:
            self.invariants.prompt_tokens = 0  # an endpoint may leave their declarations out now
        measure = "withdraw_tools" if progress.tools_withdrawn else "resample"
        self.tell(Dropped(progress.steps, cycle, measure))
        return progress.limit

    async def reply(self) -> Completion:
        """The model's next reply. A prompt that is refused as too long is shortened once."""
        started = time.monotonic()
        request = self.request()
        try:
            reply = await self.patiently(request, self.streamed)
        except ContextLengthError:
            if self.agent.window.strategy is None:
                raise
            await self.shorten()
            request = self.request()
            reply = await self.patiently(request, self.streamed)
        reply = self.checked(reply)
        self.progress.steps += 1
        self.progress.latest = reply.usage
        cost = self.progress.count(reply.usage)
        seconds = time.monotonic() - started
        self.tell(Replied(self.progress.steps, reply, seconds, request.sampling, cost))
        return reply

    async def patiently(
        self, request: ChatRequest, ask: Callable[[ChatRequest], Coroutine[Any, Any, Completion]]
    ) -> Completion:
        """What `ask` gives, asked again while the endpoint fails for a time. Raises
        `ContextLengthError` where it refuses the prompt as too long, else `EndpointError`."""
        progress = self.progress
        tokens = request.sampling.max_tokens
        self.scarce = tokens < self.agent.sampling.max_tokens
        attempt = 0
        while True:
            try:
                with self.budget.promise(tokens):
                    reply = await self.agent.pausable(ask(request))
                break
            except EndpointError as error:
                if error.unreachable and not progress.steps:
                    raise  # an address where nothing has ever answered is likely a wrong one
                attempt += 1
                wait = self.agent.retries.wait(attempt, error)
                if is_too_long(error):
                    raise ContextLengthError(str(error)) from error
                if wait is None:
                    raise
                self.tell(Retried(progress.steps + 1, attempt, str(error), wait))
                await self.agent.pausable(asyncio.sleep(wait))
        if reply.usage.prompt:
            self.counted = request.messages, reply.usage.prompt
        return reply

    def request(self) -> ChatRequest:
        progress = self.progress
        messages = self.prompt.of(progress.messages)
        tools = self.agent.tools.schemas
        self.report(self.invariants.check_request(messages, tools, shortened=self.shortened))
        self.shortened = False
        return ChatRequest(
            messages=messages,
            tools=tools,
            # Withdrawn tools stay declared: what was sent before keeps its place in the cache.
            tool_choice=NO_TOOLS if progress.tools_withdrawn else ToolChoice(),
            sampling=progress.sampling(self.agent.sampling),
        )

    async def streamed(self, request: ChatRequest) -> Completion:
        """The reply to a request, told piece by piece."""
        reply = None
        async for event in self.agent.model.stream(request):
            if isinstance(event, Completion):
                reply = event
            else:
                self.tell(event)
        if reply is None:
            name = self.agent.model.name
            raise RuntimeError(f"model {name} ended its stream without a completion")
        return reply

    def checked(self, reply: Completion) -> Completion:
        """The reply with its calls' ids as K2 writes them, whatever the endpoint calls them."""
        first = self.invariants.highest + 1
        calls = [
            replace(call, id=f"functions.{call.name}:{first + place}")
            for place, call in enumerate(reply.tool_calls)
        ]
        native = replace(reply, tool_calls=calls)
        self.report(self.invariants.check_reply(native, [call.id for call in reply.tool_calls]))
        return native

    async def observe(
        self, calls: Sequence[ToolCall], state: Interrupted | None = None
    ) -> str | None:
        """Run the calls of a turn at the same time and append their results in order."""
        results = await together([self.call(call, state) for call in calls])
        self.repeats.add(calls, results)
        self.progress.messages += results
        return "paused" if self.agent.pausing else self.progress.limit

    async def call(self, call: ToolCall, state: Interrupted | None) -> Message:
        """The message with the result of one call."""
        if state and call.id in state.results:
            return state.results[call.id]
        started = time.monotonic()
        if state and call.id in state.begun and not self.agent.tools.is_read_only(call.name):
            result, failed = IN_DOUBT, True
        else:
            result, failed = await self.result(call)
        seconds = time.monotonic() - started
        self.tell(Returned(self.progress.steps, call, result, seconds, failed))
        return {"role": "tool", "tool_call_id": call.id, "content": result}

    async def result(self, call: ToolCall) -> tuple[str, bool]:
        """What a call gives, and whether it failed. Past a limit it is not run."""
        if limit := self.progress.limit:
            return f"{NOT_RUN} the {limit.replace('_', ' ')} of this task is reached.", True
        try:
            async with asyncio.timeout_at(self.budget.deadline), self.slots:
                if refusal := await self.refusal(call):
                    return refusal, True
                self.tell(Called(self.progress.steps, call))
                answer = await self.agent.pausable(self.agent.tools.attempt(call))
                return answer.text, answer.failed
        except TimeoutError:
            return "Stopped: the time limit of this task is reached.", True
        except Paused:
            return "Stopped: the user paused the work before this call had ended.", True

    async def refusal(self, call: ToolCall) -> str | None:
        """Why a call must not be made, if a person does not want it."""
        approve = self.agent.approve
        if approve is None or self.agent.tools.is_read_only(call.name):
            return None
        try:
            async with self.asking:
                return None if await self.agent.pausable(approve(call)) else NOT_ALLOWED
        except Paused:
            return f"{NOT_RUN} the user paused the work."

    async def make_room(self) -> bool:
        """Shorten the prompt if a reply would not fit. False when there is no room to be made."""
        window, wanted = self.agent.window, self.agent.sampling.max_tokens
        if not window.is_full(self.prompt_tokens(), wanted):
            return True
        return window.strategy is not None and not window.is_full(await self.shorten(), wanted)

    async def shorten(self) -> int:
        """Apply the strategy; returns about how many tokens the prompt has then."""
        window, progress = self.agent.window, self.progress
        assert window.strategy is not None
        before, self.noted = self.prompt_tokens(), None
        by = await window.strategy.shorten(self.prompt.of(progress.messages), window.fits, self.ask)
        self.prompt = Prompt(len(progress.messages), by)
        self.shortened = True
        progress.latest = None  # it counted the longer prompt
        after, name = self.prompt_tokens(), window.strategy.name
        replaced = self.prompt.replaced
        self.tell(Shortened(progress.steps, name, replaced, by, before, after, self.noted))
        return after

    async def ask(self, messages: list[Message]) -> str:
        """The model's answer about the conversation, which is no part of it."""
        request = ChatRequest(
            messages=messages,
            tools=self.agent.tools.schemas,
            tool_choice=NO_TOOLS if self.agent.tools.schemas else ToolChoice(),
            sampling=self.progress.sampling(self.agent.sampling),
        )
        reply = await self.patiently(request, partial(complete, self.agent.model))
        self.progress.count(reply.usage)
        self.noted = reply.usage
        return reply.content or reply.reasoning_content or "(no notes)"

    def prompt_tokens(self) -> int:
        """About how many tokens the next prompt has: as reported, and what came since."""
        latest, messages = self.progress.latest, self.prompt.of(self.progress.messages)
        if latest is None or not latest.prompt:
            return self.sized(messages)
        since = itertools.takewhile(lambda m: m["role"] != "assistant", reversed(messages))
        return latest.prompt + latest.completion + estimate(list(since))

    def sized(self, messages: list[Message]) -> int:
        """About how many tokens a prompt has that nobody counted: estimated, and set right by how
        the estimate of the last one was off."""
        before, counted = self.counted
        guess, known = (estimate(of) + self.tools_tokens for of in (messages, before))
        if not counted:
            return guess
        return counted + guess - known if guess > known else math.ceil(guess * counted / known)

    def report(self, breaches: Sequence[Breach]) -> None:
        for breach in breaches:
            self.progress.violations += breach.by == "loop"
            step = self.progress.steps + 1
            self.tell(Violated(step, breach.rule, breach.found, breach.by))

    def tell(self, event: Event) -> None:
        self.agent.tell(event)


async def together(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all; if one raises, the others are ended first."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def calls_of(message: Message) -> list[ToolCall]:
    return [
        ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls") or []
    ]
