"""Products and expressions that go to a Python tool, and what to say when there is none."""

from __future__ import annotations

import random

from baltoro.tasks.phrases import politely
from baltoro.tasks.task import (
    Problem,
    Scene,
    Split,
    assistant,
    draw,
    draw_pair,
    states,
    tool_result,
)

QUESTIONS = (
    "What is {e}?",
    "Compute {e}.",
    "Calculate {e}.",
    "How much is {e}?",
    "{e} = ?",
    "{e}",
    "What does {e} equal?",
    "Can you work out {e}?",
    "Please compute {e}.",
    "Find {e}.",
)
PRODUCT_QUESTIONS = (
    "Multiply {a} by {b}.",
    "What is {a} times {b}?",
    "What is the product of {a} and {b}?",
)
# How a tool may put what the code printed.
WRAPPINGS = (
    "{v}\n",
    "{v}\n",
    '{{"output": "{v}"}}',
    '{{"stdout": "{v}\\n"}}',
    "Output: {v}",
    "Result:\n{v}",
    "[{v}]",
)


class Products:
    """Arithmetic beyond two-number sums, by one call of the Python tool."""

    name = "products"
    needs = ("python",)

    def pose(self, rng: random.Random, scene: Scene, split: Split) -> Problem:
        assert scene.python is not None
        expression, question = pose_expression(rng, split)
        value = str(eval(expression))  # made of digits and operators just above
        thinking = f"I need {expression}. I run it in Python."
        turn, call_id = scene.call(scene.python, f"print({expression})", thinking)
        result = (rng.choice(WRAPPINGS) if rng.random() < 0.3 else "{v}").format(v=value)
        answer = f"{expression} = {value}"
        final = assistant(f"{answer}.", f"The result is {value}.")
        solution = [turn, tool_result(call_id, result), final]
        return Problem(task=self.name, question=question, solution=solution, answer=answer)

    def verify(self, problem: Problem, reply: str) -> bool:
        return states(reply, problem.answer)


class ProductsWithoutTool:
    """The same questions where no Python tool is on offer: the honest answer is a refusal."""

    name = "products_without_tool"
    needs = ()

    def pose(self, rng: random.Random, scene: Scene, split: Split) -> Problem:
        expression, question = pose_expression(rng, split)
        if scene.python is not None:
            raise ValueError("this task is posed where no Python tool is on offer")
        answer = f"I can't compute {expression} without a Python tool"
        thinking = f"I need {expression}. There is no Python tool here."
        turn = assistant(f"{answer}.", thinking)
        return Problem(task=self.name, question=question, solution=[turn], answer=answer)

    def verify(self, problem: Problem, reply: str) -> bool:
        return states(reply, problem.answer)


def pose_expression(rng: random.Random, split: Split) -> tuple[str, str]:
    """An expression and a question that asks for it."""
    if rng.random() < 0.65:
        a, b = draw_pair(rng, split, lambda: (factor(rng), factor(rng)))
        expression = f"{a} * {b}"
        if rng.random() < 0.25:
            return expression, politely(rng, rng.choice(PRODUCT_QUESTIONS).format(a=a, b=b))
    else:
        (expression,) = draw(rng, split, lambda: (longer_expression(rng),))
    return expression, politely(rng, rng.choice(QUESTIONS).format(e=expression))


def factor(rng: random.Random) -> str:
    return str(rng.randrange(2, 10 ** rng.choice((1, 2, 3, 3, 4, 4, 5))))


def longer_expression(rng: random.Random) -> str:
    a, b, c = (factor(rng) for _ in range(3))
    p, q = rng.choice("+-*"), rng.choice("+-*")
    forms = (
        f"{a} {p} {b} {q} {c}",
        f"({a} {p} {b}) * {c}",
        f"{a} * ({b} {q} {c})",
        f"{a} - {b}",
        f"{a} // {b}",
        f"{a} % {b}",
        f"{a} ** {rng.randint(2, 4)}",
    )
    return rng.choice(forms)
