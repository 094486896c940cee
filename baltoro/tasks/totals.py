"""Dependent chains of numbers: each key to look up is a sum that has to be worked out first.

The total so far is carried in the reasoning, one short sum for each call, so hundreds of calls
fit into a context.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from baltoro.chat.messages import Message
from baltoro.tasks.phrases import politely
from baltoro.tasks.task import Problem, Scene, Split, assistant, draw, states, tool_result

END = "end"
LARGEST_START = 999
LARGEST_ADDED = 9

QUESTIONS = (
    "Start with {s}. Look the total up and add what you find to it. Look the new total up, and so "
    "on until you find end. What is the total?",
    "Begin with the number {s}. Each entry is a number to add, and the sum is the next key. Stop "
    "at end. What is the total?",
    "Look {s} up. Add the value to {s}, look the sum up, and go on like that until the value is "
    "end. What is the total?",
    "Keep a total, {s} at first. The entry under the total says what to add. Which total has the "
    "entry end?",
)
WRAPPINGS = ("{v}", "{v}", "{v}\n", "value: {v}", '"{v}"', '{{"value": "{v}"}}')


@dataclass(frozen=True)
class RunningTotal:
    """`shortest` to `longest` sums, and one more call that finds the end."""

    shortest: int = 1
    longest: int = 8
    name: str = "running_total"
    needs: tuple[str, ...] = ("get",)

    def pose(self, rng: random.Random, scene: Scene, split: Split) -> Problem:
        count = rng.randint(self.shortest, self.longest)
        start, *added = draw(rng, split, lambda: random_sums(rng, count))
        wrap = rng.choice(WRAPPINGS)
        solution, total = add_up(scene, int(start), [int(a) for a in added], wrap)
        question = politely(rng, rng.choice(QUESTIONS).format(s=start))
        results = [str(m["content"]) for m in solution if m["role"] == "tool"]
        return Problem(
            task=self.name,
            question=question,
            solution=solution,
            answer=f"The total is {total}",
            table=dict(zip(totals(int(start), added), results, strict=True)),
        )

    def verify(self, problem: Problem, reply: str) -> bool:
        return states(reply, problem.answer)


def random_sums(rng: random.Random, count: int) -> tuple[str, ...]:
    start = rng.randint(0, LARGEST_START)
    return (str(start), *(str(rng.randint(1, LARGEST_ADDED)) for _ in range(count)))


def totals(start: int, added: list[str]) -> list[str]:
    """The keys in the order in which they are looked up."""
    keys = [start]
    for number in added:
        keys.append(keys[-1] + int(number))
    return [str(key) for key in keys]


def add_up(scene: Scene, total: int, added: list[int], wrap: str) -> tuple[list[Message], int]:
    """The turns from the first total to the last, and the last."""
    assert scene.get is not None
    turns: list[Message] = []
    thinking = f"I start at {total}."
    for value in (*added, None):
        turn, call_id = scene.call(scene.get, str(total), thinking)
        found = END if value is None else str(value)
        turns += [turn, tool_result(call_id, wrap.format(v=found))]
        if value is not None:
            thinking = f"{total}+{value}={total + value}."
            total += value
    return [*turns, assistant(f"The total is {total}.", f"{total} has the end. I stop.")], total
