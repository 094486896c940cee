"""Sending a reply, streamed or whole, for as long as the client is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from baltoro.server.errors import ApiError, as_api_error, error_response, json_bytes

T = TypeVar("T")
SEND = "send"  # in a request's state: the server's own `send`


class ClientGone(Exception):
    """The client closed the connection before its reply was ready."""


async def until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Do `work`, and cancel it when the client goes away, so that nobody computes for no one.

    Raises `ClientGone` then.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(until_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        await cancelled(task, gone)


async def cancelled(*tasks: asyncio.Task[Any]) -> None:
    """End the tasks and wait until each has cleaned up."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True)
class Framing:
    """How an API writes its items into a stream."""

    frame: Callable[[dict[str, Any]], bytes]
    error: Callable[[ApiError], dict[str, Any]]
    end: bytes


def data_frame(item: dict[str, Any]) -> bytes:
    return b"data: " + json_bytes(item) + b"\n\n"


def named_frame(item: dict[str, Any]) -> bytes:
    return b"event: " + item["type"].encode() + b"\n" + data_frame(item)


OPENAI_FRAMING = Framing(data_frame, ApiError.body, b"data: [DONE]\n\n")


class EventStream(Response):
    """Server-sent events: each item as JSON, framed as the API has it.

    The status is decided when the first item is there: a request that fails before that is
    answered with an ordinary error, a later failure is sent as an item with `error`. What follows
    the start goes straight to the server: the layers between only have to do with a start.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        items: AsyncGenerator[dict[str, Any], None],
        headers: Mapping[str, str] | None = None,
        framing: Framing = OPENAI_FRAMING,
    ) -> None:
        self.items = items
        self.framing = framing
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-store", **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientGone):
            await unless_disconnected(receive, self.send_all(scope, receive, send))

    async def send_all(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.items) as items:
            try:
                first = await anext(items)
            except Exception as error:
                await error_response(as_api_error(error), scope)(scope, receive, send)
                return
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(start)
            send = scope.get("state", {}).get(SEND, send)
            await self.send_item(send, first)
            try:
                async for item in items:
                    await self.send_item(send, item)
            except Exception as error:
                await self.send_item(send, self.framing.error(as_api_error(error)))
        last = {"type": "http.response.body", "body": self.framing.end, "more_body": False}
        await send(last)

    async def send_item(self, send: Send, item: dict[str, Any]) -> None:
        body = self.framing.frame(item)
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def merged(
    streams: Sequence[AsyncGenerator[T, None]],
) -> AsyncGenerator[tuple[int, T], None]:
    """The items of several streams as they come, each with its stream's number.

    The first failure ends all of them.
    """
    if len(streams) == 1:  # most requests have no use for tasks and a queue
        async with aclosing(streams[0]) as stream:
            async for item in stream:
                yield 0, item
        return
    arrived: asyncio.Queue[tuple[int, T] | Exception | None] = asyncio.Queue()

    async def pump(number: int, stream: AsyncGenerator[T, None]) -> None:
        try:
            async with aclosing(stream):
                async for item in stream:
                    arrived.put_nowait((number, item))
            arrived.put_nowait(None)
        except Exception as error:
            arrived.put_nowait(error)

    tasks = [asyncio.create_task(pump(i, stream)) for i, stream in enumerate(streams)]
    open_streams = len(tasks)
    try:
        while open_streams:
            item = await arrived.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                open_streams -= 1
            else:
                yield item
    finally:
        await cancelled(*tasks)
