"""The shortest ways to complete a beginning of JSON so that it validates against a schema.

    >>> closer = Closer({"type": "object", "required": ["a"]}, is_valid=lambda schema, value: True)
    >>> closer.completions('{"b": [tr')
    ['ue],"a":0}']

What comes out are proposals, shortest first. They keep the order that grammars made of a schema
have: the members in `properties` as listed, other required ones, any others. What only forbids
(`not`, `uniqueItems`, `oneOf`) is left to whoever validates the proposals; where there is none,
none was found.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from baltoro.engine.grammars.flat_schema import (
    TYPES,
    Flat,
    FlatSchemas,
    Schema,
    of_type,
    property_schema,
    same,
)
from baltoro.engine.grammars.number_ends import number_ends
from baltoro.engine.grammars.partial_json import NOTHING, Partial, read_partial, read_string
from baltoro.engine.grammars.patterns import PatternError, shortest_suffix
from baltoro.engine.grammars.schema_forms import forbids

_MANY = 12  # proposals kept per value
_LONGEST_FILL = 100_000  # characters made up to reach a least length
_MOST_MADE = 200  # items or members that are made up to reach a least number


class Closer:
    """Completes texts under one schema, given with patterns for formats, as draft 2020-12 has it.

    `is_valid(schema, value)` is asked about values of schemas within it that forbid something.
    """

    def __init__(self, schema: Schema, is_valid: Callable[[Schema, Any], bool]):
        self.schema = schema
        self._is_valid = is_valid
        self._flats = FlatSchemas(schema)
        self._instances: dict[int, tuple[Schema, list[str]]] = {}
        self._in_work: set[int] = set()

    def completions(self, text: str) -> list[str]:
        """What can follow `text`. Raises ValueError where that is no beginning of JSON."""
        partial = read_partial(text)
        return [""] if partial is None else self._close(self.schema, partial)

    def _close(self, schema: Schema, partial: Partial) -> list[str]:
        if partial.kind == "none":
            return self.values(schema)
        makers = {
            "string": self._strings,
            "scalar": _scalars,
            "array": self._arrays,
            "object": self._objects,
        }
        proposals: list[str] = []
        for flat in self._flats.of(schema):
            for made in _split_enum(flat):
                proposals += islice(makers[partial.kind](made, partial), _MANY)
        return _shortest(self._valid(schema, partial.text, proposals))

    def values(self, schema: Schema) -> list[str]:
        """Short values of a schema. One within itself is left out: the shortest has none."""
        key = id(schema)
        if key in self._instances:
            return self._instances[key][1]
        if key in self._in_work:
            return []
        self._in_work.add(key)
        proposals: list[str] = []
        for flat in self._flats.of(schema):
            proposals += islice(self._values_of(flat), 2 * _MANY)
        self._in_work.remove(key)
        found = _shortest(self._valid(schema, "", proposals))
        if found:
            self._instances[key] = (schema, found)
        return found

    def _valid(self, schema: Schema, begun: str, proposals: list[str]) -> Iterable[str]:
        if schema is self.schema or not forbids(schema, self._flats.resolve):
            return proposals  # the whole is validated by whoever asked
        return (p for p in proposals if self._is_valid(schema, json.loads(begun + p)))

    def _values_of(self, flat: Flat) -> Iterator[str]:
        types = flat.get("type", TYPES)
        if "enum" in flat:
            yield from (_dump(value) for value in flat["enum"] if of_type(value, types))
            return
        if "null" in types:
            yield "null"
        if "boolean" in types:
            yield from ("true", "false")
        if "integer" in types or "number" in types:
            yield from islice(_scalars(flat, Partial("scalar")), _MANY)
        if "string" in types:
            empty = Partial("string")
            yield from ('"' + rest for rest in islice(self._strings(flat, empty), _MANY))
        if "array" in types:
            empty = Partial("array", at="first")
            yield from ("[" + rest for rest in islice(self._arrays(flat, empty), _MANY))
        if "object" in types:
            empty = Partial("object", at="first")
            yield from ("{" + rest for rest in islice(self._objects(flat, empty), _MANY))

    def _strings(self, flat: Flat, partial: Partial) -> Iterator[str]:
        if "string" not in flat.get("type", TYPES):
            return
        text, escape = read_string(partial.raw)
        for written, char in _escape_ends(escape):
            begun = text + char
            if "enum" in flat:
                fitting = [v for v in flat["enum"] if isinstance(v, str) and v.startswith(begun)]
                yield from (written + _escaped(value[len(begun) :]) + '"' for value in fitting)
                continue
            for rest in _endings(flat, begun):
                yield written + _escaped(rest) + '"'

    def _arrays(self, flat: Flat, partial: Partial) -> Iterator[str]:
        if "array" not in flat.get("type", TYPES) or "enum" in flat:
            return
        count = len(partial.items)
        beginnings = [""]
        if partial.at in ("value", "comma"):
            beginnings = self._close(_item(flat, count), partial.inner or NOTHING)
            count += 1
        for begun in beginnings:
            written = partial.items + _parsed_item(partial, begun)
            for items in self._fillings(flat, written):
                first = count == 0
                yield begun + "".join(items)[first:] + "]"

    def _fillings(self, flat: Flat, written: list[Any]) -> Iterator[list[str]]:
        """Items to be added, each with a comma before it, until there are enough."""
        made: list[str] = []
        taken = list(written)
        while len(taken) < flat.get("minItems", 0) and len(made) < _MOST_MADE:
            if not self._add_item(_item(flat, len(taken)), flat, made, taken):
                return
        yield made
        for wanted in flat.get("contains", []):
            for _ in range(flat.get("minContains", 1)):
                schema = {"allOf": [wanted, _item(flat, len(taken))]}
                if not self._add_item(schema, flat, made, taken):
                    return
            yield made

    def _add_item(self, schema: Schema, flat: Flat, made: list[str], taken: list[Any]) -> bool:
        for text in self.values(schema):
            value = json.loads(text)
            if not flat.get("uniqueItems") or not any(same(value, each) for each in taken):
                made.append("," + text)
                taken.append(value)
                return True
        return False

    def _objects(self, flat: Flat, partial: Partial) -> Iterator[str]:
        if "object" not in flat.get("type", TYPES) or "enum" in flat:
            return
        if not self._members_fit(flat, partial):
            return
        taken = set(partial.members)
        for begun, name in self._member_ends(flat, partial, taken):
            rest = self._missing(flat, taken | ({name} if name is not None else set()))
            if rest is not None:
                first = not partial.members and name is None
                yield begun + "".join(rest)[first:] + "}"

    def _members_fit(self, flat: Flat, partial: Partial) -> bool:
        """Whether the members that are there can belong to this alternative, at first sight."""
        for name, value in partial.members.items():
            options = self._flats.of(property_schema(flat, name))
            if not any(
                of_type(value, option.get("type", TYPES))
                and any(same(value, each) for each in option.get("enum", [value]))
                for option in options
            ):
                return False
        return True

    def _member_ends(
        self, flat: Flat, partial: Partial, taken: set[str]
    ) -> Iterator[tuple[str, str | None]]:
        """How the member that is being written can end, and its name; None without one."""
        if partial.at == "value":
            schema = property_schema(flat, partial.key)
            for text in self._close(schema, partial.inner or NOTHING):
                yield text, partial.key
        elif partial.at == "colon":
            for text in self.values(property_schema(flat, partial.key)):
                yield ":" + text, partial.key
        elif partial.at == "key":
            for rest, name in self._keys(flat, partial.raw, taken):
                for text in self.values(property_schema(flat, name))[:2]:
                    yield rest + ":" + text, name
        elif partial.at == "comma":
            for rest, name in self._keys(flat, "", taken):
                for text in self.values(property_schema(flat, name))[:2]:
                    yield '"' + rest + ":" + text, name
        else:
            yield "", None

    def _keys(self, flat: Flat, raw: str, taken: set[str]) -> Iterator[tuple[str, str]]:
        """Ends of a key that is being written, quote included, and the key."""
        text, escape = read_string(raw)
        for written, char in _escape_ends(escape):
            begun = text + char
            open_names = _names_still_open(flat, taken)
            needed = [name for name in open_names if name in flat.get("required", [])]
            fresh = islice(self._fresh(flat, begun, taken), 2)
            for name in dict.fromkeys([*needed, *fresh, *open_names]):
                if name.startswith(begun):
                    yield written + _escaped(name[len(begun) :]) + '"', name

    def _fresh(self, flat: Flat, begun: str, taken: set[str]) -> Iterator[str]:
        """Names that are not declared, with a beginning."""
        patterns = [
            pattern
            for each in flat.get("propertyNames", [])
            for option in self._flats.of(each)[:1]
            for pattern in option.get("pattern", [])
        ]
        sources = [[*patterns, pattern] for pattern in flat.get("patternProperties", {})]
        if flat.get("additionalProperties", True) is not False:
            sources.append(patterns)
        for source in sources:
            for tail in ("", *"abcdefghij"):
                name = begun + tail
                rest = _suffix(source, name)
                if rest is not None and not {name + rest} & (taken | {*flat.get("properties", {})}):
                    yield name + rest

    def _missing(self, flat: Flat, taken: set[str]) -> list[str] | None:
        """The members still to be added, each with a comma before it."""
        names = self._missing_names(flat, taken)
        declared = flat.get("properties", {})
        order = {name: i for i, name in enumerate([*declared, *flat.get("required", [])][::-1])}
        made = []
        for name in sorted(names, key=lambda name: -order.get(name, -1)):
            values = self.values(property_schema(flat, name))
            if not values:
                return None
            made.append(f",{_dump(name)}:{values[0]}")
        return made

    def _missing_names(self, flat: Flat, taken: set[str]) -> list[str]:
        names = [name for name in flat.get("required", []) if name not in taken]
        depends = flat.get("dependentRequired", {})
        for name in (*taken, *names):  # `names` grows while it is gone through
            more = depends.get(name, [])
            names += [each for each in more if each not in taken and each not in names]
        for name in names:
            names += [n for n in depends.get(name, []) if n not in taken and n not in names]
        lacking = flat.get("minProperties", 0) - len(taken) - len(names)
        if lacking > 0:
            spare = (n for n in flat.get("properties", {}) if n not in taken and n not in names)
            fresh = self._fresh(flat, "", {*taken, *names})
            names += islice((*spare, *islice(fresh, min(lacking, _MOST_MADE))), lacking)
        return names


def _names_still_open(flat: Flat, taken: set[str]) -> list[str]:
    """The declared names that the order leaves after those that are there."""
    order = list(dict.fromkeys([*flat.get("properties", {}), *flat.get("required", [])]))
    if taken - set(order):
        return []
    last = max((order.index(name) for name in taken), default=-1)
    return order[last + 1 :]


def _item(flat: Flat, index: int) -> Schema:
    listed = flat.get("prefixItems", [])
    return listed[index] if index < len(listed) else flat.get("items", True)


def _parsed_item(partial: Partial, end: str) -> list[Any]:
    """The item that `end` completes; for a list or an object a stand-in that equals nothing."""
    inner = partial.inner or NOTHING
    if partial.at == "comma" or (partial.at == "value" and inner.kind == "none"):
        return [json.loads(end)]
    if partial.at != "value":
        return []
    if inner.kind in ("string", "scalar"):
        return [json.loads('"' * (inner.kind == "string") + inner.raw + end, strict=False)]
    return [object()]


def _split_enum(flat: Flat) -> Iterator[Flat]:
    """Listed lists and objects as schemas of their parts, for they can be begun too."""
    listed = flat.get("enum")
    if listed is None:
        yield flat
        return
    types = flat.get("type", TYPES)
    yield {**flat, "enum": [v for v in listed if not isinstance(v, list | dict)]}
    for value in listed:
        if isinstance(value, list) and "array" in types:
            items = [{"const": each} for each in value]
            yield {"type": ["array"], "prefixItems": items, "items": False, "minItems": len(items)}
        if isinstance(value, dict) and "object" in types:
            members = {name: {"const": each} for name, each in value.items()}
            yield {
                "type": ["object"],
                "properties": members,
                "required": list(members),
                "additionalProperties": False,
            }


def _endings(flat: Flat, begun: str) -> Iterator[str]:
    """Texts after the beginning of a string; several where no pattern decides."""
    patterns = flat.get("pattern", [])
    least, most = flat.get("minLength", 0), flat.get("maxLength")
    if patterns:
        rest = _suffix(patterns, begun, least, most)
        if rest is not None:
            yield rest
        for char in "abc01":  # others, for lists whose items must differ
            rest = _suffix(patterns, begun + char, least, most)
            if rest is not None:
                yield char + rest
        return
    lacking = max(0, least - len(begun))
    if lacking > _LONGEST_FILL:
        return
    fill = "a" * lacking
    for rest in (fill, *((fill + c)[-max(1, lacking) :] for c in "bcdefghijk")):
        if most is None or len(begun) + len(rest) <= most:
            yield rest


def _suffix(patterns: list[str], begun: str, least: int = 0, most: int | None = None) -> str | None:
    try:
        return shortest_suffix(patterns, begun, least, most)
    except PatternError:
        return None


_ESCAPES = [
    *(f"\\{char}" for char in 'nt"\\rbf'),
    *(f"\\u00{c}" for c in ("01", "1f", "7f", "0b", "10")),
]


def _escape_ends(escape: str) -> Iterator[tuple[str, str]]:
    """How an escape can end, and the character it is; ("", "") where there is none."""
    if not escape:
        yield "", ""
        return
    for whole in (*_ESCAPES, *_filled(escape)):
        if whole.startswith(escape):
            yield whole[len(escape) :], json.loads(f'"{whole}"')


def _filled(escape: str) -> Iterator[str]:
    """A begun escape by number with made-up digits, and its second half where it takes one."""
    digits = escape[2:6]
    if not digits:
        return
    for more in ("000", "001", "444"):
        first = digits + more[: 4 - len(digits)]
        if 0xD800 <= int(first, 16) < 0xDC00:
            low = escape[8:]
            yield f"\\u{first}\\u{low}{'dc00'[len(low) :]}"
        else:
            yield f"\\u{first}"


def _scalars(flat: Flat, partial: Partial) -> Iterator[str]:
    """Ends of a number or a word."""
    raw, types = partial.raw, flat.get("type", TYPES)
    if "enum" in flat:
        written = [_dump(value) for value in flat["enum"] if of_type(value, types)]
        yield from (text[len(raw) :] for text in written if text.startswith(raw))
    if raw[:1].isalpha():
        words = [("null", "null"), ("true", "boolean"), ("false", "boolean")]
        for word, kind in words:
            if word.startswith(raw) and kind in types and "enum" not in flat:
                yield word[len(raw) :]
    elif "integer" in types or "number" in types:
        for rest in number_ends(flat, raw):
            value = json.loads(raw + rest)
            if "enum" not in flat or any(same(value, each) for each in flat["enum"]):
                yield rest


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _escaped(text: str) -> str:
    return _dump(text)[1:-1].replace("\x7f", "\\u007f")


def _shortest(proposals: Iterable[str]) -> list[str]:
    return sorted(dict.fromkeys(proposals), key=len)[:_MANY]
