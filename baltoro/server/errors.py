"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, to_json
from starlette.exceptions import HTTPException
from starlette.types import Scope

from baltoro.chat.chat_model import EndpointError, SchemaError
from baltoro.config import BaltoroError
from baltoro.engine.engine import ContextLengthError, EngineError, QueueFullError
from baltoro.engine.grammars.reply import RoomError

RETRY_AFTER_SECONDS = 2
UNION_BRANCHES = {"str", "int", "float", "bool", "dict"}  # pydantic names them in locations

ANTHROPIC_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}

log = logging.getLogger("baltoro.server")


class ApiError(Exception):
    """A request that is answered with an error; `message` tells the caller what to change."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,  # the field at fault, written as messages[2].tool_call_id
        code: str | None = None,
        status: int = 400,
        kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.param, self.code, self.status, self.kind = param, code, status, kind
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        message = str(self)
        error = {"message": message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}


def as_api_error(error: Exception) -> ApiError:
    """Whatever went wrong, as the error the caller sees. What nobody foresaw is logged."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ContextLengthError):
        return ApiError(str(error), code="context_length_exceeded")
    if isinstance(error, SchemaError):
        return ApiError(str(error), param=error.param, code="unsupported_schema")
    if isinstance(error, RoomError):
        return ApiError(str(error), param="max_tokens", code="max_tokens_too_small")
    if isinstance(error, QueueFullError):
        return busy(str(error))
    if isinstance(error, EndpointError):
        return from_endpoint(error)
    if isinstance(error, BaltoroError):
        return ApiError(str(error))
    if isinstance(error, EngineError):
        return ApiError(str(error), status=503, kind="server_error", code="engine_failed")
    log.error("a request failed", exc_info=error)
    message = f"the server failed on this request: {type(error).__name__}. Its log has more."
    return ApiError(message, status=500, kind="server_error", code="internal_error")


def from_endpoint(error: EndpointError) -> ApiError:
    """What the endpoint behind this server refused, the caller can change; the rest not."""
    if error.status in (400, 404, 413, 422):
        return ApiError(str(error), status=error.status)
    if error.status == 429:
        return busy(str(error))
    return ApiError(str(error), status=502, kind="server_error", code="upstream_failed")


def busy(message: str) -> ApiError:
    return too_many(message, RETRY_AFTER_SECONDS, code="queue_full")


def too_many(message: str, seconds: int, code: str = "rate_limit_exceeded") -> ApiError:
    return ApiError(
        f"{message} Try again in {seconds} s.",
        status=429,
        kind="rate_limit_error",
        code=code,
        headers={"Retry-After": str(seconds)},
    )


def stopping(reason: str) -> ApiError:
    """Another server, or this one after its restart, can answer."""
    return ApiError(
        f"{reason} Try again in {RETRY_AFTER_SECONDS} s.",
        status=503,
        kind="server_error",
        code="stopping",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS), "Connection": "close"},
    )


def json_bytes(value: Any) -> bytes:
    """Compact JSON; half a surrogate pair in an echoed field becomes '?', not a failure."""
    try:
        return to_json(value, inf_nan_mode="null")
    except PydanticSerializationError:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", errors="replace")


def anthropic_body(error: ApiError) -> dict[str, Any]:
    """The error as clients of Anthropic's API expect it."""
    other = "api_error" if error.status >= 500 else "invalid_request_error"
    kind = ANTHROPIC_KINDS.get(error.status, other)
    detail = {"type": kind, "message": str(error), "param": error.param, "code": error.code}
    return {"type": "error", "error": detail}


def error_response(error: ApiError, scope: Scope) -> Response:
    """In the shape of the API whose path was asked."""
    anthropic = "/v1/messages" in scope.get("path", "")
    content = json_bytes(anthropic_body(error) if anthropic else error.body())
    return Response(content, error.status, error.headers, media_type="application/json")


def field_path(location: tuple[int | str, ...]) -> str | None:
    """pydantic's location as a path: ("body", "stop", "list[str]", 1) is stop[1]."""
    parts = location[1:] if location[:1] == ("body",) else location
    if not parts or isinstance(parts[0], int):
        return None
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        elif re.fullmatch(r"\w+", part) and part not in UNION_BRANCHES:
            path += f".{part}" if path else part
    return path


def from_validation(error: RequestValidationError | ValidationError) -> ApiError:
    # Of a union's branches, the one that went deepest is the one that was meant.
    errors = error.errors()
    of_first_field = [e for e in errors if e["loc"][:2] == errors[0]["loc"][:2]]
    first = max(of_first_field, key=lambda e: len(e["loc"]))
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "no reason given")
        return ApiError(f"the body is not valid JSON: {reason}.", code="invalid_json")
    param = field_path(first["loc"])
    if param is None:
        return ApiError("the body must be a JSON object, sent as application/json.")
    if first["type"] == "missing":
        return ApiError(f"'{param}' is missing.", param=param, code="missing_field")
    message = f"'{param}' is not usable: {first['msg']}."
    return ApiError(message, param=param, code="invalid_value")


def from_http(error: HTTPException, request: Request) -> ApiError:
    """Unknown paths and methods, and bodies that are not even text."""
    where = f"{request.method} {request.url.path}"
    if error.status_code in (404, 405):
        message = f"there is nothing at {where}: {error.detail}. The API is under /v1."
    else:
        message = f"{where} failed: {error.detail}. The body must be a JSON object in UTF-8."
    return ApiError(message, status=error.status_code, headers=error.headers)


def install_error_handlers(app: FastAPI) -> None:
    async def api(request: Request, error: Any) -> Response:
        return error_response(as_api_error(error), request.scope)

    async def validation(request: Request, error: Any) -> Response:
        return error_response(from_validation(error), request.scope)

    async def http(request: Request, error: Any) -> Response:
        return error_response(from_http(error, request), request.scope)

    app.add_exception_handler(ApiError, api)
    app.add_exception_handler(BaltoroError, api)
    app.add_exception_handler(EngineError, api)  # as `Exception` it would be raised again
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(ValidationError, validation)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, api)
