"""How far a run is, and what it may still use."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from baltoro.agent.events import Run
from baltoro.agent.prices import Cost, Price
from baltoro.chat.chat_model import Completion, Sampling, Usage
from baltoro.chat.messages import Message

NOT_RUN = "Not run:"  # begins the result of a call that was not made
NOTHING = Usage(prompt=0, completion=0, reasoning=0, cached=0)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When a run ends without an answer."""

    max_steps: int = 300  # replies of the model
    max_tokens: int | None = None  # generated in all steps together, thinking included
    max_money: float | None = None  # US dollars; needs the model's price
    max_seconds: float | None = None  # wall clock
    max_empty: int = 3  # replies in a row that neither answer nor call a tool
    # A reply that closes a circle is dropped; learning from one's own samples must not do that.
    break_circles: bool = True
    max_parallel: int = 16  # calls of one reply that run at the same time


class Budget:
    """Tokens, money and time that one run or several together may use.

    Replies that are under way at the same time are each promised a share of the tokens, so that
    together they stay within them. What a reply costs is known, and counted, when it is complete.
    """

    def __init__(self, limits: Limits, price: Price | None = None, runs: int = 1):
        self.limits = limits
        self.price = price
        self.runs = runs  # that share it and have not ended
        self.under_way = 0  # replies
        self.promised = 0  # tokens, to those
        self.usage = NOTHING
        self.cost = Cost()
        self.earlier_seconds = 0.0  # before an interruption
        self.started = asyncio.get_running_loop().time()

    @property
    def seconds(self) -> float:
        return self.earlier_seconds + asyncio.get_running_loop().time() - self.started

    @property
    def deadline(self) -> float | None:
        """In the event loop's time."""
        seconds = self.limits.max_seconds
        return None if seconds is None else self.started + seconds - self.earlier_seconds

    @property
    def tokens_left(self) -> int | None:
        limit = self.limits.max_tokens
        return None if limit is None else max(0, limit - self.usage.completion)

    @property
    def share(self) -> int | None:
        """Tokens of the next reply at most: every run that waits can have as many."""
        left = self.tokens_left
        if left is None:
            return None
        return max(1, (left - self.promised) // max(1, self.runs - self.under_way))

    @contextmanager
    def promise(self, tokens: int) -> Iterator[None]:
        """While a reply of so many tokens at most is under way."""
        self.under_way += 1
        self.promised += tokens
        try:
            yield
        finally:
            self.under_way -= 1
            self.promised -= tokens

    @property
    def limit(self) -> str | None:
        """The limit that leaves no room for a further reply."""
        if self.tokens_left == 0:
            return "token_limit"
        if self.limits.max_money is not None and self.cost.total >= self.limits.max_money:
            return "money_limit"
        late = self.deadline is not None and asyncio.get_running_loop().time() >= self.deadline
        return "time_limit" if late else None

    def count(self, usage: Usage) -> Cost | None:
        """Note what a reply used; returns what it cost where that is known."""
        self.usage = added(self.usage, usage)
        if self.price is None:
            return None
        cost = self.price.cost(usage)
        self.cost += cost
        return cost


class Progress:
    """The state of one run."""

    def __init__(self, limits: Limits, messages: Sequence[Message], budget: Budget):
        self.limits = limits
        self.budget = budget
        self.messages = list(messages)
        self.given = len(self.messages)  # messages that were there before the run
        self.steps = self.tool_calls = self.empty = self.violations = 0
        self.resampled = 0  # replies in a row that were dropped because they closed a circle
        self.tools_withdrawn = False
        self.usage = NOTHING
        self.latest: Usage | None = None  # of the last reply
        self.cost = Cost()

    @property
    def limit(self) -> str | None:
        """The limit that leaves no room for a further reply."""
        return "step_limit" if self.steps >= self.limits.max_steps else self.budget.limit

    def sampling(self, base: Sampling) -> Sampling:
        """`base` for the next reply. With a seed each step has its own, so a retry differs."""
        share = self.budget.share
        seed = None if base.seed is None else base.seed + self.steps
        temperature = base.temperature
        if self.resampled:
            # A reply that was dropped must not come back.
            seed = (0 if seed is None else seed) + 7919 * self.resampled
            temperature = max(1.0, temperature)
        elif self.empty and not temperature:
            temperature = 1.0  # drawn greedily it would be as empty again
        return replace(
            base,
            seed=seed,
            temperature=temperature,
            max_tokens=base.max_tokens if share is None else min(base.max_tokens, share),
        )

    def count(self, usage: Usage) -> Cost | None:
        """Note what a reply used; returns what it cost where that is known."""
        self.usage = added(self.usage, usage)
        cost = self.budget.count(usage)
        self.cost += cost or Cost()
        return cost

    def append(self, reply: Completion) -> None:
        self.messages.append(reply.to_message())
        self.tool_calls += len(reply.tool_calls)

    def finish(self, stop_reason: str) -> Run:
        answered = stop_reason == "answered"
        return Run(
            stop_reason=stop_reason,
            answer=self.messages[-1]["content"] if answered else None,
            partial=None if answered else partial_answer(self.messages[self.given :]),
            messages=self.messages,
            steps=self.steps,
            tool_calls=self.tool_calls,
            usage=self.usage,
            seconds=self.budget.seconds,
            cost=self.cost if self.budget.price else None,
            violations=self.violations,
        )


def added(one: Usage, other: Usage) -> Usage:
    return Usage(
        prompt=one.prompt + other.prompt,
        completion=one.completion + other.completion,
        reasoning=one.reasoning + other.reasoning,
        cached=one.cached + other.cached,
    )


def partial_answer(said: Sequence[Message], most_chars: int = 600) -> str | None:
    """What a run without an answer leaves: the model's last words and the latest findings.

    None when there is nothing. Repeated findings are given once.
    """
    words = [m for m in said if m["role"] == "assistant"]
    content = next((m["content"] for m in reversed(words) if m.get("content")), None)
    thinking = next(
        (m["reasoning_content"] for m in reversed(words) if m.get("reasoning_content")), None
    )
    results = [str(m["content"]) for m in said if m["role"] == "tool" and m.get("content")]
    results = [result for result in results if not result.startswith(NOT_RUN)]
    found = list(dict.fromkeys(reversed(results)))[:3]
    parts = [content or "", f"Last thought: {_end(thinking, most_chars)}" if thinking else ""]
    parts += [f"Found: {_end(result, most_chars)}" for result in reversed(found)]
    return "\n".join(part for part in parts if part) or None


def _end(text: str, most_chars: int) -> str:
    text = text.strip()
    return text if len(text) <= most_chars else "… " + text[-most_chars:]
