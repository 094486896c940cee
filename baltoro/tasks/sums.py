"""Adding two numbers by thinking: column by column from the right."""

from __future__ import annotations

import random

from baltoro.tasks.phrases import politely
from baltoro.tasks.task import Problem, Scene, Split, assistant, draw_pair, states

DIGITS = 4  # numbers have up to four digits

QUESTIONS = (
    "What is {a} + {b}?",
    "What is {a} plus {b}?",
    "Add {a} and {b}.",
    "{a} + {b} = ?",
    "{a} + {b}",
    "How much is {a} + {b}?",
    "Compute {a} + {b}.",
    "What is the sum of {a} and {b}?",
    "Calculate {a} plus {b}.",
    "Can you add {a} and {b}?",
)


class Sums:
    """The sum of two whole numbers below 10,000."""

    name = "sums"
    needs = ()

    def pose(self, rng: random.Random, scene: Scene, split: Split) -> Problem:
        a, b = draw_pair(rng, split, lambda: (number(rng), number(rng)))
        question = politely(rng, rng.choice(QUESTIONS).format(a=a, b=b))
        answer = f"{a} + {b} = {int(a) + int(b)}"
        turn = assistant(f"{answer}.", f"{columns(a, b)} So {answer}.")
        return Problem(task=self.name, question=question, solution=[turn], answer=answer)

    def verify(self, problem: Problem, reply: str) -> bool:
        return states(reply, problem.answer)


def number(rng: random.Random) -> str:
    return str(rng.randrange(10 ** rng.choice((1, 2, 2, 3, 3, 3, 4, 4))))


def columns(a: str, b: str) -> str:
    """Digit + digit + carry = two digits, from the right; the last ones read upwards."""
    x, y = a.rjust(DIGITS, "0"), b.rjust(DIGITS, "0")
    carry, written, steps = 0, "", []
    for p, q in zip(reversed(x), reversed(y), strict=True):
        total = int(p) + int(q) + carry
        steps.append(f"{p}+{q}+{carry}={total:02d}")
        carry, written = total // 10, str(total % 10) + written
    return f"{x} and {y}: {' '.join(steps)}. That is {carry}{written}."
