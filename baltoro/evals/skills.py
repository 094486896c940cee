"""What a model can do on unseen problems of the bundled tasks.

    baltoro eval skills --model tiny

Each problem is a fresh conversation, driven through the agent's loop with real tools at
temperature 1. A skill counts as shown when the final answer is the right statement and every
reply came with reasoning.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from baltoro.agent.attempt import Attempt, attempt
from baltoro.agent.loop import Limits
from baltoro.chat.chat_model import ChatModel, Sampling
from baltoro.tasks.mixture import TASKS, Conversation, find_task, pose_all
from baltoro.tasks.task import Task
from baltoro.tools.python import PythonTool


@dataclass(frozen=True)
class Skill:
    task: Task
    num_problems: int


SKILLS: dict[str, Skill] = {
    "compare": Skill(TASKS["compare"], 500),
    "sums": Skill(TASKS["sums"], 200),
    "products": Skill(TASKS["products"], 200),
    "single_lookup": Skill(TASKS["single_lookup"], 100),
    "chain": Skill(TASKS["chain"], 100),
    "chain_20": Skill(find_task("chain_20"), 50),
    "products_without_tool": Skill(TASKS["products_without_tool"], 100),
    "smalltalk": Skill(TASKS["smalltalk"], 50),
    "out_of_reach": Skill(TASKS["out_of_reach"], 100),
}

# What the later stages of the recipe teach; see docs/training.md.
MORE_SKILLS = (
    "countdown_2",
    "countdown_3",
    "countdown_4",
    "countdown_5",
    "tree",
    "running_total",
    "running_total_40",
    "parallel_lookups",
    "desk",
    "recall",
    "recall_300",
    "recall_900",
    "recall_3100",
    "aggregate_compare",
    "aggregate_sums",
    "aggregate_countdown_4",
    "chain_with_failures",
    "products_with_failures",
)


def find_skill(name: str) -> Skill:
    """The skill of this name; any task is one, at 100 problems."""
    return SKILLS.get(name) or Skill(find_task(name), 100)


@dataclass(frozen=True, kw_only=True)
class SkillReport:
    """One row of the model card."""

    skill: str
    n: int
    right: int
    empty_reasoning: int  # conversations in which some reply came without reasoning
    low: float  # 95 % Wilson interval of right / n
    high: float
    mean_tokens: float  # generated per conversation
    failures: list[dict[str, str]]  # a few, to look at

    @property
    def share(self) -> float:
        return self.right / self.n

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"share": self.share}


@dataclass(frozen=True, kw_only=True)
class Settings:
    skills: Sequence[str] = tuple(SKILLS)
    limit: int | None = None  # problems per skill, at most
    temperature: float = 1.0
    max_tokens: int = 4096
    concurrency: int = 8
    seed: int = 0


async def run(
    model: ChatModel, settings: Settings, progress: Callable[[str, int, int], None] | None = None
) -> list[SkillReport]:
    """Measure each skill in turn. `progress(skill, done, of)` is told after every problem."""
    for name in settings.skills:
        find_skill(name)
    return [await measure(model, name, settings, progress) for name in settings.skills]


async def measure(
    model: ChatModel,
    name: str,
    settings: Settings,
    progress: Callable[[str, int, int], None] | None = None,
) -> SkillReport:
    skill = find_skill(name)
    n = min(skill.num_problems, settings.limit or skill.num_problems)
    rng = random.Random(f"skills/{name}/{settings.seed}")
    talks = [pose_all(rng, [skill.task], "eval") for _ in range(n)]
    python = PythonTool() if "python" in skill.task.needs else None
    slots = asyncio.Semaphore(settings.concurrency)
    finished = 0

    async def solve(index: int, talk: Conversation) -> Attempt:
        nonlocal finished
        async with slots:
            result = await attempt(
                model,
                skill.task,
                talk,
                limits=Limits(max_steps=512),
                sampling=Sampling(
                    temperature=settings.temperature,
                    max_tokens=settings.max_tokens,
                    seed=settings.seed + 1000 * index,
                ),
                python=python,
            )
        finished += 1
        if progress:
            progress(name, finished, n)
        return result

    attempts = await asyncio.gather(*(solve(i, talk) for i, talk in enumerate(talks)))
    return report(name, talks, attempts)


def report(name: str, talks: Sequence[Conversation], attempts: Sequence[Attempt]) -> SkillReport:
    failures, empty = [], 0
    for talk, made in zip(talks, attempts, strict=True):
        result = made.run
        problem, answer = talk.problems[-1], result.answer or ""
        replies = [m for m in result.messages[len(talk.prompt()) :] if m["role"] == "assistant"]
        reasoned = all(reply.get("reasoning_content") for reply in replies)
        empty += not reasoned
        if not (reasoned and made.right):
            failures.append(
                {
                    "question": problem.question,
                    "expected": problem.answer,
                    "answer": answer,
                    "stop_reason": result.stop_reason,
                    "reasoning": str(replies[-1].get("reasoning_content")) if replies else "",
                }
            )
    n = len(attempts)
    right = n - len(failures)
    low, high = wilson(right, n)
    tokens = sum(made.generated for made in attempts) / n
    return SkillReport(
        skill=name,
        n=n,
        right=right,
        empty_reasoning=empty,
        low=low,
        high=high,
        mean_tokens=tokens,
        failures=failures[:5],
    )


def wilson(right: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share, 95 % at the default z."""
    p = right / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)
