"""What INT4 experts cost: trained with the rounding (QAT), or rounded afterwards.

    python benchmarks/training/quantization.py

A model learns the sources of Python's standard library, byte by byte, to the end of a schedule.
Then twins go on from there with the same batches, at the same rate, which falls to nothing again:
one computes in full precision, one with rounded experts. What they know of unseen sources is
compared as exported: the first twin in bf16, the first twin rounded, and the second, rounded.

Text is learned because no model of this size comes to its end: where a task is solved, rounding
costs too little to measure. Twins part from each other by about as much as rounding costs, so there
are five seeds. At a lower rate they part less, and rounded experts adapt less.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

import training_runs as runs
from answers import EVIDENCE, Out, mean_and_margin, save
from baltoro.evals.skills import wilson
from baltoro.model.transformer import Transformer
from baltoro.train.folder import RunFolder
from baltoro.train.pretrain import start_head_from_embedding
from baltoro.train.qat import set_fake_quantization
from baltoro.train.schedule import Schedule
from baltoro.train.trainer import Trainer
from lessons import LESSONS, Learned, Lesson

KINDS = ("bf16", "rounded afterwards", "QAT")


@dataclass(frozen=True)
class Run:
    """What a run is decided by."""

    learned: str  # what `LESSONS` has
    schedule: Schedule
    init: str | None = None  # folder of the run that it goes on from; None: random weights


def main(
    steps: Annotated[int, typer.Option(min=4, help="Of the common beginning.")] = 600,
    twin_steps: Annotated[int, typer.Option(min=4)] = 100,
    rate: Annotated[float, typer.Option(help="Of the common beginning.")] = 8e-3,
    twin_rate: float = 8e-3,
    tokens: Annotated[int, typer.Option(min=1, help="Of a step.")] = 4096,
    seeds: Annotated[int, typer.Option(min=1)] = 5,
    learned: Learned = "text",
    out: Out = EVIDENCE,
) -> None:
    lesson, rows = LESSONS[learned](), list[dict[str, Any]]()
    common = Schedule(
        steps=steps, lr=rate, decay_from=2 * steps // 3, tokens_per_step=tokens, save_every=20
    )
    folder = runs.RUNS / "quantization" / f"common_{learned}_{rate:g}_{tokens}_{steps}"
    train(Run(learned, common), lesson, folder)
    unseen = lesson.unseen()
    for seed in range(1, seeds + 1):  # other batches than the beginning's
        schedule = replace(
            common, steps=twin_steps, lr=twin_rate, warmup_steps=1, decay_from=0, seed=seed
        )
        plain, aware = (
            train(
                Run(learned, replace(schedule, quantize_from=quantize), str(folder)),
                lesson,
                folder.with_name(f"{name}_{folder.name}_{twin_rate:g}_{twin_steps}_{seed}"),
            )
            for name, quantize in (("plain", None), ("aware", 0))
        )
        variants = (as_exported(plain, False), as_exported(plain, True), as_exported(aware, True))
        for kind, model in zip(KINDS, variants, strict=True):
            rows.append({"seed": seed, "kind": kind} | measured(runs.score(model, unseen)))
            print(rows[-1], flush=True)
    save(
        out,
        "quantization",
        claim="trained with the rounding, INT4 experts lose less than rounded afterwards",
        bar="at most half of the gap in loss to the bf16 twin; accuracy within the interval",
        result=sentence(rows),
        command=f"python benchmarks/training/quantization.py --steps {steps} "
        f"--twin-steps {twin_steps} --rate {rate:g} --twin-rate {twin_rate:g} --tokens {tokens} "
        f"--seeds {seeds} --of {learned}",
        rows=rows,
        figure=draw(rows),
    )


def train(run: Run, lesson: Lesson, folder: Path) -> Transformer:
    torch.manual_seed(run.schedule.seed)
    model = Transformer(lesson.config)
    if run.init is None:
        start_head_from_embedding(model)
    else:
        state = RunFolder(Path(run.init)).read()
        assert state is not None, run.init
        model.load_state_dict(state["model"])
    runs.finish(Trainer(model, run.schedule, lambda step: lesson.make, folder), run)
    return model


@torch.no_grad()
def as_exported(model: Transformer, int4: bool) -> Transformer:
    """A copy that computes with the values that its checkpoint holds."""
    exported = copy.deepcopy(model).eval()
    for weight in exported.parameters():
        weight.copy_(weight.bfloat16().float())
    set_fake_quantization(exported, int4)
    return exported


def measured(score: runs.Score) -> dict[str, float]:
    """Loss, and the share of learned tokens that are the most likely ones with its interval."""
    low, high = wilson(score.right, score.n)
    share = score.right / score.n
    return {"loss": score.loss, "accuracy": share, "low": low, "high": high, "n": score.n}


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
    rounded, aware = (gaps(rows, kind) for kind in KINDS[1:])
    mean, margin = mean_and_margin([b - a / 2 for a, b in zip(rounded, aware, strict=True)])
    said.append(f"QAT's gap less half of the other: {mean:.5f} ± {margin:.5f}")
    right = {k: statistics.mean(r["accuracy"] for r in rows if r["kind"] == k) for k in KINDS}
    shares = ", ".join(f"{kind} {share:.2%}" for kind, share in right.items())
    loss = statistics.mean(r["loss"] for r in rows if r["kind"] == KINDS[0])
    return (
        f"{'; '.join(said)}; loss of the bf16 twin {loss:.5f}; most likely token right: "
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
            x = i + 0.12 * (row["seed"] - (len({r["seed"] for r in rows}) + 1) / 2)
            error = [[row["accuracy"] - row["low"]], [row["high"] - row["accuracy"]]]
            right.errorbar(x, row["accuracy"], yerr=error, fmt="o", color=f"C{i}", capsize=3)
    right.set_xticks(range(3), list(KINDS))
    right.set(ylabel="most likely token right, 95 % interval")
    return figure


if __name__ == "__main__":
    typer.run(main)
