"""Rewrites of a JSON schema: to one form for every draft, and to what a grammar can hold.

The keywords of older drafts get their names of draft 2020-12 and known formats become patterns.
What a grammar can't hold is taken out and named; it has to be checked on the value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator

from baltoro.engine.grammars.patterns import FORMATS

Schema = Any  # a mapping, true or false

_ONE = (
    "additionalItems",
    "additionalProperties",
    "contains",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
)
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_NAMED = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")

# Keywords that only a look at the value can enforce.
_CHECKED = (
    "contains",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "maxContains",
    "minContains",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
)
_EXACT_INTEGERS = 2**53  # a grammar's bounds are floats
# Where ECMAScript and Python differ on characters beyond ASCII.
_TWO_MEANINGS = ("\\W", "\\D", "[^\\w", "[^\\d")


def subschemas(schema: Schema) -> Iterator[Schema]:
    """The schema and everything within it that is one, references not followed."""
    yield schema
    if isinstance(schema, Mapping):
        found: list[Schema] = []
        _mapped(schema, lambda inner: found.append(inner) or inner)
        for inner in found:
            yield from subschemas(inner)


def forbids(schema: Schema, resolve: Callable[[str], Schema]) -> bool:
    """Whether a schema, apart from the values within, rules out what its other keywords allow."""
    waiting, seen = [schema], set()
    while waiting:
        one = waiting.pop()
        if not isinstance(one, Mapping) or id(one) in seen:
            continue
        seen.add(id(one))
        if any(one.get(key, False) is not False for key in (*_CHECKED, "oneOf", "multipleOf")):
            return True
        waiting += [*one.get("allOf", []), *one.get("anyOf", [])]
        if isinstance(one.get("$ref"), str):
            waiting.append(resolve(one["$ref"]))
    return False


def modern_form(schema: Schema, lone_references: bool = False) -> Schema:
    """The schema as draft 2020-12 says it, with patterns for formats.

    `lone_references`: keywords beside `$ref` do not count, as up to draft 7.
    """
    if not isinstance(schema, Mapping):
        return schema
    if lone_references and "$ref" in schema:
        kept = ("$ref", "$defs", "definitions")
        schema = {key: schema[key] for key in kept if key in schema}
    result = _mapped(schema, lambda inner: modern_form(inner, lone_references))
    result.pop("$schema", None)
    if isinstance(result.get("items"), list):
        result["prefixItems"] = result.pop("items")
        result["items"] = result.pop("additionalItems", True)
    _number_exclusive(result, "exclusiveMinimum", "minimum")
    _number_exclusive(result, "exclusiveMaximum", "maximum")
    for name, needed in (result.pop("dependencies", None) or {}).items():
        key = "dependentRequired" if isinstance(needed, list) else "dependentSchemas"
        result.setdefault(key, {})[name] = needed
    if (pattern := FORMATS.get(str(result.get("format")))) is not None:
        del result["format"]
        _add_pattern(result, pattern)
    return result


def held_form(schema: Schema, left_out: set[str]) -> Schema:
    """A modern schema without what a grammar can't hold; the names of that go to `left_out`."""
    if not isinstance(schema, Mapping):
        return schema
    result = _mapped(schema, lambda inner: held_form(inner, left_out))
    for keyword in _CHECKED:
        if result.pop(keyword, False) is not False:
            left_out.add(keyword)
    if (
        result.pop("format", None) in Draft202012Validator.FORMAT_CHECKER.checkers
    ):  # others are annotations
        left_out.add("format")
    for keyword in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"):
        value = result.get(keyword, 0)
        if abs(value) > _EXACT_INTEGERS:
            left_out.add(keyword)
            del result[keyword]
    if not float(result.get("multipleOf", 1)).is_integer():
        left_out.add("multipleOf")  # held, but decimals and floats disagree on what is a multiple
    if result.get("type") != "integer" and {"exclusiveMinimum", "exclusiveMaximum"} & {*result}:
        left_out.add("exclusive bounds")  # llguidance lets 0 pass as greater or less than 0
    if any(sign in result.get("pattern", "") for sign in _TWO_MEANINGS):
        left_out.add("pattern")
    _leave_out_counts(result, left_out)
    return result


def _leave_out_counts(result: dict[str, Any], left_out: set[str]) -> None:
    """A grammar counts members only beyond the required ones, and a key given twice as two."""
    optional = set(result.get("properties", {})) - set(result.get("required", []))
    for keyword in ("minProperties", "maxProperties"):
        if keyword in result and (optional or result.get("minProperties", 0) > 1):
            left_out.add(keyword)
            del result[keyword]


def _mapped(schema: Mapping, change: Callable[[Schema], Schema]) -> dict[str, Any]:
    """A copy with `change` made to each schema directly within it."""
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _LISTS and isinstance(value, list):
            value = [change(each) for each in value]
        elif key in _ONE and isinstance(value, Mapping | bool):
            value = change(value)
        elif key in _NAMED and isinstance(value, Mapping):
            value = {name: change(each) for name, each in value.items()}
        elif key == "dependencies" and isinstance(value, Mapping):
            value = {k: v if isinstance(v, list) else change(v) for k, v in value.items()}
        result[key] = value
    return result


def _number_exclusive(result: dict[str, Any], keyword: str, bound: str) -> None:
    """Draft 4 says with true that the other bound is excluded."""
    if not isinstance(result.get(keyword), bool):
        return
    if result.pop(keyword) and bound in result:
        result[keyword] = result.pop(bound)


def _add_pattern(result: dict[str, Any], pattern: str) -> None:
    if "pattern" in result:
        result["allOf"] = [*result.get("allOf", []), {"pattern": pattern}]
    else:
        result["pattern"] = pattern
