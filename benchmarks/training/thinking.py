"""Thinking on Countdown: how long it is and what a budget does to accuracy, by difficulty.

    python benchmarks/training/thinking.py --model runs/tiny/rl/int4

Each problem is attempted once for each budget, at temperature 1; a budget closes the thinking when
it is used up. Difficulty is the count of numbers.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from answers import EVIDENCE, Out, save
from baltoro.agent.attempt import Attempt, attempt
from baltoro.agent.loop import Limits
from baltoro.chat.chat_model import ChatModel, Sampling
from baltoro.engine.open_model import open_model
from baltoro.engine.options import EngineOptions
from baltoro.evals.skills import wilson
from baltoro.tasks.mixture import Conversation, find_task, pose_all

SIZES = (2, 3, 4)
BUDGETS = (0, 16, 32, 64, 128, 256, 512)
MAX_TOKENS = 2048
CONCURRENCY = 16


def main(
    model: Annotated[str, typer.Option(help="A bundled model or a folder.")] = "tiny",
    problems: Annotated[int, typer.Option(min=1, help="Of each difficulty.")] = 200,
    budget: Annotated[list[int] | None, typer.Option(help="Can be repeated.")] = None,
    threads: int | None = None,
    out: Out = EVIDENCE,
) -> None:
    chat_model = open_model(model, EngineOptions(threads=threads))
    rows = [
        measure(chat_model, size, limit, problems)
        for size in SIZES
        for limit in [None, *(budget or BUDGETS)]
    ]
    save(
        out,
        "thinking",
        claim="thinking on Countdown gets longer where problems are harder, and accuracy rises "
        "with the budget of thinking",
        bar="both",
        result=sentence(rows),
        command=f"python benchmarks/training/thinking.py --model {model}",
        rows=rows,
        figure=draw(rows),
    )


def measure(model: ChatModel, size: int, budget: int | None, problems: int) -> dict[str, Any]:
    task, rng = find_task(f"countdown_{size}"), random.Random(f"thinking/{size}")
    talks = [pose_all(rng, [task], "eval") for _ in range(problems)]
    made = asyncio.run(attempt_all(model, talks, budget))
    right = sum(one.right for one in made)
    low, high = wilson(right, problems)
    return {
        "size": size,
        "budget": budget,
        "n": problems,
        "right": right,
        "low": low,
        "high": high,
        "mean_thinking": sum(one.run.usage.reasoning for one in made) / problems,
    }


async def attempt_all(
    model: ChatModel, talks: Sequence[Conversation], budget: int | None
) -> list[Attempt]:
    slots = asyncio.Semaphore(CONCURRENCY)

    async def one(index: int, talk: Conversation) -> Attempt:
        sampling = Sampling(max_tokens=MAX_TOKENS, thinking_budget=budget, seed=index)
        async with slots:
            task = find_task(talk.problems[-1].task)
            return await attempt(model, task, talk, limits=Limits(max_steps=2), sampling=sampling)

    return await asyncio.gather(*(one(i, talk) for i, talk in enumerate(talks)))


def of(rows: Sequence[dict[str, Any]], size: int, free: bool) -> list[dict[str, Any]]:
    """The rows of one difficulty: that without a budget, or those with one."""
    return [row for row in rows if row["size"] == size and (row["budget"] is None) == free]


def sentence(rows: Sequence[dict[str, Any]]) -> str:
    lengths = [of(rows, size, True)[0]["mean_thinking"] for size in SIZES]
    rising = all(a < b for a, b in itertools.pairwise(lengths))
    words = [f"mean length {' / '.join(f'{x:.0f}' for x in lengths)} tokens with {SIZES} numbers"]
    words[0] += ", rising" if rising else ", not rising"
    for size in SIZES:
        limited = of(rows, size, False)
        first, last = limited[0], limited[-1]
        words.append(
            f"{size} numbers: {first['right'] / first['n']:.0%} right with {first['budget']} tokens"
            f" of thinking, {last['right'] / last['n']:.0%} with {last['budget']}"
        )
    return "; ".join(words)


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    figure, (accuracy, length) = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    for size in SIZES:
        limited = of(rows, size, False)
        x = range(len(limited))
        shares = [row["right"] / row["n"] for row in limited]
        accuracy.plot(x, shares, marker="o", label=f"{size} numbers")
        accuracy.fill_between(
            x, [r["low"] for r in limited], [r["high"] for r in limited], alpha=0.2
        )
        accuracy.set_xticks(list(x), [str(row["budget"]) for row in limited])
    accuracy.set(
        xlabel="budget of thinking, tokens", ylabel="share right, unseen", ylim=(-0.02, 1.02)
    )
    accuracy.grid(alpha=0.3)
    accuracy.legend()
    means = [of(rows, size, True)[0]["mean_thinking"] for size in SIZES]
    length.bar([str(size) for size in SIZES], means, color=[f"C{i}" for i in range(len(SIZES))])
    length.set(xlabel="numbers", ylabel="mean length of thinking, tokens, no budget")
    return figure


if __name__ == "__main__":
    typer.run(main)
