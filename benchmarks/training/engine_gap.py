"""How far the trainer's log-probs are from those that the INT4 engine sampled with.

    python benchmarks/training/engine_gap.py --init runs/tiny/mend

One step of reinforcement learning at a rate of 0: the same attempts are gone through by the trainer
with rounded experts and the engine's choice of experts, without the rounding, and choosing experts
for itself. `--init` has to be a run, whose weights are those before rounding.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from answers import EVIDENCE, Out, save
from baltoro.chat.tokenizer import Tokenizer
from baltoro.checkpoint.bundled import BUNDLED
from baltoro.rl.config import RlConfig
from baltoro.rl.policy import EnginePolicy
from baltoro.rl.rollout import TaskSettings
from baltoro.rl.train import RlTrainer
from baltoro.train.load import load_model
from baltoro.train.schedule import Schedule

VARIANTS: dict[str, dict[str, bool]] = {
    "QAT and replay": {},
    "without QAT": {"quantize": False},
    "without replay": {"router_replay": False},
    "without both": {"quantize": False, "router_replay": False},
}
TASKS = {
    task.task: task
    for task in (
        TaskSettings(task="compare", budget=256),
        TaskSettings(task="sums", budget=256),
        TaskSettings(task="chain", budget=512),
    )
}
CONCURRENCY, CONTEXT = 16, 2048


def main(
    init: Annotated[str, typer.Option(help="The folder of a run.")] = "runs/tiny/mend",
    groups: Annotated[int, typer.Option(min=1, help="Problems of each seed.")] = 16,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    out: Out = EVIDENCE,
) -> None:
    rows = [
        {"variant": name, "seed": seed} | measure(init, seed, groups, changes)
        for seed in range(seeds)
        for name, changes in VARIANTS.items()
    ]
    save(
        out,
        "engine_gap",
        claim="with QAT and the engine's choice of experts the trainer's log-probs are nearest to "
        "those that the INT4 engine sampled with",
        bar="the gap is lower with QAT than without",
        result=sentence(rows),
        command=f"python benchmarks/training/engine_gap.py --init {init}",
        rows=rows,
        figure=draw(rows),
    )


def measure(init: str, seed: int, groups: int, changes: dict[str, Any]) -> dict[str, Any]:
    """Of attempts that depend on the seed alone: mean and largest distance, and the divergence."""
    model, tokenizer = load_model(init, "tiny"), Tokenizer.load(BUNDLED / "tiny")
    still = Schedule(steps=1, lr=0.0, router_bias_rate=0.0, seed=seed)
    policy = EnginePolicy(model, tokenizer, max_context=CONTEXT, num_sequences=CONCURRENCY)
    with tempfile.TemporaryDirectory() as folder:
        config = RlConfig(
            model="tiny", tokenizer="", init=init, out=folder, tasks=[], schedule={}, groups=groups,
            group_size=2, objective="rejection", eval_problems=1, **changes,
        )  # fmt: skip
        trainer = RlTrainer(model, config, still, TASKS, tokenizer, policy, Path(folder))
        row = trainer.train_step()
    policy.close()
    keys = ("gap_mean", "gap_max", "gap_kl", "trained_tokens", "right")
    return {key: row[key] for key in keys}


def sentence(rows: Sequence[dict[str, Any]]) -> str:
    said = []
    for name in VARIANTS:
        of = [row for row in rows if row["variant"] == name]
        mean, largest = statistics.mean(r["gap_mean"] for r in of), max(r["gap_max"] for r in of)
        said.append(f"{name}: mean {mean:.5f}, largest {largest:.2f}")
    tokens = sum(row["trained_tokens"] for row in rows) // len(VARIANTS)
    return f"{'; '.join(said)}; {tokens:,} tokens"


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    """A line for each seed: the same attempts in every variant."""
    figure, axis = plt.subplots(figsize=(7, 4), constrained_layout=True)
    for seed in dict.fromkeys(row["seed"] for row in rows):
        of = [row for row in rows if row["seed"] == seed]
        axis.plot([r["variant"] for r in of], [r["gap_mean"] for r in of], marker="o",
                  label=f"seed {seed}, {of[0]['trained_tokens']:,} tokens")  # fmt: skip
    axis.set(ylabel="mean distance of a token's log-probs", yscale="log")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


if __name__ == "__main__":
    typer.run(main)
