"""Routed experts that are read from disk when they are wanted, because memory does not hold all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

IO_THREADS = 8  # enough reads under way to keep a solid-state disk busy


@dataclass(frozen=True, kw_only=True)
class Streaming:
    """How to read the routed experts.

    `files`: the mapping of each file that holds tensors. The experts' arrays must lie in them;
    their pages are not touched. `arena_bytes`: memory for experts, taken once. `pinned`: numbers
    of experts (MoE layer * number of experts + expert) that are read at once and stay, at most
    half of what the arena holds.
    """

    files: Mapping[Path, NDArray[np.uint8]]
    arena_bytes: int
    io_threads: int = IO_THREADS
    pinned: Sequence[int] = field(default_factory=tuple)


@dataclass(frozen=True)
class StreamCounts:
    """Counts since the start. An expert wanted by several tokens of a step counts once."""

    hits: int  # wanted and in memory
    misses: int  # wanted and read from disk
    bytes_read: int
    seconds_waited: float  # of computing threads, for the disk
    slots: int  # experts that the arena holds
