"""Finding one entry in a long text: what a long context is for, without any tool."""

from __future__ import annotations

import random
from dataclasses import dataclass

from baltoro.tasks.lookups import distinct_keys, make_key
from baltoro.tasks.task import Problem, Scene, Split, assistant, draw, states

QUESTIONS = (
    "What is the value of {k} in this list?",
    "Find {k} in this list and tell me its value.",
    "Which value does {k} have here?",
    "Read the list. What stands beside {k}?",
)
LINES = ("{k}: {v}", "{k} = {v}", "{k} is {v}", "{k} -> {v}")


@dataclass(frozen=True)
class Recall:
    """A list of `fewest` to `most` entries, one of which is asked for."""

    fewest: int = 3
    most: int = 40
    name: str = "recall"
    needs: tuple[str, ...] = ()

    def pose(self, rng: random.Random, scene: Scene, split: Split) -> Problem:
        (asked,) = draw(rng, split, lambda: (make_key(rng),))
        others = [k for k in distinct_keys(rng, rng.randint(self.fewest, self.most)) if k != asked]
        keys = [asked, *others[1:]]
        rng.shuffle(keys)
        line = rng.choice(LINES)
        shown = {key: line.format(k=key, v=make_value(rng)) for key in keys}
        question, listed = rng.choice(QUESTIONS).format(k=asked), "\n".join(shown.values())
        asked_first = rng.random() < 0.3
        text = f"{question}\n{listed}" if asked_first else f"{listed}\n{question}"
        value = shown[asked].removeprefix(line.format(k=asked, v=""))
        answer = f"The value of {asked} is {value}"
        turn = assistant(f"{answer}.", f"{shown[asked]}.")
        return Problem(task=self.name, question=text, solution=[turn], answer=answer)

    def verify(self, problem: Problem, reply: str) -> bool:
        return states(reply, problem.answer)


def make_value(rng: random.Random) -> str:
    return make_key(rng) if rng.random() < 0.5 else str(rng.randrange(10**4))
