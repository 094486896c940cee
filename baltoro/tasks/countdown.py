"""Reach a target from a few numbers: a search whose thinking goes down, fails and goes back.

Problems get harder with the count of numbers, and so does the thinking get longer.
"""

from __future__ import annotations

import ast
import operator
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from baltoro.tasks.phrases import politely
from baltoro.tasks.task import Problem, Scene, Split, assistant, draw

LARGEST = 12  # of the numbers given
LARGEST_VALUE = 99  # of the target and of all on the way to it: no more than is known by heart
# What follows a list of so many numbers and each try at it. It tells a reader, who comes back
# from a list that did not work out, which list is next and how far that one was tried.
MARKS = {2: "", 3: ",", 4: ";", 5: "|"}

QUESTIONS = (
    "Make {t} from {n}. Use each number once.",
    "Use {n}, each once, with + - * / to get {t}.",
    "Countdown: the numbers are {n} and the target is {t}.",
    "Combine {n} into {t}.",
    "How do you reach {t} with {n}?",
)

OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}

Term = tuple[int, str]  # a value and how it was made


@dataclass(frozen=True)
class Countdown:
    """Each of `size` numbers once, with + - * /, to make the target.

    Problems whose search takes `shortest` to `longest` sums and products; others are left out.
    """

    size: int
    shortest: int = 1
    longest: int = 60
    kind: str = "countdown"
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.size}"

    def pose(self, rng: random.Random, scene: Scene, split: Split) -> Problem:
        while True:
            problem = draw(rng, split, lambda: self.random_problem(rng))
            target, *numbers = (int(word) for word in problem)
            search = Search(target, self.longest)
            expression = search.go([(n, str(n)) for n in numbers])
            if expression is not None and search.tried >= self.shortest:
                break
        rng.shuffle(numbers)
        answer = f"{expression} = {target}"
        shown = ", ".join(map(str, numbers))
        question = politely(rng, rng.choice(QUESTIONS).format(t=target, n=shown))
        # The end is said first as it will be said: to have arrived is then to see the same again.
        turn = assistant(f"{answer}.", f"Until ={target} yes. {' '.join(search.said)}")
        return Problem(task=self.name, question=question, solution=[turn], answer=answer)

    def random_problem(self, rng: random.Random) -> tuple[str, ...]:
        """Target and numbers, largest first, so that their order makes no other problem of them."""
        while True:
            numbers = sorted((rng.randint(1, LARGEST) for _ in range(self.size)), reverse=True)
            values = numbers[:]
            while len(values) > 1:
                a, b = (values.pop(rng.randrange(len(values))) for _ in range(2))
                made = combined(max(a, b), min(a, b))
                values.append(rng.choice([value for _, value in made]) if made else 0)
            if values[0] and values[0] not in numbers:
                return (str(values[0]), *map(str, numbers))

    def verify(self, problem: Problem, reply: str) -> bool:
        """Any expression that uses each number once and makes the target is right."""
        stated = re.fullmatch(r"([\d\s()+*/-]+) = (\d+)\.?", reply.strip())
        wanted = problem.answer.rpartition(" = ")
        if stated is None or stated[2] != wanted[2]:
            return False
        used, given = re.findall(r"\d+", stated[1]), re.findall(r"\d+", wanted[0])
        return sorted(used) == sorted(given) and evaluate(stated[1]) == int(wanted[2])


class Search:
    """Depth first, larger numbers first, given up after `longest` tries; `said` is the thinking."""

    def __init__(self, target: int, longest: int):
        self.target = target
        self.longest = longest
        self.said: list[str] = []
        self.tried = 0

    def go(self, terms: list[Term]) -> str | None:
        """An expression over all terms that makes the target; None if none or not soon enough."""
        mark = MARKS[len(terms)]
        self.said.append(" ".join(str(value) for value, _ in terms) + (mark or ":"))
        for i in range(len(terms)):
            for j in range(i + 1, len(terms)):
                rest = [term for k, term in enumerate(terms) if k not in (i, j)]
                found = self.join(terms[i], terms[j], rest)
                if found is not None or self.tried > self.longest:
                    return found
        self.said.append(f"no{mark or '.'}")
        return None

    def join(self, a: Term, b: Term, rest: list[Term]) -> str | None:
        for sign, value in combined(a[0], b[0]):
            self.tried += 1
            if self.tried > self.longest:
                return None
            made = f"{a[0]}{sign}{b[0]}={value}"
            expression = f"{bracketed(a[1])} {sign} {bracketed(b[1])}"
            if not rest:
                self.said.append(f"{made} yes." if value == self.target else made)
                if value == self.target:
                    return expression
                continue
            self.said.append(f"{made}{MARKS[len(rest) + 2]}")
            found = self.go(sorted([(value, expression), *rest], reverse=True))
            if found is not None:
                return found
        return None


def combined(a: int, b: int) -> list[tuple[str, int]]:
    """What a >= b make with each sign, as far as it is a whole number from 1 to the largest."""
    results = [("+", a + b), ("*", a * b), ("-", a - b)]
    if b > 1 and a % b == 0:  # to divide by 1 is to multiply by it
        results.append(("/", a // b))
    return [(sign, value) for sign, value in results if 0 < value <= LARGEST_VALUE]


def bracketed(expression: str) -> str:
    return expression if expression.isdigit() else f"({expression})"


def evaluate(expression: str) -> Fraction | None:
    """The exact value; None if it is no expression or divides by zero."""
    try:
        return value_of(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def value_of(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](value_of(node.left), value_of(node.right))
    raise ValueError("an expression of whole numbers and + - * / was expected")
