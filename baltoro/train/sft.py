"""Supervised fine-tuning on demonstrations, with INT4 rounding in its last part.

baltoro train sft recipes/tiny/sft.toml
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from baltoro.chat.template import render_training
from baltoro.chat.tokenizer import Tokenizer
from baltoro.config import BaltoroError, check_least, from_mapping, load_toml
from baltoro.model.transformer import Transformer
from baltoro.tasks.mixture import converse, find_task, pose_all
from baltoro.train.data import Sample, sample_of
from baltoro.train.documents import DOCUMENTS, Document
from baltoro.train.export import export_checkpoint
from baltoro.train.load import load_model
from baltoro.train.ranks import join_ranks, started_by_torchrun
from baltoro.train.schedule import Schedule
from baltoro.train.sharded import make_trainer
from baltoro.train.trainer import teacher_forced
from baltoro.train.weak_keys import copying_losses, learn_only_rows, weak_keys, worst

EVAL_TOKENS = 24_576  # of the unseen problems of a task, about: attention is dear in long ones


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One stretch of the curriculum."""

    until: int  # the step at which it ends
    mixture: dict[str, float]  # name of a task -> weight
    longest: int = 2  # problems in one conversation, at most
    rehearsal: dict[str, float] = field(default_factory=dict)  # document -> share of the samples
    trajectories: dict[str, float] = field(default_factory=dict)  # JSON lines file -> share


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """One SFT run."""

    model: str  # name of a preset
    tokenizer: str  # folder of tiktoken.model and tokenizer_config.json
    init: str  # run folder, checkpoint folder or bundled model whose weights it starts from
    out: str  # folder of the run
    phases: list[dict[str, Any]]  # fields of Phase, in order
    schedule: dict[str, Any] = field(default_factory=dict)  # fields of Schedule
    # Learn only embedding and head of this many tokens, those copied worst, see train/weak_keys.py.
    weak_rows: int = 0
    weak_share: float = 1.0  # of the tokens that are measured to find those
    eval_problems: int = 32  # unseen ones of each task, each time the run looks at them
    # Fields of YarnConfig that this stage changes, for a longer context: { factor = 16.0 }.
    yarn: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_least(self, 1, "eval_problems")


def run(config_path: str | Path, resume: bool = False) -> Transformer:
    """Train as the TOML file says and export the result; returns the model."""
    config = load_toml(SftConfig, config_path)
    schedule = from_mapping(Schedule, config.schedule, f"{config_path} [schedule]")
    phases = [from_mapping(Phase, p, f"{config_path} [[phases]]") for p in config.phases]
    check_phases(phases, schedule.steps, config.weak_rows, config_path)
    tokenizer = Tokenizer.load(config.tokenizer)
    model = load_model(config.init, config.model, config.yarn)

    def phase_at(step: int) -> Phase:
        return next(p for p in phases if step < p.until)

    documents = dict(DOCUMENTS)
    if config.weak_rows:
        documents["weak_keys"] = mend_rows(model, tokenizer, config.weak_rows, config.weak_share)

    def make_sample(step: int) -> Callable[[random.Random], Sample]:
        return lambda rng: demonstration(rng, tokenizer, phase_at(step), documents)

    unseen = unseen_samples(tokenizer, phases[-1], config.eval_problems)

    def evaluate(model: Transformer) -> dict[str, Any]:
        return {name: teacher_forced(model, samples) for name, samples in unseen.items()}

    out = Path(config.out)
    with join_ranks(schedule.expert_parallel) as ranks:
        make_trainer(model, schedule, make_sample, out, evaluate, ranks=ranks).run(config, resume)
        export_checkpoint(model, Path(config.tokenizer), out / "bf16", int4=False)
        export_checkpoint(model, Path(config.tokenizer), out / "int4", int4=True)
    return model


def mend_rows(model: Transformer, tokenizer: Tokenizer, count: int, share: float) -> Document:
    """Let nothing but so many rows be learned, and return the documents that teach them.

    They are chosen by the weights that a run starts from, also when it goes on.
    """
    if started_by_torchrun():
        raise BaltoroError("weak_rows is for one process: start this stage without torchrun.")
    losses = copying_losses(model, tokenizer, share)
    learn_only_rows(model, worst(losses, count, tokenizer))
    return weak_keys(losses)


def demonstration(
    rng: random.Random,
    tokenizer: Tokenizer,
    phase: Phase,
    documents: Mapping[str, Document] = DOCUMENTS,
) -> Sample:
    """A sample of a phase, of the training split."""
    others = phase.rehearsal | phase.trajectories
    if others:
        rest = max(0.0, 1.0 - sum(others.values()))
        (name,) = rng.choices([*others, ""], [*others.values(), rest])
        if name in documents:
            return documents[name](rng, tokenizer)
        if name:
            return trajectory(rng, tokenizer, name)
    talk = converse(rng, phase.mixture, "train", phase.longest)
    return sample_of(tokenizer, talk)


def trajectory(rng: random.Random, tokenizer: Tokenizer, file: str) -> Sample:
    """A conversation of `python -m baltoro.rl.rejection`, whose final turns are learned."""
    row = json.loads(rng.choice(read_lines(file)))
    return render_training(tokenizer, row["messages"], row["tools"])


@lru_cache(maxsize=16)
def read_lines(file: str) -> tuple[str, ...]:
    lines = tuple(Path(file).read_text().splitlines()) if Path(file).is_file() else ()
    if not lines:
        raise BaltoroError(
            f"there are no trajectories in {file}. Make them with python -m baltoro.rl.rejection."
        )
    return lines


def unseen_samples(tokenizer: Tokenizer, phase: Phase, most: int) -> dict[str, list[Sample]]:
    """Held-out demonstrations of each task, the same at every look: so many, or fewer long ones."""
    samples: dict[str, list[Sample]] = {}
    for name in phase.mixture:
        rng = random.Random(f"unseen/{name}")
        drawn = samples[name] = list[Sample]()
        while len(drawn) < most and sum(len(ids) for ids, _ in drawn) < EVAL_TOKENS:
            drawn.append(sample_of(tokenizer, pose_all(rng, [find_task(name)], "eval")))
    return samples


def check_phases(phases: list[Phase], steps: int, weak_rows: int, where: str | Path) -> None:
    for phase in phases:
        for name in phase.mixture:
            find_task(name)
        for file in phase.trajectories:
            read_lines(file)
        for name in phase.rehearsal:
            if name == "weak_keys" and not weak_rows:
                raise BaltoroError(f"{where}: documents of weak_keys need weak_rows, how many.")
            if name not in (*DOCUMENTS, "weak_keys"):
                known = ", ".join((*DOCUMENTS, "weak_keys"))
                raise BaltoroError(f"{where}: no documents named '{name}'. There are: {known}.")
    if not phases or phases[-1].until != steps:
        raise BaltoroError(f"{where}: the last phase must have until = {steps}, the last step.")
