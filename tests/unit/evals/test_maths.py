"""Final answers: found in a reply and compared."""

from __future__ import annotations

import pytest

from baltoro.evals.maths import are_same, final_answer

SAME = [
    ("\\frac{11}{12}", "11/12"),
    ("2\\sqrt{12}", "4\\sqrt{3}"),
    ("3, 2", "$2, 3$"),
    ("2^{n}/2", "$2^{n-1}$"),
    ("0.5", "\\frac12"),
    ("$\\left\\lfloor \\log_{2}a\\right\\rfloor +1$.", "\\lfloor \\log_{2} a \\rfloor+1"),
    ("17.0", "17"),
]
DIFFERENT = [
    ("11", "12"),
    ("2\\sqrt{3}", "4\\sqrt{3}"),
    ("2", "$2, 3$"),
    ("none", "7"),
    ("", "1"),
]


async def test_answers_that_mean_the_same_are_the_same_and_others_are_not():
    # One test for all of them: starting the process that compares takes seconds.
    for given, solution in SAME:
        assert await are_same(given, solution), (given, solution)
    for given, solution in DIFFERENT:
        assert not await are_same(given, solution), (given, solution)


def test_the_final_answer_is_what_stands_last_in_a_box():
    assert final_answer("First \\boxed{1}, no: \\boxed{\\frac{1}{2}}. Done.") == "\\frac{1}{2}"
    assert final_answer("It is long.\n**Answer: 42**\n") == "42"
    assert final_answer("a\n\n17\n") == "17"
    assert final_answer("\\boxed{never closed") == ""
    assert final_answer(" ") == ""


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("I think.\n\nThe answer is 42.", "42."),
        ("Therefore n = 5", "5"),
        ("$\\frac{1}{2}$", "$\\frac{1}{2}$"),
        # What a small model says may hold the solution by accident.
        ("I can't compute 692 + 8)2 without a Python tool.", ""),
    ],
)
def test_a_last_line_is_an_answer_only_where_it_is_no_sentence(text: str, answer: str):
    assert final_answer(text) == answer
