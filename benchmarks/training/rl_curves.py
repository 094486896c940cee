"""Reinforcement learning over several seeds: what was right before, after, and by what objective.

    baltoro train sft recipes/evidence/sft.toml
    python benchmarks/training/rl_curves.py --config recipes/evidence/rl.toml \\
        --rate 2.5e-4 --rate 5e-4

Runs the configuration once for each seed and objective, resuming what was stopped, and writes
`rl.json` (shares right on unseen problems with 95 % intervals, gaps between trainer and engine)
and `rl.png` into `--out`. Of several rates (`--rate`) the first seed goes through all, the others
take each objective's best. Negative results stay in.

Rejection sampling drops no groups, so that its steps take longer. `--rejection-steps` gives it as
many as take the other objectives' time, a whole schedule of its own.
"""

from __future__ import annotations

import itertools
import json
import shutil
import tomllib
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from answers import EVIDENCE, Out, mean_and_margin, save
from baltoro.evals.skills import wilson
from baltoro.rl.train import run
from training_runs import RUNS, read_log


def main(
    config: Annotated[Path, typer.Option(help="A configuration of `baltoro train rl`.")],
    out: Out = EVIDENCE,
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = RUNS / "rl",
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    objective: Annotated[list[str] | None, typer.Option(help="Can be repeated.")] = None,
    rejection_steps: Annotated[int, typer.Option(min=2, help="Of rejection sampling.")] = 44,
    rate: Annotated[list[float] | None, typer.Option(help="Can be repeated.")] = None,
    ablations: Annotated[bool, typer.Option(help="Also without QAT and without replay.")] = False,
) -> None:
    variants: dict[str, dict[str, Any]] = {
        name: {"objective": name} for name in objective or ["mirror_descent", "rejection", "grpo"]
    }
    if ablations:
        variants["no_qat"] = {"quantize": False}
        variants["no_replay"] = {"router_replay": False}
    given = tomllib.loads(config.read_text())
    grid = rate or [given["schedule"]["lr"]]
    rows = list[dict[str, Any]]()
    for name, changes in variants.items():
        steps = rejection_steps if name == "rejection" else given["schedule"]["steps"]
        for seed in range(seeds):
            for lr in [best_rate(rows, name)] if seed else grid:
                schedule = schedule_of(given["schedule"], steps, lr) | {"seed": seed}
                folder = runs / f"{name}_{lr:g}_{steps}_{seed}"
                train(given | changes | {"schedule": schedule}, folder)
                row = {"variant": name, "lr": lr, "seed": seed, "run": folder.name}
                rows.append(row | result(folder))
                print(json.dumps(rows[-1]), flush=True)
    named = "".join(f" --objective {name}" for name in objective or [])
    named += "".join(f" --rate {lr:g}" for lr in rate or [])
    named += " --ablations" if ablations else ""
    save(
        out,
        "rl",
        claim="reinforcement learning from verifiable rewards raises pass@1 on unseen problems",
        bar="by 20 points or more on at least 3 tasks, one with tools in several turns, and above "
        "rejection sampling given the same compute",
        result=sentence(rows),
        command=f"python benchmarks/training/rl_curves.py --config {config} --seeds {seeds} "
        f"--rejection-steps {rejection_steps}{named}",
        rows=rows,
        figure=draw([row for row in rows if row["lr"] == best_rate(rows, row["variant"])], runs),
    )


def best_rate(rows: list[dict[str, Any]], variant: str) -> float:
    """The one with which the first seed ended with most right."""
    of = [row for row in rows if row["variant"] == variant and row["seed"] == 0]
    return max(of, key=share_right)["lr"]


def schedule_of(given: dict[str, Any], steps: int, lr: float) -> dict[str, Any]:
    """The configuration's, in another number of steps: the same share of them decays."""
    scaled = {"steps": steps, "lr": lr}
    if "decay_from" in given:
        scaled["decay_from"] = round(given["decay_from"] * steps / given["steps"])
    return given | scaled


def sentence(rows: list[dict[str, Any]]) -> str:
    """What each variant gave at its best rate, and how far the first is ahead of it."""
    said, first = list[str](), list[dict[str, Any]]()
    for variant in dict.fromkeys(row["variant"] for row in rows):
        of_all = [row for row in rows if row["variant"] == variant]
        of = [row for row in of_all if row["lr"] == best_rate(rows, variant)]
        first = first or of
        others = [f"{share_right(r):.0%} at {r['lr']:g}" for r in of_all if r["lr"] != of[0]["lr"]]
        said.append(
            said_of_variant(of)
            + (f" (the first seed {share_right(of[0]):.0%}, {', '.join(others)})" if others else "")
            + (said_of_lead(first, of) if of is not first else "")
        )
    return "; ".join(said)


