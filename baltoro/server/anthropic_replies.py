"""Replies of Anthropic's Messages API, made of those of the chat endpoint."""

from __future__ import annotations

import hashlib
import json
import uuid
from base64 import urlsafe_b64encode
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from baltoro.chat.chat_model import (
    Completion,
    ContentDelta,
    Event,
    ReasoningDelta,
    ToolCallDelta,
    Usage,
)
from baltoro.server.reply import Choices, Json

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
NO_USAGE = Usage(prompt=0, completion=0, reasoning=0, cached=0)
SIGNATURE_PREFIX = "baltoro1."


@dataclass
class MessageReply:
    """One reply, whole or as the events of a stream."""

    model: str
    shows_thinking: bool
    id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")

    def message(self, content: list[Json], stop: Json, usage: Usage) -> Json:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            **stop,
            "usage": usage_json(usage),
        }

    async def whole(self, choices: Choices) -> Json:
        """The reply at once."""
        completion: Completion | None = None
        async with aclosing(choices):
            async for _, event in choices:
                if isinstance(event, Completion):
                    completion = event
        assert completion is not None, "a stream ends with its completion"
        return self.message(self.blocks(completion), stop_fields(completion), completion.usage)

    def blocks(self, completion: Completion) -> list[Json]:
        blocks: list[Json] = []
        if self.shows_thinking and completion.reasoning_content:
            text = completion.reasoning_content
            blocks.append({"type": "thinking", "thinking": text, "signature": signature(text)})
        if completion.content:
            blocks.append({"type": "text", "text": completion.content})
        for call in completion.tool_calls:
            block = {"type": "tool_use", "id": call.id, "name": call.name}
            blocks.append({**block, "input": read_arguments(call.arguments)})
        return blocks

    async def chunks(self, choices: Choices) -> AsyncGenerator[Json, None]:
        """The reply as events; `type` names each."""
        stream = _Blocks()
        completion: Completion | None = None
        started = False
        async with aclosing(choices):
            async for _, event in choices:
                if not started:
                    started = True
                    empty = {"stop_reason": None, "stop_sequence": None}
                    yield {"type": "message_start", "message": self.message([], empty, NO_USAGE)}
                    yield {"type": "ping"}
                if isinstance(event, Completion):
                    completion = event
                elif self.shows_thinking or not isinstance(event, ReasoningDelta):
                    for item in stream.feed(event):
                        yield item
        assert completion is not None, "a stream ends with its completion"
        for item in stream.close():
            yield item
        yield {
            "type": "message_delta",
            "delta": stop_fields(completion),
            "usage": usage_json(completion.usage),
        }
        yield {"type": "message_stop"}


def stop_fields(completion: Completion) -> Json:
    reason = STOP_REASONS.get(completion.finish_reason, "end_turn")
    if reason == "end_turn" and completion.stop_text is not None:
        reason = "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": completion.stop_text}


def read_arguments(arguments: str) -> Json:
    """`input` is an object, so arguments that were cut short are shown as text."""
    try:
        value = json.loads(arguments)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"_unfinished_json": arguments}


class _Blocks:
    """Opens and closes the content blocks of a stream."""

    def __init__(self) -> None:
        self.index = -1
        self.open: tuple[str, int] | None = None  # kind, and which call
        self.thinking: list[str] = []  # of the block that is open

    def feed(self, event: Event) -> list[Json]:
        if isinstance(event, ReasoningDelta) and event.text:
            self.thinking.append(event.text)
            start = {"type": "thinking", "thinking": "", "signature": ""}
            delta = {"type": "thinking_delta", "thinking": event.text}
            return [*self.block(("thinking", 0), start), self.delta(delta)]
        if isinstance(event, ContentDelta) and event.text:
            start = {"type": "text", "text": ""}
            delta = {"type": "text_delta", "text": event.text}
            return [*self.block(("text", 0), start), self.delta(delta)]
        if isinstance(event, ToolCallDelta):
            start = {"type": "tool_use", "id": event.id, "name": event.name, "input": {}}
            items = self.block(("tool_use", event.index), start)
            if event.arguments:
                delta = {"type": "input_json_delta", "partial_json": event.arguments}
                items.append(self.delta(delta))
            return items
        return []

    def block(self, kind: tuple[str, int], start: Json) -> list[Json]:
        """Nothing where the block is open already, else its start, after the end of the last."""
        if self.open == kind:
            return []
        items = self.close()
        self.open = kind
        self.index += 1
        begin = {"type": "content_block_start", "index": self.index, "content_block": start}
        return [*items, begin]

    def delta(self, delta: Json) -> Json:
        return {"type": "content_block_delta", "index": self.index, "delta": delta}

    def close(self) -> list[Json]:
        if self.open is None:
            return []
        items = []
        if self.open[0] == "thinking":
            signed = signature("".join(self.thinking))
            items.append(self.delta({"type": "signature_delta", "signature": signed}))
            self.thinking = []
        self.open = None
        return [*items, {"type": "content_block_stop", "index": self.index}]


def usage_json(usage: Usage) -> Json:
    """`input_tokens` leaves the cached ones out, as the API has it."""
    return {
        "input_tokens": usage.prompt - usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.completion,
    }


def signature(thinking: str) -> str:
    """Says that a thinking block is as it was sent. It guards against mistakes, not malice."""
    digest = hashlib.sha256(thinking.encode("utf-8", errors="surrogatepass")).digest()
    return SIGNATURE_PREFIX + urlsafe_b64encode(digest).decode("ascii")
