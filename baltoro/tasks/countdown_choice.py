"""Which of several expressions reaches the target: what heavy mode asks at the end of a Countdown.

Each attempt is worked out from its innermost bracket on until one is right; where none is, the
problem is searched anew.
"""

from __future__ import annotations

import ast
import dataclasses
import random
import re
from dataclasses import dataclass
from fractions import Fraction

from baltoro.chat.reflection import reflection
from baltoro.tasks.countdown import (
    LARGEST,
    LARGEST_VALUE,
    OPERATORS,
    Countdown,
    bracketed,
    evaluate,
)
from baltoro.tasks.task import Problem, Scene, Split, assistant

MOST = 8  # attempts
SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


@dataclass(frozen=True)
class CountdownChoice:
    """Problems of Countdown with three to eight attempts at each, of which none may be right."""

    task: Countdown

    @property
    def name(self) -> str:
        return f"aggregate_{self.task.name}"

    @property
    def needs(self) -> tuple[str, ...]:
        return self.task.needs

    def pose(self, rng: random.Random, scene: Scene, split: Split) -> Problem:
        problem = self.task.pose(rng, scene, split)
        expression, _, target = problem.answer.partition(" = ")
        share = rng.choice((0.0, 0.3, 0.6, 0.9))
        attempts = [
            swapped(rng, expression) if rng.random() < share else mistaken(rng, expression, target)
            for _ in range(rng.randint(3, MOST))
        ]
        said, chosen = weigh(attempts, numbers_of(expression), int(target))
        solution = problem.solution
        if chosen is not None:
            solution = [assistant(f"{chosen} = {target}.", said)]
        else:
            searched = solution[0]["reasoning_content"]
            solution = [solution[0] | {"reasoning_content": f"{said} {searched}"}]
        texts = [f"{attempt} = {target}." for attempt in attempts]
        question = reflection(problem.question, texts)
        return dataclasses.replace(problem, task=self.name, question=question, solution=solution)

    def verify(self, problem: Problem, reply: str) -> bool:
        return self.task.verify(problem, reply)


def weigh(attempts: list[str], given: list[int], target: int) -> tuple[str, str | None]:
    """The thinking, and the first attempt that uses the given numbers and makes the target."""
    said = [f"{listed(given)} ={target} yes."]
    for number, attempt in enumerate(attempts, start=1):
        used = numbers_of(attempt)
        if used != given:
            said.append(f"{number}: {listed(used)} no.")
            continue
        steps: list[str] = []
        value = worked_out(ast.parse(attempt, mode="eval").body, steps)
        verdict = "yes." if value == target else "no."
        said.append(f"{number}: {listed(used)}: {' '.join(steps)} {verdict}")
        if value == target:
            return " ".join(said), attempt
    return " ".join([*said, "None."]), None


def worked_out(node: ast.expr, steps: list[str]) -> Fraction | None:
    """The value, with one step for each sign; None from the first that no search would make."""
    if isinstance(node, ast.Constant):
        return Fraction(str(node.value))
    assert isinstance(node, ast.BinOp)
    left = worked_out(node.left, steps)
    right = None if left is None else worked_out(node.right, steps)
    if left is None or right is None:
        return None
    step = f"{left}{SIGNS[type(node.op)]}{right}"
    if isinstance(node.op, ast.Div) and right == 0:
        steps.append(step)
        return None
    value = OPERATORS[type(node.op)](left, right)
    if not 0 <= value <= LARGEST_VALUE or value.denominator != 1:
        steps.append(step)
        return None
    steps.append(f"{step}={value}")
    return value


def numbers_of(expression: str) -> list[int]:
    """What the expression uses, largest first."""
    return sorted(map(int, re.findall(r"\d+", expression)), reverse=True)


def listed(numbers: list[int]) -> str:
    return " ".join(map(str, numbers))


def swapped(rng: random.Random, expression: str) -> str:
    """The same with the sides of some sums and products exchanged."""

    def again(node: ast.expr) -> str:
        if not isinstance(node, ast.BinOp):
            return ast.unparse(node)
        sides = [bracketed(again(side)) for side in (node.left, node.right)]
        if isinstance(node.op, ast.Add | ast.Mult) and rng.random() < 0.3:
            sides.reverse()
        return f"{sides[0]} {SIGNS[type(node.op)]} {sides[1]}"

    return again(ast.parse(expression, mode="eval").body)


def mistaken(rng: random.Random, expression: str, target: str) -> str:
    """An expression that is wrong: another sign, another number, two numbers exchanged, or one
    number in place of a bracket."""
    brackets = re.findall(r"\([^()]+\)", expression)
    while True:
        parts = re.split(r"(\d+|[+*/-])", expression)
        places = [i for i, part in enumerate(parts) if part.isdigit()]
        signs = [i for i, part in enumerate(parts) if part in set("+-*/")]
        kind = rng.random()
        if kind < 0.3 and brackets:
            shorter = expression.replace(rng.choice(brackets), str(rng.randint(1, 2 * LARGEST)), 1)
            parts = [shorter]
        elif kind < 0.6:
            parts[rng.choice(signs)] = rng.choice("+-*/")
        elif kind < 0.85 and len(places) > 1:
            a, b = rng.sample(places, 2)
            parts[a], parts[b] = parts[b], parts[a]
        else:
            parts[rng.choice(places)] = str(rng.randint(1, LARGEST))
        wrong = swapped(rng, "".join(parts))
        if evaluate(wrong) != int(target) or numbers_of(wrong) != numbers_of(expression):
            return wrong
