"""MuonClip beside AdamW, and attention logits with and without QK-clip, over several seeds.

    python benchmarks/training/optimizers.py compare
    python benchmarks/training/optimizers.py compare --of documents --steps 1000 --tokens 4096 \\
        --rate 1e-3 --rate 2e-3 --rate 4e-3 --rate 8e-3
    python benchmarks/training/optimizers.py clip
    python benchmarks/training/optimizers.py spikes

`compare` gives MuonClip 0.6 of the tokens (its whole schedule in that time) and both the same grid
of learning rates, and reports the loss on what no run was trained on. The first seed goes through
the grid, the others take its best rate. `--of text` (the usual) learns bytes of the sources of
Python's standard library, `--of documents` and `--of demonstrations` those of the recipe, with its
slower embedding and head for both. `clip` learns demonstrations at ten times a useful rate and
looks at what follows once attention logits come near the threshold. `spikes` looks for them in the
logs of the stages that made the bundled model. Rows go to `--out` as JSON, with a picture;
negative results stay in.
"""

from __future__ import annotations

import math
import shutil
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
from answers import EVIDENCE, Out, mean_and_margin, rows_of, save
from baltoro.config import to_json
from baltoro.model.transformer import Transformer
from baltoro.train.pretrain import start_head_from_embedding
from baltoro.train.schedule import Schedule
from baltoro.train.trainer import Trainer
from baltoro.train.updater import ENOUGH, USUAL
from lessons import LESSONS, Learned

RATES = (2e-3, 4e-3, 8e-3, 1.6e-2)
SHARE = 0.6  # of AdamW's tokens that MuonClip gets
OPTIMIZERS = ("muonclip", "adamw")
BEGINNING_TOKENS = 16_384  # of a step before logits are clipped
# Those that made the bundled model.
STAGES = (
    "pretrain sft hone finish mend widen lengthen settle polish burnish recover weigh gloss "
    "reach drill temper endure mellow"
).split()
SPIKE = 10.0  # times the median of the steps before: what `skip_above` is meant to be set to

app = typer.Typer(no_args_is_help=True, help=__doc__)
Steps = Annotated[int, typer.Option(min=10)]
Seeds = Annotated[int, typer.Option(min=1)]


@dataclass(frozen=True)
class Run:
    """What a run is decided by."""

    optimizer: str
    learned: str  # what `LESSONS` has
    schedule: Schedule


def train(run: Run, folder: Path) -> dict[str, Any]:
    """Held-out loss, and the largest logit of each step."""
    lesson = LESSONS[run.learned]()
    torch.manual_seed(run.schedule.seed)
    model = Transformer(lesson.config)
    start_head_from_embedding(model)
    trainer = Trainer(model, run.schedule, lambda step: lesson.make, folder)
    if run.optimizer == "adamw":
        trainer.updater.optimizer = adamw(trainer)  # type: ignore[assignment]
    log = runs.finish(trainer, run)
    return {
        "held_out_loss": runs.score(model, lesson.unseen()).loss,
        "largest_logits": [row["max_logit"] for row in log],
        "optimizer_share": statistics.mean(row["optimizer_share"] for row in log),
    }


