"""What INT4 experts cost: trained with the rounding (QAT), or rounded afterwards.

    python benchmarks/training/quantization.py --init runs/tiny/sft

Twins start from the same checkpoint, which never saw the rounding, and see the same batches: one
computes in full precision, one with rounded experts. Then losses on unseen problems are compared,
as exported: the first twin in bf16, the first twin rounded, and the second, rounded. The rate is a
tenth of the recipe's: at that one twins of the same kind differ by more than the rounding costs.
"""

from __future__ import annotations

import copy
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

import training_runs as runs
from answers import EVIDENCE, Out, mean_and_margin, save
from baltoro.chat.tokenizer import Tokenizer
from baltoro.config import from_mapping, load_toml
from baltoro.evals.skills import wilson
from baltoro.model.transformer import Transformer
from baltoro.tasks.mixture import find_task, pose_all
from baltoro.train.data import Sample, sample_of
from baltoro.train.load import load_model
from baltoro.train.qat import set_fake_quantization
from baltoro.train.schedule import Schedule
from baltoro.train.sft import Phase, SftConfig, demonstration
from baltoro.train.trainer import Trainer, teacher_forced

KINDS = ("bf16", "rounded afterwards", "QAT")


@dataclass(frozen=True)
class Twin:
    """What a run is decided by."""

    init: str
    phase: Phase
    schedule: Schedule


def main(
    init: Annotated[str, typer.Option(help="A run or checkpoint before any rounding.")] = (
        "runs/tiny/sft"
    ),
    recipe: Annotated[Path, typer.Option(help="Whose mixture is learned.")] = Path(
        "recipes/tiny/hone.toml"
    ),
    steps: Annotated[int, typer.Option(min=4)] = 200,
    rate: Annotated[float, typer.Option(help="Small, for twins to stay comparable.")] = 3e-4,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    problems: Annotated[int, typer.Option(min=1, help="Unseen ones, all tasks together.")] = 2000,
    out: Out = EVIDENCE,
) -> None:
    config = load_toml(SftConfig, recipe)
    tokenizer = Tokenizer.load(config.tokenizer)
    phase = from_mapping(Phase, config.phases[-1], str(recipe))
    samples, rows = unseen(tokenizer, phase, problems), list[dict[str, Any]]()
    for seed in range(seeds):
        plain, aware = (
            train(
                Twin(init, phase, schedule_of(config, steps, rate, seed, quantize)),
                config,
                tokenizer,
            )
            for quantize in (None, 0)
        )
        variants = (as_exported(plain, False), as_exported(plain, True), as_exported(aware, True))
        for kind, model in zip(KINDS, variants, strict=True):
            found = {"seed": seed, "kind": kind, "loss": runs.mean_loss(model, samples)}
            rows.append(found | accuracy(model, samples))
            print(rows[-1], flush=True)
    save(
        out,
        "quantization",
        claim="trained with the rounding, INT4 experts lose less than rounded afterwards",
        bar="at most half of the gap in loss to the bf16 twin; accuracy within the interval",
        result=sentence(rows),
        command=f"python benchmarks/training/quantization.py --init {init} --steps {steps} "
        f"--rate {rate:g} --seeds {seeds}",
        rows=rows,
        figure=draw(rows),
    )


