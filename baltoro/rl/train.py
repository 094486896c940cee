"""Reinforcement learning from verifiable rewards.

    baltoro train rl recipes/tiny/rl.toml

Each step: attempts at problems by the engine, rewards by the tasks' verifiers, one update of the
trainer's weights, and those weights back into the engine. A run is a function of its configuration:
problems and samples depend on seed, step and weights alone, so a resumed run goes on as it would
have.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from baltoro.chat.tokenizer import Tokenizer
from baltoro.config import BaltoroError, from_mapping, load_toml
from baltoro.model.transformer import Transformer
from baltoro.rl.advantage import rewards_of, with_variance
from baltoro.rl.batch import RolloutBatch, make_rollout_batches
from baltoro.rl.config import RlConfig
from baltoro.rl.curriculum import Curriculum
from baltoro.rl.loss import token_log_probs
from baltoro.rl.plots import plot_rl
from baltoro.rl.policy import EndpointPolicy, EnginePolicy, Policy
from baltoro.rl.replay import replayed
from baltoro.rl.rollout import Rollouts, TaskSettings, summary
from baltoro.rl.trajectory import Experts, Segment, Trajectory
from baltoro.tasks.mixture import converse
from baltoro.train.data import Sample, draw_samples, sample_of
from baltoro.train.export import export_checkpoint
from baltoro.train.folder import RunFolder, append_row
from baltoro.train.load import load_model
from baltoro.train.qat import set_fake_quantization
from baltoro.train.ranks import started_by_torchrun
from baltoro.train.schedule import Schedule
from baltoro.train.updater import Updater, use_threads

LOGGED_SAMPLES = 2  # conversations of each step that are written to samples.jsonl


def run(config_path: str | Path, resume: bool = False) -> Transformer:
    """Train as the TOML file says and export the result; returns the model."""
    if started_by_torchrun():
        raise BaltoroError("train rl runs in one process. Start it without torchrun.")
    config = load_toml(RlConfig, config_path)
    schedule = from_mapping(Schedule, config.schedule, f"{config_path} [schedule]")
    tasks = read_tasks(config, f"{config_path} [[tasks]]")
    use_threads(schedule.threads)
    tokenizer = Tokenizer.load(config.tokenizer)
    model = load_model(config.init, config.model, config.yarn)
    out = Path(config.out)
    policy = make_policy(config, model, tokenizer, schedule.threads)
    try:
        RlTrainer(model, config, schedule, tasks, tokenizer, policy, out).run(resume)
    finally:
        policy.close()
    export_checkpoint(model, Path(config.tokenizer), out / "bf16", int4=False)
    export_checkpoint(model, Path(config.tokenizer), out / "int4", int4=True)
    return model


def read_tasks(config: RlConfig, where: str) -> dict[str, TaskSettings]:
    tasks = [from_mapping(TaskSettings, values, where) for values in config.tasks]
    if not tasks:
        raise BaltoroError(f"{where}: there is no task. Name at least one to learn.")
    names = [task.task for task in tasks]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BaltoroError(
            f"{where}: the task '{twice}' is there twice. Name it once; its weight says how often "
            "it is drawn."
        )
    return dict(zip(names, tasks, strict=True))


def make_policy(config: RlConfig, model: Transformer, tokenizer: Tokenizer, threads: int) -> Policy:
    if config.endpoint:
        folder = Path(config.out) / "for_endpoint"
        return EndpointPolicy(
            config.endpoint, config.endpoint_model, "", Path(config.tokenizer), folder
        )
    return EnginePolicy(
        model,
        tokenizer,
        activations=config.activations,
        threads=threads,
        max_context=config.max_context,
        num_sequences=config.concurrency,
    )


@dataclass
class RlTrainer:
    """One run in one folder: `latest.pt`, `metrics.jsonl`, `samples.jsonl`, `metrics.png`."""

    model: Transformer
    config: RlConfig
    schedule: Schedule
    tasks: dict[str, TaskSettings]
    tokenizer: Tokenizer
    policy: Policy
    folder: Path
    step: int = 0
    curriculum: Curriculum = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        self.curriculum = Curriculum({name: task.weight for name, task in self.tasks.items()})
        self.objective = config.make_objective()
        self.rollouts = Rollouts(self.policy, self.tasks, config.group_size, config.concurrency)
        self.looks = Rollouts(self.policy, self.tasks, 1, config.concurrency)
        self.updater = Updater(self.model, self.schedule)
        self.results = RunFolder(self.folder)
        set_fake_quantization(self.model, config.quantize)

    def run(self, resume: bool = False) -> Transformer:
        """Train to the last step. Raises `VerifierError` if a verifier crashes."""
        self.results.start(self.config, fresh=not resume)
        if resume:
            self.load_latest()
        with progress_bar() as bar:
            steps = self.schedule.steps
            task = bar.add_task(self.folder.name, total=steps, reward=0.0, speed=0.0)
            while self.step < steps:
                row = self.train_step()
                self.step += 1
                self.record(row)
                speed = row["rollout_tokens_per_s"]
                bar.update(task, completed=self.step, reward=row["reward"], speed=speed)
        return self.model

    def train_step(self) -> dict[str, Any]:
        """Roll out, learn, hand the new weights on; returns what is worth logging."""
        before = {"eval_before": self.evaluate()} if self.step == 0 else {}
        started = time.perf_counter()
        seed = f"{self.schedule.seed}/{self.step}"
        rng = random.Random(f"{seed}/tasks")
        names = [self.curriculum.draw(rng) for _ in range(self.config.groups)]
        temperature = self.config.temperature_at(self.step, self.schedule.steps)
        groups = self.rollouts.run(names, seed, temperature)
        rolled_out = time.perf_counter()
        for name, group in zip(names, groups, strict=True):
            self.curriculum.update(name, sum(s.right for s in group) / len(group))
        self.log_samples(groups)

        kept = with_variance(groups) if self.objective.relative else groups
        row = summary(groups) | {"step": self.step, "temperature": temperature, "kept": len(kept)}
        if kept or self.config.ptx_weight:
            row |= self.learn(kept, temperature)
        pushed = time.perf_counter()
        self.policy.push(self.model)
        now = time.perf_counter()
        tokens = sum(sample.generated for group in groups for sample in group)
        return (
            before
            | row
            | {
                "rollout_tokens_per_s": tokens / (rolled_out - started),
                "rollout_seconds": rolled_out - started,
                "update_seconds": pushed - rolled_out,
                "push_seconds": now - pushed,
            }
        )

    def learn(self, kept: list[list[Trajectory]], temperature: float) -> dict[str, Any]:
        """Update the weights on groups whose rewards differ, and on demonstrations."""
        samples = [sample for group in kept for sample in group]
        advantages = self.objective.advantages(rewards_of(kept)).flatten() if kept else Tensor()
        experts = [[self.experts_of(s) for s in sample.segments] for sample in samples]
        batches = make_rollout_batches(samples, experts, self.schedule.tokens_per_batch)
        row: dict[str, Any] = {}
        for update in range(self.config.updates):
            self.updater.begin()
            gap = Gap()
            loss = sum(self.backward(b, advantages, temperature, gap) for b in batches)
            ptx = self.learn_demonstrations() if self.config.ptx_weight else 0.0
            done = self.updater.finish(self.step, loss + ptx, self.results.newest())
            if update == 0:  # later ones are not on what was sampled any more
                row = done | gap.row() | {"ptx_loss": ptx}
        return row

    def backward(
        self, batch: RolloutBatch, advantages: Tensor, temperature: float, gap: Gap
    ) -> float:
        """Add the gradients of one batch; returns its share of the step's mean loss."""
        with replayed(self.model, batch.experts):
            hidden, head = self.updater.forward(batch.inputs, batch.lengths)
            logprobs = token_log_probs(hidden[batch.learned], head, batch.targets, temperature)
        gap.add(logprobs.detach(), batch.old)
        of_batch = advantages[torch.tensor(batch.samples)]
        losses = self.objective.losses(logprobs, batch.old, batch.sample, of_batch)
        loss = losses.sum() / len(advantages)
        loss.backward()
        return float(loss.detach())

    def learn_demonstrations(self) -> float:
        """Add the gradients of the loss on demonstrations; returns its share."""

        def make(rng: random.Random) -> Sample:
            talk = converse(rng, self.config.ptx_mixture, "train")
            return sample_of(self.tokenizer, talk)

        samples = draw_samples(self.schedule.seed, self.step, self.config.ptx_tokens, make)
        return self.updater.learn(samples, self.config.ptx_weight)

    def experts_of(self, segment: Segment) -> Experts | None:
        """What the engine chose for every token; what the endpoint told, if it is one."""
        if not self.config.router_replay:
            return None
        experts = self.policy.experts_of(segment.ids)
        config = self.model.config
        if experts is None and any(choices is not None for choices in segment.experts):
            return segment.known_experts(len(self.model.routers()), config.num_experts_per_tok)
        return experts

    def evaluate(self) -> dict[str, Any]:
        return self.looks.look(self.config.eval_problems, self.config.eval_temperature)

    def record(self, row: dict[str, Any]) -> None:
        """Log a finished step; look at unseen problems, plot and save when it is time to."""
        last = self.step == self.schedule.steps
        if last or self.step % self.schedule.eval_every == 0:
            row["eval"] = self.evaluate()
        self.results.log(row)
        if "eval" in row:
            plot_rl(self.folder)
        if last or self.step % self.schedule.save_every == 0:
            self.save_latest()

    def log_samples(self, groups: list[list[Trajectory]]) -> None:
        """A few of the step's conversations, to be read."""
        for group in groups[:LOGGED_SAMPLES]:
            sample = group[0]
            append_row(
                self.results.samples,
                {
                    "step": self.step,
                    "task": sample.task,
                    "reward": sample.reward,
                    "group_rewards": [s.reward for s in group],
                    "stop_reason": sample.stop_reason,
                    "messages": sample.messages,
                },
            )

    def save_latest(self) -> None:
        state = self.updater.state_dict() | {"pass_rates": self.curriculum.pass_rates}
        self.results.save(self.step, state, self.model.config)

    def load_latest(self) -> None:
        state = self.results.load()
        if state is not None:
            self.step = state["step"]
            self.updater.load_state_dict(state)
            self.curriculum.pass_rates = state["pass_rates"]
            self.policy.push(self.model)


class Gap:
    """How far the trainer's log-probs are from those that the tokens were sampled with."""

    def __init__(self) -> None:
        self.count, self.total, self.largest, self.kl, self.surprise = 0, 0.0, 0.0, 0.0, 0.0

    def add(self, trainer: Tensor, engine: Tensor) -> None:
        difference = trainer - engine
        self.count += len(difference)
        if len(difference):
            self.total += float(difference.abs().sum())
            self.largest = max(self.largest, float(difference.abs().max()))
            # Unbiased and never negative: http://joschu.net/blog/kl-approx.html, k3.
            self.kl += float((difference.exp() - 1 - difference).sum())
            self.surprise -= float(engine.sum())

    def row(self) -> dict[str, float]:
        n = max(self.count, 1)
        return {
            "gap_mean": self.total / n,
            "gap_max": self.largest,
            "gap_kl": self.kl / n,
            "surprise": self.surprise / n,
            "trained_tokens": self.count,
        }


def progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("reward {task.fields[reward]:.3f}  {task.fields[speed]:.0f} tok/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
