"""Which of several attempts at a Countdown is right: what the demonstrations say of each."""

import random
import re

import pytest

from baltoro.tasks.countdown import Countdown, evaluate
from baltoro.tasks.countdown_choice import CountdownChoice, mistaken, weigh
from baltoro.tasks.task import Problem, Scene

PROBLEMS = 200


def posed(size: int) -> list[Problem]:
    task, rng = CountdownChoice(Countdown(size)), random.Random(7)
    return [task.pose(rng, Scene(), "train") for _ in range(PROBLEMS)]


def attempts_of(problem: Problem) -> list[str]:
    return re.findall(r"\[Attempt \d+(?:, \d+ times)?\]\n(.+)", problem.question)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_the_first_right_attempt_is_chosen_and_without_one_the_search_starts_anew(size):
    task = CountdownChoice(Countdown(size))
    chosen, searched = 0, 0
    for problem in posed(size):
        [turn] = problem.solution
        right = [a for a in attempts_of(problem) if task.verify(problem, a)]
        assert task.verify(problem, turn["content"])
        if right:
            assert turn["content"] == right[0]
            chosen += 1
        else:
            assert " None. Until =" in turn["reasoning_content"]
            searched += 1
    assert chosen > PROBLEMS / 4
    assert searched > PROBLEMS / 20


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_each_equation_of_the_thinking_is_true(size):
    for problem in posed(size):
        said = problem.solution[0]["reasoning_content"]
        equations = re.findall(r"(\d+[+*/-]\d+)=(\d+)", said)
        assert equations
        assert all(evaluate(sum_) == int(value) for sum_, value in equations)


def test_a_mistaken_expression_never_reaches_the_target_with_the_numbers_given():
    rng = random.Random(3)
    for _ in range(PROBLEMS):
        wrong = mistaken(rng, "((11 - 10) * 8) + 4", "12")
        assert weigh([wrong], [11, 10, 8, 4], 12)[1] is None


def test_an_attempt_is_worked_out_bracket_by_bracket():
    said, chosen = weigh(["(8 + 4) - 12", "6 * 2", "3 * (8 - 4)"], [4, 8, 3], 12)
    assert said == (
        "4, 8, 3: 8 4 3 =12 yes. 1: (8+4)-12 12 8 4 no. 2: 6*2 6 2 no. "
        "3: 3*(8-4) 8 4 3: 8-4=4 3*4=12 yes."
    )
    assert chosen == "3 * (8 - 4)"


def test_what_is_left_is_written_anew_after_each_bracket():
    said, _ = weigh(["((9 + 3) * (7 - 5)) / 4"], [9, 7, 5, 4, 3], 6)
    assert said.endswith(": 9+3=12 (12*(7-5))/4; 7-5=2 (12*2)/4; 12*2=24 24/4=6 yes.")


def test_an_attempt_that_several_made_is_weighed_once():
    for problem in posed(3):
        attempts = attempts_of(problem)
        assert len(set(attempts)) == len(attempts)


@pytest.mark.parametrize(
    "expression", ["(4 - 8) + 12", "(8 / 3) * 4", "(12 * 11) - 4", "8 / (4 - 4)"]
)
def test_what_no_search_would_make_ends_an_attempt(expression):
    numbers = sorted(map(int, re.findall(r"\d+", expression)), reverse=True)
    said, chosen = weigh([expression], numbers, 12)
    assert chosen is None
    assert said.endswith("no. None.")
