"""Reads a JSON text that stops anywhere, as far as it goes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["none", "string", "scalar", "array", "object"]


@dataclass
class Partial:
    """A value of which the text has only a beginning, or nothing.

    `at` says where the text stops in a list or an object: "first" after the bracket, "value" in a
    member, "next" after a member, "comma" after a comma; in objects also "key" in a key and
    "colon" after one. `raw` is what is there of a string or a key after its opening quote, with its
    escapes, or of a number or a word.
    """

    kind: Kind
    at: str = ""
    raw: str = ""
    items: list[Any] = field(default_factory=list)  # of a list, complete
    members: dict[str, Any] = field(default_factory=dict)  # of an object, complete
    key: str = ""  # the member that is being written
    inner: Partial | None = None  # its value
    text: str = ""  # what is there of the value, as it stands


NOTHING = Partial("none")

_SPACE = re.compile(r"[ \t\n\r]*")
_SCALAR = re.compile(r"[-+.0-9a-zA-Z]*")
# An escape without its end; one of the two that some characters take wants the other.
_ESCAPE = re.compile(
    r"(?<!\\)(?:\\\\)*(\\(?:u[0-9a-fA-F]{0,3}"
    r"|u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u(?:[dD](?:[c-fC-F][0-9a-fA-F]?)?)?)?)?)?)$"
)
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)', re.DOTALL)


def read_partial(text: str) -> Partial | None:
    """None where the text holds a whole value. A number at its end may go on, so it is partial.

    Raises ValueError for what is no beginning of JSON.
    """
    value, end = _value(text, 0)
    if isinstance(value, Partial):
        return value
    if text[end:].strip():
        raise ValueError(f"there is text after the value: {text[end:][:20]!r}")
    return None


def read_string(raw: str) -> tuple[str, str]:
    """The characters of a string's beginning, and an escape that it stops in, or ''."""
    escape = ""
    if stop := _ESCAPE.search(raw):
        escape = stop[1]
    whole = raw[: len(raw) - len(escape)]
    return json.loads(f'"{whole}"', strict=False), escape


def _value(text: str, at: int) -> tuple[Any, int]:
    """A value that is there whole, or a Partial; and where it ends."""
    at = _skip(text, at)
    if at == len(text):
        return NOTHING, at
    value, end = _begun_value(text, at)
    if isinstance(value, Partial):
        value.text = text[at:]
    return value, end


def _begun_value(text: str, at: int) -> tuple[Any, int]:
    if text[at] == '"':
        return _string(text, at)
    if text[at] == "[":
        return _array(text, at + 1)
    if text[at] == "{":
        return _object(text, at + 1)
    match = _SCALAR.match(text, at)
    if match is None or not match[0]:
        raise ValueError(f"no value at {at}: {text[at : at + 20]!r}")
    if match.end() == len(text):
        return Partial("scalar", raw=match[0]), match.end()
    return json.loads(match[0]), match.end()


def _string(text: str, at: int) -> tuple[Any, int]:
    match = _STRING.match(text, at)
    assert match is not None
    end = match.end()
    if text[end : end + 1] == '"':
        return json.loads(text[at : end + 1], strict=False), end + 1
    return Partial("string", raw=text[at + 1 :]), len(text)


def _array(text: str, at: int) -> tuple[Any, int]:
    partial = Partial("array", at="first")
    while (at := _skip(text, at)) < len(text):
        if text[at] == "]":
            return partial.items, at + 1
        if text[at] == ",":
            partial.at = "comma"
            at += 1
            continue
        value, at = _value(text, at)
        if isinstance(value, Partial):
            partial.at, partial.inner = "value", value
            return partial, at
        partial.items.append(value)
        partial.at = "next"
    return partial, at


def _object(text: str, at: int) -> tuple[Any, int]:
    partial = Partial("object", at="first")
    while (at := _skip(text, at)) < len(text):
        if text[at] == "}":
            return partial.members, at + 1
        if text[at] == ",":
            partial.at = "comma"
            at += 1
            continue
        at = _member(text, at, partial)
    return partial, at


def _member(text: str, at: int, partial: Partial) -> int:
    key, at = _string(text, at) if text[at] == '"' else (None, at)
    if isinstance(key, Partial):
        partial.at, partial.raw = "key", key.raw
        return len(text)
    if key is None:
        raise ValueError(f"no key at {at}: {text[at : at + 20]!r}")
    partial.key = key
    at = _skip(text, at)
    if at == len(text):
        partial.at = "colon"
        return at
    if text[at] != ":":
        raise ValueError(f"no colon at {at}: {text[at : at + 20]!r}")
    value, at = _value(text, at + 1)
    if isinstance(value, Partial):
        partial.at, partial.inner = "value", value
        return len(text)
    partial.members[key] = value
    partial.at = "next"
    return at


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
