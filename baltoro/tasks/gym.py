"""The generators of reasoning-gym as tasks, named `gym:DATASET`. Needs the extra `gym`.

They have verifiers but no worked solutions, so they are for reinforcement learning and not for SFT.
"""

from __future__ import annotations

import random
import re
from importlib.util import find_spec
from typing import Any

from baltoro.config import BaltoroError
from baltoro.tasks.task import Problem, Scene, Split, draw

PREFIX = "gym:"
RIGHT = 0.99  # of a score between 0 and 1


class GymTask:
    """One dataset. Its problems are told apart by their text, so train and eval never share one."""

    needs = ()

    def __init__(self, dataset: str):
        if find_spec("reasoning_gym") is None:
            raise BaltoroError(
                f"the task '{PREFIX}{dataset}' needs reasoning-gym: pip install 'baltoro[gym]'."
            )
        import reasoning_gym

        self._gym: Any = reasoning_gym
        self.dataset = dataset
        self.name = f"{PREFIX}{dataset}"
        try:
            self._judge: Any = reasoning_gym.create_dataset(dataset, size=1, seed=0)
        except ValueError as error:
            raise BaltoroError(f"reasoning-gym has no dataset '{dataset}': {error}") from None
        self._entries: dict[str, Any] = {}

    def pose(self, rng: random.Random, scene: Scene, split: Split) -> Problem:
        def make() -> tuple[str, ...]:
            seed = rng.randrange(2**31)
            entry = self._gym.create_dataset(self.dataset, size=1, seed=seed)[0]
            self._entries[entry["question"]] = entry
            return (entry["question"],)

        self._entries.clear()
        (question,) = draw(rng, split, make)
        entry = self._entries[question]

        def verify(reply: str) -> bool:
            return self._judge.score_answer(stated(reply), entry) >= RIGHT

        return Problem(
            task=self.name,
            question=question,
            solution=[],
            answer=str(entry["answer"]),
            world=lambda: Judged(verify),
        )

    def verify(self, problem: Problem, reply: str) -> bool:
        assert problem.world is not None
        return problem.world().verify(reply)


class Judged:
    """A world without tools or a user."""

    def __init__(self, judge: Any):
        self.verify = judge

    def call(self, tool: str, argument: str) -> str:
        raise AssertionError("these problems come without tools")

    def user_says(self, reply: str) -> str | None:
        return None


def stated(reply: str) -> str:
    """What follows "answer is" in the last line, or all of the reply."""
    found = re.search(r"answer is:? *(.+?)\.?$", reply.strip(), re.IGNORECASE)
    return found[1] if found else reply.strip()
