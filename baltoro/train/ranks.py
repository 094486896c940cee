"""The processes of a run that torchrun started, and what they tell each other.

torchrun --nproc-per-node 4 --no-python baltoro train pretrain CONFIG.toml
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from baltoro.config import BaltoroError, ModelConfig
from baltoro.train.data import Batch


def started_by_torchrun() -> bool:
    """Whether this process is one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def join_ranks(expert_parallel: int) -> Iterator[Ranks | None]:
    """Meet the other processes, with NCCL on GPUs and gloo on CPUs, and part at the end.

    None where there is one process only.
    """
    if not started_by_torchrun():
        yield None
        return
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(expert_parallel, device)
    finally:
        dist.destroy_process_group()


class Ranks:
    """This process among all of them.

    `everyone` is the mesh over which dense weights are divided. `experts` has two dimensions: each
    row of ranks holds all experts once, divided among its `expert_parallel` ranks, and what such a
    rank holds is divided once more among the rows.
    """

    everyone: DeviceMesh  # ("ranks",)
    experts: DeviceMesh  # ("replicas", "experts")

    def __init__(self, expert_parallel: int, device: torch.device):
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        self.device = device
        self.is_first = self.rank == 0
        if expert_parallel < 1 or self.count % expert_parallel:
            raise BaltoroError(
                f"expert_parallel is {expert_parallel}, but there are {self.count} ranks: it must "
                "divide their number."
            )
        self.everyone = init_device_mesh(device.type, (self.count,), mesh_dim_names=("ranks",))
        self.experts = init_device_mesh(
            device.type,
            (self.count // expert_parallel, expert_parallel),
            mesh_dim_names=("replicas", "experts"),
        )

    def check(self, config: ModelConfig) -> None:
        """Raises `BaltoroError` if the experts can't be dealt out evenly."""
        if config.n_routed_experts % self.count:
            raise BaltoroError(
                f"{config.n_routed_experts} experts can't be divided among {self.count} ranks: "
                "each needs the same number of whole experts. Start a number of ranks that "
                f"divides {config.n_routed_experts}."
            )

    def share(self, batch: Batch) -> Batch:
        """This rank's samples of a batch, maybe none: it computes along all the same."""
        return batch.every(self.count, start=self.rank).to(self.device)

    def total(self, value: Tensor) -> Tensor:
        """The sum over all ranks, the same bits on each."""
        value = value.to(self.device, copy=True)
        dist.all_reduce(value, dist.ReduceOp.SUM)
        return value

    def largest(self, value: Tensor) -> Tensor:
        value = value.to(self.device, copy=True)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return value
