"""Which of several expressions reaches the target: what heavy mode asks at the end of a Countdown.

Each attempt is worked out bracket by bracket until one is right; where none is, the problem is
searched anew.
"""

from __future__ import annotations

import ast
import dataclasses
import random
import re
from dataclasses import dataclass

from baltoro.chat.reflection import reflection, tally
from baltoro.tasks.countdown import (
    LARGEST,
    LARGEST_VALUE,
    Countdown,
    bracketed,
    evaluate,
)
from baltoro.tasks.task import Problem, Scene, Split, assistant

MOST = 8  # attempts
INNERMOST = re.compile(r"\((\d+[+*/-]\d+)\)")
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
        texts = [f"{attempt} = {target}." for attempt in made_up(rng, expression, target)]
        expressions = [text.partition(" = ")[0] for text, _ in tally(texts)]
        said, chosen = weigh(expressions, numbers_asked(problem.question), int(target))
        solution = problem.solution
        if chosen is not None:
            solution = [assistant(f"{chosen} = {target}.", said)]
        else:
            searched = solution[0]["reasoning_content"]
            solution = [solution[0] | {"reasoning_content": f"{said} {searched}"}]
        question = reflection(problem.question, texts)
        return dataclasses.replace(problem, task=self.name, question=question, solution=solution)

    def verify(self, problem: Problem, reply: str) -> bool:
        return self.task.verify(problem, reply)


def made_up(rng: random.Random, expression: str, target: str) -> list[str]:
    """Attempts: many that are right are the same, and so are some that are wrong."""
    share = rng.choice((0.0, 0.3, 0.6, 0.9))
    shared = mistaken(rng, expression, target)
    return [
        rng.choice((expression, swapped(rng, expression)))
        if rng.random() < share
        else rng.choice((shared, mistaken(rng, expression, target)))
        for _ in range(rng.randint(3, MOST))
    ]


def weigh(attempts: list[str], asked: list[int], target: int) -> tuple[str, str | None]:
    """The thinking, and the first attempt that uses the numbers asked for and makes the target."""
    given = sorted(asked, reverse=True)
    said = [f"{', '.join(map(str, asked))}: {listed(given)} ={target} yes."]
    for number, attempt in enumerate(attempts, start=1):
        written, used = attempt.replace(" ", ""), numbers_of(attempt)
        said.append(f"{number}: {written} {listed(used)}")
        if used != given:
            said[-1] += " no."
            continue
        steps, value = worked_out(written)
        verdict = "yes." if value == target else "no."
        said[-1] += f": {'; '.join(steps)} {verdict}"
        if value == target:
            return " ".join(said), attempt
    return " ".join([*said, "None."]), None


def worked_out(expression: str) -> tuple[list[str], int | None]:
    """The value, and a step for each bracket that is done, with what is left written anew: what
    comes next then stands right before it. No value from the first step that no search would make.
    """
    steps: list[str] = []
    while (bracket := INNERMOST.search(expression)) is not None:
        value = value_of_step(bracket[1])
        if value is None:
            return [*steps, bracket[1]], None
        expression = expression[: bracket.start()] + str(value) + expression[bracket.end() :]
        steps.append(f"{bracket[1]}={value} {expression}")
    value = value_of_step(expression)
    end = "" if value is None else f"={value}"
    return [*steps[:-1], f"{steps[-1]}{end}" if steps else f"{expression}{end}"], value


def value_of_step(step: str) -> int | None:
    """Of two numbers and a sign; None unless it is a whole number that a search goes on with."""
    value = evaluate(step)
    if value is None or value.denominator != 1 or not 0 <= value <= LARGEST_VALUE:
        return None
    return int(value)


def numbers_asked(question: str) -> list[int]:
    """Those of a Countdown, in their order."""
    shown = re.search(r"\d+(?:, \d+)+", question)
    assert shown is not None, question
    return [int(number) for number in shown[0].split(", ")]


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
    """An expression that is wrong by one mistake or two."""
    while True:
        wrong = with_mistake(rng, expression)
        if rng.random() < 0.4:
            wrong = with_mistake(rng, wrong)
        wrong = swapped(rng, wrong)
        if evaluate(wrong) != int(target) or numbers_of(wrong) != numbers_of(expression):
            return wrong


def with_mistake(rng: random.Random, expression: str) -> str:
    """Another sign, another number, two numbers exchanged, or one number in place of a bracket."""
    brackets = re.findall(r"\([^()]+\)", expression)
    parts = re.split(r"(\d+|[+*/-])", expression)
    places = [i for i, part in enumerate(parts) if part.isdigit()]
    signs = [i for i, part in enumerate(parts) if part in set("+-*/")]
    another = rng.choice((str(rng.randint(1, LARGEST)), parts[rng.choice(places)]))
    kind = rng.random()
    if kind < 0.3 and brackets:
        return expression.replace(rng.choice(brackets), another, 1)
    if kind < 0.6:
        parts[rng.choice(signs)] = rng.choice("+-*/")
    elif kind < 0.85:
        a, b = rng.sample(places, 2)
        parts[a], parts[b] = parts[b], parts[a]
    else:
        parts[rng.choice(places)] = another
    return "".join(parts)
