"""The arguments of a step, checked. The native engine repeats the checks of values in C++."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from baltoro.config import BaltoroError

if TYPE_CHECKING:
    from baltoro.kernels.step import StepModel

Ints = NDArray[np.int32]


@dataclass(frozen=True)
class StepArguments:
    """A batch whose every index is in range."""

    tokens: Ints
    positions: Ints
    sequence_of_token: Ints
    block_tables: Ints
    logit_rows: Ints
    blocks: Ints  # the block in which each token's latent goes (n)
    block_tokens: int

    @classmethod
    def checked(
        cls,
        model: StepModel,
        tokens: NDArray,
        positions: NDArray,
        sequence_of_token: NDArray,
        block_tables: NDArray,
        logit_rows: NDArray,
        expert_choices: NDArray | None,
    ) -> StepArguments:
        """Raises ValueError with what was found and what was needed."""
        tokens, positions, sequences, tables, logit_rows = check_shapes(
            model,
            tokens,
            positions,
            sequence_of_token,
            block_tables,
            logit_rows,
            expert_choices,
        )
        _check_range("tokens", tokens, model.config.vocab_size)
        _check_range("positions", positions, tables.shape[1] * model.block_tokens)
        _check_range("sequence_of_token", sequences, tables.shape[0])
        _check_range("logit_rows", logit_rows, len(tokens))
        _check_order(positions, sequences)
        for sequence, last in _last_positions(positions, sequences).items():
            used = tables[sequence, : last // model.block_tokens + 1]
            _check_range(f"block_tables[{sequence}]", used, model.num_blocks)
        return cls(
            tokens=tokens,
            positions=positions,
            sequence_of_token=sequences,
            block_tables=tables,
            logit_rows=logit_rows,
            blocks=tables[sequences, positions // model.block_tokens],
            block_tokens=model.block_tokens,
        )

    def context_slots(self, row: int) -> tuple[NDArray, NDArray]:
        """Block and slot of each position that token `row` sees."""
        positions = np.arange(self.positions[row] + 1)
        table = self.block_tables[self.sequence_of_token[row]]
        return table[positions // self.block_tokens], positions % self.block_tokens


def check_shapes(
    model: StepModel,
    tokens: NDArray,
    positions: NDArray,
    sequence_of_token: NDArray,
    block_tables: NDArray,
    logit_rows: NDArray,
    expert_choices: NDArray | None,
) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """The first five as contiguous int32. Raises ValueError for a shape or type that is unfit."""
    tokens = _vector("tokens", tokens)
    n = len(tokens)
    tables = _integers("block_tables", block_tables)
    if tables.ndim != 2:
        raise ValueError(f"block_tables has shape {tables.shape}; it needs two dimensions.")
    if expert_choices is not None:
        _check_expert_choices(model, expert_choices, n)
    return (
        tokens,
        _vector("positions", positions, n),
        _vector("sequence_of_token", sequence_of_token, n),
        tables,
        _vector("logit_rows", logit_rows),
    )


def check_cache_size(num_blocks: int, block_tokens: int) -> None:
    """Raises BaltoroError unless both are positive."""
    if num_blocks < 1 or block_tokens < 1:
        raise BaltoroError(
            f"a cache of {num_blocks} blocks of {block_tokens} tokens holds nothing. "
            "Give both at least 1."
        )


def check_block(block: int, num_blocks: int) -> None:
    """Raises ValueError if there is no such block."""
    if not 0 <= block < num_blocks:
        raise ValueError(f"there is no block {block}: the cache has blocks 0 to {num_blocks - 1}.")


def _integers(name: str, values: NDArray) -> Ints:
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"{name} has type {array.dtype}; it needs integers.")
    if array.dtype != np.int32 and np.any(array != array.astype(np.int32)):
        raise ValueError(f"{name} holds a number that 32 bits do not hold.")
    return np.ascontiguousarray(array, dtype=np.int32)


def _vector(name: str, values: NDArray, size: int | None = None) -> Ints:
    array = _integers(name, values)
    if array.ndim != 1 or (size is not None and array.size != size):
        wanted = "one dimension" if size is None else f"shape ({size},), one entry per token"
        raise ValueError(f"{name} has shape {array.shape}; it needs {wanted}.")
    return array


def _check_range(name: str, values: Ints, end: int) -> None:
    bad = (values < 0) | (values >= end)
    if bad.any():
        where = int(np.argmax(bad))
        raise ValueError(f"{name}[{where}] is {values[where]}; it must be from 0 to {end - 1}.")


def _check_order(positions: Ints, sequences: Ints) -> None:
    order = np.argsort(sequences, kind="stable")
    same = np.diff(sequences[order]) == 0
    bad = same & (np.diff(positions[order]) <= 0)
    if bad.any():
        sequence = sequences[order][1:][bad][0]
        raise ValueError(
            f"positions of sequence {sequence} do not ascend; give each token once, in order."
        )


def _last_positions(positions: Ints, sequences: Ints) -> dict[int, int]:
    return dict(zip(sequences.tolist(), positions.tolist(), strict=True))


def _check_expert_choices(model: StepModel, choices: NDArray, n: int) -> None:
    config = model.config
    moe_layers = sum(config.is_moe_layer(i) for i in range(config.num_hidden_layers))
    shape = (n, moe_layers, config.num_experts_per_tok)
    if choices.shape != shape or choices.dtype != np.int32 or not choices.flags.writeable:
        raise ValueError(
            f"expert_choices has shape {choices.shape} and type {choices.dtype}; it needs a "
            f"writable int32 array of shape {shape}."
        )
