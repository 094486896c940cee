"""A JSON schema as alternatives without references or compositions.

A flat schema is a dict in which every keyword counts for itself. `$ref` is looked up, `allOf` and
siblings are merged, and `anyOf`, `oneOf` and `if` give one alternative for each of their ways. What
only forbids (`not`, the exclusiveness of `oneOf`) is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from baltoro.engine.grammars.patterns import automaton

Schema = Any  # a mapping, true or false
Flat = dict[str, Any]

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_MOST = 64  # alternatives that are followed

# Kept as lists of everything that was asked for.
_LISTED = ("pattern", "multipleOf", "contains", "propertyNames")
_LARGEST = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", "minContains")
_SMALLEST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_SCHEMAS = ("items", "additionalProperties")
_NAMED = ("properties", "patternProperties", "dependentRequired")
_KEPT = {
    *_LARGEST,
    *_SMALLEST,
    *_SCHEMAS,
    *_NAMED,
    "enum",
    "prefixItems",
    "required",
    "uniqueItems",
}


class FlatSchemas:
    """The alternatives of the schemas within one `root`."""

    def __init__(self, root: Schema):
        self.root = root
        # By identity; the schema is kept with its alternatives, so that no other takes its place.
        self._known: dict[int, tuple[Schema, list[Flat]]] = {}

    def of(self, schema: Schema) -> list[Flat]:
        """At most `_MOST` alternatives; none if nothing can satisfy the schema."""
        known = self._known.get(id(schema))
        if known is None:
            flats = list(islice(self._alternatives(schema, ()), _MOST))
            known = self._known[id(schema)] = (schema, flats)
        return known[1]

    def resolve(self, reference: str) -> Schema:
        """What `#`, `#/a/b` or `#anchor` stands for; anything, where it is not found."""
        if not reference.startswith("#"):
            return True
        if reference[1:2] not in ("", "/"):
            return next(_anchored(self.root, reference[1:]), True)
        place = self.root
        for part in reference[1:].split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            try:
                place = place[int(part)] if isinstance(place, list) else place[part]
            except (KeyError, IndexError, ValueError, TypeError):
                return True
        return place

    def _alternatives(self, schema: Schema, within: tuple[str, ...]) -> Iterator[Flat]:
        if schema is False:
            return
        if not isinstance(schema, Mapping):
            yield {}
            return
        partial = [_own_keywords(schema)]
        for options in self._compositions(schema, within):
            partial = list(islice(_merged_pairs(partial, options), _MOST))
        yield from partial

    def _compositions(self, schema: Mapping, within: tuple[str, ...]) -> Iterator[Iterable[Flat]]:
        """For each composing keyword the alternatives it brings, all keywords to be merged."""
        reference = schema.get("$ref")
        if isinstance(reference, str):
            if reference in within:  # a schema that refers to itself without any value between
                yield []
            else:
                yield self._alternatives(self.resolve(reference), (*within, reference))
        for each in schema.get("allOf") or []:
            yield list(self._alternatives(each, within))
        for keyword in ("anyOf", "oneOf"):
            if options := schema.get(keyword):
                yield [flat for each in options for flat in self._alternatives(each, within)]
        if "if" in schema:
            then = {"allOf": [schema["if"], schema.get("then", True)]}
            either = [schema.get("else", True), then]
            yield [flat for each in either for flat in self._alternatives(each, within)]


def merged(left: Flat, right: Flat) -> Flat | None:
    """Both at once; None where their types or their listed values have nothing in common."""
    result = dict(left)
    _merge_properties(result, left, right)
    for key, value in right.items():
        if key not in left:
            result[key] = value
        elif key in _LISTED:
            result[key] = [*left[key], *value]
        elif key in _LARGEST:
            result[key] = max(left[key], value)
        elif key in _SMALLEST:
            result[key] = min(left[key], value)
        elif key in _SCHEMAS:
            result[key] = {"allOf": [left[key], value]}
        elif key == "required":
            result[key] = list(dict.fromkeys([*left[key], *value]))
        elif key == "type":
            result[key] = _common_types(left[key], value)
        elif key == "enum":
            result[key] = [each for each in left[key] if any(same(each, v) for v in value)]
        elif key == "prefixItems":
            result[key] = _merged_lists(left, right)
        elif key in ("dependentRequired", "patternProperties"):
            result[key] = {**left[key], **value}
        elif key == "uniqueItems":
            result[key] = left[key] or value
    return None if result.get("type") == [] or result.get("enum") == [] else result


def property_schema(flat: Flat, name: str) -> Schema:
    """The schema of one member of an object; False where it may not be there."""
    found = [flat["properties"][name]] if name in flat.get("properties", {}) else []
    for pattern, schema in flat.get("patternProperties", {}).items():
        found += [schema] if automaton(pattern).matches(name) else []
    if not found:
        return flat.get("additionalProperties", True)
    return found[0] if len(found) == 1 else {"allOf": found}


def same(left: Any, right: Any) -> bool:
    """Equal as JSON: 1 is 1.0 and is not true."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    return left == right


