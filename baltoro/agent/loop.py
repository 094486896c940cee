"""The loop of an agent: think, call tools, read their results, think on, answer.

    agent = Agent(open_model("tiny"), [PythonTool()])
    run = await agent.run([{"role": "user", "content": "What is 4182 * 977?"}])

The list of messages is the whole state. Each reply is appended with its reasoning, because the
next turn thinks on from it, and each of its calls gets exactly one result.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from baltoro.agent.events import Event, Finished, Replied, Returned, Run, Started
from baltoro.chat.chat_model import ChatModel, ChatRequest, Completion, Sampling, Usage
from baltoro.chat.messages import Message, ToolCall
from baltoro.chat.template import with_native_ids
from baltoro.tools.tool import Tool, ToolBox

Observer = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When a run ends without an answer."""

    max_steps: int = 300  # replies of the model
    max_tokens: int | None = None  # generated in all steps together, thinking included
    max_seconds: float | None = None  # wall clock
    max_empty: int = 3  # replies in a row that neither answer nor call a tool


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
    ):
        self.model = model
        self.tools = ToolBox(tools)
        self.limits = limits or Limits()
        self.sampling = sampling or Sampling()
        self.observers = observers

    async def run(self, messages: Sequence[Message]) -> Run:
        """Go on from `messages` until the model answers or a limit is reached."""
        progress = _Progress(self.limits, messages)
        self._tell(Started(self.model.name, list(messages), self.tools.schemas))
        stop_reason = None
        while stop_reason is None:
            stop_reason = await self._step(progress)
        run = progress.finish(stop_reason)
        self._tell(Finished(run))
        return run

    async def _step(self, progress: _Progress) -> str | None:
        """One reply and the results of its calls. Returns why the run stops, if it does."""
        try:
            async with asyncio.timeout_at(progress.deadline):
                reply = await self._reply(progress)
        except TimeoutError:
            return "time_limit"
        if reply.finish_reason == "length":
            progress.append(replace(reply, tool_calls=[]))  # a call that is cut short is none
            return "token_limit" if progress.tokens_left == 0 else "reply_cut"
        if not reply.content and not reply.tool_calls:
            # Thinking alone answers nobody: the reply is dropped and the model asked again.
            progress.empty += 1
            return "no_answer" if progress.empty == self.limits.max_empty else progress.limit
        progress.empty = 0
        progress.append(reply)
        if not reply.tool_calls:
            return "answered"
        calls = (self._call(call, progress) for call in reply.tool_calls)
        results = await asyncio.gather(*calls)
        progress.messages += results
        return progress.limit

    async def _reply(self, progress: _Progress) -> Completion:
        """The model's next reply, told piece by piece."""
        started = time.monotonic()
        request = ChatRequest(
            messages=list(progress.messages),
            tools=self.tools.schemas,
            sampling=progress.sampling(self.sampling),
        )
        reply = None
        async for event in self.model.stream(request):
            if isinstance(event, Completion):
                reply = event
            else:
                self._tell(event)
        if reply is None:
            raise RuntimeError(f"model {self.model.name} ended its stream without a completion")
        reply = _with_native_calls(reply, progress.messages)
        progress.count(reply)
        self._tell(Replied(progress.steps, reply, time.monotonic() - started))
        return reply

    async def _call(self, call: ToolCall, progress: _Progress) -> Message:
        """The message with the result of one call. Past a limit it is not run."""
        started = time.monotonic()
        if progress.limit:
            result = f"Not run: the {progress.limit.replace('_', ' ')} of this task is reached."
        else:
            try:
                async with asyncio.timeout_at(progress.deadline):
                    result = await self.tools.run(call)
            except TimeoutError:
                result = "Stopped: the time limit of this task is reached."
        self._tell(Returned(progress.steps, call, result, time.monotonic() - started))
        return {"role": "tool", "tool_call_id": call.id, "content": result}

    def _tell(self, event: Event) -> None:
        for observer in self.observers:
            observer(event)


class _Progress:
    """How far one run is."""

    def __init__(self, limits: Limits, messages: Sequence[Message]):
        self.limits = limits
        self.messages = list(messages)
        self.steps = self.tool_calls = self.empty = 0
        self.usage = Usage(prompt=0, completion=0, reasoning=0, cached=0)
        self.started = asyncio.get_running_loop().time()

    @property
    def deadline(self) -> float | None:
        """In the event loop's time."""
        seconds = self.limits.max_seconds
        return None if seconds is None else self.started + seconds

    @property
    def tokens_left(self) -> int | None:
        limit = self.limits.max_tokens
        return None if limit is None else max(0, limit - self.usage.completion)

    @property
    def limit(self) -> str | None:
        """The limit that leaves no room for a further reply."""
        if self.steps >= self.limits.max_steps:
            return "step_limit"
        if self.tokens_left == 0:
            return "token_limit"
        late = self.deadline is not None and asyncio.get_running_loop().time() >= self.deadline
        return "time_limit" if late else None

    def sampling(self, base: Sampling) -> Sampling:
        """`base` for the next reply. With a seed each step has its own, so a retry differs."""
        left = self.tokens_left
        return replace(
            base,
            seed=None if base.seed is None else base.seed + self.steps,
            max_tokens=base.max_tokens if left is None else min(base.max_tokens, left),
        )

    def count(self, reply: Completion) -> None:
        total, new = self.usage, reply.usage
        self.steps += 1
        self.usage = Usage(
            prompt=total.prompt + new.prompt,
            completion=total.completion + new.completion,
            reasoning=total.reasoning + new.reasoning,
            cached=total.cached + new.cached,
        )

    def append(self, reply: Completion) -> None:
        self.messages.append(reply.to_message())
        self.tool_calls += len(reply.tool_calls)

    def finish(self, stop_reason: str) -> Run:
        answered = stop_reason == "answered"
        return Run(
            stop_reason=stop_reason,
            answer=self.messages[-1]["content"] if answered else None,
            messages=self.messages,
            steps=self.steps,
            tool_calls=self.tool_calls,
            usage=self.usage,
            seconds=asyncio.get_running_loop().time() - self.started,
        )


def _with_native_calls(reply: Completion, history: Sequence[Message]) -> Completion:
    """The reply with its calls' ids as K2 writes them, whatever the endpoint calls them."""
    message = with_native_ids([*history, reply.to_message()])[-1]
    parts = message.get("tool_calls", [])
    calls = [
        replace(call, id=part["id"]) for call, part in zip(reply.tool_calls, parts, strict=True)
    ]
    return replace(reply, tool_calls=calls)
