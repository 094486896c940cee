"""What the routes share: who asks, under which rules, and how a reply goes out."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from fastapi import Request, Response

from baltoro.server.errors import ApiError, json_bytes
from baltoro.server.keys import Account, Caller
from baltoro.server.reply import Choices, Json
from baltoro.server.rules import Rules
from baltoro.server.schemas import GenerationBody
from baltoro.server.service import Service
from baltoro.server.sse import (
    OPENAI_FRAMING,
    ClientGone,
    EventStream,
    Framing,
    unless_disconnected,
)

WARNING_HEADER = "X-Baltoro-Warning"
CLIENT_CLOSED_REQUEST = 499  # nobody reads it; it is for the log


def service_of(request: Request) -> Service:
    return request.app.state.service


def rules_of(request: Request) -> Rules:
    return request.app.state.rules


def caller_of(request: Request) -> Caller:
    """Known by its key, be it one that is checked or not."""
    account: Account = request.state.account
    headers = request.headers
    unchecked = headers.get("authorization") or headers.get("x-api-key") or ""
    scope = account.key.digest.hex() or unchecked
    return Caller(account=account, scope=scope, notes=request.state.log)


async def check_key(request: Request) -> None:
    """Find out whose request it is. Raises `ApiError` 401."""
    headers = request.headers
    account = request.app.state.keys.account(headers.get("authorization"), headers.get("x-api-key"))
    request.state.account = account
    request.state.log["key"] = account.key.name


def json_response(value: Any, headers: dict[str, str] | None = None, status: int = 200) -> Response:
    return Response(json_bytes(value), status, headers, media_type="application/json")


def warning_headers(body: GenerationBody) -> dict[str, str]:
    """Names the fields that nothing here understands. Raises `ApiError` on one that matters."""
    ignored = [re.sub(r"[^\w.-]", "?", name, flags=re.ASCII) for name in body.ignored_fields()]
    if not ignored:
        return {}
    return {WARNING_HEADER: f"ignored unknown fields: {', '.join(ignored)}"[:1000]}


async def send(
    request: Request,
    choices: Choices,
    *,
    whole: Callable[[Choices], Awaitable[Json]],
    chunks: Callable[[Choices], AsyncGenerator[Json, None]],
    stream: bool,
    headers: dict[str, str] | None = None,
    framing: Framing = OPENAI_FRAMING,
) -> Response:
    """The reply to a request, as a stream or at once, for as long as the client is there."""
    if (seconds := rules_of(request).max_seconds) is not None:
        choices = within(seconds, choices)
    if stream:
        return EventStream(chunks(choices), headers, framing)

    async def made() -> Json:
        return await whole(choices)

    try:
        return json_response(await unless_disconnected(request.receive, made()), headers)
    except ClientGone:
        return Response(status_code=CLIENT_CLOSED_REQUEST)


async def within(seconds: float, choices: Choices) -> Choices:
    """The same events while the time lasts. Raises `ApiError` 504 after it."""
    deadline = asyncio.get_running_loop().time() + seconds
    async with aclosing(choices):
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    item = await anext(choices)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise ApiError(
                    f"the answer was not ready after {seconds:g} s, the time that this server "
                    "gives a request. Ask for fewer tokens, or stream to see how far it gets.",
                    status=504,
                    kind="server_error",
                    code="timeout",
                ) from None
            yield item
