"""Rejection sampling as a stage of its own: a checkpoint's right attempts as demonstrations.

    baltoro train sft recipes/evidence/sft.toml
    python benchmarks/training/rejection.py --config recipes/evidence/rl.toml \\
        --rate 2.5e-4 --rate 5e-4 --rate 1e-3

Attempts at training problems come from what a configuration of reinforcement learning starts from,
and the shortest right one of each problem is learned, beside the demonstrations that keep other
skills alive. `--problems` and `--steps` are to take the time that `rl_curves.py` takes, and unseen
problems are those of its looks. The first seed goes through the rates, the others take
the best. Writes `rejection.json` with how far the first variant of `rl.json` is ahead.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from answers import EVIDENCE, Out, rows_of, save
from baltoro.chat.tokenizer import Tokenizer
from baltoro.config import load_toml
from baltoro.model.transformer import Transformer
from baltoro.rl.config import RlConfig
from baltoro.rl.rejection import sample_right
from baltoro.rl.rollout import Rollouts
from baltoro.rl.train import make_policy, read_tasks
from baltoro.train.data import Sample
from baltoro.train.load import load_model
from baltoro.train.schedule import Schedule
from baltoro.train.sft import Phase, demonstration
from baltoro.train.trainer import Trainer
from rl_curves import best_rate, interval, said_of_lead, said_of_variant
from training_runs import RUNS, finish

SHARE = 0.85  # of the samples are right attempts, the others are to keep other skills alive
NAME = "rejection, a stage of its own"


@dataclass(frozen=True)
class Learned:
    """What a run is decided by."""

    schedule: Schedule
    attempts: str  # file


def main(
    config: Annotated[Path, typer.Option(help="A configuration of `baltoro train rl`.")],
    out: Out = EVIDENCE,
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = RUNS / "rejection",
    problems: Annotated[int, typer.Option(min=1, help="Of each task.")] = 350,
    attempts: Annotated[int, typer.Option(min=1, help="At each problem.")] = 4,
    steps: Annotated[int, typer.Option(min=3, help="Of training.")] = 350,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    rate: Annotated[list[float] | None, typer.Option(help="Can be repeated.")] = None,
) -> None:
    given, rows = load_toml(RlConfig, config), list[dict[str, Any]]()
    grid = rate or [given.schedule["lr"]]
    for seed in range(seeds):
        file = runs / f"right_{problems}_{attempts}_{seed}.jsonl"
        sampled = sample(given, file, problems, attempts, seed)
        for lr in [best_rate(rows, NAME)] if seed else grid:
            schedule = Schedule(
                steps=steps,
                lr=lr,
                tokens_per_step=4096,
                warmup_steps=5,
                decay_from=2 * steps // 3,
                router_bias_rate=0.0,
                quantize_from=0,
                seed=seed,
                save_every=60,
            )
            row = {"variant": NAME, "lr": lr, "seed": seed, "steps": steps}
            rows.append(row | learn(given, file, schedule, sampled["seconds"]))
            print(json.dumps(rows[-1]), flush=True)
    best = [row for row in rows if row["lr"] == best_rate(rows, NAME)]
    said, curves = said_of_variant(best), rows_of(out, "rl")
    if curves:
        name = curves[0]["variant"]
        of = [r for r in curves if (r["variant"], r["lr"]) == (name, best_rate(curves, name))]
        said += said_of_lead(of[: len(best)], best[: len(of)])
    save(
        out,
        "rejection",
        claim="reinforcement learning is above rejection sampling as a stage of its own",
        bar="more of the tasks right after the same compute",
        result=said,
        command=f"python benchmarks/training/rejection.py --config {config} --problems {problems} "
        f"--attempts {attempts} --steps {steps} --seeds {seeds}"
        + "".join(f" --rate {lr:g}" for lr in rate or ()),
        rows=rows,
    )


def sample(
    config: RlConfig, file: Path, problems: int, attempts: int, seed: int
) -> dict[str, float]:
    """Right attempts into `file`; the seconds that it took, kept beside it once it is whole."""
    done = file.with_suffix(".json")
    if not done.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        tokenizer = Tokenizer.load(config.tokenizer)
        policy = make_policy(
            config, load_model(config.init, config.model, config.yarn), tokenizer, 1
        )
        started, rows = time.perf_counter(), list[dict[str, Any]]()
        for task in read_tasks(config, "the configuration").values():
            of = sample_right(
                policy.chat_model(),
                task,
                problems,
                attempts,
                seed=seed,
                temperature=config.temperature,
                concurrency=config.concurrency,
            )
            rows += asyncio.run(of)
        seconds = time.perf_counter() - started
        policy.close()
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        done.write_text(json.dumps({"seconds": seconds, "kept": len(rows)}))
    return json.loads(done.read_text())


def learn(config: RlConfig, file: Path, schedule: Schedule, sampling: float) -> dict[str, Any]:
    """What is right of unseen problems after the attempts of `file` were learned."""
    tokenizer = Tokenizer.load(config.tokenizer)
    model = load_model(config.init, config.model, config.yarn)
    phase = Phase(
        until=schedule.steps,
        mixture=config.ptx_mixture,
        longest=1,
        trajectories={str(file): SHARE if config.ptx_mixture else 1.0},
    )

    def make(rng: random.Random) -> Sample:
        return demonstration(rng, tokenizer, phase)

    folder = file.with_name(f"{file.stem}_{schedule.steps}_{schedule.lr:g}")
    before = unseen(config, model, tokenizer)
    log = finish(Trainer(model, schedule, lambda step: make, folder), Learned(schedule, str(file)))
    after = unseen(config, model, tokenizer)
    training = sum(row["tokens"] / row["tokens_per_s"] for row in log)
    return {
        "seconds": sampling + training,
        "sampling_seconds": sampling,
        "tasks": {
            name: {"n": after[name]["n"], "before": interval(before[name]),
                   "after": interval(after[name])}
            for name in after
        },
    }  # fmt: skip


def unseen(config: RlConfig, model: Transformer, tokenizer: Tokenizer) -> dict[str, dict[str, Any]]:
    """Shares right of the problems that a run of reinforcement learning looks at."""
    policy = make_policy(config, model, tokenizer, 1)
    looks = Rollouts(policy, read_tasks(config, "the configuration"), 1, config.concurrency)
    found = looks.look(config.eval_problems, config.eval_temperature)
    policy.close()
    return found


if __name__ == "__main__":
    typer.run(main)
