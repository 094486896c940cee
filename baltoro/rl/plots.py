"""Pictures of a reinforcement learning run, made from its log."""

from __future__ import annotations

import json
from pathlib import Path

from baltoro.train.plots import save_figure, subplots


def plot_rl(folder: Path) -> None:
    """Draw `metrics.png`: reward, skills, length, trainer beside engine, logits, entropy."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows]
    figure, axes = subplots(2, 3)
    reward, skill, length, gap, logit, surprise = axes
    reward.plot(steps, [row["reward"] for row in rows], linewidth=0.7)
    reward.set_title("mean reward of the step's rollouts")
    evals = [row for row in rows if "eval" in row]
    for name in sorted({name for row in evals for name in row["eval"]}):
        points = [(r["step"] + 1, r["eval"][name]["right"]) for r in evals if name in r["eval"]]
        points = [(0, rows[0]["eval_before"][name]["right"]), *points]
        skill.plot(*zip(*points, strict=True), marker=".", label=name)
    skill.set_title("held-out: share right")
    skill.set_ylim(-0.02, 1.02)
    if evals:
        skill.legend(fontsize=7)
    length.plot(steps, [row["length"] for row in rows], linewidth=0.7)
    length.set_title("tokens generated per attempt")
    trained = [row for row in rows if "gap_mean" in row]
    at = [row["step"] for row in trained]
    gap.plot(at, [row["gap_mean"] for row in trained], linewidth=0.7, label="mean")
    gap.plot(at, [row["gap_max"] for row in trained], linewidth=0.7, label="largest")
    gap.set_title("log-prob of a token, trainer beside engine: distance")
    gap.legend(fontsize=7)
    if any(row["gap_max"] > 0 for row in trained):  # nothing to show has no logarithm
        gap.set_yscale("log")
    logit.plot(at, [row["max_logit"] for row in trained], linewidth=0.7)
    logit.set_title("largest attention logit before the softmax")
    surprise.plot(at, [row["surprise"] for row in trained], linewidth=0.7)
    surprise.set_title("mean surprise of a sampled token, nats")
    save_figure(figure, axes, folder / "metrics.png")
