"""The tasks beyond the first recipe: their demonstrations, worlds and verifiers."""

import json
import random
import re
from fractions import Fraction

import pytest

from baltoro.agent.attempt import attempt
from baltoro.agent.loop import Limits
from baltoro.chat.chat_model import Completion, Sampling, Usage
from baltoro.chat.messages import ToolCall
from baltoro.chat.tokenizer import Tokenizer
from baltoro.config import BaltoroError
from baltoro.tasks.countdown import evaluate
from baltoro.tasks.lookups import Chain
from baltoro.tasks.mixture import MORE_TASKS, converse, find_task, pose_all
from baltoro.tasks.slips import WithSlips
from baltoro.tasks.totals import RunningTotal
from baltoro.tasks.trees import sizes
from baltoro.tools.python import PythonTool
from baltoro.train.data import sample_of


class Follower:
    """Says what a demonstration says, turn by turn."""

    name = "follower"

    def __init__(self, solution, last=None):
        self.turns = [dict(m) for m in solution if m["role"] == "assistant"]
        if last is not None:
            self.turns[-1]["content"] = last

    async def stream(self, request):
        turn = self.turns.pop(0)
        calls = [
            ToolCall(c["id"], c["function"]["name"], c["function"]["arguments"])
            for c in turn.get("tool_calls", [])
        ]
        yield Completion(
            reasoning_content=turn["reasoning_content"],
            content=turn["content"],
            tool_calls=calls,
            finish_reason="tool_calls" if calls else "stop",
            usage=Usage(prompt=1, completion=1, reasoning=0, cached=0),
        )


async def follow(talk, last=None):
    name = talk.problems[-1].task
    return await attempt(
        Follower(talk.problems[-1].solution, last),
        find_task(name),
        talk,
        limits=Limits(max_steps=200),
        sampling=Sampling(),
        python=PythonTool() if "python" in find_task(name).needs else None,
    )


def whole(talk):
    """Whether the demonstration starts at the beginning and ends with the answer."""
    problem = talk.problems[-1]
    if problem.task == "desk":
        return len(problem.solution) > 1
    if problem.task.endswith("_with_slips"):
        first, last = problem.solution[0], problem.solution[-1]
        return first["tool_calls"][0]["id"].endswith(":0") and not last.get("tool_calls")
    return not problem.task.startswith("windowed_")


@pytest.mark.parametrize("name", MORE_TASKS)
async def test_a_demonstration_carried_out_with_real_tools_is_right(name):
    rng = random.Random(name)
    done = 0
    for _ in range(6):
        talk = pose_all(rng, [find_task(name)], "eval")
        if not whole(talk):
            continue
        made = await follow(talk)
        assert made.right
        told = [m["content"] for m in made.run.messages[len(talk.prompt()) :] if "content" in m]
        shown = [m["content"] for m in talk.problems[-1].solution]
        # Tools and user say what the demonstration says, which may wrap what Python prints.
        wraps = "python" in find_task(name).needs
        for real, said in zip(told, shown, strict=True):
            assert (real or "") == said or (wraps and real and real.strip() in said)
        done += 1
    assert done > 0 or name.startswith("windowed_") or name.endswith("_with_slips")


@pytest.mark.parametrize("name", MORE_TASKS)
async def test_other_last_words_are_wrong(name):
    rng = random.Random(name)
    for _ in range(4):
        talk = pose_all(rng, [find_task(name)], "eval")
        if whole(talk):
            for last in ("No.", talk.problems[-1].solution[-1]["content"] + " Or not."):
                assert not (await follow(talk, last)).right


@pytest.mark.parametrize("name", MORE_TASKS)
def test_problems_of_training_and_evaluation_are_disjoint(name):
    def posed(split):
        rng = random.Random(1)
        talks = [pose_all(rng, [find_task(name)], split) for _ in range(150)]
        # What is reasoned about: wording and declarations vary, the solution's thinking does not.
        return {
            "|".join(m.get("reasoning_content", "") for m in t.problems[0].solution) for t in talks
        } - {"The number is missing."}

    assert not posed("train") & posed("eval")


def test_countdown_thinking_grows_with_the_count_of_numbers():
    def mean_length(size):
        rng = random.Random(size)
        talks = [pose_all(rng, [find_task(f"countdown_{size}")], "train") for _ in range(60)]
        return sum(len(t.problems[0].solution[0]["reasoning_content"]) for t in talks) / 60

    two, three, four = mean_length(2), mean_length(3), mean_length(4)
    assert two < three < four


