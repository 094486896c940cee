"""Several streams as one."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from baltoro.server.sse import merged


async def counting(closed: list[int], name: int, items: int):
    try:
        for i in range(items):
            yield i
            await asyncio.sleep(0)
    finally:
        closed.append(name)


async def failing():
    yield 0
    raise OSError("broken")


async def test_merged_streams_keep_each_streams_order():
    closed: list[int] = []
    events = [event async for event in merged([counting(closed, s, 3 + s) for s in range(3)])]
    for stream in range(3):
        assert [item for s, item in events if s == stream] == list(range(3 + stream))
    assert sorted(closed) == [0, 1, 2]


async def test_leaving_a_merged_stream_closes_all_of_them():
    closed: list[int] = []
    async with aclosing(merged([counting(closed, s, 10**6) for s in range(3)])) as events:
        async for _ in events:
            break
    # A stream whose task had not begun has nothing to close.
    await asyncio.sleep(0)
    assert len(closed) == len(set(closed))
    assert 0 in closed


async def test_the_first_failure_ends_all_merged_streams():
    closed: list[int] = []
    with pytest.raises(OSError, match="broken"):
        async for _ in merged([counting(closed, 1, 10**6), failing()]):
            pass
    assert closed == [1]
