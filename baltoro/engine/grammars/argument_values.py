"""What the value of one argument may be, where each stands for itself: text as it is, or JSON.

A `Value` comes of a schema, a `ValueText` is one in the making.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from baltoro.chat.chat_model import SchemaError
from baltoro.chat.tokenizer import Tokenizer
from baltoro.chat.value_kind import ValueKind, branches, kind_of
from baltoro.engine.grammars.bounded_text import BoundedText
from baltoro.engine.grammars.cache import JsonGrammars

if TYPE_CHECKING:
    from baltoro.engine.grammars.json_grammar import JsonGrammar

Mask = NDArray[np.bool_]

ANNOTATIONS = frozenset(
    "$comment $defs $id $schema default definitions deprecated description examples readOnly "
    "title writeOnly".split()
)
_TRIED = 64  # completions of a text that are verified before it counts as one without any
_NEVER_JSON = "x"  # behind anything that reads as JSON


class Value(Protocol):
    """What a value may be; `begin` gives one in the making."""

    shortest: list[int]

    def begin(self) -> ValueText: ...


class ValueText(Protocol):
    """One value in the making. `ending` is the shortest way to its end, None where none is known.

    `correct` is asked about tokens of the mask: the token, or what should come in its place; `left`
    is how many the value still has, this one included.
    """

    def mask(self) -> Mask: ...

    def may_end(self) -> bool: ...

    def ending(self) -> list[int]: ...

    def correct(self, token: int, left: int) -> int | None: ...

    def accept(self, token: int) -> None: ...


def value_of(name: str, schema: Any, root: Mapping[str, Any], grammars: JsonGrammars) -> Value:
    """Raises SchemaError that names the argument."""
    kind = kind_of(schema, root)
    found = list(branches(schema, root))
    if isinstance(schema, Mapping):
        shared = {key: root[key] for key in ("$defs", "definitions") if key in root}
        schema = {**shared, **schema}
    try:
        if not kind.is_text:
            return _JsonValue(grammars.of(schema))
        listed = [_listed(branch) for branch in found]
        if all(values is not None for values in listed):
            grammar = grammars.of(schema)
            texts = [
                v for values in listed for v in values or () if grammar.is_valid(json.dumps(v))
            ]
            return _Choices([v if isinstance(v, str) else json.dumps(v) for v in texts], grammars)
        if any(map(_is_any_text, found)) and _is_plain(schema):
            check = None if kind.others in (frozenset(),) else grammars.of(schema)
            return _FreeText(grammars.tokenizer, kind, check)
        if not kind.others:
            return _CheckedText(grammars.of(schema), grammars.tokenizer)
    except SchemaError as error:
        raise SchemaError(f"of '{name}': {error}") from None
    raise SchemaError(
        f"of '{name}': texts of some form or other values can't be told apart where a text stands "
        "without quotes. Allow any text, or one kind alone."
    )


def _listed(schema: Any) -> list[Any] | None:
    if not isinstance(schema, Mapping):
        return None
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _is_plain(schema: Any) -> bool:
    """Whether it holds no more than alternatives or a reference beside its type."""
    return not isinstance(schema, Mapping) or set(schema) <= ANNOTATIONS | {
        "type",
        "anyOf",
        "oneOf",
        "$ref",
    }


def _is_any_text(schema: Any) -> bool:
    if not isinstance(schema, Mapping):
        return schema is True
    types = schema.get("type", "string")
    return "string" in types and set(schema) <= ANNOTATIONS | {"type"}


class _JsonValue:
    def __init__(self, grammar: JsonGrammar):
        self._grammar = grammar
        self.shortest = grammar.shortest

    def begin(self) -> ValueText:
        return _Json(self._grammar)


class _Json:
    def __init__(self, grammar: JsonGrammar):
        self._text = BoundedText(grammar)

    def mask(self) -> Mask:
        mask = self._text.mask()
        mask[self._text.grammar_end] = False
        return mask

    def may_end(self) -> bool:
        return self._text.whole and not self._text.ending()

    def ending(self) -> list[int]:
        return self._text.ending()

    def correct(self, token: int, left: int) -> int | None:
        found = self._text.correct(token, -1, left)
        return None if found == -1 else found

    def accept(self, token: int) -> None:
        self._text.accept(token)


class _Choices:
    """One of several texts."""

    def __init__(self, texts: Sequence[str], grammars: JsonGrammars):
        self._texts = {text: grammars.tokenizer.encode(text) for text in texts}
        self._vocab_size = grammars.tokenizer.vocab_size
        self.shortest = min(self._texts.values(), key=len)

    def begin(self) -> ValueText:
        return _Choice(self._texts, self._vocab_size)


class _Choice:
    def __init__(self, texts: dict[str, list[int]], vocab_size: int):
        self._rests = texts
        self._vocab_size = vocab_size

    def mask(self) -> Mask:
        mask = np.zeros(self._vocab_size, dtype=bool)
        mask[[rest[0] for rest in self._rests.values() if rest]] = True
        return mask

    def may_end(self) -> bool:
        return not all(self._rests.values())

    def ending(self) -> list[int]:
        return min(self._rests.values(), key=len)

    def correct(self, token: int, left: int) -> int | None:
        after = followed(self._rests, token)
        return token if after and 1 + min(map(len, after.values())) <= left else None

    def accept(self, token: int) -> None:
        self._rests = followed(self._rests, token)


class _FreeText:
    """Any text. `grammar` is of a schema that other values may have too."""

    def __init__(self, tokenizer: Tokenizer, kind: ValueKind, grammar: JsonGrammar | None):
        self.shortest: list[int] = []
        self._tokenizer = tokenizer
        self._kind = kind
        self._grammar = grammar

    def begin(self) -> ValueText:
        return _Free(self._tokenizer, self._kind, self._grammar)


class _Free:
    def __init__(self, tokenizer: Tokenizer, kind: ValueKind, grammar: JsonGrammar | None):
        self._tokenizer = tokenizer
        self._kind = kind
        self._grammar = grammar
        self._bytes = b""

    def mask(self) -> Mask:
        return self._tokenizer.ordinary.copy()

    def may_end(self) -> bool:
        """What reads as a value that is not a text has to be a valid one."""
        if self._grammar is None:
            return True
        text = self._bytes.decode("utf-8", errors="replace")
        return self._grammar.is_valid(self._kind.json_of(text))

    def ending(self) -> list[int]:
        return [] if self.may_end() else self._tokenizer.encode(_NEVER_JSON)

    def correct(self, token: int, left: int) -> int | None:
        return token if left >= (1 if self._grammar is None else 2) else None

    def accept(self, token: int) -> None:
        if self._grammar is not None:
            self._bytes += self._tokenizer.decode_bytes([token])


class _CheckedText:
    """Texts of a schema that asks for a form: a pattern, a length."""

    def __init__(self, grammar: JsonGrammar, tokenizer: Tokenizer):
        self._grammar = grammar
        self._tokenizer = tokenizer
        self.shortest = _Checked(grammar, tokenizer).ending()

    def begin(self) -> ValueText:
        return _Checked(self._grammar, self._tokenizer)


class _Checked:
    def __init__(self, grammar: JsonGrammar, tokenizer: Tokenizer):
        self._grammar = grammar
        self._tokenizer = tokenizer
        self._bytes = b""
        self._plan = self._ending(b"") or []

    def mask(self) -> Mask:
        return self._tokenizer.ordinary.copy()

    def may_end(self) -> bool:
        return not self._plan

    def ending(self) -> list[int]:
        return self._plan

    def correct(self, token: int, left: int) -> int | None:
        if self._plan and token == self._plan[0]:
            return token
        plan = self._ending(self._bytes + self._tokenizer.token_bytes(token))
        return token if plan is not None and 1 + len(plan) <= left else None

    def accept(self, token: int) -> None:
        self._bytes += self._tokenizer.token_bytes(token)
        if self._plan and token == self._plan[0]:
            self._plan = self._plan[1:]
        else:
            self._plan = self._ending(self._bytes) or []

    def _ending(self, data: bytes) -> list[int] | None:
        """The tokens of the shortest end found; none is known within a character."""
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return None
        begun = json.dumps(text, ensure_ascii=False)
        if self._grammar.is_valid(begun):
            return []
        for end in self._grammar.closer.completions(begun[:-1])[:_TRIED]:
            if self._grammar.is_valid(begun[:-1] + end):
                return self._tokenizer.encode(json.loads(begun[:-1] + end)[len(text) :])
        return None


def followed(rests: Mapping[str, list[int]], token: int) -> dict[str, list[int]]:
    """Of texts in tokens those that begin with `token`, and what is left of them."""
    return {name: rest[1:] for name, rest in rests.items() if rest and rest[0] == token}
