"""Pretraining: every token of small documents, from random weights.

baltoro train pretrain recipes/tiny/pretrain.toml
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from baltoro.chat.tokenizer import Tokenizer
from baltoro.config import BaltoroError, from_mapping, load_toml, preset
from baltoro.model.transformer import Transformer
from baltoro.train.data import Sample
from baltoro.train.documents import DOCUMENTS
from baltoro.train.ranks import join_ranks
from baltoro.train.schedule import Schedule
from baltoro.train.sharded import make_trainer


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One pretraining run."""

    model: str  # name of a preset
    tokenizer: str  # folder of tiktoken.model and tokenizer_config.json
    out: str  # folder of the run
    documents: dict[str, float]  # kind of document -> weight
    schedule: dict[str, Any] = field(default_factory=dict)  # fields of Schedule


def run(config_path: str | Path, resume: bool = False) -> Transformer:
    """Train from random weights as the TOML file says; returns the model."""
    config = load_toml(PretrainConfig, config_path)
    schedule = from_mapping(Schedule, config.schedule, f"{config_path} [schedule]")
    for name in config.documents:
        if name not in DOCUMENTS:
            known = ", ".join(DOCUMENTS)
            raise BaltoroError(f"{config_path}: no documents named '{name}'. There are: {known}.")
    tokenizer = Tokenizer.load(config.tokenizer)
    torch.manual_seed(schedule.seed)
    model = Transformer(preset(config.model))
    start_head_from_embedding(model)

    def make(rng: random.Random) -> Sample:
        return document(rng, tokenizer, config.documents)

    with join_ranks(schedule.expert_parallel) as ranks:
        trainer = make_trainer(model, schedule, lambda step: make, Path(config.out), ranks=ranks)
        return trainer.run(config, resume)


def document(rng: random.Random, tokenizer: Tokenizer, weights: Mapping[str, float]) -> Sample:
    """One of the kinds that `weights` names."""
    (name,) = rng.choices(list(weights), list(weights.values()))
    return DOCUMENTS[name](rng, tokenizer)


@torch.no_grad()
def start_head_from_embedding(model: Transformer) -> None:
    """Let the output head begin as twice the embedding; from there each goes its own way.

    What attention copies from the context then raises the logit of the same token from the start,
    also for tokens that documents rarely hold. Twice: rows of standard deviation s give a copied
    token a logit of s D, which at s = 0.05 and D = 128 is less than the logarithm of the
    vocabulary, so even a perfect copy would not win.
    """
    model.lm_head.weight.copy_(2 * model.model.embed_tokens.weight)
