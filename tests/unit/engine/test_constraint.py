"""What bounds and forces tokens: thinking budgets, and masks put together."""

from __future__ import annotations

import numpy as np
import pytest

from baltoro.chat.tokenizer import Tokenizer
from baltoro.engine.constraint import ThinkingBudget, combined_choice, thinking_tokens

TOKENIZER = Tokenizer({bytes([i]): i for i in range(256)})
THINK, END_THINK = TOKENIZER.special.think, TOKENIZER.special.end_think
SECTION = TOKENIZER.special.tool_calls_section_begin


def forced_ids(budget: ThinkingBudget, wishes: list[int]) -> list[int]:
    """What a reply becomes whose model would write `wishes`."""
    ids = []
    for wish in wishes:
        choice = budget.choice()
        assert choice is None or isinstance(choice, int)
        ids.append(wish if choice is None else choice)
        budget.accept(ids[-1])
    return ids


def new_budget(tokens: int) -> ThinkingBudget:
    return ThinkingBudget(tokens, TOKENIZER)


def test_thinking_is_closed_when_the_budget_is_used_up():
    ids = forced_ids(new_budget(3), [THINK, 1, 2, 3, 4, 5, 6])
    assert ids == [THINK, 1, 2, 3, END_THINK, 5, 6]


def test_an_opening_mark_is_not_counted_and_not_required():
    assert forced_ids(new_budget(3), [1, 2, 3, 4, 5]) == [1, 2, 3, END_THINK, 5]


def test_a_budget_of_zero_forces_an_empty_thinking():
    assert forced_ids(new_budget(0), [1, 2, 3]) == [THINK, END_THINK, 3]


def test_thinking_that_ends_by_itself_is_left_alone():
    ids = [THINK, 1, END_THINK, 2, 3, 4, 5]
    assert forced_ids(new_budget(3), ids) == ids


def test_a_tool_call_ends_the_thinking_too():
    ids = [THINK, 1, SECTION, 2, 3, 4, 5]
    assert forced_ids(new_budget(3), ids) == ids


def test_a_section_marker_spelled_out_ends_the_thinking_too():
    spelled = TOKENIZER.encode("<|tool_call_section_begin|>")
    ids = [THINK, 1, *spelled, 2, 3, 4, 5]
    assert forced_ids(new_budget(len(spelled) + 2), ids) == ids


@pytest.mark.parametrize(
    ("budget", "max_tokens", "needed", "in_force"),
    [
        (100, 4096, 0, 100),
        (4090, 4096, 0, 4096 - 256 - 2),
        (90, 100, 0, 100 - 25 - 2),
        (5, 2, 0, 0),
        (None, 4096, 0, 4096 - 256 - 2),
        (None, 100, 30, 100 - 60 - 2),
        (None, 64, 60, 0),
    ],
)
def test_a_budget_leaves_room_for_an_answer(budget, max_tokens, needed, in_force):
    assert thinking_tokens(budget, max_tokens, needed) == in_force


class Fixed:
    def __init__(self, choice):
        self.fixed = choice

    def choice(self):
        return self.fixed

    def accept(self, token: int) -> None:
        pass


def test_masks_are_intersected_and_a_forced_token_wins():
    left, right = np.array([1, 1, 0], dtype=bool), np.array([0, 1, 1], dtype=bool)
    both = combined_choice([Fixed(left), Fixed(None), Fixed(right)])
    assert isinstance(both, np.ndarray)
    assert both.tolist() == [False, True, False]
    assert combined_choice([Fixed(left), Fixed(2)]) == 2
    assert combined_choice([]) is None
