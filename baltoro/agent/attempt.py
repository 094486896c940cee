"""One attempt of a model at a task's problem: real tools, their state, a user who may answer.

Evaluations, reinforcement learning and rejection sampling all make attempts here, so that a problem
is the same thing to all of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from baltoro.agent.context import Window
from baltoro.agent.events import Run
from baltoro.agent.loop import Agent, Limits, Observer
from baltoro.chat.chat_model import ChatModel, Sampling
from baltoro.config import BaltoroError
from baltoro.tasks.failures import FAILURE
from baltoro.tasks.mixture import Conversation
from baltoro.tasks.task import NO_ENTRY, Problem, Task, ToolStyle, World
from baltoro.tools.python import PythonTool
from baltoro.tools.tool import Arguments, Tool, ToolError

USER_TURNS = 8  # times at most that a simulated user answers
SEED_STEP = 1_000_003  # between the seeds of two stretches of one attempt


class VerifierError(BaltoroError):
    """A verifier crashed or gave no verdict. Its fault is never a wrong answer of the model's."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """How an attempt ended."""

    run: Run  # the last stretch; its messages are the whole conversation
    right: bool
    generated: int  # tokens, in all stretches together


async def attempt(
    model: ChatModel,
    task: Task,
    talk: Conversation,
    *,
    limits: Limits,
    sampling: Sampling,
    python: PythonTool | None = None,
    window: Window | None = None,
    observers: Sequence[Observer] = (),
) -> Attempt:
    """Let `model` solve the last problem of `talk`. `limits.max_tokens` is for the whole attempt.

    `python` runs the code of conversations that offer it; None says it is switched off. `window`
    says what is sent of a long conversation.
    Raises `VerifierError` if the task's verifier does anything but say yes or no.
    """
    problem = talk.problems[-1]
    world = problem.world() if problem.world else TableWorld(problem, task)
    tools = tools_of(talk, python, world)
    messages, generated, turn = talk.prompt(), 0, 0
    while True:
        left = None if limits.max_tokens is None else limits.max_tokens - generated
        agent = Agent(
            model,
            tools,
            limits=replace(limits, max_tokens=left),
            sampling=replace(
                sampling,
                seed=None if sampling.seed is None else sampling.seed + SEED_STEP * turn,
            ),
            observers=observers,
            window=window,
        )
        run = await agent.run(messages)
        generated += run.usage.completion
        said = None if run.answer is None else world.user_says(run.answer)
        turn += 1
        if said is None or turn == USER_TURNS or left == run.usage.completion:
            break
        messages = [*run.messages, {"role": "user", "content": said}]
    return Attempt(run=run, right=judge(task, problem, world, run), generated=generated)


def judge(task: Task, problem: Problem, world: World, run: Run) -> bool:
    """Whether the attempt is right; one without an answer never is."""
    if run.answer is None:
        return False
    try:
        verdict = world.verify(run.answer)
    except Exception as error:
        raise VerifierError(
            f"the verifier of task '{task.name}' crashed with {error!r} on the answer "
            f"{run.answer!r} to the question {problem.question!r}. Mend the verifier: its crash "
            "must not count as a wrong answer."
        ) from error
    if not isinstance(verdict, bool | np.bool_):
        raise VerifierError(
            f"the verifier of task '{task.name}' returned {verdict!r} for the answer "
            f"{run.answer!r} to the question {problem.question!r}, but must return True or False. "
            "Mend the verifier: turn what it found into a bool."
        )
    return bool(verdict)


class TableWorld:
    """The world of problems whose tools have no state: a table to look up, and one answer."""

    def __init__(self, problem: Problem, task: Task):
        self._problem = problem
        self._task = task

    def call(self, tool: str, argument: str) -> str:
        if argument not in self._problem.table:
            raise ToolError(NO_ENTRY.format(key=argument))
        return self._problem.table[argument]

    def user_says(self, reply: str) -> str | None:
        return None

    def verify(self, reply: str) -> bool:
        return self._task.verify(self._problem, reply)


class DeclaredTool:
    """A tool under the name and parameter that a conversation declares for it."""

    def __init__(self, style: ToolStyle, run: Callable[[str], Awaitable[str]]):
        function = style.schema()["function"]
        self.name: str = function["name"]
        self.description: str = function["description"]
        self.parameters: dict = function["parameters"]
        self._parameter = style.parameter
        self._run = run

    async def call(self, arguments: Arguments) -> str:
        return await self._run(arguments[self._parameter])


def tools_of(talk: Conversation, python: PythonTool | None, world: World) -> list[Tool]:
    """The tools that a conversation declares, in its order, working for real where they can."""
    scene, problem = talk.scene, talk.problems[-1]
    backed = {scene.get, *scene.backed}
    calls = 0

    def working(style: ToolStyle) -> Tool:
        async def run(argument: str) -> str:
            nonlocal calls
            calls += 1
            if calls - 1 in problem.failing_calls:
                raise ToolError(FAILURE)
            if style == scene.python:
                if python is None:
                    raise ToolError("Python is switched off in this conversation.")
                return await python.call({"code": argument})
            if style in backed:
                return world.call(style.name, argument)
            raise ToolError("This tool is switched off.")

        return DeclaredTool(style, run)

    return [working(style) for style in scene.styles]
