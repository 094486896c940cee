"""The bundled tasks as an evaluation."""

import random

import pytest

from baltoro.agent.attempt import TableWorld, tools_of
from baltoro.chat.chat_model import ChatRequest, Completion, Usage
from baltoro.evals.skills import SKILLS, Settings, run, wilson
from baltoro.tasks.mixture import TASKS, pose_all
from baltoro.tools.tool import ToolBox


class Oracle:
    """Answers every conversation of one skill from its demonstration, or wrongly."""

    name = "oracle"

    def __init__(self, skill: str, n: int, spoil: int = 0, silent: bool = False):
        rng = random.Random(f"skills/{skill}/0")
        talks = [pose_all(rng, [SKILLS[skill].task], "eval") for _ in range(n)]
        self.solutions = {t.problems[0].question: t.problems[0].solution for t in talks}
        self.spoiled = [t.problems[0].question for t in talks[:spoil]]
        self.silent = silent

    async def stream(self, request: ChatRequest):
        last_user = max(i for i, m in enumerate(request.messages) if m["role"] == "user")
        question = request.messages[last_user]["content"]
        turn = self.solutions[question][len(request.messages) - last_user - 1]
        calls = [call_of(c) for c in turn.get("tool_calls", [])]
        spoil = " No!" if question in self.spoiled and not calls else ""
        yield Completion(
            reasoning_content="" if self.silent else turn["reasoning_content"],
            content=turn["content"] + spoil,
            tool_calls=calls,
            finish_reason="tool_calls" if calls else "stop",
            usage=Usage(prompt=1, completion=10, reasoning=5, cached=0),
        )


def call_of(part):
    from baltoro.chat.messages import ToolCall

    return ToolCall(part["id"], part["function"]["name"], part["function"]["arguments"])


@pytest.mark.parametrize("skill", ["compare", "chain_20", "single_lookup"])
async def test_demonstrated_answers_count_as_right_and_spoiled_ones_do_not(skill):
    settings = Settings(skills=[skill], limit=6)
    (row,) = await run(Oracle(skill, 6, spoil=2), settings)
    assert (row.n, row.right, row.empty_reasoning) == (6, 4, 0)
    assert len(row.failures) == 2


async def test_a_right_answer_without_reasoning_does_not_count():
    (row,) = await run(Oracle("sums", 3, silent=True), Settings(skills=["sums"], limit=3))
    assert (row.right, row.empty_reasoning) == (0, 3)


def test_the_tools_of_a_conversation_are_declared_as_it_says():
    rng = random.Random(0)
    for name in ("products", "chain", "compare"):
        for _ in range(30):
            talk = pose_all(rng, [TASKS[name]], "eval")
            world = TableWorld(talk.problems[-1], TASKS[name])
            assert ToolBox(tools_of(talk, None, world)).schemas == talk.tools


def test_wilson_intervals_match_published_values():
    # 81 of 263 and 0 of 20 are worked examples of Newcombe (1998), method 3.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