@pytest.mark.parametrize(
    ("name", "fewest", "most"),
    [("countdown_5", 1, 60), ("long_countdown_5", 61, 180)],
)
def test_a_countdown_is_as_long_a_search_as_its_name_says(name, fewest, most):
    rng = random.Random(4)
    for _ in range(20):
        (turn,) = pose_all(rng, [find_task(name)], "train").problems[-1].solution
        tried = re.findall(r"\d+[+*/-]\d+=", turn["reasoning_content"])
        assert fewest <= len(tried) <= most


def test_countdown_accepts_any_way_to_the_target_and_nothing_else():
    task = find_task("countdown_3")
    talk = pose_all(random.Random(0), [task], "eval")
    problem = type(talk.problems[0])(
        task="countdown_3", question="", solution=[], answer="(5 + 3) * 2 = 16"
    )
    assert task.verify(problem, "2 * (3 + 5) = 16.")
    assert task.verify(problem, "(3 + 5) * 2 = 16")
    for wrong in (
        "5 + 3 * 2 = 16", "(5 + 3) * 2 = 17", "8 * 2 = 16", "(5 + 3) * 2 * 1 = 16", "16 = 16",
        "((5 + 3) * 2 = 16", "(5 + 3) * 2", "5 / 0 + 3 + 2 = 16", "53 + 2 = 16",
    ):  # fmt: skip
        assert not task.verify(problem, wrong), wrong
    assert evaluate("7 / 2") == Fraction(7, 2)


def test_the_thinking_over_a_tree_carries_total_and_folders_left():
    talk = pose_all(random.Random(3), [find_task("large_tree")], "train")
    problem = talk.problems[0]
    calls = [m for m in problem.solution if m.get("tool_calls")]
    assert len(calls) == len(problem.table)
    total = 0
    for turn, result in zip(problem.solution[::2], problem.solution[1::2], strict=False):
        assert f"Total {total}." in turn["reasoning_content"]
        total += sum(sizes(result["content"]))
    assert problem.answer == f"The total is {total}"


def test_failing_calls_are_made_again_and_counted_in_the_ids():
    rng = random.Random(0)
    talks = [pose_all(rng, [find_task("chain_with_failures")], "train") for _ in range(40)]
    assert any(t.problems[0].failing_calls for t in talks)
    for talk in talks:
        ids = [c["id"] for m in talk.messages() for c in m.get("tool_calls", [])]
        assert [int(id.rsplit(":", 1)[1]) for id in ids] == list(range(len(ids)))
        answered = [m["tool_call_id"] for m in talk.messages() if m["role"] == "tool"]
        assert answered == ids


async def test_a_desk_that_changes_what_the_policy_forbids_is_wrong():
    rng = random.Random(5)
    for _ in range(200):
        talk = pose_all(rng, [find_task("desk")], "eval")
        calls = [m for m in talk.problems[0].solution if m.get("tool_calls")]
        if whole(talk) and len(calls) == 1:  # the policy wants nothing done
            break
    problem = talk.problems[0]
    arguments = calls[0]["tool_calls"][0]["function"]["arguments"]
    forbidden = ToolCall("functions.add_data:1", "add_data", arguments).to_message_part()
    meddling = {"role": "assistant", "content": "", "reasoning_content": "More."}
    problem.solution.insert(-1, meddling | {"tool_calls": [forbidden]})
    assert not (await follow(talk)).right


def test_aggregation_has_cases_with_no_right_attempt_and_wrong_majorities():
    rng = random.Random(0)
    talks = [pose_all(rng, [find_task("aggregate_sums")], "train") for _ in range(200)]
    none_right = sum(
        "None is right" in t.problems[0].solution[0]["reasoning_content"] for t in talks
    )
    assert 20 < none_right < 180


@pytest.mark.parametrize("name", ["windowed_chain", "windowed_tree", "windowed_running_total"])
def test_a_windowed_demonstration_teaches_nothing_that_hidden_turns_decided(name):
    rng, tokenizer = random.Random(name), Tokenizer.load("baltoro/weights/tiny")
    hidden = 0
    for _ in range(20):
        talk = pose_all(rng, [find_task(name)], "train")
        problem = talk.problems[0]
        first = problem.solution[0]
        starts = problem.solution[0]["tool_calls"][0]["id"].endswith(":0")
        assert problem.given == (0 if starts else 2)
        hidden += not starts
        ids, mask = sample_of(tokenizer, talk)
        learned = tokenizer.decode([i for i, bit in zip(ids, mask, strict=True) if bit])
        assert (first["reasoning_content"] in learned) == starts
        assert problem.solution[-1]["reasoning_content"] in learned
    assert hidden > 5


