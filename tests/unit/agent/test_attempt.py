"""Whether an attempt is right."""

import random

import numpy as np
import pytest

from baltoro.agent.attempt import TableWorld, VerifierError, judge
from baltoro.agent.events import Run
from baltoro.chat.chat_model import Usage
from baltoro.tasks.mixture import pose_all
from baltoro.tasks.sums import Sums


class Judging(Sums):
    """Sums whose verifier says what it was told to say."""

    def __init__(self, verdict):
        self.verdict = verdict

    def verify(self, problem, reply):
        return self.verdict


def judged(verdict) -> bool:
    task = Judging(verdict)
    (problem,) = pose_all(random.Random(0), [task], "train").problems
    run = Run(
        stop_reason="answered", answer="7", messages=[], steps=1, tool_calls=0,
        usage=Usage(prompt=0, completion=0, reasoning=0, cached=0), seconds=0.0,
    )  # fmt: skip
    return judge(task, problem, TableWorld(problem, task), run)


@pytest.mark.parametrize("verdict", [True, False, np.bool_(True), np.bool_(False)])
def test_a_verdict_is_yes_or_no(verdict):
    assert judged(verdict) is bool(verdict)


@pytest.mark.parametrize("verdict", [None, 1, 0.5, "wrong", np.float64(1.0)])
def test_a_verifier_that_says_neither_yes_nor_no_stops_the_run(verdict):
    with pytest.raises(VerifierError, match=r"task 'sums' returned .*must return True or False"):
        judged(verdict)
