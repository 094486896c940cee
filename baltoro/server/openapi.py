"""The OpenAPI schema: what each route answers, errors included, and nothing it never answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict

GENERATING = (400, 401, 404, 413, 429, 500, 502, 503, 504)


class Out(BaseModel):
    """Replies carry more fields than are promised."""

    model_config = ConfigDict(extra="allow")


class ErrorDetail(Out):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorOut(Out):
    error: ErrorDetail


class HealthOut(Out):
    status: Literal["ok"]
    model: str


class FailedOut(Out):
    status: Literal["failed"]
    model: str
    reason: str


class ModelOut(Out):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int | None


class ModelListOut(Out):
    object: Literal["list"]
    data: list[ModelOut]


class UsageOut(Out):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int


class FunctionOut(Out):
    name: str
    arguments: str


class CallOut(Out):
    id: str
    type: Literal["function"]
    function: FunctionOut


class MessageOut(Out):
    role: Literal["assistant"]
    content: str | None
    reasoning_content: str | None = None
    tool_calls: list[CallOut] | None = None


class TrajectoryOut(Out):
    index: int
    message: MessageOut
    finish_reason: Literal["stop", "length"]
    usage: UsageOut


class ChatChoiceOut(Out):
    index: int
    message: MessageOut
    finish_reason: Literal["stop", "length", "tool_calls"]
    trajectories: list[TrajectoryOut] | None = None  # of heavy mode


class ChatCompletionOut(Out):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoiceOut]
    usage: UsageOut


class TextChoiceOut(Out):
    index: int
    text: str
    finish_reason: Literal["stop", "length"]


class TextCompletionOut(Out):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoiceOut]
    usage: UsageOut


class TokenizeOut(Out):
    count: int
    max_model_len: int | None
    tokens: list[int]


class DetokenizeOut(Out):
    prompt: str


class TotalTokens(Out):
    total_tokens: int


class EstimateOut(Out):
    data: TotalTokens


class InputTokensOut(Out):
    input_tokens: int


class BlockOut(Out):
    type: Literal["thinking", "text", "tool_use"]


class AnthropicUsageOut(Out):
    input_tokens: int
    output_tokens: int


class AnthropicMessageOut(Out):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[BlockOut]
    stop_reason: Literal["end_turn", "max_tokens", "tool_use", "stop_sequence"]
    stop_sequence: str | None
    usage: AnthropicUsageOut


class AnthropicErrorOut(Out):
    type: Literal["error"]
    error: ErrorDetail


def answers(
    reply: type[BaseModel],
    *,
    errors: Iterable[int] = GENERATING,
    error: type[BaseModel] = ErrorOut,
    also: Mapping[int, type[BaseModel]] | None = None,
    streams: bool = False,
) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route."""
    fine: dict[str, Any] = {"model": reply}
    if streams:
        fine["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
    made: dict[int | str, dict[str, Any]] = {200: fine}
    made |= {status: {"model": error} for status in errors}
    return made | {status: {"model": model} for status, model in (also or {}).items()}


def true_schema(app: FastAPI) -> dict[str, Any]:
    """FastAPI's schema without the 422 that it assumes; ours is a 400."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version="1", routes=app.routes)
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for unused in ("HTTPValidationError", "ValidationError"):
            schema.get("components", {}).get("schemas", {}).pop(unused, None)
        app.openapi_schema = schema
    return app.openapi_schema
