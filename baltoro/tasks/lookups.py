"""Looking keys up with a tool: one key, or a chain in which each value is the next key."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from baltoro.chat.messages import Message
from baltoro.tasks.phrases import WORDS, politely
from baltoro.tasks.task import Problem, Scene, Split, assistant, draw, states, tool_result

LETTERS = "abcdefghijklmnopqrstuvwxyz"

CHAIN_QUESTIONS = (
    "Start with key {k} and follow each value to the next key until you reach a number. "
    "Which number is it?",
    "Look up {k}. Each value is the next key to look up. Stop at a number and tell me the number.",
    "Follow the chain that starts at {k} until it ends in a number. What is the number?",
    "Begin at {k}. Keep looking up the value you get until it is a number. Which number is it?",
    "Starting from {k}, follow the links to the end. What number is there?",
    "Key {k} leads to another key, and so on. Follow them. What is the number at the end?",
    "Use the tool: {k} points to a key, which points to another. Which number comes last?",
    "Trace the keys from {k} until a number appears, then give me the number.",
)
SINGLE_QUESTIONS = (
    "What is the value of {k}?",
    "Look up {k}.",
    "What is stored under {k}?",
    "Get {k} for me.",
    "Which value does {k} have?",
    "Please find {k} and tell me its value.",
)
# How a tool may put the value that it returns.
WRAPPINGS = (
    "{v}\n",
    '{{"value": "{v}"}}',
    '{{"next": "{v}"}}',
    '{{"result": "{v}"}}',
    '"{v}"',
    "value: {v}",
    "-> {v}",
    "Found: {v}",
)


@dataclass(frozen=True)
class Chain:
    """Follow `shortest` to `longest` dependent lookups to a number."""

    shortest: int = 1
    longest: int = 8
    name: str = "chain"
    key: Callable[[random.Random], str] | None = None  # how a key is made; None: `make_key`
    needs: tuple[str, ...] = ("get",)

    def pose(self, rng: random.Random, scene: Scene, split: Split) -> Problem:
        length = rng.randint(self.shortest, self.longest)
        keys = draw(rng, split, lambda: tuple(distinct_keys(rng, length, self.key or make_key)))
        number = str(rng.randrange(10 ** rng.randint(1, 5)))
        table = dict(zip(keys, (*keys[1:], number), strict=True))
        question = politely(rng, rng.choice(CHAIN_QUESTIONS).format(k=quoted(rng, keys[0])))
        wrap = rng.choice(WRAPPINGS) if rng.random() < 0.6 else "{v}"
        solution = follow(scene, table, keys[0], wrap)
        answer = f"The number is {number}"
        shown = {key: wrap.format(v=value) for key, value in table.items()}
        return Problem(
            task=self.name, question=question, solution=solution, answer=answer, table=shown
        )

    def verify(self, problem: Problem, reply: str) -> bool:
        return states(reply, problem.answer)


def follow(scene: Scene, table: dict[str, str], key: str, wrap: str) -> list[Message]:
    """The turns that walk from `key` to the number at the end."""
    assert scene.get is not None
    turns: list[Message] = []
    thinking = f"I start at {key}."
    while key in table:
        turn, call_id = scene.call(scene.get, key, thinking)
        key = table[key]
        turns += [turn, tool_result(call_id, wrap.format(v=key))]
        thinking = f"Next is {key}."
    return [*turns, assistant(f"The number is {key}.", f"{key} is a number. I stop.")]


class SingleLookup:
    """One key, one value, which may be any word or number."""

    name = "single_lookup"
    needs = ("get",)

    def pose(self, rng: random.Random, scene: Scene, split: Split) -> Problem:
        assert scene.get is not None
        (key,) = draw(rng, split, lambda: (make_key(rng),))
        value = make_key(rng) if rng.random() < 0.6 else str(rng.randrange(10**4))
        question = politely(rng, rng.choice(SINGLE_QUESTIONS).format(k=quoted(rng, key)))
        turn, call_id = scene.call(scene.get, key, f"I look up {key}.")
        answer = f"The value of {key} is {value}"
        final = assistant(f"{answer}.", f"It is {value}.")
        shown = (rng.choice(WRAPPINGS) if rng.random() < 0.4 else "{v}").format(v=value)
        solution = [turn, tool_result(call_id, shown), final]
        return Problem(
            task=self.name, question=question, solution=solution, answer=answer, table={key: shown}
        )

    def verify(self, problem: Problem, reply: str) -> bool:
        return states(reply, problem.answer)


def quoted(rng: random.Random, key: str) -> str:
    return rng.choice(("{}", "{}", "{}", '"{}"', "'{}'", "`{}`")).format(key)


def make_key(rng: random.Random) -> str:
    roll = rng.random()
    letters = "".join(rng.choice(LETTERS) for _ in range(rng.randint(2, 5)))
    if roll < 0.45:
        return letters
    if roll < 0.65:
        return rng.choice(WORDS)
    if roll < 0.8:
        return f"{rng.choice(WORDS)}{rng.choice('-_')}{rng.randrange(100)}"
    return f"{letters}{rng.randrange(100)}"


def distinct_keys(
    rng: random.Random, count: int, make: Callable[[random.Random], str] = make_key
) -> list[str]:
    keys: dict[str, None] = {}
    while len(keys) < count:
        keys[make(rng)] = None
    return list(keys)
