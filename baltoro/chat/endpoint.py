"""A model of an endpoint, by its address."""

from __future__ import annotations

from typing import Any

import httpx

from baltoro.chat.chat_model import EndpointError
from baltoro.chat.dialects import detect
from baltoro.chat.http import HttpChatModel
from baltoro.config import BaltoroError


def open_endpoint(url: str, name: str | None, api_key: str) -> HttpChatModel:
    """A model of an endpoint, in the dialect that it speaks."""
    try:
        models = list_models(url, api_key)
    except EndpointError:
        if name is None:
            raise
        models = {"data": []}  # not every endpoint lists its models
    name = name or _only_model(url, models)
    dialect = detect(url, api_key, models)
    context = context_of(name, models)
    return HttpChatModel(url, name, api_key, dialect=dialect, max_context=context)


def context_of(name: str, models: dict[str, Any]) -> int | None:
    """How many tokens an endpoint says that one of its models takes."""
    entry = card_of(name, models)
    meta = entry.get("meta") or {}  # where llama.cpp has it
    for value in (entry.get("max_model_len"), entry.get("context_length"), meta.get("n_ctx")):
        if isinstance(value, int) and value > 0:
            return value
    return None


def card_of(name: str, models: dict[str, Any]) -> dict[str, Any]:
    """What an endpoint says of one of its models; empty where it does not list it."""
    return next((each for each in models["data"] if each["id"] == name), {})


def list_models(url: str, api_key: str) -> dict[str, Any]:
    """What an endpoint answers to the question for its models. Raises `EndpointError`."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        reply = httpx.get(f"{url.rstrip('/')}/models", headers=headers, timeout=10)
        models = reply.raise_for_status().json()
        _ = [str(entry["id"]) for entry in models["data"]]
        return models
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        is_status = isinstance(error, httpx.HTTPStatusError)
        said = f"status {error.response.status_code}" if is_status else error
        raise EndpointError(
            f"{url} did not say which models it has ({said}). Is it an OpenAI-compatible "
            "endpoint up to and with /v1? Otherwise name the model."
        ) from error


def _only_model(url: str, models: dict[str, Any]) -> str:
    """The name of the endpoint's model, if it has only one. What has another listed one as its
    `root` is a further name of it."""
    ids = {str(entry["id"]): entry.get("root") for entry in models["data"]}
    names = [name for name, root in ids.items() if root == name or root not in ids]
    if len(names) != 1:
        raise BaltoroError(f"{url} has these models: {', '.join(names)}. Name the one you mean.")
    return names[0]
