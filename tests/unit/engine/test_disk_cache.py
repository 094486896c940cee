"""Prefixes on disk: found again after a restart, and never used if a byte of them is wrong."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
from array import array
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger import Ledger
from memory_kit import bytes_kept_by

from baltoro.config import BaltoroError
from baltoro.engine.block_file import (
    BlockName,
    DamagedBlockError,
    read_block_file,
    write_block_file,
)
from baltoro.engine.disk_cache import DiskCache, Load
from baltoro.engine.disk_index import DiskIndex
from baltoro.engine.prefix_cache import chained

SIZE = 4
FINGERPRINT = bytes(range(32))
DATA_BYTES = 4 * SIZE

Open = Callable[..., DiskCache]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    caches = []

    def open_again(fingerprint: bytes = FINGERPRINT, max_bytes: int = 1 << 20) -> DiskCache:
        while caches:
            caches.pop().close()
        caches.append(DiskCache(tmp_path / "cache", fingerprint, max_bytes))
        return caches[0]

    yield open_again
    for cache in caches:
        cache.close()


def conversation(first_id: int, num_blocks: int) -> list[BlockName]:
    names, digest = [], chained(b"root", b"")
    for start in range(first_id, first_id + num_blocks * SIZE, SIZE):
        key = array("i", range(start, start + SIZE)).tobytes()
        names.append(BlockName(digest, chained(digest, key), key))
        digest = names[-1].digest
    return names


def latents(name: BlockName) -> np.ndarray:
    return np.frombuffer(name.digest[:DATA_BYTES], dtype=np.uint8).copy()


def store(cache: DiskCache, names: list[BlockName]) -> None:
    for name in names:
        cache.offer(name, latents(name))
    cache.flush()


def load(cache: DiskCache, names: list[BlockName]) -> int:
    """How many of the blocks come back; each with the bytes that were stored."""
    memory, done = Ledger(len(names), SIZE), threading.Event()
    wanted = Load(names, list(range(len(names))))
    cache.load(wanted, memory, lambda _: done.set())
    assert done.wait(30)
    for name, block in zip(names[: wanted.num_loaded], wanted.blocks, strict=False):
        assert np.array_equal(memory.read_block(block), latents(name))
    return wanted.num_loaded


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.block"), key=lambda path: path.stat().st_mtime_ns)


def test_blocks_come_back_after_a_restart(opened: Open):
    names = conversation(0, 5)
    store(opened(), names)
    cache = opened()
    assert all(cache.has(name.digest) for name in names)
    assert not cache.has(conversation(7, 1)[0].digest)
    assert load(cache, names) == 5
    assert (cache.stats.read_blocks, cache.stats.dropped_files) == (5, 0)


@pytest.mark.parametrize("damage", ["truncated", "emptied", "flipped", "longer", "swapped"])
def test_a_damaged_file_ends_the_reading_and_is_dropped_with_a_line(
    opened: Open, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
):
    names = conversation(0, 5)
    store(opened(), names)
    cache = opened()
    damaged, other = (cache._index.path(names[i].digest, names[i].parent) for i in (2, 3))
    content = bytearray(damaged.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 4
    changed = {
        "truncated": content[:-9],
        "emptied": b"",
        "flipped": content,
        "longer": content + b"0",
        "swapped": other.read_bytes(),
    }
    damaged.write_bytes(changed[damage])
    with caplog.at_level(logging.WARNING):
        assert load(cache, names) == 2
    assert damaged.name in caplog.text
    assert not damaged.exists()
    assert not cache.has(names[2].digest)
    assert cache.stats.dropped_files == 1
    store(cache, names)  # what was dropped can be stored again
    assert load(cache, names) == 5


@given(st.integers(0), st.integers(0, 7))
@settings(deadline=None, max_examples=60)
def test_no_flipped_bit_passes(tmp_path_factory: pytest.TempPathFactory, place: int, bit: int):
    path = tmp_path_factory.mktemp("flip") / "a.block"
    name = conversation(0, 1)[0]
    write_block_file(path, FINGERPRINT, name, latents(name))
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(DamagedBlockError):
        read_block_file(path, FINGERPRINT, name)


def test_a_file_of_other_weights_is_not_used_even_under_the_right_name(opened: Open):
    names = conversation(0, 2)
    store(opened(fingerprint=bytes(32)), names)
    cache = opened()
    store(cache, names[1:])
    path = cache._index.path(names[1].digest, names[1].parent)
    write_block_file(path, bytes(32), names[1], latents(names[1]))
    assert load(cache, names[1:]) == 0


def test_the_folder_of_other_weights_is_dropped_and_nothing_else_is_touched(
    opened: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    store(opened(), conversation(0, 3))
    mine = tmp_path / "cache" / "notes.txt"
    mine.write_text("mine")
    with caplog.at_level(logging.WARNING):
        cache = opened(fingerprint=bytes(32))
    assert "other weights" in caplog.text
    assert (cache.num_blocks, files(tmp_path)) == (0, [])
    assert mine.read_text() == "mine"


def test_what_is_dropped_says_in_what_it_differs(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    parts = {"weights": "a", "build": "b", "kernels": "c"}
    DiskCache(tmp_path, bytes(32), 1 << 20, parts).close()
    with caplog.at_level(logging.WARNING):
        changed = parts | {"build": "d", "kernels": "e"}
        DiskCache(tmp_path, b"x" * 32, 1 << 20, changed).close()
    assert "computed with another build and kernels; it is dropped" in caplog.text


def test_the_folder_stays_within_its_size_and_loses_the_ends_of_old_conversations_first(
    opened: Open, tmp_path: Path
):
    old, new = conversation(0, 4), conversation(1000, 3)
    store(opened(), old[:1])
    size = files(tmp_path)[0].stat().st_size
    cache = opened(max_bytes=5 * size)
    store(cache, old)
    assert load(cache, old) == 4
    store(cache, new)
    assert sum(path.stat().st_size for path in files(tmp_path)) == cache.total_bytes == 5 * size
    assert [cache.has(name.digest) for name in old] == [True, True, False, False]
    assert all(cache.has(name.digest) for name in new)
    cache = opened(max_bytes=3 * size)  # the order outlives the process
    assert not any(cache.has(name.digest) for name in old)
    assert load(cache, new) == 3


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.booleans()), max_size=20),
    st.integers(0, 12),
)
@settings(deadline=None, max_examples=40)
def test_whatever_was_stored_no_block_loses_the_one_before_it(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, bool]], room: int
):
    index = DiskIndex(tmp_path_factory.mktemp("index"))
    for which, count, again in steps:
        names = conversation(1000 * which, count)
        for name in names:
            if name.digest not in index:
                path = index.path(name.digest, name.parent)
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(bytes(10))
                index.add(name.digest, name.parent, 10)
        index.used(name.digest for name in names)
        index = DiskIndex(index.folder) if again else index
    index.make_room(0, 10 * room)
    assert index.total_bytes <= 10 * room
    for again in (index, DiskIndex(index.folder)):
        for which in range(4):
            there = [name.digest in again for name in conversation(1000 * which, 6)]
            assert all(before or not after for before, after in pairwise(there))


def test_the_index_keeps_to_a_number_of_blocks(opened: Open, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("baltoro.engine.disk_index.MOST_BLOCKS", 4)
    cache, old, new = opened(), conversation(0, 3), conversation(1000, 2)
    store(cache, old)
    store(cache, new)
    assert [cache.has(name.digest) for name in old + new] == [True, True, False, True, True]


def test_a_block_takes_little_memory_of_the_index(tmp_path: Path):
    index, blocks = DiskIndex(tmp_path), 2000

    def fill() -> None:
        for name in conversation(0, blocks):
            index.add(name.digest, name.parent, 25_000)

    assert bytes_kept_by(fill) < 220 * blocks


def test_what_was_half_written_is_removed_at_the_next_start(opened: Open, tmp_path: Path):
    store(opened(), conversation(0, 2))
    half = files(tmp_path)[0].with_suffix(".tmp")
    half.write_bytes(b"half")
    assert load(opened(), conversation(0, 2)) == 2
    assert not half.exists()


KILLED = """
    import sys
    from pathlib import Path
    sys.path.append({tests!r})
    import test_disk_cache as t
    cache = t.DiskCache(Path({folder!r}), t.FINGERPRINT, 1 << 24)
    for first in range(0, 10**9, 1000):
        t.store(cache, t.conversation(first, 4))
        print(first, flush=True)
