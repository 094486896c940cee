"""Reinforcement learning over several seeds: what was right before, after, and by what objective.

    python benchmarks/training/rl_curves.py --config recipes/evidence/rl.toml --seeds 3

Runs the configuration once for each seed and objective, resuming what was stopped, and writes
`rl.json` (shares right on unseen problems with 95 % intervals, gaps between trainer and engine)
and `rl.png` into `--out`. Negative results stay in.
"""

from __future__ import annotations

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
    ablations: Annotated[bool, typer.Option(help="Also without QAT and without replay.")] = False,
) -> None:
    variants: dict[str, dict[str, Any]] = {
        name: {"objective": name} for name in objective or ["mirror_descent", "grpo", "rejection"]
    }
    if ablations:
        variants["no_qat"] = {"quantize": False}
        variants["no_replay"] = {"router_replay": False}
    named = "".join(f" --objective {name}" for name in objective or [])
    rows = []
    for name, changes in variants.items():
        for seed in range(seeds):
            folder = runs / f"{name}_{seed}"
            train(config, folder, seed, changes)
            rows.append({"variant": name, "seed": seed} | result(folder))
            print(json.dumps(rows[-1]))
    save(
        out,
        "rl",
        claim="reinforcement learning from verifiable rewards raises pass@1 on unseen problems",
        bar="by 20 points or more on at least 3 tasks, one with tools in several turns, and above "
        "rejection sampling given the same compute",
        result=sentence(rows),
        command=f"python benchmarks/training/rl_curves.py --config {config} --seeds {seeds}{named}",
        rows=rows,
        figure=draw(rows, runs),
    )


def sentence(rows: list[dict[str, Any]]) -> str:
    """Mean shares right before and after, and the mean gap to the engine, of each variant; and what
    each had reached when the first was done, beside the first seed by seed."""
    said, seconds, first = list[str](), None, list[dict[str, Any]]()
    for variant in dict.fromkeys(row["variant"] for row in rows):
        of = [row for row in rows if row["variant"] == variant]
        first = first or of
        seconds = seconds or mean(row["looks"][-1]["seconds"] for row in of)
        tasks = [
            f"{name} {mean(r['tasks'][name]['before'][0] for r in of):.0%} to "
            f"{mean(r['tasks'][name]['after'][0] for r in of):.0%}"
            for name in of[0]["tasks"]
        ]
        gap = mean(row["mean_gap"] for row in of)
        said.append(f"{variant}: {', '.join(tasks)}, gap to the engine's log-probs {gap:.4f}")
        if len(said) > 1:
            looks = [first_look_after(seconds, row["looks"]) for row in of]
            shares = [
                f"{name} {mean(x['right'][name] for x in looks):.0%}" for name in of[0]["tasks"]
            ]
            after = mean(look["seconds"] for look in looks)
            ahead = [of_all_tasks(ours["looks"][-1]) - of_all_tasks(theirs)
                     for ours, theirs in zip(first, looks, strict=True)]  # fmt: skip
            points, margin = mean_and_margin([100 * share for share in ahead])
            said[-1] += (
                f", after {after:.0f} s (first variant: {seconds:.0f} s) {', '.join(shares)}: the "
                f"first variant is {points:+.1f} ± {margin:.1f} points ahead, the mean of the tasks"
            )
    return "; ".join(said)


def of_all_tasks(look: dict[str, Any]) -> float:
    return mean(look["right"].values())


def first_look_after(seconds: float, looks: list[dict[str, Any]]) -> dict[str, Any]:
    """The last one if the run was done before."""
    return next((look for look in looks if look["seconds"] >= seconds), looks[-1])


def train(config: Path, folder: Path, seed: int, changes: dict[str, Any]) -> None:
    """One run, unless it is finished already. A folder of another configuration is begun anew."""
    values: dict[str, Any] = {**tomllib.loads(config.read_text()), **changes, "out": str(folder)}
    values["schedule"] |= {"seed": seed}
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
    tasks, looks, seconds = {}, [], 0.0
    for row in rows:
        seconds += row["rollout_seconds"] + row["update_seconds"] + row["push_seconds"]
        if "eval" in row:
            right = {name: look["right"] for name, look in row["eval"].items()}
            looks.append({"step": row["step"] + 1, "seconds": seconds, "right": right})
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
        "tasks": tasks,
        "looks": looks,
        "mean_gap": sum(gaps) / max(len(gaps), 1),
        "largest_logit": max((row["max_logit"] for row in rows if "max_logit" in row), default=0.0),
        "rollout_seconds": sum(row["rollout_seconds"] for row in rows),
        "update_seconds": sum(row["update_seconds"] for row in rows),
    }


def interval(look: dict[str, Any]) -> list[float]:
    """Share right and its 95 % Wilson interval."""
    low, high = wilson(round(look["right"] * look["n"]), look["n"])
    return [look["right"], low, high]


def draw(results: list[dict[str, Any]], runs: Path) -> Figure:
    """Held-out shares over the steps, a panel for each task, a line for each seed."""
    names = list(results[0]["tasks"])
    figure, axes = plt.subplots(
        1, len(names), figsize=(6 * len(names), 4), squeeze=False, constrained_layout=True
    )
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(r["variant"] for r in results))}
    for name, axis in zip(names, axes[0], strict=True):
        labelled = set[str]()
        for r in results:
            rows = read_log(runs / f"{r['variant']}_{r['seed']}")
            points = [(0, rows[0]["eval_before"][name]["right"])]
            points += [(w["step"] + 1, w["eval"][name]["right"]) for w in rows if "eval" in w]
            label = None if r["variant"] in labelled else r["variant"]
            labelled.add(r["variant"])
            axis.plot(*zip(*points, strict=True), color=colours[r["variant"]], label=label)
        axis.set(title=name, xlabel="step", ylabel="share right, unseen", ylim=(-0.02, 1.02))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    typer.run(main)