def of_type(value: Any, types: Iterable[str]) -> bool:
    """Whether a JSON value is of one of the types."""
    types = set(types)
    if isinstance(value, bool):
        return "boolean" in types
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return bool(types & {"integer", "number"})
    names = {float: "number", str: "string", list: "array", dict: "object", type(None): "null"}
    return names[type(value)] in types


def _own_keywords(schema: Mapping) -> Flat:
    """The schema without its compositions, in the one form that `merged` expects."""
    flat: Flat = {key: value for key, value in schema.items() if key in _KEPT}
    flat.update((key, [schema[key]]) for key in _LISTED if key in schema)
    if "const" in schema:
        flat["enum"] = [schema["const"]]
    kind = schema.get("type")
    if kind is not None:
        flat["type"] = [kind] if isinstance(kind, str) else list(kind)
    return flat


def _merged_pairs(left: list[Flat], right: Iterable[Flat]) -> Iterator[Flat]:
    right = list(right)
    for one in left:
        for other in right:
            if (both := merged(one, other)) is not None:
                yield both


def _merge_properties(result: Flat, left: Flat, right: Flat) -> None:
    """A member declared on one side must suit the other side's rule for its other members too."""
    if "properties" not in left and "properties" not in right:
        return
    names = [*left.get("properties", {}), *right.get("properties", {})]
    both: dict[str, Schema] = {}
    for name in dict.fromkeys(names):
        rules = [property_schema(side, name) for side in (left, right)]
        rules = [rule for rule in rules if rule is not True]
        both[name] = {"allOf": rules} if len(rules) > 1 else rules[0] if rules else True
    result["properties"] = both


def _common_types(left: list[str], right: list[str]) -> list[str]:
    def allows(types: list[str], kind: str) -> bool:
        return kind in types or (kind == "integer" and "number" in types)

    return [
        kind
        for kind in TYPES
        if allows(left, kind) and allows(right, kind) and (kind in left or kind in right)
    ]


def _merged_lists(left: Flat, right: Flat) -> list[Schema]:
    length = max(len(left["prefixItems"]), len(right["prefixItems"]))

    def at(side: Flat, index: int) -> Schema:
        listed = side["prefixItems"]
        return listed[index] if index < len(listed) else side.get("items", True)

    return [{"allOf": [at(left, i), at(right, i)]} for i in range(length)]


def _anchored(schema: Any, anchor: str) -> Iterator[Schema]:
    if isinstance(schema, Mapping):
        if schema.get("$anchor") == anchor:
            yield schema
        for value in schema.values():
            yield from _anchored(value, anchor)
    elif isinstance(schema, list):
        for value in schema:
            yield from _anchored(value, anchor)