def go_on(start: Path, run: Run, folder: Path) -> dict[str, Any]:
    """Train as if `run` had begun as the finished run of the folder `start` did."""
    if not (folder / "run.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(start, folder, ignore=shutil.ignore_patterns("run.json"))
        (folder / "run.json").write_text(to_json(run))
    return train(run, folder)


def adamw(trainer: Trainer) -> torch.optim.AdamW:
    """torch's, for all parameters, with what MuonClip gives to those that it leaves to AdamW."""
    groups = trainer.updater.optimizer.param_groups
    fields = [{"params": g["params"], "lr_scale": g["lr_scale"]} for g in groups]
    decay = trainer.schedule.weight_decay
    return torch.optim.AdamW(fields, betas=(0.9, 0.95), weight_decay=decay)


@app.command()
def compare(
    steps: Steps = 100,
    seeds: Seeds = 3,
    tokens: Annotated[int, typer.Option(min=1, help="Of a step.")] = 16_384,
    learned: Learned = "text",
    rate: Annotated[list[float] | None, typer.Option(help="The grid; can be repeated.")] = None,
    out: Out = EVIDENCE,
) -> None:
    """The best of the grid for each optimizer, by the mean over the seeds."""
    rows, grid = list[dict[str, Any]](), sorted(rate or RATES)
    for seed in range(seeds):
        for name in OPTIMIZERS:
            count = steps if name == "adamw" else math.ceil(SHARE * steps)
            for lr in rates_of_next_seed(rows, name, grid):
                run = Run(name, learned, schedule_of(learned, count, lr, tokens, seed))
                found = train(run, runs.RUNS / learned / f"{name}_{count}_{tokens}_{lr:g}_{seed}")
                del found["largest_logits"]  # thousands of numbers that `clip` asks for, not this
                rows.append({"optimizer": name, "lr": lr, "seed": seed, "steps": count} | found)
                print(f"{name} {lr:g}, seed {seed}: {found['held_out_loss']:.4f}", flush=True)
    save(
        out,
        f"optimizers_{learned}",
        claim=f"MuonClip at {SHARE} of the tokens learns as much of {learned} as AdamW, both at "
        f"their best rate of {', '.join(f'{lr:g}' for lr in grid)}",
        bar="held-out loss not worse",
        result=sentence(rows, tokens),
        command=f"python benchmarks/training/optimizers.py compare --of {learned} "
        f"--steps {steps} --seeds {seeds} --tokens {tokens}"
        + "".join(f" --rate {lr:g}" for lr in rate or ()),
        rows=rows,
        figure=draw_losses(rows),
    )


def schedule_of(learned: str, steps: int, lr: float, tokens: int, seed: int) -> Schedule:
    """The last third of the steps decays, whatever their number."""
    return Schedule(
        steps=steps,
        lr=lr,
        vocabulary_lr_scale=LESSONS[learned]().vocabulary_lr_scale,
        warmup_steps=max(1, steps // 20),
        decay_from=2 * steps // 3,
        tokens_per_step=tokens,
        seed=seed,
        save_every=100,
    )


def rates_of_next_seed(
    rows: Sequence[dict[str, Any]], name: str, grid: Sequence[float]
) -> Sequence[float]:
    """All for the first seed, then its best."""
    first = {r["lr"]: r["held_out_loss"] for r in rows if r["optimizer"] == name and not r["seed"]}
    return sorted(first, key=lambda lr: first[lr])[:1] or grid


def losses_by_rate(rows: Sequence[dict[str, Any]], name: str) -> dict[float, list[float]]:
    """Of an optimizer: the losses of all seeds, in their order, at each rate."""
    of = [row for row in rows if row["optimizer"] == name]
    return {
        lr: [row["held_out_loss"] for row in of if row["lr"] == lr]
        for lr in sorted({row["lr"] for row in of})
    }


def best_rate(rows: Sequence[dict[str, Any]], name: str) -> tuple[float, list[float]]:
    """The rate with the least mean loss of those that every seed took, and its losses."""
    losses = losses_by_rate(rows, name)
    seeds = max(len(of) for of in losses.values())
    whole = {lr: of for lr, of in losses.items() if len(of) == seeds}
    lr = min(whole, key=lambda lr: statistics.mean(whole[lr]))
    return lr, whole[lr]


def sentence(rows: Sequence[dict[str, Any]], tokens: int) -> str:
    (our_lr, ours), (their_lr, theirs) = (best_rate(rows, name) for name in OPTIMIZERS)
    difference, margin = mean_and_margin([a - b for a, b in zip(ours, theirs, strict=True)])
    steps = {row["optimizer"]: row["steps"] for row in rows}
    share = statistics.mean(r["optimizer_share"] for r in rows if r["optimizer"] == OPTIMIZERS[0])
    grid = sorted({row["lr"] for row in rows})
    edge = [
        f"{name}'s best rate is at the edge of the grid"
        for name, lr in zip(OPTIMIZERS, (our_lr, their_lr), strict=True)
        if lr in (grid[0], grid[-1])
    ]
    return "; ".join([
        f"MuonClip {statistics.mean(ours):.3f} at {our_lr:g} after {steps['muonclip']} steps, "
        f"AdamW {statistics.mean(theirs):.3f} at {their_lr:g} after {steps['adamw']} steps of "
        f"{tokens:,} tokens: {difference:+.3f} "
        + (f"± {margin:.3f} (95 %, {len(ours)} seeds)" if len(ours) > 1 else "(one seed)"),
        f"MuonClip takes {share:.0%} of a step's time",
        *edge,
    ])  # fmt: skip


def draw_losses(rows: Sequence[dict[str, Any]]) -> Figure:
    """Every run a dot, and the mean of the seeds as a line."""
    figure, axis = plt.subplots(figsize=(6, 4), constrained_layout=True)
    for name, colour in zip(OPTIMIZERS, ("C0", "C1"), strict=True):
        of = [row for row in rows if row["optimizer"] == name]
        axis.plot([r["lr"] for r in of], [r["held_out_loss"] for r in of], ".", color=colour)
        means = {lr: statistics.mean(of) for lr, of in losses_by_rate(rows, name).items()}
        axis.plot(*zip(*means.items(), strict=True), color=colour,
                  label=f"{name}, {of[0]['steps']} steps")  # fmt: skip
    axis.set(xlabel="learning rate", ylabel="held-out loss, each seed a dot", xscale="log")
    grid = sorted({row["lr"] for row in rows})
    axis.set_xticks(grid, [f"{lr:g}" for lr in grid])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


@app.command()
def clip(
    steps: Annotated[int, typer.Option(min=4, help="Of the two runs compared.")] = 40,
    beginning: Annotated[int, typer.Option(min=1, help="Steps before, not clipped.")] = 120,
    tokens: Annotated[int, typer.Option(min=1, help="Of a step of the two.")] = 65_536,
    seeds: Seeds = 3,
    threshold: float = 100.0,
    rate: Annotated[float, typer.Option(help="Ten times a useful one.")] = 0.02,
    learned: Learned = "demonstrations",
    out: Out = EVIDENCE,
) -> None:
    """The largest logit of every step at ten times a useful rate, which does not decay here.

    The beginning, until logits come near the threshold, is one run for both. Then batches are
    larger: the largest logit of 16,384 tokens differs by 5 % from batch to batch without learning.
    """
    rows = list[dict[str, Any]]()
    for seed in range(seeds):
        first = Schedule(
            steps=beginning,
            lr=rate,
            # AdamW's part stays at a useful rate.
            vocabulary_lr_scale=LESSONS[learned]().vocabulary_lr_scale,
            tokens_per_step=BEGINNING_TOKENS,
            weight_decay=0.0,
            seed=seed,
            qk_clip_threshold=math.inf,
            save_every=20,
        )
        start = runs.RUNS / "clip" / learned / f"beginning_{rate:g}_{beginning}_{seed}"
        train(Run("muonclip", learned, first), start)
        later = replace(first, steps=beginning + steps, tokens_per_step=tokens, save_every=5)
        for name, limit in (("QK-clip", threshold), ("no clip", math.inf)):
            schedule = replace(later, qk_clip_threshold=limit)
            folder = start.with_name(f"{name}_{steps}_{tokens}_after_{start.name}")
            found = go_on(start, Run("muonclip", learned, schedule), folder)
            rows.append({"clip": name, "seed": seed, "lr": rate, "beginning": beginning} | found)
            print(f"{name}, seed {seed}: largest {max(found['largest_logits']):.1f}", flush=True)
    save(
        out,
        "clip",
        claim=f"QK-clip holds the largest attention logit at a learning rate of {rate:g}",
        bar=f"unclipped above {threshold:g} and rising, clipped within 5 % of it",
        result=said_of_clip(rows, threshold),
        command=f"python benchmarks/training/optimizers.py clip --of {learned} --steps {steps} "
        f"--beginning {beginning} --tokens {tokens} --seeds {seeds} --rate {rate:g}",
        rows=rows,
        figure=draw_logits(rows, threshold),
    )


def said_of_clip(rows: Sequence[dict[str, Any]], threshold: float) -> str:
    """Of each seed: the unclipped logits where the two part, halfway on and at their highest, and
    the highest clipped one."""
    free, held = ([r for r in rows if r["clip"] == name] for name in ("no clip", "QK-clip"))
    rising = []
    for row in free:
        logits, parted = row["largest_logits"], row["beginning"]
        halfway = (parted + len(logits)) // 2
        of = (max(logits[:parted]), max(logits[:halfway]), max(logits))
        rising.append(", ".join(f"{x:.0f}" for x in of))
    highest = [max(r["largest_logits"]) for r in held]
    clipped = [x for r in held for x in after_first_clip(r["largest_logits"], threshold)]
    above = sum(x > 1.05 * threshold for x in clipped)
    losses = [statistics.mean(r["held_out_loss"] for r in of) for of in (free, held)]
    return (
        f"largest logit without clip up to where the two part, halfway on and in all: "
        f"{'; '.join(rising)}; with clip {', '.join(f'{x:.1f}' for x in highest)}, more than 5 % "
        f"above {threshold:g} in {above} of the {len(clipped)} steps from the first clip on; "
        f"held-out loss without clip {losses[0]:.2f}, with {losses[1]:.2f}; {len(free)} seeds"
    )


def after_first_clip(logits: Sequence[float], threshold: float) -> Sequence[float]:
    first = next((i for i, logit in enumerate(logits) if logit > threshold), len(logits))
    return logits[first + 1 :]


def draw_logits(rows: Sequence[dict[str, Any]], threshold: float) -> Figure:
    figure, axis = plt.subplots(figsize=(7, 4), constrained_layout=True)
    colours = {"no clip": "C1", "QK-clip": "C0"}
    for row in sorted(rows, key=lambda row: row["clip"]):
        label = row["clip"] if row["seed"] == 0 else None
        axis.plot(row["largest_logits"], colours[row["clip"]], label=label, linewidth=0.8)
    axis.axhline(threshold, color="grey", linewidth=0.5)
    axis.axvline(rows[0]["beginning"], color="grey", linewidth=0.5, linestyle=":")
    axis.set(xlabel="step", ylabel="largest attention logit")
    axis.legend()
    return figure


@app.command()
def spikes(
    folder: Annotated[Path, typer.Option(help="Of the stages' runs.")] = Path("runs/tiny"),
    stage: Annotated[list[str] | None, typer.Option(help="Can be repeated.")] = None,
    out: Out = EVIDENCE,
) -> None:
    """How far losses and gradients of a run rose above those of the steps before. A stage whose
    run is not in the folder keeps the row that it has."""
    earlier = {row["stage"]: row for row in rows_of(out, "spikes")}
    rows = [
        earlier[name]
        if name in earlier and not (folder / name / "metrics.jsonl").exists()
        else spikes_of(folder / name)
        for name in stage or STAGES
    ]
    shares = ", ".join(
        f"{r['stage']} {r['optimizer_share']:.0%} at {r['tokens_per_step']:,.0f} tokens"
        for r in rows
    )
    save(
        out,
        "spikes",
        claim="the bundled model was trained without spikes",
        bar=f"no loss or gradient norm above {SPIKE:g} times the median of the {USUAL} steps "
        "before it",
        result=f"{sum(r['spikes'] for r in rows)} in {sum(r['steps'] for r in rows):,} steps; "
        f"largest loss {max(r['largest_loss'] for r in rows):.1f} times, largest gradient norm "
        f"{max(r['largest_gradient'] for r in rows):.1f} times, largest logit "
        f"{max(r['largest_logit'] for r in rows):.0f}; the optimizer's share of a step: {shares}",
        command="python benchmarks/training/optimizers.py spikes",
        rows=rows,
    )


def spikes_of(folder: Path) -> dict[str, Any]:
    """The row of one stage's run."""
    log = runs.read_log(folder)
    norms, losses = (rises([row[key] for row in log]) for key in ("gradient_norm", "loss"))
    return {
        "stage": folder.name,
        "steps": len(log),
        "spikes": sum(rise > SPIKE for rise in (*norms, *losses)),
        "largest_gradient": max(norms),
        "largest_loss": max(losses),
        "largest_logit": max(row["max_logit"] for row in log),
        "tokens_per_step": statistics.mean(row["tokens"] for row in log),
        "optimizer_share": statistics.mean(row["optimizer_share"] for row in log),
    }


def rises(values: Sequence[float]) -> list[float]:
    """Each value over the median of those before it."""
    return [
        values[i] / statistics.median(values[max(0, i - USUAL) : i])
        for i in range(ENOUGH, len(values))
    ]


if __name__ == "__main__":
    app()
