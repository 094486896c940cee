"""Lookups side by side: keys that do not depend on each other."""

from __future__ import annotations

import random
from dataclasses import dataclass

from baltoro.tasks.lookups import distinct_keys, make_key, quoted
from baltoro.tasks.phrases import politely
from baltoro.tasks.task import Problem, Scene, Split, assistant, draw, states, tool_result

QUESTIONS = (
    "What are the values of {k}?",
    "Look up {k}.",
    "Get the values of {k}.",
    "Tell me what is stored under {k}.",
    "I need the values of {k}.",
)


@dataclass(frozen=True)
class ParallelLookups:
    """Two to `most` keys that do not depend on each other: one turn calls for all of them."""

    most: int = 4
    name: str = "parallel_lookups"
    needs: tuple[str, ...] = ("get",)

    def pose(self, rng: random.Random, scene: Scene, split: Split) -> Problem:
        assert scene.get is not None
        count = rng.randint(2, self.most)
        keys = draw(rng, split, lambda: tuple(distinct_keys(rng, count)))
        table = {key: make_key(rng) for key in keys}
        listed = [quoted(rng, key) for key in keys]
        phrase = ", ".join(listed[:-1]) + " and " + listed[-1]
        question = politely(rng, rng.choice(QUESTIONS).format(k=phrase))
        thinking = f"I look up {', '.join(keys)} at once."
        turn, ids = scene.call_each(scene.get, keys, thinking)
        results = [tool_result(id, table[key]) for id, key in zip(ids, keys, strict=True)]
        answer = "; ".join(f"{key}: {value}" for key, value in table.items())
        final = assistant(f"{answer}.", "I have all values.")
        return Problem(
            task=self.name,
            question=question,
            solution=[turn, *results, final],
            answer=answer,
            table=table,
        )

    def verify(self, problem: Problem, reply: str) -> bool:
        return states(reply, problem.answer)
