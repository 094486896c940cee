"""Which blocks are in a folder, and which of them go first when it gets too large.

    FOLDER/ab/ab...-cd....block     digest and parent's digest, 32 hexadecimal digits of each

A block is of use only together with all that come before it, so it counts as used whenever one
that follows it is: given up are the ends of conversations, the least recently used first. The times
of the files carry the order from one run to the next.
"""

from __future__ import annotations

import logging
import os
import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

DIGEST_BYTES = 16  # of a digest in a file's name
# A block takes 200 bytes of memory here. No more are kept, of a large folder one for each MiB, so
# that the index stays below 4 MB, or a five-thousandth of the folder.
MOST_BLOCKS = 16_384
_NAME = re.compile(r"([0-9a-f]{32})-([0-9a-f]{32})\.block")
_ENTRY = struct.Struct(f"<{DIGEST_BYTES}sQ")  # the parent's digest and the file's size: one object

log = logging.getLogger(__name__)


class DiskIndex:
    """The blocks of one folder by digest. Not safe for use by several threads at once."""

    def __init__(self, folder: Path):
        """Reads the folder; what a killed process has left half-written is removed."""
        self.folder = folder
        self.total_bytes = 0
        # `_ENTRY` by digest, least recently used first, each after all that follow it.
        self._entries: dict[bytes, bytes] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._restore(self._scan())

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, digest: bytes) -> bool:
        return digest[:DIGEST_BYTES] in self._entries

    def path(self, digest: bytes, parent: bytes) -> Path:
        name = digest[:DIGEST_BYTES].hex()
        return self.folder / name[:2] / f"{name}-{parent[:DIGEST_BYTES].hex()}.block"

    def add(self, digest: bytes, parent: bytes, size: int) -> None:
        """Take note of a file that has been written."""
        digest = digest[:DIGEST_BYTES]
        assert digest not in self._entries
        self._insert(digest, _ENTRY.pack(parent[:DIGEST_BYTES], size))
        self._touch(digest)

    def used(self, digests: Iterable[bytes]) -> None:
        """Take note that a conversation's blocks have been read, in its order."""
        first = None
        for digest in reversed(list(digests)):
            if digest in self:
                first = digest[:DIGEST_BYTES]
                self._to_end(first)
                with suppress(OSError):
                    os.utime(self.path(first, self._parent(first)))
        if first is not None:
            self._touch(first)

    def remove(self, digest: bytes) -> None:
        """Delete a block's file."""
        digest = digest[:DIGEST_BYTES]
        if (entry := self._entries.pop(digest, None)) is None:
            return
        parent, size = _ENTRY.unpack(entry)
        self.total_bytes -= size
        with suppress(OSError):
            self.path(digest, parent).unlink()

    def make_room(self, size: int, max_bytes: int) -> int:
        """Give up blocks until one of `size` more bytes fits; how many were given up."""
        most, count = max(MOST_BLOCKS, max_bytes >> 20), 0
        while self._entries and (self.total_bytes + size > max_bytes or len(self) >= most):
            self.remove(next(iter(self._entries)))
            count += 1
        return count

    def _insert(self, digest: bytes, entry: bytes) -> None:
        self._entries[digest] = entry
        self.total_bytes += _ENTRY.unpack(entry)[1]

    def _parent(self, digest: bytes) -> bytes:
        return _ENTRY.unpack(self._entries[digest])[0]

    def _to_end(self, digest: bytes) -> None:
        self._entries[digest] = self._entries.pop(digest)

    def _touch(self, digest: bytes) -> None:
        """A block and all before it are the ones used last, it before them."""
        while digest in self._entries:
            self._to_end(digest)
            digest = self._parent(digest)

    def _scan(self) -> Iterator[tuple[float, bytes, bytes]]:
        for path in self.folder.glob("??/*"):
            if path.suffix == ".tmp":
                log.warning("%s was not written to its end; it is dropped.", path)
                path.unlink(missing_ok=True)
            elif match := _NAME.fullmatch(path.name):
                state = path.stat()
                digest, parent = bytes.fromhex(match[1]), bytes.fromhex(match[2])
                yield state.st_mtime, digest, _ENTRY.pack(parent, state.st_size)

    def _restore(self, found: Iterable[tuple[float, bytes, bytes]]) -> None:
        """Order the files by their times, but none before a block that follows it."""
        newest_first = sorted(found, key=lambda item: item[0], reverse=True)
        entries = {digest: entry for _, digest, entry in newest_first}
        order: dict[bytes, None] = {}  # newest first
        for digest in entries:
            line = []
            while digest in entries and digest not in order:
                line.append(digest)
                digest = _ENTRY.unpack(entries[digest])[0]
            order |= dict.fromkeys(reversed(line))
        for digest in reversed(order):
            self._insert(digest, entries[digest])
