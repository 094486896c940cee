"""A `ChatModel` behind an OpenAI-compatible endpoint: another baltoro, vLLM, SGLang, a hosted API.

model = HttpChatModel("http://127.0.0.1:8000/v1", "tiny")
completion = await complete(model, ChatRequest(messages=[{"role": "user", "content": "Hi"}]))
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx

from baltoro.chat.chat_model import (
    ChatRequest,
    Completion,
    ContentDelta,
    EndpointError,
    Event,
    ReasoningDelta,
    TokenTrace,
    ToolCallDelta,
    Usage,
)
from baltoro.chat.dialects import GENERIC, Dialect, Json
from baltoro.chat.messages import ToolCall
from baltoro.chat.template import next_call_index
from baltoro.chat.thinking_budget import tokens_of, within_budget

TRY_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})  # statuses that may pass


class HttpChatModel:
    """One model of an endpoint.

    `return_token_ids` asks for token ids in vLLM's form, so that the completion carries a
    `TokenTrace`; endpoints that do not know the field may refuse it.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str = "",
        *,
        dialect: Dialect = GENERIC,  # `detect` of dialects.py finds an endpoint's own
        max_context: int | None = None,  # tokens of prompt and reply together, where it is known
        return_token_ids: bool = False,
        timeout_seconds: float = 600.0,  # without a byte; a queue can keep a request waiting
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.model = model
        self.dialect = dialect
        self.max_context = max_context
        self.return_token_ids = return_token_ids
        self.timeout_seconds = timeout_seconds
        self.api_key = api_key
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    @property
    def name(self) -> str:
        return self.model

    def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        """Deltas as the endpoint sends them, then the `Completion`. Raises `EndpointError`.

        A thinking budget that the endpoint does not keep is kept from here, roughly.
        """
        budget = request.sampling.thinking_budget
        if budget is None or request.messages[-1].get("partial"):
            return self._stream(request)
        # Counted from here tokens are a guess: an endpoint that counts itself comes first.
        slack = 2 if self.dialect.budget_field else 1
        return within_budget(self._stream, request, slack * budget)

    async def _stream(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        reply = _Reply(next_call_index(request.messages))
        body = self.dialect.body(self.model, request, self.return_token_ids)
        try:
            # Closed here, so that whoever stops listening also stops the endpoint's work.
            async with aclosing(self._chunks(body)) as chunks:
                async for chunk in chunks:
                    for event in reply.feed(chunk):
                        yield event
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._failure(error) from error
        if not reply.done:
            raise EndpointError(
                f"{self.base_url} broke off its stream before the reply was finished. "
                "Send the request again; if it happens again, look into the server's log.",
                passing=True,
            )
        yield reply.completion(request)

    async def _chunks(self, body: Json) -> AsyncGenerator[Json, None]:
        """The JSON of each server-sent event, up to `[DONE]` or the end of the stream."""
        # A client per request: connections of a pool belong to the event loop that opened them.
        timeout = httpx.Timeout(self.timeout_seconds, connect=10.0)
        url = f"{self.base_url}/chat/completions"
        headers = {"Content-Type": "application/json", **self._headers}
        async with (
            httpx.AsyncClient(timeout=timeout, headers=headers, verify=_tls()) as client,
            client.stream("POST", url, content=_encoded(body)) as response,
        ):
            if response.status_code != 200:
                await response.aread()
                raise _refusal(url, response)
            kind = response.headers.get("content-type", "")
            if "text/event-stream" not in kind:
                raise EndpointError(
                    f"{url} answered with '{kind}' instead of an event stream. "
                    "Is it the address of an OpenAI-compatible API, up to and with /v1?"
                )
            async for data in sse_data(response.aiter_bytes()):
                if data == "[DONE]":
                    yield {"done": True}
                    return
                yield _parse(data, url)

    def _failure(self, error: Exception) -> EndpointError:
        where = self.base_url
        if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
            return EndpointError(
                f"'{where}' is not an address: {error} "
                "Give one like http://127.0.0.1:8000/v1 as the base URL."
            )
        unreachable = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        if unreachable:
            said = f"cannot connect to {where}: {error}. Is the server running?"
        elif isinstance(error, httpx.TimeoutException):
            said = f"{where} sent nothing for {self.timeout_seconds:g} seconds."
        else:
            said = f"the connection to {where} broke: {error or type(error).__name__}."
        return EndpointError(said, passing=True, unreachable=unreachable)


def _encoded(body: Json) -> bytes:
    """A request as JSON. Halves of surrogate pairs are joined where a stream has cut a pair; one
    that is alone is no UTF-8, and many servers refuse its escape, so that it becomes U+FFFD."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


@cache
def _tls() -> ssl.SSLContext:
    """Reading the certificates takes longer than a short reply, so it is done once."""
    return httpx.create_ssl_context()


@dataclass
class _Call:
    id: str
    name: str = ""
    arguments: str = ""


@dataclass
class _Reply:
    """Puts a reply together from its chunks."""

    next_index: int  # of a call that comes without an id
    done: bool = False
    reasoning: list[str] = field(default_factory=list)
    has_reasoning: bool = False  # empty thinking is thinking too
    content: list[str] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)
    latest_at: dict[int, int] = field(default_factory=dict)  # endpoint's index -> ours
    finish_reason: str | None = None
    usage: Json = field(default_factory=dict)
    prompt_ids: list[int] | None = None
    generated_ids: list[int] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)
    weights_version: str = ""

    def feed(self, chunk: Json) -> list[Event]:
        """The events in one chunk."""
        if chunk.get("done"):
            self.done = True
            return []
        self.usage = chunk.get("usage") or self.usage
        self._note_tokens(chunk)
        self.weights_version = chunk.get("weights_version") or self.weights_version
        choices = [c for c in chunk.get("choices") or [] if c.get("index", 0) == 0]
        return [event for choice in choices for event in self._choice(choice)]

    def _choice(self, choice: Json) -> list[Event]:
        self.usage = choice.get("usage") or self.usage  # where Moonshot's own API has it
        self._note_tokens(choice)
        self.generated_ids += choice.get("token_ids") or []
        self.logprobs += (choice.get("logprobs") or {}).get("content") or []
        if reason := choice.get("finish_reason"):
            self.finish_reason = reason
            self.done = True  # usage may follow, but nothing more is said
        delta = choice.get("delta") or {}
        events: list[Event] = []
        reasoning = delta.get("reasoning_content")
        if reasoning is None:
            reasoning = delta.get("reasoning")  # vLLM's newer name
        if isinstance(reasoning, str):
            self.has_reasoning = True
            self.reasoning.append(reasoning)
            events += [ReasoningDelta(reasoning)] if reasoning else []
        if text := delta.get("content"):
            self.content.append(text)
            events.append(ContentDelta(text))
        for call in delta.get("tool_calls") or []:
            events += self._call(call)
        return events

    def _note_tokens(self, part: Json) -> None:
        if part.get("prompt_token_ids") is not None:
            self.prompt_ids = part["prompt_token_ids"]

    def _call(self, delta: Json) -> list[Event]:
        index = self._index_of(delta)
        call = self.calls[index]
        function = delta.get("function") or {}
        arguments = function.get("arguments") or ""
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        call.arguments += arguments
        if not call.name and function.get("name"):
            call.name = function["name"]
            call.id = call.id or f"functions.{call.name}:{self.next_index + index}"
            return [ToolCallDelta(index, call.id, call.name, call.arguments)]
        if not call.name or not arguments:
            return []
        return [ToolCallDelta(index, None, None, arguments)]

    def _index_of(self, delta: Json) -> int:
        """Our index of the call that a delta belongs to. Some endpoints give all calls index 0."""
        theirs = delta.get("index") or 0
        index = self.latest_at.get(theirs)
        id = delta.get("id")
        if index is None or (id and self.calls[index].id and id != self.calls[index].id):
            index = len(self.calls)
            self.calls.append(_Call(id or ""))
            self.latest_at[theirs] = index
        return index

    def completion(self, request: ChatRequest) -> Completion:
        calls = [ToolCall(call.id, call.name, call.arguments) for call in self.calls if call.name]
        return Completion(
            reasoning_content="".join(self.reasoning) if self.has_reasoning else None,
            content="".join(self.content) or None,
            tool_calls=calls,
            finish_reason=self.finish_reason or ("tool_calls" if calls else "stop"),
            usage=self._usage(request),
            trace=self._trace(),
        )

    def _usage(self, request: ChatRequest) -> Usage:
        """As the endpoint counts. What it leaves out is estimated from the texts, so that budgets
        hold there too."""
        prompt = self.usage.get("prompt_tokens_details") or {}
        completion = self.usage.get("completion_tokens_details") or {}
        thought = _chars(self.reasoning)
        said = thought + _chars([self.content, [[c.name, c.arguments] for c in self.calls]])
        total = self.usage.get("completion_tokens") or tokens_of(said)
        return Usage(
            prompt=self.usage.get("prompt_tokens")
            or tokens_of(_chars([request.messages, request.tools])),
            completion=total,
            reasoning=completion.get("reasoning_tokens") or round(total * thought / max(1, said)),
            cached=self.usage.get("cached_tokens") or prompt.get("cached_tokens") or 0,
        )

    def _trace(self) -> TokenTrace | None:
        if self.prompt_ids is None:
            return None
        return TokenTrace(
            prompt_ids=self.prompt_ids,
            generated_ids=self.generated_ids,
            logprobs=[entry["logprob"] for entry in self.logprobs],
            sampled_logprobs=[
                entry["sampled_logprob"] for entry in self.logprobs if "sampled_logprob" in entry
            ],
            weights_version=self.weights_version,
        )


def _chars(value: Any) -> int:
    """Characters of all texts in a message, a declaration of a tool, or several."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(_chars(each) for pair in value.items() for each in pair)
    return sum(map(_chars, value)) if isinstance(value, list) else 0


async def sse_data(data: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """The payloads of server-sent events.

    Cut at line feeds only: httpx's own line reader also cuts at U+2028 and its like, which may
    stand unescaped in JSON.
    """
    buffer = b""
    async for piece in data:
        *lines, buffer = (buffer + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[len(b"data:") :].decode("utf-8", errors="replace").strip()
    if buffer.startswith(b"data:"):
        yield buffer[len(b"data:") :].decode("utf-8", errors="replace").strip()


def _parse(data: str, url: str) -> Json:
    try:
        chunk = json.loads(data)
    except ValueError:
        chunk = None
    if not isinstance(chunk, dict):
        raise EndpointError(f"{url} sent an event that is not a JSON object: {data[:200]!r}.")
    if error := chunk.get("error"):
        said = f"{url} failed in the middle of its reply: {_message(error)}."
        raise EndpointError(said, passing=True)
    return chunk


def _refusal(url: str, response: httpx.Response) -> EndpointError:
    try:
        body = response.json()
        error = body.get("error") or body.get("detail") or body.get("message") or body
        said = _message(error)
    except (ValueError, AttributeError):
        said = response.text[:500].strip() or response.reason_phrase
    hint = {
        401: " Pass the endpoint's API key.",
        404: " Does the base URL end with /v1, and does the endpoint have this model?",
    }.get(response.status_code, "")
    status = response.status_code
    return EndpointError(
        f"{url} answered {status}: {said.rstrip('.')}.{hint}",
        status,
        passing=status in TRY_AGAIN,
        wait_seconds=_retry_after(response),
    )


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds that the endpoint asks to wait; a date is left to our own patience."""
    try:
        return max(0.0, float(response.headers.get("retry-after", "")))
    except ValueError:
        return None


def _message(error: Any) -> str:
    message = error.get("message", error) if isinstance(error, dict) else error
    return message if isinstance(message, str) else json.dumps(message, ensure_ascii=False)
