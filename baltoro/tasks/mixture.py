"""Conversations of one or several problems, drawn from a weighted mixture of tasks."""

from __future__ import annotations

import difflib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from baltoro.chat.messages import Message, Tool
from baltoro.config import BaltoroError
from baltoro.tasks.aggregation import Aggregation
from baltoro.tasks.compare import Compare
from baltoro.tasks.countdown import Countdown
from baltoro.tasks.countdown_choice import CountdownChoice
from baltoro.tasks.desk import Desk
from baltoro.tasks.failures import WithFailures
from baltoro.tasks.gym import PREFIX, GymTask
from baltoro.tasks.lookups import Chain, SingleLookup
from baltoro.tasks.many_lookups import ParallelLookups
from baltoro.tasks.phrases import make_scene
from baltoro.tasks.products import Products, ProductsWithoutTool
from baltoro.tasks.recall import Recall
from baltoro.tasks.slips import WithSlips
from baltoro.tasks.smalltalk import OutOfReach, SmallTalk
from baltoro.tasks.sums import Sums
from baltoro.tasks.task import Problem, Scene, Split, Task
from baltoro.tasks.totals import RunningTotal
from baltoro.tasks.trees import Tree
from baltoro.tasks.windowed import Windowed

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Compare(),
        Sums(),
        Products(),
        ProductsWithoutTool(),
        SingleLookup(),
        Chain(),
        Chain(shortest=9, longest=26, name="long_chain"),
        SmallTalk(),
        OutOfReach(),
    )
}

# Tasks beyond those of TASKS, which the pretraining documents draw from as a whole.
MORE_TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Countdown(2),
        Countdown(3),
        Countdown(4),
        Countdown(5),
        Countdown(4, shortest=61, longest=180, kind="long_countdown"),
        Countdown(5, shortest=61, longest=180, kind="long_countdown"),
        Tree(),
        Tree(fewest=12, most=40, name="large_tree"),
        Windowed(Tree(fewest=12, most=60)),
        RunningTotal(),
        RunningTotal(shortest=9, longest=40, name="long_running_total"),
        Windowed(RunningTotal(shortest=4, longest=300)),
        ParallelLookups(),
        Windowed(Chain(shortest=4, longest=300)),
        Recall(),
        Recall(fewest=41, most=200, name="long_recall"),
        Desk(),
        Aggregation(Sums()),
        Aggregation(Compare()),
        CountdownChoice(Countdown(3)),
        CountdownChoice(Countdown(4)),
        CountdownChoice(Countdown(5)),
        WithFailures(SingleLookup()),
        WithFailures(Chain()),
        WithFailures(Products()),
        WithFailures(Tree()),
        WithSlips(Chain(shortest=4, longest=60)),
        WithSlips(RunningTotal(shortest=4, longest=60)),
    )
}

# Tasks of one size: chain_20 has 20 lookups in a row, recall_300 a list of 300 entries.
SIZED: dict[str, Callable[[int, str], Task]] = {
    "chain": lambda size, name: Chain(size, size, name),
    "running_total": lambda size, name: RunningTotal(size, size, name),
    "tree": lambda size, name: Tree(size, size, name),
    "recall": lambda size, name: Recall(size, size, name),
}

# Tasks whose demonstrations stand alone: they have a policy of their own, or are a fragment.
ALONE = (Desk, Windowed, WithSlips)


def find_task(name: str) -> Task:
    """The task of this name. Raises `BaltoroError` that names the nearest one."""
    if name.startswith(PREFIX):
        return GymTask(name.removeprefix(PREFIX))
    kind, _, size = name.rpartition("_")
    if kind in SIZED and size.isdigit() and int(size) > 0:
        return SIZED[kind](int(size), name)
    known = TASKS | MORE_TASKS
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        sized = ", ".join(f"{kind}_N" for kind in SIZED)
        raise BaltoroError(
            f"there is no task '{name}'.{hint} The tasks are: {', '.join(known)}, and of any size "
            f"{sized}."
        )
    return known[name]


@dataclass(frozen=True)
class Conversation:
    """Finished problems and the one that is being solved, in one scene."""

    scene: Scene
    problems: list[Problem]

    @property
    def tools(self) -> list[Tool]:
        return self.scene.tools

    def messages(self) -> list[Message]:
        """The whole demonstration, the last problem's solution included."""
        return [*self.prompt(), *self.problems[-1].solution]

    @property
    def learned_from(self) -> int:
        """Index of the first message that a demonstration teaches."""
        return len(self.prompt()) + self.problems[-1].given

    def prompt(self) -> list[Message]:
        """What the model is given: everything before its first turn on the last problem."""
        messages: list[Message] = []
        if self.scene.system is not None:
            messages.append({"role": "system", "content": self.scene.system})
        for problem in self.problems[:-1]:
            messages += [{"role": "user", "content": problem.question}, *problem.solution]
        return [*messages, {"role": "user", "content": self.problems[-1].question}]


def converse(
    rng: random.Random, weights: Mapping[str, float], split: Split, longest: int = 3
) -> Conversation:
    """Draw a conversation of one to `longest` problems by the weights of their tasks."""
    count = 1 if rng.random() < 0.75 else rng.randint(2, max(2, longest))
    names = rng.choices(list(weights), list(weights.values()), k=count)
    tasks = [find_task(name) for name in names]
    alone: list[Task] = [task for task in tasks if isinstance(task, ALONE)]
    return pose_all(rng, alone[:1] or tasks, split)


def pose_all(rng: random.Random, tasks: list[Task], split: Split) -> Conversation:
    needs = tuple({need for task in tasks for need in task.needs})
    without_python = any(isinstance(task, ProductsWithoutTool) for task in tasks)
    if without_python and "python" in needs:  # these two can't share a scene
        tasks = [task for task in tasks if "python" not in task.needs]
        needs = tuple(need for need in needs if need != "python")
    scene = make_scene(rng, needs)
    while without_python and scene.python is not None:
        scene = make_scene(rng, needs)
    return Conversation(scene, [task.pose(rng, scene, split) for task in tasks])