def said_of_variant(rows: list[dict[str, Any]]) -> str:
    """Means over the seeds: seconds, shares right before and after, and any gap to the engine."""
    tasks = [
        f"{name} {mean(r['tasks'][name]['before'][0] for r in rows):.0%} to "
        f"{mean(r['tasks'][name]['after'][0] for r in rows):.0%}"
        for name in rows[0]["tasks"]
    ]
    gaps = [row["mean_gap"] for row in rows if "mean_gap" in row]
    return (
        f"{rows[0]['variant']} at {rows[0]['lr']:g}, {rows[0]['steps']} steps in "
        f"{mean(r['seconds'] for r in rows):.0f} s: {', '.join(tasks)}, in the mean "
        f"{mean(map(share_right, rows)):.1%}"
        + (f", gap to the engine's log-probs {mean(gaps):.4f}" if gaps else "")
    )


def said_of_lead(first: list[dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    """How many points the first variant's mean of the tasks is ahead, seed by seed."""
    ahead = [100 * (share_right(a) - share_right(b)) for a, b in zip(first, rows, strict=True)]
    points, margin = mean_and_margin(ahead)
    sure = f"± {margin:.1f} (95 %, {len(ahead)} seeds)" if len(ahead) > 1 else "(one seed)"
    return f": {first[0]['variant']} is {points:+.1f} {sure} points ahead"


def share_right(row: dict[str, Any]) -> float:
    """After the last step, the mean of the tasks."""
    return mean(task["after"][0] for task in row["tasks"].values())


def train(values: dict[str, Any], folder: Path) -> None:
    """One run, unless it is finished already. A folder of another configuration is begun anew."""
    values = values | {"out": str(folder)}
    own = folder / "config.toml"
    if own.exists() and tomllib.loads(own.read_text()) | {"out": str(folder)} != values:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    own.write_text(to_toml(values))
    if not (folder / "int4" / "config.json").exists():
        run(own, resume=True)


def to_toml(values: dict[str, Any]) -> str:
    """What a configuration of a run needs of TOML: values, tables and lists of tables."""

    def line(key: str, value: Any) -> str:
        if isinstance(value, dict):
            return f"{key} = {{ {', '.join(line(k, v) for k, v in value.items())} }}"
        return f"{key} = {json.dumps(value)}"

    plain = [line(k, v) for k, v in values.items() if k not in ("tasks", "schedule")]
    tables = [["[[tasks]]", *(line(k, v) for k, v in t.items())] for t in values["tasks"]]
    schedule = ["[schedule]", *(line(k, v) for k, v in values["schedule"].items())]
    return "\n".join(["\n".join(block) for block in (plain, *tables, schedule)]) + "\n"


def result(folder: Path) -> dict[str, Any]:
    rows = read_log(folder)
    gaps = [row["gap_mean"] for row in rows if "gap_mean" in row]
    tasks = {}
    for name, after in rows[-1]["eval"].items():
        before = rows[0]["eval_before"][name]
        tasks[name] = {
            "n": after["n"],
            "before": interval(before),
            "after": interval(after),
            "points": 100 * (after["right"] - before["right"]),
        }
    return {
        "steps": len(rows),
        "seconds": sum(seconds_of(row) for row in rows),
        "tasks": tasks,
        "mean_gap": sum(gaps) / max(len(gaps), 1),
        "largest_logit": max((row["max_logit"] for row in rows if "max_logit" in row), default=0.0),
        "rollout_seconds": sum(row["rollout_seconds"] for row in rows),
        "update_seconds": sum(row["update_seconds"] for row in rows),
    }


def seconds_of(row: dict[str, Any]) -> float:
    """Of a step without looks at unseen problems."""
    return row["rollout_seconds"] + row["update_seconds"] + row["push_seconds"]


def interval(look: dict[str, Any]) -> list[float]:
    """Share right and its 95 % Wilson interval."""
    low, high = wilson(round(look["right"] * look["n"]), look["n"])
    return [look["right"], low, high]


def draw(results: list[dict[str, Any]], runs: Path) -> Figure:
    """Held-out shares over the seconds spent, a panel for each task, a line for each seed."""
    names = list(results[0]["tasks"])
    figure, axes = plt.subplots(
        1, len(names), figsize=(5 * len(names), 4), squeeze=False, constrained_layout=True
    )
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(r["variant"] for r in results))}
    for name, axis in zip(names, axes[0], strict=True):
        labelled = set[str]()
        for r in results:
            rows = read_log(runs / r["run"])
            spent = list(itertools.accumulate(seconds_of(row) for row in rows))
            points = [(0.0, rows[0]["eval_before"][name]["right"])]
            points += [
                (s, row["eval"][name]["right"])
                for s, row in zip(spent, rows, strict=True)
                if "eval" in row
            ]
            label = None if r["variant"] in labelled else r["variant"]
            labelled.add(r["variant"])
            axis.plot(*zip(*points, strict=True), color=colours[r["variant"]], label=label)
        axis.set(title=name, xlabel="seconds", ylabel="share right, unseen", ylim=(-0.02, 1.02))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    typer.run(main)
