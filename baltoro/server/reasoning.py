"""Remembers the thinking that led to tool calls, for clients that do not send it back.

K2 thinks on from what it thought before its calls. Many clients drop the field; a turn that comes
back without it gets it again. Turns are known by the ids of their calls and by all that was said
before, so that no conversation is given the thinking of another one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from baltoro.chat.chat_model import Completion, Event
from baltoro.chat.messages import Message
from baltoro.chat.template import with_native_ids
from baltoro.engine.kept_bytes import KEY_BYTES, KeptBytes

MAX_BYTES = 4 << 20  # of memory: 12,000 thoughts of a line, or 4 million letters of long ones


class ReasoningStore:
    """Keeps what takes `max_bytes` of memory; what nobody has asked for longest goes first."""

    def __init__(self, max_bytes: int = MAX_BYTES):
        self._kept = KeptBytes(max_bytes)

    def restored(self, messages: Sequence[Message], scope: str) -> list[Message]:
        """The conversation with the thinking of its calls where it is absent and known.

        What is there stays, an empty one too. `scope` keeps callers apart.
        """
        result = list(messages)
        keys = zip(_keys(messages, scope), with_native_ids(messages), strict=True)
        for i, (before, message) in enumerate(keys):
            calls = message.get("tool_calls")
            if not calls or message.get("reasoning_content") is not None:
                continue
            reasoning = self._kept.get(_key(before, calls[0]["id"]))
            if reasoning is not None:
                text = reasoning.decode(errors="surrogatepass")
                result[i] = {**messages[i], "reasoning_content": text}
        return result

    async def remembering(
        self, events: AsyncGenerator[Event, None], messages: Sequence[Message], scope: str
    ) -> AsyncGenerator[Event, None]:
        """The same reply to `messages`; the thinking before its calls is kept."""
        async with aclosing(events) as stream:
            async for event in stream:
                if isinstance(event, Completion) and event.tool_calls and event.reasoning_content:
                    *_, before = _keys([*messages, {"role": "assistant"}], scope)
                    reasoning = event.reasoning_content.encode(errors="surrogatepass")
                    self._kept.keep(_key(before, event.tool_calls[0].id), reasoning)
                yield event


def _key(before: bytes, call_id: str) -> bytes:
    """Of a turn: `before` stands for the conversation before it."""
    said = call_id.encode(errors="surrogatepass")
    return hashlib.sha256(before + said).digest()[:KEY_BYTES]


def _keys(messages: Sequence[Message], scope: str) -> Iterator[bytes]:
    """For each message what stands for all before it, however a client writes it down again."""
    digest = hashlib.sha256(scope.encode())
    for message in with_native_ids(messages):
        yield digest.digest()
        calls = [
            (call["id"], _canonical(call["function"].get("arguments")))
            for call in message.get("tool_calls") or []
        ]
        said = [message["role"], message.get("content") or "", message.get("tool_call_id"), calls]
        digest.update(json.dumps(said).encode())


def _canonical(arguments: Any) -> Any:
    """Arguments as a value, because clients write the JSON of them anew."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except (ValueError, RecursionError):
        return arguments
