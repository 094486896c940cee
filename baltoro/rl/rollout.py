"""Groups of attempts at the same problem, each with its reward."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from baltoro.agent.attempt import Attempt, attempt
from baltoro.agent.events import Event, Replied
from baltoro.agent.loop import Limits
from baltoro.chat.chat_model import Sampling, TokenTrace
from baltoro.config import BaltoroError
from baltoro.rl.policy import Policy, with_log_probs
from baltoro.rl.trajectory import Segment, Trajectory, join
from baltoro.tasks.mixture import Conversation, find_task, pose_all
from baltoro.tasks.task import Split, Task
from baltoro.tools.python import PythonTool

CUT = ("token_limit", "step_limit", "reply_cut", "context_full")  # ends that cost the penalty


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """One task of a run. The reward is 1 for a right answer and 0 for a wrong one."""

    task: str
    weight: float = 1.0  # beside the other tasks, before the curriculum
    budget: int = 1024  # tokens of an attempt, all replies together; the rest is cut off
    penalty: float = 0.5  # taken from the reward of an attempt that was cut off
    max_steps: int = 32  # replies of an attempt


@dataclass
class Rollouts:
    """Makes groups of attempts with a policy."""

    policy: Policy
    tasks: dict[str, TaskSettings]
    group_size: int
    concurrency: int = 16
    python: PythonTool | None = field(init=False)

    def __post_init__(self) -> None:
        self.find = {name: find_task(name) for name in self.tasks}
        needs = {need for task in self.find.values() for need in task.needs}
        self.python = PythonTool() if "python" in needs else None

    def run(
        self, names: Sequence[str], seed: str, temperature: float, split: Split = "train"
    ) -> list[list[Trajectory]]:
        """One group for each name: a problem of that task, attempted `group_size` times.

        A function of the arguments and the policy's weights: batches don't change a sample.
        """
        return asyncio.run(self._run(names, seed, temperature, split))

    def look(self, problems: int, temperature: float) -> dict[str, Any]:
        """Share right of so many unseen problems of each task, the same at every look."""
        looks: dict[str, Any] = {}
        for name in self.tasks:
            groups = self.run([name] * problems, "look", temperature, "eval")
            row = summary(groups)
            looks[name] = {"right": row["right"], "length": row["length"], "n": len(groups)}
        return looks

    async def _run(
        self, names: Sequence[str], seed: str, temperature: float, split: Split
    ) -> list[list[Trajectory]]:
        slots = asyncio.Semaphore(self.concurrency)

        async def one(name: str, talk: Conversation, key: str) -> Trajectory:
            async with slots:
                return await self._attempt(name, talk, temperature, seed_of(key), split)

        try:
            async with asyncio.TaskGroup() as running:  # one that fails ends the others
                groups = []
                for i, name in enumerate(names):
                    rng = random.Random(f"{seed}/{i}")
                    talk = pose_all(rng, [self.find[name]], split)
                    keys = (f"{seed}/{i}/{k}" for k in range(self.group_size))
                    groups.append([running.create_task(one(name, talk, key)) for key in keys])
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [[sample.result() for sample in group] for group in groups]

    async def _attempt(
        self, name: str, talk: Conversation, temperature: float, seed: int, split: Split
    ) -> Trajectory:
        settings, traces = self.tasks[name], list[TokenTrace]()

        def keep(event: Event) -> None:
            if isinstance(event, Replied):
                traces.append(trace_of(event.completion.trace, self.find[name]))

        sampling = Sampling(temperature=temperature, max_tokens=settings.budget, seed=seed)
        made = await attempt(
            self.policy.chat_model(),
            self.find[name],
            talk,
            limits=Limits(
                max_steps=settings.max_steps, max_tokens=settings.budget, break_circles=False
            ),
            sampling=with_log_probs(sampling),
            python=self.python,
            observers=[keep],
        )
        # A look at unseen problems is not learned from, so it needs no log-probs as sampled.
        segments = join(traces, temperature) if split == "train" else []
        return trajectory(settings, talk, segments, traces, made)


def trajectory(
    settings: TaskSettings,
    talk: Conversation,
    segments: list[Segment],
    traces: list[TokenTrace],
    made: Attempt,
) -> Trajectory:
    """What an attempt leaves."""
    run = made.run
    return Trajectory(
        task=settings.task,
        segments=segments,
        right=made.right,
        reward=reward_of(made.right, run.stop_reason, settings),
        generated=sum(len(trace.generated_ids) for trace in traces),
        stop_reason=run.stop_reason,
        calls=sum(len(m.get("tool_calls") or []) for m in run.messages),
        question=talk.problems[-1].question,
        answer=run.answer,
        weights_version=traces[-1].weights_version if traces else "",
        messages=run.messages,
    )


def reward_of(right: bool, stop_reason: str, settings: TaskSettings) -> float:
    """1 if right, 0 if not, less the penalty if the attempt had to be cut off."""
    return float(right) - (settings.penalty if stop_reason in CUT else 0.0)


def trace_of(trace: TokenTrace | None, task: Task) -> TokenTrace:
    """The trace, if it can be trained on."""
    if trace is None or len(trace.logprobs) != len(trace.generated_ids):
        raise BaltoroError(
            f"a rollout of task '{task.name}' came without "
            + ("token ids" if trace is None else "a log-prob for each token")
            + ". Reinforcement learning needs both: take the engine in this process, or an "
            "endpoint that knows return_token_ids and logprobs."
        )
    return trace


def seed_of(key: str) -> int:
    """A seed of 48 bits, so that the steps of two attempts never share one by counting up."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "little")


def summary(groups: Sequence[list[Trajectory]]) -> dict[str, Any]:
    """What is worth logging of a step's rollouts."""
    samples = [sample for group in groups for sample in group]
    by_task: dict[str, list[Trajectory]] = {}
    for sample in samples:
        by_task.setdefault(sample.task, []).append(sample)
    n = len(samples)
    return {
        "reward": sum(s.reward for s in samples) / n,
        "right": sum(s.right for s in samples) / n,
        "cut": sum(s.stop_reason != "answered" for s in samples) / n,
        "length": sum(s.generated for s in samples) / n,
        "calls": sum(s.calls for s in samples) / n,
        "weights_version": samples[-1].weights_version,
        "right_by_task": {
            name: sum(s.right for s in of_task) / len(of_task) for name, of_task in by_task.items()
        },
    }
