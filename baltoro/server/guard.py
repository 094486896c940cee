"""What holds for every request: its size, an id, one line in the log. No content in that line."""

from __future__ import annotations

import json
import logging
import sys
import time
import uuid
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from baltoro.server.errors import ApiError, error_response
from baltoro.server.sse import SEND

log = logging.getLogger("baltoro.access")


def log_to_stderr() -> None:
    """One JSON object a line, for whoever collects them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


class Guard:
    """Reads bodies up to a size, names each request, and logs it when it is over.

    The line has method, path, status, seconds, and what routes put into `state["log"]`: the key's
    name, the model, counts of tokens. It has no address, no header and nothing that was said,
    unless `log_content`, which adds the request's body.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, log_content: bool = False) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.log_content = log_content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        notes: dict[str, Any] = {"id": uuid.uuid4().hex, "status": 0}
        state = scope.setdefault("state", {})
        state.update({"log": notes, SEND: send})

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                notes["status"] = message["status"]
                added = [
                    (b"x-request-id", notes["id"].encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        started = time.perf_counter()
        try:
            await self.answer(scope, receive, send_named, notes)
        finally:
            del state[SEND]  # which knows the scope: nothing should be left for the collector
            seconds = round(time.perf_counter() - started, 4)
            where = {"method": scope["method"], "path": scope["path"], "seconds": seconds}
            log.info("%s", json.dumps({"time": round(time.time(), 3), **notes, **where}))

    async def answer(
        self, scope: Scope, receive: Receive, send: Send, notes: dict[str, Any]
    ) -> None:
        try:
            body = await read_body(scope, receive, self.max_body_bytes)
        except ApiError as error:
            await error_response(error, scope)(scope, receive, send)
            return
        if body is None:
            return
        if self.log_content:
            notes["body"] = body.decode("utf-8", errors="replace")
        await self.app(scope, _replayed(body, receive), send)


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes | None:
    """The whole body; None if the client has left. Raises `ApiError` 413."""
    announced = dict(scope["headers"]).get(b"content-length", b"0")
    if announced.isdigit() and int(announced) > limit:
        raise too_large(limit)
    pieces, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        more = message.get("more_body", False)
        if size > limit:
            raise too_large(limit)
    return b"".join(pieces)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body as one message, then whatever else comes."""
    whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return whole.pop() if whole else await receive()

    return next_message


def too_large(limit: int) -> ApiError:
    return ApiError(
        f"the body is larger than the {limit} bytes that this server reads.",
        code="body_too_large",
        status=413,
    )
