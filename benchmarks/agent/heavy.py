"""What heavy mode gains: one trajectory, a vote of several, and a reflection over the same ones.

    python benchmarks/agent/heavy.py [--task countdown_4] [--problems 200] [--trajectories 8]

Unseen problems of a task without tools, at temperature 1. Prints a JSON line: the share that is
right with one trajectory (the mean of all), with the answer that most trajectories give, and with
heavy mode, with 95 % intervals. Of interest is a task that one trajectory solves 40 to 80 times out
of 100. `--model` and `--base-url` are those of `baltoro agent`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
from dataclasses import dataclass
from typing import Any

from baltoro.agent.attempt import TableWorld, tools_of
from baltoro.agent.heavy import HeavyRun, most_common, run_heavy
from baltoro.agent.loop import Agent
from baltoro.chat.chat_model import ChatModel, Sampling
from baltoro.cli.options import ModelOptions
from baltoro.evals.skills import wilson
from baltoro.tasks.mixture import find_task, pose_all

AT_ONCE = 4  # problems


@dataclass(frozen=True)
class Result:
    """Of one problem."""

    right: int  # trajectories
    voted: bool
    reflected: bool


async def measure(model: ChatModel, options: argparse.Namespace) -> list[Result]:
    task = find_task(options.task)
    rng = random.Random(f"heavy/{task.name}/{options.seed}")
    talks = [pose_all(rng, [task], "eval") for _ in range(options.problems)]
    slots = asyncio.Semaphore(AT_ONCE)

    async def solve(index: int) -> Result:
        talk, seed = talks[index], options.seed + 1000 * index
        problem = talk.problems[-1]
        tools = tools_of(talk, None, TableWorld(problem, task))
        sampling = Sampling(temperature=1.0, max_tokens=options.max_tokens, seed=seed)
        async with slots:
            run: HeavyRun = await run_heavy(
                lambda observers: Agent(model, tools, sampling=sampling, observers=observers),
                talk.prompt(),
                options.trajectories,
            )

        def is_right(answer: str | None) -> bool:
            return answer is not None and task.verify(problem, answer)

        answers = [each.answer for each in run.runs]
        return Result(sum(map(is_right, answers)), is_right(most_common(answers)),
                      is_right(run.answer))  # fmt: skip

    return await asyncio.gather(*(solve(index) for index in range(options.problems)))


def share(right: int, n: int) -> dict[str, Any]:
    low, high = wilson(right, n)
    return {"share": round(right / n, 4), "interval": [round(low, 4), round(high, 4)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="countdown_4")
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--trajectories", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model")
    parser.add_argument("--base-url")
    parser.add_argument("--api-key", default=os.environ.get("OPENAI_API_KEY", ""))
    options = parser.parse_args()
    named = ModelOptions(model=options.model, base_url=options.base_url, api_key=options.api_key)
    with named.opened() as model:
        results = asyncio.run(measure(model, options))
    n = len(results)
    row = {
        "question": "heavy mode",
        "task": options.task,
        "n": n,
        "trajectories": options.trajectories,
        "one_trajectory": share(sum(r.right for r in results), n * options.trajectories),
        "vote": share(sum(r.voted for r in results), n),
        "heavy": share(sum(r.reflected for r in results), n),
        "bar": "heavy >= one_trajectory + 0.10 and heavy >= vote",
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
