"""What may come next in a reply beyond the model's own wish: the seam for grammars.

A constraint belongs to one request. It sees every token of the reply and says, before each
next one, whether a certain token is forced, only some are allowed, or all are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

# A token id that is forced, a mask bool[V] of the allowed ones, or None: anything goes.
Choice = int | NDArray[np.bool_] | None

ANSWER_ROOM = 256  # tokens of max_tokens that a thinking budget leaves to the answer ...
ANSWER_SHARE = 4  # ... or this part of max_tokens (1 / 4), if that is less


class Constraint(Protocol):
    """A rule for one reply."""

    def choice(self) -> Choice:
        """What may come next. Asked once before each token."""
        ...

    def accept(self, token: int) -> None:
        """Take note of a token of the reply, whether it was forced or drawn."""
        ...


class ThinkingBudget:
    """Closes the thinking with a forced `</think>` when `tokens` of it are used up.

    A reply starts in the thinking state, whether or not it opens with `<think>`; that opening
    token is not counted. `</think>` ends the thinking, and so does the start of a tool call
    section. A budget of 0 forces `<think></think>`, the form of a turn without thinking.
    """

    def __init__(self, tokens: int, think: int, end_think: int, also_ends: Iterable[int] = ()):
        self.tokens = tokens
        self.think = think
        self.end_think = end_think
        self.ends = {end_think, *also_ends}
        self.used = 0
        self.opened = False
        self.closed = False

    def choice(self) -> Choice:
        if self.closed or self.used < self.tokens:
            return None
        return self.end_think if self.opened else self.think

    def accept(self, token: int) -> None:
        self.closed = self.closed or token in self.ends
        if self.opened or token != self.think:
            self.used += 1
        self.opened = True


def thinking_tokens(budget: int, max_tokens: int) -> int:
    """The thinking budget in force: the one asked for, or less if it would leave no answer.

    `max_tokens` is what thinking and answer have together, so a budget close to it would end
    the reply inside the thinking. A quarter of it, at most `ANSWER_ROOM` tokens, and the two
    thinking marks stay free. Without a budget nothing is held back.
    """
    room = min(ANSWER_ROOM, max_tokens // ANSWER_SHARE)
    return max(0, min(budget, max_tokens - room - 2))


def combined_choice(constraints: Iterable[Constraint]) -> Choice:
    """The first token that any of them forces, else what all of them allow."""
    allowed: NDArray[np.bool_] | None = None
    for constraint in constraints:
        choice = constraint.choice()
        if isinstance(choice, (int, np.integer)):
            return int(choice)
        if choice is not None:
            allowed = choice if allowed is None else allowed & choice
    return allowed
