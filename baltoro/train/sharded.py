"""The trainer's loop on several ranks: the same batches, the same steps, one log.

A run does not depend on how many ranks it has, but for the order in which floats are added: it can
be stopped on four and resumed on one. See docs/training.md for how to start it.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.format_utils import torch_save_to_dcp
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.fsdp import FSDPModule

from baltoro.config import ModelConfig
from baltoro.model.transformer import Transformer
from baltoro.train.data import Batch, Sample
from baltoro.train.folder import RunFolder, whole_state
from baltoro.train.muonclip import local_part
from baltoro.train.ranks import Ranks
from baltoro.train.schedule import Schedule
from baltoro.train.sharded_muonclip import ShardedMuonClip
from baltoro.train.sharding import shard_model
from baltoro.train.trainer import Trainer
from baltoro.train.updater import Updater, use_threads


def make_trainer(
    model: Transformer,
    schedule: Schedule,
    make_sample: Callable[[int], Callable[..., Sample]],
    folder: Path,
    evaluate: Callable[[Transformer], dict[str, Any]] | None = None,
    *,
    ranks: Ranks | None,
) -> Trainer:
    if ranks is None:
        return Trainer(model, schedule, make_sample, folder, evaluate)
    return ShardedTrainer(model, schedule, make_sample, folder, evaluate, ranks=ranks)


@dataclass
class ShardedTrainer(Trainer):
    """A `Trainer` whose model is divided among `ranks`."""

    ranks: Ranks = field(kw_only=True)

    def __post_init__(self) -> None:
        use_threads(self.schedule.threads)
        self.updater = ShardedUpdater(self.model, self.schedule, self.ranks)
        self.results = self.shared_results = ShardedFolder(self.folder, self.ranks)
        self.shows_progress = self.ranks.is_first

    def record(self, row: dict[str, Any]) -> None:
        super().record(row)
        # A look without gradients leaves the gathered weights in place, and the next step would
        # compute with them again.
        cast(FSDPModule, self.model).reshard()

    def load_latest(self) -> None:
        state = self.shared_results.load_into(self.updater.state_dict())
        if state is not None:
            self.step = state["step"]
            self.updater.load_state_dict(state)


class ShardedUpdater(Updater):
    """An `Updater` whose gradients, logits and expert loads are those of all ranks together."""

    optimizer_type = ShardedMuonClip

    def __init__(self, model: Transformer, schedule: Schedule, ranks: Ranks):
        shard_model(model, ranks, schedule)
        super().__init__(model, schedule)
        self.ranks = ranks

    def backward(self, batch: Batch, divisor: float) -> float:
        return super().backward(self.ranks.share(batch), divisor)

    def forward(self, ids: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
        # The sharded model casts to the schedule's precision as it gathers.
        return self.model.hidden_and_head(ids, lengths)

    def finish(self, step: int, loss: float, saved: Path | None) -> dict[str, Any]:
        total = float(self.ranks.total(torch.tensor(loss, dtype=torch.float64)))
        for attention in self.model.attentions():
            assert attention.max_logits is not None
            attention.max_logits = self.ranks.largest(attention.max_logits)
        for router in self.model.routers():
            router.load.copy_(self.ranks.total(router.load))
        return super().finish(step, total, saved)

    def clip_gradients(self, max_norm: float) -> float:
        # Each number of a gradient lies on exactly one rank.
        gradients = [local_part(p.grad) for p in self.model.parameters() if p.grad is not None]
        squares = torch.stack([g.float().square().sum() for g in gradients]).sum()
        norm = math.sqrt(float(self.ranks.total(squares)))
        for g in gradients:
            g.mul_(min(1.0, max_norm / (norm + 1e-6)))
        return norm

    def state_dict(self) -> dict[str, Any]:
        self.optimizer.prepare_state()  # reading a checkpoint needs to know where things go
        state = super().state_dict()
        # A distributed checkpoint knows no keys but texts.
        by_text = {str(i): values for i, values in state["optimizer"]["state"].items()}
        return state | {"optimizer": state["optimizer"] | {"state": by_text}}


class ShardedFolder(RunFolder):
    """A run's folder that several ranks write: what each holds goes to `step-N/`."""

    def __init__(self, folder: Path, ranks: Ranks):
        super().__init__(folder)
        self.ranks = ranks

    def start(self, config: Any, *, fresh: bool) -> None:
        if self.ranks.is_first:
            super().start(config, fresh=fresh)
        dist.barrier()

    def log(self, row: dict[str, Any]) -> None:
        if self.ranks.is_first:
            super().log(row)

    def plot(self) -> None:
        if self.ranks.is_first:
            super().plot()

    def save(self, step: int, state: dict[str, Any], config: ModelConfig) -> None:
        target = self.step_folder(step)
        temporary = target.with_name(target.name + ".tmp")
        if self.ranks.is_first:
            shutil.rmtree(temporary, ignore_errors=True)
        dist.barrier()
        save(whole_state(step, state, config), checkpoint_id=temporary)
        if self.ranks.is_first:
            shutil.rmtree(target, ignore_errors=True)
            temporary.rename(target)
            self.forget_all_but(target)
        dist.barrier()

    def load_into(self, state: dict[str, Any]) -> dict[str, Any] | None:
        """`state` with what was saved last, on however many ranks; None if nothing was."""
        newest = self.newest()
        if newest is None:
            if self.ranks.is_first:
                self.cut_logs(0)
            return None
        if newest == self.latest:
            newest = self.folder / "one-rank.tmp"
            if self.ranks.is_first:
                torch_save_to_dcp(self.latest, newest)
            dist.barrier()
        state = {"step": 0} | state
        load(state, checkpoint_id=newest)
        dist.barrier()
        if self.ranks.is_first:
            shutil.rmtree(self.folder / "one-rank.tmp", ignore_errors=True)
            self.cut_logs(state["step"])
        return state
