"""Calls that went wrong, and what sets them right: a run of hundreds survives its own slips."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass

from baltoro.chat.messages import Message
from baltoro.tasks.failures import numbered
from baltoro.tasks.lookups import LETTERS, make_key
from baltoro.tasks.task import NO_ENTRY, Problem, Scene, Split, Task, tool_result
from baltoro.tasks.windowed import TURN

AGAIN = "No such entry. "  # and then what should have been thought before


@dataclass(frozen=True)
class WithSlips:
    """The problems of a task whose calls look a key up, each known from the turn before.

    A demonstration shows the question, a few turns, one call of a wrong key or two, and from there
    on what is right. Nothing before the correction is learned.
    """

    task: Task
    most_before: int = 8  # turns
    most_after: int = 3

    @property
    def name(self) -> str:
        return f"{self.task.name}_with_slips"

    @property
    def needs(self) -> tuple[str, ...]:
        return self.task.needs

    def pose(self, rng: random.Random, scene: Scene, split: Split) -> Problem:
        first = scene.calls
        problem = self.task.pose(rng, scene, split)
        turns, keys = problem.solution, list(problem.table)
        at = rng.randrange(len(keys))  # the turn that goes wrong
        shown = rng.randint(max(0, at - self.most_before), max(0, at - 1))
        wrong = slips(rng, scene, turns[TURN * at], keys[at], problem.table)
        wrong = numbered_all(wrong, first + at)
        rest = turns[TURN * at : TURN * (at + self.most_after) + 1]
        rest[0] = rest[0] | {"reasoning_content": AGAIN + thinking_of(rest[0])}
        rest = numbered_all(rest, first + at + len(wrong) // TURN)
        before = turns[TURN * shown : TURN * at] + wrong
        return dataclasses.replace(
            problem, task=self.name, solution=before + rest, given=len(before)
        )

    def verify(self, problem: Problem, reply: str) -> bool:
        return self.task.verify(problem, reply)


def slips(
    rng: random.Random, scene: Scene, right: Message, key: str, table: dict[str, str]
) -> list[Message]:
    """One turn or two that look a wrong key up; the thinking may have been right all the same."""
    assert scene.get is not None
    turns: list[Message] = []
    thinking = thinking_of(right)
    for _ in range(rng.choice((1, 1, 1, 2))):
        wrong = mistaken(rng, key)
        while wrong in table:
            wrong = mistaken(rng, key)
        said = thinking if rng.random() < 0.5 else wrong.join(thinking.rsplit(key, 1))
        turn, call_id = scene.call(scene.get, wrong, said)
        turns += [turn, tool_result(call_id, NO_ENTRY.format(key=wrong))]
        thinking = AGAIN + thinking_of(right)
    return turns


def mistaken(rng: random.Random, key: str) -> str:
    """The key as it is copied or worked out wrongly: an end of it, or a part, is something else."""
    if key.isdigit():
        return str(max(0, int(key) + rng.choice((-100, -10, -1, 1, 2, 10, 100))))
    at = rng.randrange(len(key))
    part = rng.choice((rng.choice(LETTERS), make_key(rng)))
    rest = rng.choice((key[at:], key[at + 1 :], ""))
    return key[:at] + part + rest


def thinking_of(turn: Message) -> str:
    return str(turn["reasoning_content"])


def numbered_all(turns: list[Message], index: int) -> list[Message]:
    """Turns with a call each, counted from `index` on."""
    renumbered: list[Message] = []
    for turn in turns:
        if turn.get("tool_calls"):
            turn = numbered(turn, index)
            index += 1
        elif turn["role"] == "tool":
            turn = turn | {"tool_call_id": renumbered[-1]["tool_calls"][0]["id"]}
        renumbered.append(turn)
    return renumbered
