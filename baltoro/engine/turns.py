"""The token ids that a model generated, for when its turns come back as text.

A client returns a turn as a message, and text can be cut into tokens in many ways. What the model
wrote is kept for a while, so that the turn is rendered with the very ids it was generated with:
nothing is tokenized a second time, and the cached prefix stays valid.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence

from baltoro.chat.messages import Message, Tool
from baltoro.chat.tokenizer import Tokenizer
from baltoro.engine.kept_bytes import KEY_BYTES, KeptBytes

MAX_BYTES = 2 << 20  # of memory: 8,000 short texts, or half a million ids of long ones


def conversation_keys(messages: Sequence[Message], tools: Sequence[Tool]) -> list[bytes]:
    """A key for the conversation before each message, and last for the whole of it.

    Reasoning is left out, because the template drops it from finished turns.
    """
    return keys_after(_hash(json.dumps(list(tools), sort_keys=True)), messages)


def keys_after(key: bytes, messages: Sequence[Message]) -> list[bytes]:
    """The same for messages that go on from a conversation with `key`, which is the first."""
    keys = [key]
    for message in messages:
        spoken = {k: v for k, v in message.items() if k != "reasoning_content" and v is not None}
        keys.append(_hash(json.dumps(spoken, sort_keys=True), keys[-1]))
    return keys


class GeneratedTurns:
    """Remembers texts whose generated ids are not what the tokenizer makes of them.

    They take `max_bytes` of memory at most; those not seen for longest are forgotten.
    """

    def __init__(self, tokenizer: Tokenizer, max_bytes: int = MAX_BYTES):
        self._tokenizer = tokenizer
        self._kept = KeptBytes(max_bytes)

    def remember(self, key: bytes, generated_ids: Sequence[int]) -> None:
        """Keep a reply to the conversation `key`."""
        for num_specials, ids in self._segments(generated_ids):
            if self._is_special(ids):
                continue
            text = self._tokenizer.decode(ids)
            place, written = self._tokenizer.form.place(num_specials, text)
            if written != text or self._tokenizer.encode(text) != ids:
                self._kept.keep(_text_key(key, place, written), array("i", ids).tobytes())

    def restore(
        self, prompt_ids: list[int], messages: Sequence[Message], keys: Sequence[bytes]
    ) -> list[int]:
        """The rendered prompt of `messages` with generated ids wherever they are known.

        `keys` are the conversation's, from `conversation_keys`.
        """
        said_after = [
            key
            for key, message in zip(keys, messages, strict=False)
            if message["role"] == "assistant"
        ]
        if not said_after or not len(self._kept):
            return prompt_ids
        # Text has no special tokens, so the marks of turns can only be the template's own.
        bodies = self._tokenizer.form.bodies(prompt_ids)
        if len(bodies) != len(said_after):  # a template that joins turns or leaves one out
            return prompt_ids
        result: list[int] = []
        start = 0
        for (body, end), key in zip(bodies, said_after, strict=True):
            result += prompt_ids[start:body] + self._restored(prompt_ids[body:end], key)
            start = end
        return result + prompt_ids[start:]

    def _restored(self, body: list[int], key: bytes) -> list[int]:
        result: list[int] = []
        for num_specials, ids in self._segments(body):
            if not self._is_special(ids):
                text = self._tokenizer.decode(ids)
                place, written = self._tokenizer.form.place(num_specials, text)
                if (kept := self._kept.get(_text_key(key, place, written))) is not None:
                    ids = array("i", kept).tolist()
            result += ids
        return result

    def _segments(self, ids: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """Runs of text whole and special tokens one by one, with the specials before each."""
        num_specials = 0
        text: list[int] = []
        for id in ids:
            if not self._tokenizer.is_special(id):
                text.append(id)
                continue
            if text:
                yield num_specials, text
                text = []
            yield num_specials, [id]
            num_specials += 1
        if text:
            yield num_specials, text

    def _is_special(self, segment: list[int]) -> bool:
        return self._tokenizer.is_special(segment[0])


def _text_key(key: bytes, place: int, text: str) -> bytes:
    """Of a text in the turn after the conversation `key`; `place` is the reply form's."""
    return _hash(f"{place} {text}", key)


def _hash(text: str, before: bytes = b"") -> bytes:
    said = before + text.encode("utf-8", errors="surrogatepass")
    return hashlib.sha256(said).digest()[:KEY_BYTES]