@pytest.mark.parametrize("task", [Chain(2, 4), RunningTotal(2, 4)], ids=lambda task: task.name)
async def test_tools_answer_a_slip_as_its_demonstration_says(task, monkeypatch):
    with_slips = WithSlips(task, most_after=10)
    monkeypatch.setitem(MORE_TASKS, with_slips.name, with_slips)
    rng = random.Random(task.name)
    done = 0
    for _ in range(20):
        talk = pose_all(rng, [with_slips], "eval")
        if whole(talk):
            made = await follow(talk)
            assert made.right
            told = [m["content"] for m in made.run.messages[len(talk.prompt()) :]]
            assert [t or "" for t in told] == [m["content"] for m in talk.problems[0].solution]
            done += 1
    assert done > 5


@pytest.mark.parametrize("name", ["chain_with_slips", "running_total_with_slips"])
def test_of_a_slip_only_what_sets_it_right_is_learned(name):
    rng, tokenizer = random.Random(name), Tokenizer.load("baltoro/weights/tiny")
    for _ in range(20):
        talk = pose_all(rng, [find_task(name)], "train")
        problem = talk.problems[0]
        wrong, error, right = problem.solution[problem.given - 2 : problem.given + 1]
        (called,) = json.loads(wrong["tool_calls"][0]["function"]["arguments"]).values()
        assert called not in problem.table
        assert error["content"] == f"There is no entry '{called}'."
        (called,) = json.loads(right["tool_calls"][0]["function"]["arguments"]).values()
        assert called in problem.table
        ids, mask = sample_of(tokenizer, talk)
        learned = tokenizer.decode([i for i, bit in zip(ids, mask, strict=True) if bit])
        assert right["reasoning_content"] in learned
        assert wrong["tool_calls"][0]["id"] not in learned
        indices = [
            int(m["tool_calls"][0]["id"].rpartition(":")[2])
            for m in problem.solution
            if m.get("tool_calls")
        ]
        assert indices == list(range(indices[0], indices[0] + len(indices)))


@pytest.mark.parametrize("name", ["desk", "windowed_chain"])
def test_what_cannot_be_followed_by_another_question_stands_alone(name):
    rng = random.Random(name)
    talks = [converse(rng, {name: 1.0, "sums": 1.0}, "train") for _ in range(80)]
    assert any(len(t.problems) > 1 for t in talks)
    assert all(len(t.problems) == 1 for t in talks if name in {p.task for p in t.problems})


def test_sizes_in_names_make_problems_of_that_size():
    rng = random.Random(0)
    for name, size in (("chain_7", 7), ("tree_30", 30), ("running_total_9", 10)):
        assert len(pose_all(rng, [find_task(name)], "eval").problems[0].table) == size
    question = pose_all(rng, [find_task("recall_50")], "eval").problems[0].question
    assert question.count("\n") == 50
    with pytest.raises(BaltoroError, match="chain_N"):
        find_task("chain_0")


def test_no_number_on_the_way_to_a_countdown_target_is_too_large_to_know_by_heart():
    rng = random.Random(0)
    for size in (2, 3, 4):
        for _ in range(40):
            problem = pose_all(rng, [find_task(f"countdown_{size}")], "train").problems[0]
            thinking = problem.solution[0]["reasoning_content"]
            assert max(int(n) for n in re.findall(r"\d+", thinking)) <= 99


def test_every_sum_of_a_running_total_is_right_and_is_the_next_key():
    problem = pose_all(random.Random(1), [find_task("running_total_40")], "train").problems[0]
    calls = [m for m in problem.solution if m.get("tool_calls")]
    keys = [
        next(iter(json.loads(c["tool_calls"][0]["function"]["arguments"]).values())) for c in calls
    ]
    assert keys == list(problem.table)
    for call, key in zip(calls[1:], keys[1:], strict=True):
        a, b, total = re.findall(r"\d+", call["reasoning_content"])
        assert int(a) + int(b) == int(total) == int(key)


def test_reasoning_gym_problems_come_with_their_own_verifier():
    pytest.importorskip("reasoning_gym")
    task = find_task("gym:chain_sum")
    rng = random.Random(0)
    train, unseen = (
        {pose_all(rng, [task], split).problems[0].question for _ in range(40)}
        for split in ("train", "eval")
    )
    assert not train & unseen
    problem = pose_all(rng, [task], "eval").problems[0]
    assert task.verify(problem, f"The answer is {problem.answer}.")
    assert task.verify(problem, problem.answer)
    assert not task.verify(problem, "The answer is 1000001.")