def schedule_of(
    config: SftConfig, steps: int, rate: float, seed: int, quantize: int | None
) -> Schedule:
    """A rate that falls to nothing; the rest as in the recipe."""
    own = config.schedule
    return Schedule(
        steps=steps,
        lr=rate,
        vocabulary_lr_scale=own.get("vocabulary_lr_scale", 1.0),
        tokens_per_step=own.get("tokens_per_step", 8192),
        warmup_steps=max(1, steps // 20),
        decay_from=0,
        quantize_from=quantize,
        seed=seed,
        save_every=20,
    )


def train(twin: Twin, config: SftConfig, tokenizer: Tokenizer) -> Transformer:
    model, schedule = load_model(twin.init, config.model, config.yarn), twin.schedule
    name = "plain" if schedule.quantize_from is None else "aware"

    def make(step: int) -> Callable[[random.Random], Sample]:
        return lambda rng: demonstration(rng, tokenizer, twin.phase)

    folder = runs.RUNS / "quantization" / f"{name}_{schedule.lr:g}_{schedule.steps}_{schedule.seed}"
    runs.finish(Trainer(model, schedule, make, folder), twin)
    return model


@torch.no_grad()
def as_exported(model: Transformer, int4: bool) -> Transformer:
    """A copy that computes with the values that its checkpoint holds."""
    exported = copy.deepcopy(model).eval()
    for weight in exported.parameters():
        weight.copy_(weight.bfloat16().float())
    set_fake_quantization(exported, int4)
    return exported


def unseen(tokenizer: Tokenizer, phase: Phase, problems: int) -> list[Sample]:
    """Held-out demonstrations, drawn by the weights of the mixture."""
    rng = random.Random("quantization")
    names = rng.choices(list(phase.mixture), list(phase.mixture.values()), k=problems)
    return [sample_of(tokenizer, pose_all(rng, [find_task(n)], "eval")) for n in names]


def accuracy(model: Transformer, samples: Sequence[Sample]) -> dict[str, float]:
    """Share of solutions that greedy decoding would follow, with its 95 % interval."""
    exact = teacher_forced(model, list(samples))["exact"]
    low, high = wilson(round(exact * len(samples)), len(samples))
    return {"exact": exact, "low": low, "high": high, "n": len(samples)}


def gaps(rows: Sequence[dict[str, Any]], kind: str) -> list[float]:
    """Loss above the bf16 twin's, of each seed."""
    by = {(row["seed"], row["kind"]): row["loss"] for row in rows}
    return [by[seed, kind] - by[seed, KINDS[0]] for seed in sorted({r["seed"] for r in rows})]


def sentence(rows: Sequence[dict[str, Any]]) -> str:
    said = []
    for kind in KINDS[1:]:
        found = gaps(rows, kind)
        mean, margin = mean_and_margin(found)
        each = ", ".join(f"{gap:.5f}" for gap in found)
        said.append(f"{kind}: gap in loss {mean:.5f} ± {margin:.5f} (95 %; seeds: {each})")
    exact = {k: statistics.mean(r["exact"] for r in rows if r["kind"] == k) for k in KINDS}
    shares = ", ".join(f"{kind} {share:.1%}" for kind, share in exact.items())
    loss = statistics.mean(r["loss"] for r in rows if r["kind"] == KINDS[0])
    return (
        f"{'; '.join(said)}; loss of the bf16 twin {loss:.5f}; solutions followed greedily: "
        f"{shares}, n = {rows[0]['n']}"
    )


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for i, kind in enumerate(KINDS[1:]):
        found = gaps(rows, kind)
        left.bar(i, sum(found) / len(found), color=f"C{i + 1}", alpha=0.6)
        left.plot([i] * len(found), found, "k.", markersize=8)
    left.set_xticks(range(2), list(KINDS[1:]))
    left.axhline(0, color="grey", linewidth=0.5)
    left.set(ylabel="loss above the bf16 twin's, each seed a dot")
    for i, kind in enumerate(KINDS):
        for row in (row for row in rows if row["kind"] == kind):
            x = i + 0.12 * (row["seed"] - (len({r["seed"] for r in rows}) - 1) / 2)
            error = [[row["exact"] - row["low"]], [row["high"] - row["exact"]]]
            right.errorbar(x, row["exact"], yerr=error, fmt="o", color=f"C{i}", capsize=3)
    right.set_xticks(range(3), list(KINDS))
    right.set(ylabel="solutions followed greedily, 95 % interval")
    return figure


if __name__ == "__main__":
    typer.run(main)
