"""Who holds which block of the latent cache.

The cache itself is the model's; here only block numbers are handed out. A block holds the
latents of `block_tokens` consecutive tokens and may have several holders, because sequences
with the same beginning share its blocks. Shared blocks are full and are never written again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class BlockManager:
    """Counts the holders of each block; a block without holders is free."""

    def __init__(self, num_blocks: int, block_tokens: int):
        self.num_blocks = num_blocks
        self.block_tokens = block_tokens
        self._holders = [0] * num_blocks
        self._free = list(reversed(range(num_blocks)))  # the last one is handed out next

    @property
    def num_free(self) -> int:
        return len(self._free)

    def blocks_for(self, num_tokens: int) -> int:
        """How many blocks `num_tokens` need."""
        return -(-num_tokens // self.block_tokens)

    def allocate(self, count: int) -> list[int]:
        """Hand out free blocks. The caller has made sure that there are enough."""
        assert count <= len(self._free), f"{count} blocks asked for, {len(self._free)} free"
        blocks = [self._free.pop() for _ in range(count)]
        for block in blocks:
            self._holders[block] = 1
        return blocks

    def hold(self, blocks: Iterable[int]) -> None:
        """Add a holder to blocks that have one already."""
        for block in blocks:
            assert self._holders[block] > 0, f"block {block} is free"
            self._holders[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Take one holder away; blocks without any become free."""
        for block in reversed(blocks):
            assert self._holders[block] > 0, f"block {block} is free already"
            self._holders[block] -= 1
            if self._holders[block] == 0:
                self._free.append(block)
