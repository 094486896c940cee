"""What is kept for a while: bytes under digests, within a bound on the memory they take."""

from __future__ import annotations

import threading
from collections import OrderedDict

KEY_BYTES = 16
# Of an entry besides its value's content: key, the value's head, its place in the order.
ENTRY_BYTES = 240


class KeptBytes:
    """Values under keys of `KEY_BYTES`. Usable from several threads.

    All entries together take no more than `max_bytes` of memory; those that were neither kept nor
    found for the longest time are forgotten. One object holds a value and one its key, so that the
    many small entries of a busy server are not mostly overhead.
    """

    def __init__(self, max_bytes: int):
        self._room = max_bytes
        self._values: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: bytes) -> bytes | None:
        """The value that is kept under the key, which counts as used."""
        with self._lock:
            if (value := self._values.get(key)) is not None:
                self._values.move_to_end(key)
            return value

    def keep(self, key: bytes, value: bytes) -> None:
        """Instead of what was there. A value beyond the bound is not kept."""
        with self._lock:
            self._forget(key)
            self._values[key] = value
            self._room -= ENTRY_BYTES + len(value)
            while self._room < 0:
                self._forget(next(iter(self._values)))

    def _forget(self, key: bytes) -> None:
        if (value := self._values.pop(key, None)) is not None:
            self._room += ENTRY_BYTES + len(value)
