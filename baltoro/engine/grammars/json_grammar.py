"""JSON of a schema, token by token: what may come next, and the shortest way to its end.

llguidance says which tokens keep a text within the grammar of a schema. What its grammars can't
hold is checked on the value by jsonschema, and `Closer` finds how a text can be completed.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np
from jsonschema import (
    Draft4Validator,
    Draft7Validator,
    Draft202012Validator,
    validators,
)
from jsonschema import exceptions as jsonschema_errors
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray
from referencing.exceptions import Unresolvable

from baltoro.chat.chat_model import SchemaError
from baltoro.chat.json_tokenizer import JsonTokenizer
from baltoro.chat.tokenizer import Tokenizer
from baltoro.engine.grammars.closing import Closer
from baltoro.engine.grammars.partial_json import read_partial
from baltoro.engine.grammars.patterns import PatternError, automaton
from baltoro.engine.grammars.schema_forms import Schema, held_form, modern_form, subschemas

_DRAFTS = (Draft202012Validator, Draft7Validator, Draft4Validator)
_SPACE = r"[ \n\t]{1,16}"  # between values: enough for any layout, not enough to idle away tokens
# Python, and so many a client, reads no integer of more than 4,300 digits; no token has 300.
_LONGEST_NUMBER = 4000
_IN_NUMBERS = b"0123456789+-.eE"
_TRIED = 64  # proposals that are verified before a text counts as one that can't be completed
_COMPARED = 3  # verified ones of which the one with the fewest tokens is taken
_CONTINUATIONS = (0x80, 0xA0, 0x90, 0xBF)  # bytes that can finish a character


class JsonGrammar:
    """One schema. Raises SchemaError if texts of it can't be promised to validate.

    `checked` names the keywords that the grammar does not hold. `shortest` are the ids of the
    shortest text found, `growth` an estimate of how many tokens longer one token can make the way
    to the end.
    """

    def __init__(self, schema: Schema, tokenizer: Tokenizer, llguidance: LLTokenizer, end: int):
        self.tokenizer = tokenizer
        self.end = end
        self.validator = _validator(schema)
        modern = modern_form(schema, lone_references=not _is_modern(schema))
        _check_patterns(modern)
        within = _linear(Draft202012Validator)(modern)
        self.closer = Closer(modern, lambda part, value: within.evolve(schema=part).is_valid(value))
        self.characters = sorted({c for c in json.dumps(modern, ensure_ascii=False) if c > "\x7f"})
        left_out: set[str] = set()
        held = held_form(modern, left_out)
        self.prototype = _matcher(held, llguidance, left_out)
        self.checked = tuple(sorted(left_out))
        ending = JsonText(self).ending()
        if ending is None:
            reason = f" ({', '.join(self.checked)})" if self.checked else ""
            raise SchemaError(f"no value was found that it allows{reason}. Simplify it.")
        self.shortest = ending
        self.growth = 4 + max((self._tokens_of(each) for each in subschemas(modern)), default=0)

    def begin(self) -> JsonText:
        return JsonText(self)

    @cached_property
    def in_numbers(self) -> NDArray[np.bool_]:
        """The tokens with which a number can go on: bool[V]."""
        tokens = map(self.tokenizer.token_bytes, range(self.tokenizer.vocab_size))
        return np.array([token[:1] in _IN_NUMBERS for token in tokens])

    def is_valid(self, text: str) -> bool:
        """What only a value shows. A text of the grammar is valid in everything else."""
        try:
            return self.validator.is_valid(json.loads(text))
        except (ValueError, RecursionError, Unresolvable):
            return False

    def _tokens_of(self, schema: Schema) -> int:
        values = self.closer.values(schema)
        return len(self.tokenizer.encode(values[0])) if values else 0


class JsonText:
    """One text in the making."""

    def __init__(self, grammar: JsonGrammar):
        self.grammar = grammar
        self._matcher = grammar.prototype.deep_copy()
        self._bytes = b""

    def copy(self) -> JsonText:
        other = JsonText.__new__(JsonText)
        other.grammar, other._bytes = self.grammar, self._bytes
        other._matcher = self._matcher.deep_copy()
        return other

    @property
    def begun(self) -> bool:
        return bool(self._bytes)

    @property
    def whole(self) -> bool:
        """Whether the text may end here, as far as the grammar knows."""
        return self._matcher.is_accepting()

    def mask(self) -> NDArray[np.bool_]:
        """The tokens that may come next: bool[V], the grammar's `end` among them where it may."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        size = self.grammar.tokenizer.vocab_size
        mask = np.unpackbits(bits, count=size, bitorder="little").astype(bool)
        if self._in_long_number() and (ended := mask & ~self.grammar.in_numbers).any():
            return ended
        return mask

    def _in_long_number(self) -> bool:
        end = self._bytes[-_LONGEST_NUMBER:]
        if len(end) < _LONGEST_NUMBER or end.strip(_IN_NUMBERS):
            return False
        partial = read_partial(self._bytes.decode())
        while partial is not None and partial.inner is not None:
            partial = partial.inner
        return partial is not None and partial.kind == "scalar"

    def accept(self, token: int) -> None:
        """Raises RuntimeError for a token that is not in the mask."""
        if not self._matcher.consume_token(token):
            raise RuntimeError(f"token {token} is not of the grammar: {self._matcher.get_error()}")
        self._bytes += self.grammar.tokenizer.token_bytes(token)

    def ending(self) -> list[int] | None:
        """The fewest tokens found that complete the text so that it validates."""
        found: list[list[int]] = []
        for ids, text in self._proposals():
            if self._accepts(ids) and (not self.grammar.checked or self.grammar.is_valid(text)):
                found.append(ids)
                if len(found) == _COMPARED:
                    break
        return min(found, key=len, default=None)

    def _accepts(self, ids: list[int]) -> bool:
        """Whether the grammar takes these tokens and then the end."""
        if not ids:
            return self.whole
        return self._matcher.validate_tokens([*ids, self.grammar.end]) == len(ids) + 1

    def _proposals(self) -> Iterator[tuple[list[int], str]]:
        """Ids that may complete the text, and the text they would make."""
        tokenizer = self.grammar.tokenizer
        tried = 0
        for more, text in _whole_characters(self._bytes, self.grammar.characters):
            try:
                ends = self.grammar.closer.completions(text)
            except ValueError:
                continue
            first = [tokenizer.ranks[bytes([byte])] for byte in more]
            for end in ends:
                yield first + tokenizer.encode(end), text + end
                tried += 1
                if tried == _TRIED:
                    return


