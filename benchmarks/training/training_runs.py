"""Training runs that a script compares. Each goes on where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
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


@torch.no_grad()
def mean_loss(model: Transformer, samples: Sequence[Sample]) -> float:
    """Of a learned token."""
    model.eval()
    total, count = 0.0, 0
    for batch in make_batches(list(samples), 8192):
        hidden, head = model.hidden_and_head(batch.inputs, batch.lengths)
        targets = batch.targets[batch.learned]
        total += float(summed_cross_entropy(hidden[batch.learned], head, targets))
        count += len(targets)
    return total / count
