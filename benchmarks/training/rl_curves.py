"""Reinforcement learning over several seeds: what was right before, after, and by what objective.

    baltoro train sft recipes/evidence/sft.toml
    python benchmarks/training/rl_curves.py --config recipes/evidence/rl.toml --seeds 3

Runs the configuration once for each seed and objective, resuming what was stopped, and writes
`rl.json` (shares right on unseen problems with 95 % intervals, gaps between trainer and engine)
and `rl.png` into `--out`. Negative results stay in.

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
    rate: Annotated[float | None, typer.Option(help="Instead of the configuration's.")] = None,
    ablations: Annotated[bool, typer.Option(help="Also without QAT and without replay.")] = False,
) -> None:
    variants: dict[str, dict[str, Any]] = {
        name: {"objective": name} for name in objective or ["mirror_descent", "rejection", "grpo"]
    }
    if ablations:
        variants["no_qat"] = {"quantize": False}
        variants["no_replay"] = {"router_replay": False}
    given = tomllib.loads(config.read_text())
    rows = []
    for name, changes in variants.items():
        steps = rejection_steps if name == "rejection" else given["schedule"]["steps"]
        schedule = schedule_of(given["schedule"], steps, rate)
        for seed in range(seeds):
            folder = runs / f"{name}_{schedule['lr']:g}_{steps}_{seed}"
            train(given | changes | {"schedule": schedule | {"seed": seed}}, folder)
            rows.append({"variant": name, "seed": seed, "run": folder.name} | result(folder))
            print(json.dumps(rows[-1]), flush=True)
    named = "".join(f" --objective {name}" for name in objective or [])
    named += f" --rate {rate:g}" if rate else ""
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
        figure=draw(rows, runs),
    )


def schedule_of(given: dict[str, Any], steps: int, rate: float | None) -> dict[str, Any]:
    """The configuration's, in another number of steps: the same share of them decays."""
    scaled = {"steps": steps, "lr": rate or given["lr"]}
    if "decay_from" in given:
        scaled["decay_from"] = round(given["decay_from"] * steps / given["steps"])
    return given | scaled


def sentence(rows: list[dict[str, Any]]) -> str:
    """Mean shares right before and after, seconds, and the mean gap to the engine, of each variant;
    and how far the first is ahead of it, seed by seed."""
    said, first = list[str](), list[dict[str, Any]]()
    for variant in dict.fromkeys(row["variant"] for row in rows):
        of = [row for row in rows if row["variant"] == variant]
        first = first or of
        tasks = [
            f"{name} {mean(r['tasks'][name]['before'][0] for r in of):.0%} to "
            f"{mean(r['tasks'][name]['after'][0] for r in of):.0%}"
            for name in of[0]["tasks"]
        ]
        said.append(
            f"{variant}, {of[0]['steps']} steps in {mean(r['seconds'] for r in of):.0f} s: "
            f"{', '.join(tasks)}, gap to the engine's log-probs "
            f"{mean(row['mean_gap'] for row in of):.4f}"
        )
        if len(said) > 1:
            ahead = [share_right(a) - share_right(b) for a, b in zip(first, of, strict=True)]
            points, margin = mean_and_margin([100 * share for share in ahead])
            sure = f"± {margin:.1f} (95 %, {len(ahead)} seeds)" if len(ahead) > 1 else "(one seed)"
            said[-1] += (
                f"; {first[0]['variant']} is {points:+.1f} {sure} points ahead, the mean of the "
                "tasks"
            )
    return "; ".join(said)


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
