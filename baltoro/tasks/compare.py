"""Which of two decimals is bigger: both are padded and compared digit by digit."""

from __future__ import annotations

import random
from decimal import Decimal

from baltoro.tasks.phrases import politely
from baltoro.tasks.task import Problem, Scene, Split, assistant, draw_pair, states

WHOLE_DIGITS = 3  # numbers are padded to three digits on both sides of the point
DECIMALS = 3

BIGGER = ("bigger", "larger", "greater", "higher")
SMALLER = ("smaller", "less", "lower")
QUESTIONS = (
    "Which is {word}: {a} or {b}?",
    "Which is {word}, {a} or {b}?",
    "Which number is {word}: {a} or {b}?",
    "What is {word}: {a} or {b}?",
    "Is {a} or {b} {word}?",
    "Which one is {word}, {a} or {b}?",
    "Compare {a} and {b}. Which is {word}?",
    "{a} or {b}: which is {word}?",
    "Of {a} and {b}, which is {word}?",
    "Tell me which is {word}: {a} or {b}.",
    "Between {a} and {b}, which number is {word}?",
    "{a} vs {b}, which is {word}?",
)


class Compare:
    """Compare two non-negative decimals with up to three digits on each side of the point.

    The thinking says which of the two it is before it says the number: one step to decide, one
    step to copy.
    """

    name = "compare"
    needs = ()

    def pose(self, rng: random.Random, scene: Scene, split: Split) -> Problem:
        a, b = draw_pair(rng, split, lambda: two_decimals(rng))
        word = rng.choice(BIGGER if rng.random() < 0.7 else SMALLER)
        question = politely(rng, rng.choice(QUESTIONS).format(word=word, a=a, b=b))
        answer = statement(a, b, word)
        turn = assistant(f"{answer}.", f"{comparison(a, b)} {decision(a, b, word)}")
        return Problem(task=self.name, question=question, solution=[turn], answer=answer)

    def verify(self, problem: Problem, reply: str) -> bool:
        """The reply must be the statement itself, not merely contain the number."""
        return states(reply, problem.answer)


def two_decimals(rng: random.Random) -> tuple[str, str]:
    """Two numbers; often the same whole part, different lengths, or a shared beginning."""
    a = decimal(rng, whole(rng))
    roll = rng.random()
    if roll < 0.55:
        b = decimal(rng, a.split(".")[0])
    elif roll < 0.65:  # one extends the other
        b = (a if "." in a else a + ".") + str(rng.randint(0, 9))
        b = b if len(b.split(".")[1]) <= DECIMALS else a[:-1].rstrip(".")
    else:
        b = decimal(rng, whole(rng))
    return (a, b) if rng.random() < 0.5 else (b, a)


def whole(rng: random.Random) -> str:
    return str(rng.randrange(10 ** rng.choice((1, 1, 1, 2, 2, 3))))


def decimal(rng: random.Random, whole_part: str) -> str:
    digits = rng.choice((0, 1, 1, 1, 2, 2, 2, 3, 3))
    if digits == 0:
        return whole_part
    return whole_part + "." + "".join(rng.choice("0123456789") for _ in range(digits))


def padded(number: str) -> str:
    whole_part, _, decimals = number.partition(".")
    return whole_part.rjust(WHOLE_DIGITS, "0") + "." + decimals.ljust(DECIMALS, "0")


def comparison(a: str, b: str) -> str:
    """Both numbers padded, then column by column up to the first difference."""
    columns = []
    for x, y in zip(padded(a), padded(b), strict=True):
        if x == ".":
            continue
        columns.append(f"{x}{'=' if x == y else '<' if x < y else '>'}{y}")
        if x != y:
            break
    return f"{a} is {padded(a)} and {b} is {padded(b)}. {' '.join(columns)}."


def decision(a: str, b: str, word: str) -> str:
    """Which of the two is asked for, by its place and then by its digits."""
    if Decimal(a) == Decimal(b):
        return "They are equal."
    first = (Decimal(a) > Decimal(b)) == (word in BIGGER)
    return f"The {'first' if first else 'second'} is {word}: {a if first else b}."


def statement(a: str, b: str, word: str) -> str:
    if Decimal(a) == Decimal(b):
        return f"{a} and {b} are equal"
    first = (Decimal(a) > Decimal(b)) == (word in BIGGER)
    return f"{a if first else b} is {word}"
