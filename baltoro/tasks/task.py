"""The seam for problems with checkable answers: adding a task is adding a file.

A task poses one problem inside a scene (a system prompt and the tools on offer), shows how it
is solved, and judges an answer. Solutions are functions of the problem alone, so a demonstration
has no chance in it. Training and evaluation problems are disjoint by construction: `split_of`
sends each problem to one of them for good.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from baltoro.chat.messages import Message, Tool, ToolCall

Split = Literal["train", "eval"]

EVAL_SHARE = 10  # one problem in this many is kept for evaluation


def split_of(problem: str) -> Split:
    """Where a problem belongs, by the hash of its canonical text."""
    return "eval" if zlib.crc32(problem.encode()) % EVAL_SHARE == 0 else "train"


def draw(rng: random.Random, split: Split, make: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
    """Draw problems until one belongs to `split`."""
    while True:
        problem = make()
        if split_of(" ".join(problem)) == split:
            return problem


def draw_pair(
    rng: random.Random, split: Split, make: Callable[[], tuple[str, str]]
) -> tuple[str, str]:
    """The same for two numbers whose order hardly matters: where one order may have been trained
    on, neither is unseen."""
    while True:
        a, b = draw(rng, split, make)
        other = f"{b} {a}" if a != b else f"{a} twice"  # equal ones are to be no more frequent
        if split == "train" or split_of(other) == split:
            return a, b


def states(reply: str, answer: str) -> bool:
    """Whether a reply is the answer and nothing else, with a full stop or without."""
    return reply.strip() in (answer, f"{answer}.")


@dataclass(frozen=True)
class ToolStyle:
    """One way to declare a tool with a single string parameter."""

    name: str
    description: str
    parameter: str
    note: str = ""  # what the declaration says of the parameter
    closed: bool = False  # whether it forbids other parameters in so many words

    def schema(self) -> Tool:
        declared = {"type": "string"} | ({"description": self.note} if self.note else {})
        parameters: dict[str, Any] = {
            "type": "object",
            "properties": {self.parameter: declared},
            "required": [self.parameter],
        }
        if self.closed:
            parameters["additionalProperties"] = False
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


NO_ENTRY = "There is no entry '{key}'."  # what a lookup of an unknown key says


@dataclass
class Scene:
    """What surrounds a problem: who speaks, and which tools are on offer."""

    system: str | None = None
    python: ToolStyle | None = None  # runs Python code and returns what it prints
    get: ToolStyle | None = None  # looks one key up
    backed: list[ToolStyle] = field(default_factory=list)  # further ones that a `World` answers
    styles: list[ToolStyle] = field(default_factory=list)  # all on offer, in the order shown
    calls: int = 0  # calls made so far in the conversation

    @property
    def tools(self) -> list[Tool]:
        return [style.schema() for style in self.styles]

    def call(self, style: ToolStyle, argument: str, thinking: str) -> tuple[Message, str]:
        """An assistant turn that calls `style`, and the id of the call."""
        turn, (call_id,) = self.call_each(style, [argument], thinking)
        return turn, call_id

    def call_each(
        self, style: ToolStyle, arguments: Sequence[str], thinking: str
    ) -> tuple[Message, list[str]]:
        """An assistant turn that calls `style` once for each argument, and the ids of the calls."""
        calls = []
        for argument in arguments:
            call_id = f"functions.{style.name}:{self.calls}"
            self.calls += 1
            written = json_object(style.parameter, argument)
            calls.append(ToolCall(id=call_id, name=style.name, arguments=written))
        turn = assistant("", thinking) | {"tool_calls": [call.to_message_part() for call in calls]}
        return turn, [call.id for call in calls]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem as posed in a scene."""

    task: str
    question: str  # the user's message
    solution: list[Message]  # assistant and tool turns that solve it
    answer: str  # what `verify` looks for
    table: dict[str, str] = field(default_factory=dict)  # what the `get` tool knows
    failing_calls: frozenset[int] = frozenset()  # calls of an attempt, from 0, that fail for once
    world: Callable[[], World] | None = None  # made anew for each attempt; None: nothing has state
    given: int = 0  # messages at the beginning of the solution that are shown and not learned


class World(Protocol):
    """What one attempt at a problem acts on: the state behind its tools, and a user who answers."""

    def call(self, tool: str, argument: str) -> str:
        """The result of a call. Raises `ToolError` with what the model is told of a failure."""
        ...

    def user_says(self, reply: str) -> str | None:
        """What the user says to a reply without calls; None if the conversation is over."""
        ...

    def verify(self, reply: str) -> bool:
        """Whether the state that was reached and the last reply are right."""
        ...


class Task(Protocol):
    """A family of problems."""

    @property
    def name(self) -> str: ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Which of a scene's tools it calls: "python", "get"."""
        ...

    def pose(self, rng: random.Random, scene: Scene, split: Split) -> Problem: ...

    def verify(self, problem: Problem, reply: str) -> bool:
        """Whether the final reply states the right answer, and states it once."""
        ...


def assistant(content: str, thinking: str) -> Message:
    return {"role": "assistant", "content": content, "reasoning_content": thinking}


def tool_result(call_id: str, content: str) -> Message:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def json_object(key: str, value: str) -> str:
    """{"key": "value"} for values that need no escapes beyond quotes and backslashes."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{{"{key}": "{escaped}"}}'
