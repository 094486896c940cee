"""Choose and correct: several attempts at a problem are given, and the right answer is wanted.

What heavy mode asks of a model. Attempts may agree and be wrong, and none may be right.
"""

from __future__ import annotations

import dataclasses
import random
import re
from dataclasses import dataclass

from baltoro.tasks.task import Problem, Scene, Split, Task, assistant

INTRODUCTIONS = (
    "Here are {n} attempts. Give the right answer.",
    "{n} people answered. Some may be wrong. What is right?",
    "These are {n} answers to it. Check them and answer yourself.",
    "Below are {n} candidate answers. Choose the right one, or correct them.",
)


@dataclass(frozen=True)
class Aggregation:
    """Problems of a task without tools, with three to five attempts at each."""

    task: Task

    @property
    def name(self) -> str:
        return f"aggregate_{self.task.name}"

    @property
    def needs(self) -> tuple[str, ...]:
        return self.task.needs

    def pose(self, rng: random.Random, scene: Scene, split: Split) -> Problem:
        problem = self.task.pose(rng, scene, split)
        right = str(problem.solution[-1]["content"])
        share = rng.choice((0.0, 0.3, 0.6, 0.9))
        wrong = misstated(rng, right)  # one mistake that several may share
        attempts = [
            right if rng.random() < share else rng.choice((wrong, misstated(rng, right)))
            for _ in range(rng.randint(3, 5))
        ]
        listed = "\n".join(f"{i}. {text}" for i, text in enumerate(attempts, start=1))
        introduction = rng.choice(INTRODUCTIONS).format(n=len(attempts))
        agreeing = [str(i) for i, text in enumerate(attempts, start=1) if text == right]
        verdict = f"Right: {' '.join(agreeing)}." if agreeing else "None is right."
        worked_out = problem.solution[-1]["reasoning_content"]
        return dataclasses.replace(
            problem,
            task=self.name,
            question=f"{problem.question}\n{introduction}\n{listed}",
            solution=[assistant(right, f"{worked_out} {verdict}")],
        )

    def verify(self, problem: Problem, reply: str) -> bool:
        return self.task.verify(problem, reply)


def misstated(rng: random.Random, statement: str) -> str:
    """The statement with one digit of its last number changed."""
    number = re.findall(r"\d+", statement)[-1]
    place = rng.randrange(len(number))
    digit = rng.choice([d for d in "0123456789" if d != number[place]])
    changed = number[:place] + digit + number[place + 1 :]
    before, _, after = statement.rpartition(number)
    return before + changed + after
