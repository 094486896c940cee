"""What holds for every task, and how single ones compute."""

import json
import random

import pytest

from baltoro.tasks.compare import padded
from baltoro.tasks.mixture import TASKS, converse, pose_all
from baltoro.tasks.sums import columns
from baltoro.tasks.task import draw_pair

EACH = {name: 1.0 for name in TASKS}


def conversations(count, split="train", seed=0):
    rng = random.Random(seed)
    return [converse(rng, EACH, split) for _ in range(count)]


def last_reply(talk):
    return talk.problems[-1].solution[-1]["content"]


@pytest.mark.parametrize("name", TASKS)
def test_a_demonstrated_solution_passes_its_own_verifier(name):
    rng = random.Random(name)
    for _ in range(50):
        talk = pose_all(rng, [TASKS[name]], "eval")
        assert TASKS[name].verify(talk.problems[-1], last_reply(talk))


@pytest.mark.parametrize("name", TASKS)
def test_a_reply_that_says_more_or_less_than_the_answer_fails(name):
    rng = random.Random(name)
    talk = pose_all(rng, [TASKS[name]], "eval")
    for reply in ("", last_reply(talk) + " Or not.", "It is not so: " + last_reply(talk)):
        assert not TASKS[name].verify(talk.problems[-1], reply)


def test_no_problem_that_was_trained_on_is_unseen_with_its_numbers_in_the_other_order():
    def pairs(split):
        rng = random.Random(split)

        def make():
            return str(rng.randrange(60)), str(rng.randrange(60))

        return {draw_pair(rng, split, make) for _ in range(6000)}

    train, unseen = pairs("train"), pairs("eval")
    assert len(unseen) > 10
    assert not train & {*unseen, *((b, a) for a, b in unseen)}


@pytest.mark.parametrize("name", ["compare", "sums", "products", "single_lookup", "chain"])
def test_no_problem_is_in_both_splits(name):
    def solutions(split):
        """What was reasoned about; the wording of questions and declarations does not count."""
        rng = random.Random(7)
        problems = [pose_all(rng, [TASKS[name]], split).problems[0] for _ in range(3000)]
        return {
            tuple(
                m["reasoning_content"].split(" So ")[0] for m in p.solution if m["role"] != "tool"
            )
            for p in problems
        }

    train, unseen = solutions("train"), solutions("eval")
    assert len(unseen) > 500
    assert not train & unseen


def test_a_solution_is_a_function_of_its_problem():
    for talk in conversations(200):
        for problem in talk.problems:
            for turn in problem.solution:
                for call in turn.get("tool_calls", []):
                    assert isinstance(json.loads(call["function"]["arguments"]), dict)
    once, again = conversations(100, seed=3), conversations(100, seed=3)
    assert [t.messages() for t in once] == [t.messages() for t in again]


def test_call_ids_count_over_the_whole_conversation():
    for talk in conversations(300):
        ids = [c["id"] for m in talk.messages() for c in m.get("tool_calls", [])]
        assert [int(id.rsplit(":", 1)[1]) for id in ids] == list(range(len(ids)))


def test_called_tools_are_on_offer():
    for talk in conversations(300):
        offered = {tool["function"]["name"] for tool in talk.tools}
        assert len(offered) == len(talk.tools)
        for message in talk.messages():
            for call in message.get("tool_calls", []):
                assert call["function"]["name"] in offered


def test_columns_add_from_the_right_and_carry():
    assert columns("347", "85") == (
        "0347 and 0085: 7+5+0=12 4+8+1=13 3+0+1=04 0+0+0=00. That is 00432."
    )


def test_numbers_are_padded_on_both_sides_of_the_point():
    assert padded("9.11") == "009.110"
    assert padded("12") == "012.000"