"""


def test_a_killed_process_leaves_only_whole_blocks_and_no_lock(opened: Open, tmp_path: Path):
    folder = str(tmp_path / "cache")
    code = KILLED.format(tests=str(Path(__file__).parent), folder=folder)
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    with child.stdout:
        lines = [child.stdout.readline() for _ in range(5)]
        with pytest.raises(BaltoroError, match="in use by another process"):
            opened()
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    cache = opened()
    assert not list(tmp_path.rglob("*.tmp"))
    for line in lines:
        assert load(cache, conversation(int(line), 4)) == 4
    assert cache.stats.dropped_files == 0


def test_a_disk_that_fails_stops_the_writing_and_nothing_else(
    opened: Open, caplog: pytest.LogCaptureFixture
):
    cache, names = opened(), conversation(0, 3)
    store(cache, names[:1])
    path = cache._index.path(names[1].digest, names[1].parent)
    path.parent.rmdir() if path.parent.exists() else None
    path.parent.write_text("a file where a folder belongs")
    with caplog.at_level(logging.WARNING):
        store(cache, names)
    assert "nothing more is written" in caplog.text
    assert load(cache, names) == 1
    assert cache.stats.written_blocks == 1


def test_a_folder_that_cannot_be_made_is_a_mistake_of_the_user(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BaltoroError, match="cannot be used"):
        DiskCache(tmp_path / "file" / "cache", FINGERPRINT, 1 << 20)
