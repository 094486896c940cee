"""How much memory stays taken, counted by Python's allocator: the same on every machine."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable


def bytes_kept_by(act: Callable[[], None]) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        act()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
