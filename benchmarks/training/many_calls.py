"""Three hundred calls in a row in the agent's loop, by kind of chain and context strategy.

    python benchmarks/training/many_calls.py --model runs/tiny/rl/int4

Every problem is unseen, the lookups are real, and nothing guides the model but its own turns. Each
problem is kept in `--runs` as it ends, each kind and strategy in `--out`: a stopped run goes on
where it was. Kinds and strategies that take long can have fewer `--problems`.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import random
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from rich.progress import MofNCompleteColumn, Progress

from answers import EVIDENCE, Out, rows_of, save
from baltoro.agent.attempt import attempt
from baltoro.agent.context import Window, window
from baltoro.agent.loop import Limits
from baltoro.chat.chat_model import ChatModel, Sampling
from baltoro.checkpoint.bundled import find_checkpoint
from baltoro.engine.open_model import open_model
from baltoro.engine.options import EngineOptions
from baltoro.evals.skills import wilson
from baltoro.tasks.mixture import Conversation, find_task, pose_all
from baltoro.train.folder import write_atomically
from training_runs import RUNS

# What makes `calls` calls, by the word for it.
KINDS = {
    "linked lookups": lambda calls: f"chain_{calls}",
    "running totals": lambda calls: f"running_total_{max(1, calls - 1)}",
    "walk through a tree": lambda calls: f"tree_{calls}",
}
SHORT = 2048  # tokens of the window in which turns are dropped
# Hiding saves nothing while there is room, so it gets a window that 300 calls don't fit into.
STRATEGIES = {
    "full history": lambda: Window(None),
    "hide-all": lambda: window("hide-all", 4 * SHORT),
    "keep-last-5": lambda: window("keep-last-5", SHORT),
}
TOKENS = 400  # of one reply at most


@dataclass(frozen=True)
class Ended:
    """How the attempt at a problem went."""

    index: int  # of the problem
    right: bool
    calls: int
    stop_reason: str
    seconds: float


def main(
    model: Annotated[str, typer.Option(help="A bundled model or a folder.")] = "tiny",
    problems: Annotated[int, typer.Option(min=1, help="Of each kind and strategy.")] = 100,
    calls: Annotated[int, typer.Option(min=2)] = 300,
    kind: Annotated[list[str] | None, typer.Option(help="Can be repeated.")] = None,
    strategy: Annotated[list[str] | None, typer.Option(help="Can be repeated.")] = None,
    # Sixteen runs of 18,000 tokens each do not fit into the cache and are read again and again.
    concurrency: int = 8,
    threads: int | None = None,
    runs: Annotated[Path, typer.Option(help="What ended of a row.")] = RUNS / "many_calls",
    out: Out = EVIDENCE,
) -> None:
    chat_model = open_model(model, EngineOptions(threads=threads))
    mark = {"model": model, "weights": weights_of(model), "calls": calls}
    rows = {place(row): row for row in rows_of(out, "many_calls") if mark.items() <= row.items()}
    for name, chosen in itertools.product(kind or KINDS, strategy or STRATEGIES):
        if rows.get((name, chosen), {"n": 0})["n"] < problems:
            talks = posed(name, calls, problems)
            kept = runs / f"{name}, {chosen}, {calls}, {mark['weights']}.jsonl"
            made = asyncio.run(attempt_all(chat_model, talks, chosen, concurrency, kept))
            rows[name, chosen] = {"kind": name, "strategy": chosen} | mark | summary(made)
            keep(out, sorted(rows.values(), key=place), model)


def weights_of(model: str) -> str:
    """Tells weights apart that bear the same name one after the other: a hash of their files."""
    digest = hashlib.sha256()
    for file in sorted(find_checkpoint(model).glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def place(row: dict[str, Any]) -> tuple[str, str]:
    return row["kind"], row["strategy"]


def posed(kind: str, calls: int, problems: int) -> list[Conversation]:
    rng, task = random.Random(f"calls/{kind}/{calls}"), find_task(KINDS[kind](calls))
    return [pose_all(rng, [task], "eval") for _ in range(problems)]


async def attempt_all(
    model: ChatModel, talks: Sequence[Conversation], strategy: str, concurrency: int, kept: Path
) -> list[Ended]:
    """What `kept` has not, attempted and added to it."""
    slots = asyncio.Semaphore(concurrency)
    ended = {one.index: one for one in read(kept) if one.index < len(talks)}

    async def one(index: int, talk: Conversation) -> None:
        async with slots:
            ended[index] = await attempt_one(model, index, talk, strategy)
        lines = (json.dumps(asdict(one)) + "\n" for one in ended.values())
        write_atomically(kept, "".join(lines))
        show()

    def show() -> None:
        right = sum(one.right for one in ended.values())
        bar.update(row, completed=len(ended), description=f"{strategy}, {right} right")

    kept.parent.mkdir(parents=True, exist_ok=True)
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as bar:
        row = bar.add_task(strategy, total=len(talks))
        show()
        left = [(i, talk) for i, talk in enumerate(talks) if i not in ended]
        await asyncio.gather(*(one(i, talk) for i, talk in left))
    return [ended[index] for index in range(len(talks))]


def read(kept: Path) -> list[Ended]:
    lines = kept.read_text().splitlines() if kept.exists() else []
    return [Ended(**json.loads(line)) for line in lines]


async def attempt_one(model: ChatModel, index: int, talk: Conversation, strategy: str) -> Ended:
    made = await attempt(
        model,
        find_task(talk.problems[-1].task),
        talk,
        limits=Limits(max_steps=2 * len(talk.problems[-1].table) + 8),
        sampling=Sampling(max_tokens=TOKENS, seed=1_000_003 * index),
        window=STRATEGIES[strategy](),
    )
    run = made.run
    return Ended(index, made.right, run.tool_calls, run.stop_reason, run.seconds)


def summary(made: Sequence[Ended]) -> dict[str, Any]:
    right, calls = sum(one.right for one in made), [one.calls for one in made]
    low, high = wilson(right, len(made))
    return {
        "n": len(made),
        "right": right,
        "low": low,
        "high": high,
        "median_calls": statistics.median(calls),
        "ends": Counter(one.stop_reason for one in made),
        "seconds_per_call": sum(one.seconds for one in made) / max(1, sum(calls)),
    }


def keep(out: Path, rows: Sequence[dict[str, Any]], model: str) -> None:
    said = [
        f"{row['kind']}, {row['strategy']}: {row['right']} of {row['n']} "
        f"({row['low']:.0%} to {row['high']:.0%})"
        for row in rows
    ]
    save(
        out,
        "many_calls",
        claim=f"{rows[0]['calls']} calls in a row in the agent's loop end with the right answer",
        bar="linked lookups with the last turns kept 95 %; running totals with full history or "
        "hide-all 80 %",
        result="; ".join(said),
        command=f"python benchmarks/training/many_calls.py --model {model}",
        rows=rows,
        figure=draw(rows),
    )


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    figure, axis = plt.subplots(figsize=(9, 4), constrained_layout=True)
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    strategies = list(dict.fromkeys(row["strategy"] for row in rows))
    width = 0.8 / len(strategies)
    for i, name in enumerate(strategies):
        for row in (row for row in rows if row["strategy"] == name):
            share = row["right"] / row["n"]
            error = [[max(0.0, share - row["low"])], [max(0.0, row["high"] - share)]]
            x = kinds.index(row["kind"]) + (i - (len(strategies) - 1) / 2) * width
            axis.bar(x, share, width, yerr=error, color=f"C{i}", capsize=3)
        axis.bar(0, 0, color=f"C{i}", label=name)
    axis.set_xticks(range(len(kinds)), kinds)
    axis.set(ylabel=f"share right after {rows[0]['calls']} calls", ylim=(0, 1.05))
    axis.legend()
    return figure


if __name__ == "__main__":
    typer.run(main)
