"""Training runs that a script compares. Each goes on where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from baltoro.config import to_json
from baltoro.model.transformer import Transformer
from baltoro.train.data import Sample, make_batches
from baltoro.train.loss import summed_cross_entropy
from baltoro.train.trainer import Trainer

RUNS = Path("runs/evidence")


def finish(trainer: Trainer, config: Any) -> list[dict[str, Any]]:
    """Train to the last step and return the log. A folder of another `config` is begun anew."""
    kept = trainer.folder / "run.json"
    same = kept.exists() and kept.read_text() == to_json(config)
    trainer.run(config, resume=same)
    return read_log(trainer.folder)


def read_log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@dataclass(frozen=True)
class Score:
    """What a model knows of samples."""

    loss: float  # mean, of a learned token
    right: int  # learned tokens that are the most likely ones
    n: int  # learned tokens


@torch.no_grad()
def score(model: Transformer, samples: Sequence[Sample]) -> Score:
    model.eval()
    loss, right, n = 0.0, 0, 0
    for batch in make_batches(list(samples), 8192):
        hidden, head = model.hidden_and_head(batch.inputs, batch.lengths)
        chosen, targets = hidden[batch.learned], batch.targets[batch.learned]
        loss += float(summed_cross_entropy(chosen, head, targets))
        right += int(((chosen @ head.T).argmax(dim=-1) == targets).sum())
        n += len(targets)
    return Score(loss / n, right, n)
