"""What is kept for a while stays within its bound, in the bytes that it really takes."""

from __future__ import annotations

import pytest
from memory_kit import bytes_kept_by

from baltoro.engine.kept_bytes import ENTRY_BYTES, KEY_BYTES, KeptBytes


def key(number: int) -> bytes:
    return number.to_bytes(KEY_BYTES, "big")


@pytest.mark.parametrize("size", [0, 40, 5000])
@pytest.mark.parametrize("count", [683, 1366, 3000, 5462])
def test_entries_take_no_more_memory_than_is_counted(size: int, count: int):
    kept = KeptBytes(1 << 30)

    def fill() -> None:
        for number in range(count):
            kept.keep(key(number), bytes(bytearray(size)))

    assert bytes_kept_by(fill) <= count * (ENTRY_BYTES + size)


def test_a_store_that_is_full_does_not_grow():
    bound = 1000 * ENTRY_BYTES
    kept = KeptBytes(bound)

    def fill() -> None:
        for number in range(20_000):
            kept.keep(key(number), b"")

    assert bytes_kept_by(fill) <= bound
    assert len(kept) == 1000


def test_what_was_not_used_for_longest_goes_first():
    kept = KeptBytes(3 * ENTRY_BYTES)
    for number in range(3):
        kept.keep(key(number), b"")
    assert kept.get(key(0)) == b""
    kept.keep(key(1), b"")
    kept.keep(key(3), b"")
    assert [kept.get(key(number)) for number in range(4)] == [b"", b"", None, b""]


def test_a_new_value_takes_the_place_of_the_old():
    kept = KeptBytes(2 * ENTRY_BYTES + 10)
    for size in (10, 9, 10):
        kept.keep(key(0), bytes(size))
        assert kept.get(key(0)) == bytes(size)
    kept.keep(key(1), b"")
    assert len(kept) == 2


def test_a_value_beyond_the_bound_is_not_kept():
    kept = KeptBytes(ENTRY_BYTES + 10)
    kept.keep(key(0), bytes(11))
    assert (len(kept), kept.get(key(0))) == (0, None)
    kept.keep(key(0), bytes(10))
    assert len(kept) == 1