def _whole_characters(data: bytes, likely: Sequence[str]) -> Iterator[tuple[bytes, str]]:
    """The text of bytes that may stop within a character, and bytes that finish the character."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    text = decoder.decode(data)
    begun = decoder.getstate()[0]
    if not begun:
        yield b"", text
        return
    for char in likely:
        if (whole := char.encode()).startswith(begun):
            yield whole[len(begun) :], text + char
    for byte in _CONTINUATIONS:
        for length in range(1, 4):
            more = bytes([byte]) + b"\x80" * (length - 1)
            try:
                yield more, text + (begun + more).decode("utf-8")
            except UnicodeDecodeError:
                continue


def llguidance_tokenizer(tokenizer: Tokenizer, end: int) -> LLTokenizer:
    if isinstance(tokenizer, JsonTokenizer):
        return LLTokenizer(tokenizer.library_spec, n_vocab=tokenizer.vocab_size, eos_token=end)
    return LLTokenizer.from_tiktoken(  # pyright: ignore[reportAttributeAccessIssue]
        encoder=tokenizer.ranks,
        special_tokens=tokenizer.special_ids,
        pattern=tokenizer.pat_str,
        eos_token=end,
        n_vocab=tokenizer.vocab_size,
    )


def _matcher(held: Schema, llguidance: LLTokenizer, left_out: set[str]) -> LLMatcher:
    """The grammar of a schema. What it had to ignore goes to `left_out`."""
    if not isinstance(held, Mapping):
        held = {"allOf": [held]}
    error = ""
    for option, keyword in (({}, ""), ({"coerce_one_of": True}, "oneOf")):
        options = {"whitespace_pattern": _SPACE, **option}
        grammar = LLMatcher.grammar_from_json_schema(json.dumps({**held, "x-guidance": options}))
        matcher = LLMatcher(llguidance, grammar, log_level=0)
        if not matcher.is_error():
            left_out.update([keyword] if keyword else [])
            return matcher
        error = matcher.get_error().partition("\n")[0]
    raise SchemaError(f"it can't be turned into a grammar: {error}. Leave that out.")


def _validator(schema: Any) -> Any:
    """A validator of the draft the schema is written in, whose patterns take linear time.

    Without `$schema` it is the newest draft that accepts it.
    """
    named = isinstance(schema, Mapping) and "$schema" in schema
    drafts: Any = (validators.validator_for(schema, Draft202012Validator),) if named else _DRAFTS
    failure = ""
    for draft in drafts:
        try:
            draft.check_schema(schema)
        except jsonschema_errors.SchemaError as error:
            where = "/".join(str(part) for part in error.absolute_path)
            failure = failure or f"{where + ': ' if where else ''}{error.message}"
            continue
        return _linear(draft)(schema, format_checker=draft.FORMAT_CHECKER)
    raise SchemaError(f"it is not a JSON schema: {failure[:300]}.")


# Making a class takes longer than all the rest of a grammar, and more memory.
@cache
def _linear(draft: Any) -> Any:
    """The draft with patterns that can't take exponential time, as Python's can, and with
    `dependencies`, which newer drafts accept and ignore."""
    return validators.extend(
        draft,
        {
            "dependencies": Draft7Validator.VALIDATORS["dependencies"],
            "pattern": _pattern,
            "patternProperties": _pattern_properties,
            "additionalProperties": _additional_properties,
        },
    )


def _pattern(validator: Any, pattern: str, instance: Any, schema: Schema) -> Iterator[Any]:
    if isinstance(instance, str) and not automaton(pattern).matches(instance):
        yield jsonschema_errors.ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Schema], instance: Any, schema: Schema
) -> Iterator[Any]:
    for name, value in instance.items() if isinstance(instance, dict) else ():
        for pattern, inner in patterns.items():
            if automaton(pattern).matches(name):
                yield from validator.descend(value, inner, path=name, schema_path=pattern)


def _additional_properties(
    validator: Any, rule: Schema, instance: Any, schema: Mapping
) -> Iterator[Any]:
    for name, value in instance.items() if isinstance(instance, dict) else ():
        patterns = schema.get("patternProperties", {})
        declared = name in schema.get("properties", {})
        if not declared and not any(automaton(each).matches(name) for each in patterns):
            yield from validator.descend(value, rule, path=name)


def _is_modern(schema: Schema) -> bool:
    named = schema.get("$schema", "") if isinstance(schema, Mapping) else ""
    return not named or any(year in named for year in ("2019", "2020"))


def _check_patterns(modern: Schema) -> None:
    """Raises SchemaError for a pattern that can't be followed."""
    for schema in subschemas(modern):
        patterns: Sequence[str] = ()
        if isinstance(schema, Mapping):
            patterns = [*schema.get("patternProperties", {}), *[schema.get("pattern", "")]]
        for pattern in patterns:
            try:
                automaton(pattern)
            except PatternError as error:
                raise SchemaError(f"{error} Write the pattern without that.") from None
