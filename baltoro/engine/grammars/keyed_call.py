"""Calls of GLM's family within what is declared: a name, then each argument's name and value.

Arguments come in any order, each at most once, the required ones always. `argument_values.py` keeps
each value to its schema. A call is led to its end before its tokens run out.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baltoro.chat.chat_model import SchemaError
from baltoro.chat.reply_form import KeyMarkers
from baltoro.chat.tokenizer import Tokenizer
from baltoro.engine.grammars.argument_values import (
    ANNOTATIONS,
    Value,
    ValueText,
    followed,
    value_of,
)
from baltoro.engine.grammars.cache import JsonGrammars

Mask = NDArray[np.bool_]

_HELD = ANNOTATIONS | {"type", "properties", "required", "additionalProperties"}


@dataclass(frozen=True)
class Argument:
    name: str
    ids: list[int]
    is_required: bool
    value: Value

    @property
    def way(self) -> int:
        """Tokens of the shortest, its four markers included."""
        return len(self.ids) + len(self.value.shortest) + 4


class KeyedArguments:
    """What may stand in the calls of one tool.

    Raises SchemaError for a schema that can't be promised to be kept.
    """

    def __init__(self, schema: Mapping[str, Any], grammars: JsonGrammars):
        unheld = sorted(set(schema) - _HELD)
        if unheld:
            raise SchemaError(
                f"'{unheld[0]}' beside 'properties' can't be kept by calls that write each "
                "argument for itself. Leave that out."
            )
        properties = dict(schema.get("properties") or {})
        others = schema.get("additionalProperties", True)
        for name in schema.get("required") or []:
            properties.setdefault(name, others)
        required = set(schema.get("required") or [])
        self.arguments = {
            name: Argument(
                name,
                grammars.tokenizer.encode(name),
                name in required,
                value_of(name, part, schema, grammars),
            )
            for name, part in properties.items()
            if name in required or part is not False
        }
        self.needed = sum(each.way for each in self.arguments.values() if each.is_required)


class KeyedCall:
    """One call in the making, from behind the marker that opens it to the one that closes it."""

    def __init__(
        self, tokenizer: Tokenizer, keys: KeyMarkers, end: int, tools: Mapping[str, KeyedArguments]
    ):
        self._tokenizer = tokenizer
        self._keys = keys
        self.grammar_end = end
        self._tools = tools
        self._names: dict[str, list[int]] = {name: tokenizer.encode(name) for name in tools}
        self._tool: KeyedArguments | None = None
        self._open: dict[str, Argument] = {}  # arguments that may still come
        self._key: dict[str, list[int]] | None = None  # what is left of the names they may have
        self._forced: list[int] = []
        self._argument: Argument | None = None
        self._value: ValueText | None = None

    @property
    def begun(self) -> bool:
        return True

    @property
    def whole(self) -> bool:
        return bool(self.mask()[self.grammar_end])

    def mask(self) -> Mask:
        keys = self._keys
        if self._value is not None:
            mask = self._value.mask()
            mask[keys.end_value] = self._value.may_end()
            return mask
        mask = np.zeros(self._tokenizer.vocab_size, dtype=bool)
        if self._forced:
            mask[self._forced[0]] = True
        elif self._key is not None:
            mask[[rest[0] for rest in self._key.values() if rest]] = True
            mask[keys.end_key] = not all(self._key.values())
        elif self._tool is None:
            mask[[rest[0] for rest in self._names.values() if rest]] = True
            for name in (name for name, rest in self._names.items() if not rest):
                self._mark_between(mask, self._tools[name].arguments)
        else:
            self._mark_between(mask, self._open)
        return mask

    def correct(self, token: int, end: int, left: int) -> int:
        """`left`: the tokens that the call still has, this one included, without its end."""
        if self._value is not None and token != self._keys.end_value:
            found = self._value.correct(token, left - 1 - self._needed(self._open))
            return self._way()[0] if found is None else found
        if token == end or token == (way := [*self._way(), end])[0]:
            return token
        tried = copy.copy(self)
        tried._open = dict(self._open)
        tried.accept(token)
        return token if 1 + len(tried._way()) <= left else way[0]

    def accept(self, token: int) -> None:
        keys = self._keys
        if self._forced:
            self._forced = self._forced[1:]
            if token == keys.value and self._argument is not None:
                self._value = self._argument.value.begin()
        elif self._value is not None:
            if token == keys.end_value:
                self._value = self._argument = None
            else:
                self._value.accept(token)
        elif self._key is not None:
            if token == keys.end_key:
                name = next(name for name, rest in self._key.items() if not rest)
                self._argument, self._key = self._open.pop(name), None
                self._forced = [keys.value]
            else:
                self._key = followed(self._key, token)
        elif token == keys.key:
            if self._tool is None:
                self._choose_tool()
            self._key = {name: each.ids for name, each in self._open.items()}
        elif self._tool is None and token != self.grammar_end:
            self._names = followed(self._names, token)

    def _choose_tool(self) -> None:
        name = next(name for name, rest in self._names.items() if not rest)
        self._tool = self._tools[name]
        self._open = dict(self._tool.arguments)

    def _mark_between(self, mask: Mask, arguments: Mapping[str, Argument]) -> None:
        mask[self._keys.key] = bool(arguments) or mask[self._keys.key]
        if not any(each.is_required for each in arguments.values()):
            mask[self.grammar_end] = True

    def _needed(self, arguments: Mapping[str, Argument]) -> int:
        return sum(each.way for each in arguments.values() if each.is_required)

    def _way(self) -> list[int]:
        """The shortest way to the end of the call found."""
        if self._value is not None:
            return [*self._value.ending(), self._keys.end_value, *self._rest(self._open)]
        if self._argument is not None:  # its value comes next
            return [
                *self._forced,
                *self._argument.value.shortest,
                self._keys.end_value,
                *self._rest(self._open),
            ]
        if self._key is not None:
            return min(map(self._way_by_key, self._key), key=len)
        if self._tool is None:
            ways = [[*r, *self._rest(self._tools[n].arguments)] for n, r in self._names.items()]
            return min(ways, key=len)
        return self._rest(self._open)

    def _way_by_key(self, name: str) -> list[int]:
        keys, rest = self._keys, self._key[name] if self._key else []
        others = {n: each for n, each in self._open.items() if n != name}
        shortest = self._open[name].value.shortest
        return [*rest, keys.end_key, keys.value, *shortest, keys.end_value, *self._rest(others)]

    def _rest(self, arguments: Mapping[str, Argument]) -> list[int]:
        keys = self._keys
        way: list[int] = []
        for each in arguments.values():
            if each.is_required:
                way += [keys.key, *each.ids, keys.end_key, keys.value]
                way += [*each.value.shortest, keys.end_value]
        return way
