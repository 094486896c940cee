"""The blocks of finished sequences, kept for the next turn of the same conversation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from baltoro.engine.blocks import BlockManager


class PrefixCache(Protocol):
    """Finds computed blocks by the token ids they stand for."""

    def match(self, ids: Sequence[int]) -> list[int]:
        """Blocks of the longest known beginning of `ids`, held for the caller."""
        ...

    def keep(self, ids: Sequence[int], blocks: Sequence[int]) -> None:
        """Take over the caller's hold on `blocks`, the latents of all of `ids`."""
        ...

    def evict(self, num_free: int) -> None:
        """Let go of blocks until `num_free` are free or nothing is kept any more."""
        ...

    def clear(self) -> None:
        """Let go of everything, because the weights have changed."""
        ...


class FinishedSequences:
    """A prefix cache that keeps whole finished sequences, the least recently used go first.

    A lookup compares with every kept sequence. Only full blocks are kept and shared, so
    nothing is ever copied or written twice.
    """

    def __init__(self, blocks: BlockManager):
        self._manager = blocks
        self._kept: OrderedDict[tuple[int, ...], NDArray[np.int64]] = OrderedDict()  # by blocks

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def num_blocks(self) -> int:
        """How many different blocks are kept."""
        return len({block for blocks in self._kept for block in blocks})

    def match(self, ids: Sequence[int]) -> list[int]:
        wanted = np.asarray(ids, dtype=np.int64)
        best: tuple[int, ...] = ()
        best_length = 0
        for blocks, kept in self._kept.items():
            length = _common_prefix(kept, wanted) // self._manager.block_tokens
            if length > best_length:
                best, best_length = blocks, length
        if best_length:
            self._kept.move_to_end(best)
        found = list(best[:best_length])
        self._manager.hold(found)
        return found

    def keep(self, ids: Sequence[int], blocks: Sequence[int]) -> None:
        num_full = len(ids) // self._manager.block_tokens
        self._manager.release(blocks[num_full:])
        full = tuple(blocks[:num_full])
        kept = np.asarray(ids[: num_full * self._manager.block_tokens], dtype=np.int64)
        covered = [b for b, k in self._kept.items() if _common_prefix(k, kept) == len(k)]
        for shorter in covered:  # a conversation that went on replaces its earlier state
            self._let_go(shorter)
        if any(_common_prefix(k, kept) == len(kept) for k in self._kept.values()):
            self._manager.release(full)  # the longer one is there already
        elif full:
            self._kept[full] = kept

    def evict(self, num_free: int) -> None:
        while self._manager.num_free < num_free and self._kept:
            self._let_go(next(iter(self._kept)))

    def clear(self) -> None:
        for blocks in list(self._kept):
            self._let_go(blocks)

    def _let_go(self, blocks: tuple[int, ...]) -> None:
        del self._kept[blocks]
        self._manager.release(blocks)


def _common_prefix(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    length = min(len(a), len(b))
    differs = a[:length] != b[:length]
    return int(differs.argmax()) if differs.any() else length
