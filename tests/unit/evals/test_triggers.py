"""Whether a model calls a tool when it must, and only then."""

from __future__ import annotations

from baltoro.chat.scripted import ScriptedChatModel
from baltoro.evals.tool_calls import measure
from baltoro.evals.triggers import NEEDS_A_TOOL, NEEDS_NONE, pose, requests

CALL = "<think>a</think><|tool_calls_section_begin|><|tool_call_begin|>functions.x:0"
CALL += "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|><|im_end|>"
ANSWER = "<think>a</think>b<|im_end|>"


async def test_a_model_that_always_calls_has_full_recall_and_half_the_precision():
    asked = requests(6, seed=0)
    found = await measure(ScriptedChatModel([CALL] * 12), asked, concurrency=1)
    assert (found.recall, found.precision) == (1.0, 0.5)
    assert round(found.f1, 3) == 0.667
    assert found.misses == [line["messages"][-1]["content"] for line in asked[6:]]


async def test_a_model_that_calls_when_it_must_has_an_f1_of_one():
    replies = [CALL] * 6 + [ANSWER] * 6
    found = await measure(ScriptedChatModel(replies), requests(6, seed=0), concurrency=1)
    assert found.f1 == 1.0
    assert found.to_json()["called_in_vain"] == 0


async def test_a_model_that_never_calls_has_an_f1_of_zero():
    found = await measure(ScriptedChatModel([ANSWER] * 8), requests(4, seed=0), concurrency=1)
    assert (found.f1, found.recall, found.precision) == (0.0, 0.0, 0.0)


def test_every_problem_is_posed_with_tools_on_offer():
    for names in (NEEDS_A_TOOL, NEEDS_NONE):
        talks = pose(names, 8, seed=1)
        assert all(len(talk.tools) >= 2 for talk in talks)
        assert {talk.problems[0].task for talk in talks} == set(names)
