"""The shortest text that completes a prefix so that it matches regular expressions.

A pattern is read by Python's own parser of regular expressions and becomes a nondeterministic
automaton, in which the shortest way to its end is found breadth first. Patterns search, as JSON
Schema has it: one without anchors matches anywhere. Classes mean ASCII, as in ECMAScript.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from re import _constants as sre  # pyright: ignore[reportAttributeAccessIssue]
from re import _parser as sre_parser  # pyright: ignore[reportAttributeAccessIssue]
from typing import Any

from baltoro.config import BaltoroError

Ranges = tuple[tuple[int, int], ...]  # inclusive ranges of code points, ascending

_LAST = 0x10FFFF
_MAX_STATES = 20_000  # of one automaton; {0,1000} of something long is beyond use
_MAX_SEEN = 50_000  # places looked at in one search
# Characters that need no escape in JSON and are one token in most vocabularies come first.
_PREFERRED = "a0A1bcxyz- ._/:@"
_MAX_CODE = 0xD7FF  # above are surrogates, which are no characters


class PatternError(BaltoroError):
    """A regular expression that cannot be followed."""


@dataclass
class _Node:
    """A state: where it leads with a character of some ranges, and where without one."""

    steps: list[tuple[Ranges, int]] = field(default_factory=list)
    skips: list[tuple[str, int]] = field(default_factory=list)  # condition "", "start" or "end"


# Where an automaton stands: a state, and whether the text must be over.
_Place = tuple[int, bool]


class Automaton:
    """A pattern as states; 0 is the first and `final` the only accepting one."""

    def __init__(self, pattern: str):
        """Raises PatternError for what is no pattern, or one with look-around and the like."""
        self.nodes: list[_Node] = [_Node()]
        anything: Ranges = ((0, _LAST),)
        self.nodes[0].steps.append((anything, 0))
        try:
            parsed = sre_parser.parse(pattern)
            if parsed.state.flags & ~re.UNICODE:
                raise PatternError(
                    f"regular expressions with flags such as '{pattern}' can't be followed."
                )
        except (re.error, OverflowError, RecursionError) as error:
            raise PatternError(f"'{pattern}' is not a regular expression: {error}.") from None
        self.final = self._sequence(parsed, self._new_after(0))
        self.nodes[self.final].steps.append((anything, self.final))

    def start(self) -> frozenset[_Place]:
        return self._closure({(0, False)}, at_start=True)

    def after(self, places: Iterable[_Place], char: str) -> frozenset[_Place]:
        code = ord(char)
        reached = {
            (target, False)
            for node, over in places
            if not over
            for ranges, target in self.nodes[node].steps
            if any(first <= code <= last for first, last in ranges)
        }
        return self._closure(reached, at_start=False)

    def accepts(self, place: _Place) -> bool:
        return place[0] == self.final

    def matches(self, text: str) -> bool:
        """In time that grows with the text and the pattern, whatever they are."""
        places = self.start()
        for char in text:
            places = self.after(places, char)
        return any(self.accepts(place) for place in places)

    def next_places(self, place: _Place) -> Iterator[tuple[Ranges, list[_Place]]]:
        """Where one character leads from one place."""
        if not place[1]:
            for ranges, target in self.nodes[place[0]].steps:
                yield ranges, sorted(self._closure({(target, False)}, at_start=False))

    def _closure(self, places: set[_Place], at_start: bool) -> frozenset[_Place]:
        waiting, reached = list(places), set(places)
        while waiting:
            node, over = waiting.pop()
            for condition, target in self.nodes[node].skips:
                if condition == "start" and not at_start:
                    continue
                place = (target, over or condition == "end")
                if place not in reached:
                    reached.add(place)
                    waiting.append(place)
        return frozenset(reached)

    def _new(self) -> int:
        if len(self.nodes) >= _MAX_STATES:
            raise PatternError("the regular expression is too large.")
        self.nodes.append(_Node())
        return len(self.nodes) - 1

    def _new_after(self, node: int, condition: str = "") -> int:
        new = self._new()
        self.nodes[node].skips.append((condition, new))
        return new

    def _step(self, node: int, ranges: Ranges) -> int:
        new = self._new()
        self.nodes[node].steps.append((ranges, new))
        return new

    def _sequence(self, items: Iterable[tuple], node: int) -> int:
        for kind, value in items:
            node = self._item(kind, value, node)
        return node

    def _item(self, kind: Any, value: Any, node: int) -> int:
        """Add one part of a parsed pattern after `node`; returns the state behind it."""
        if kind in (sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN):
            return self._step(node, _ranges(kind, value))
        if kind is sre.SUBPATTERN and not value[1] and not value[2]:
            return self._sequence(value[3], node)
        if kind is sre.BRANCH:
            ends = [self._sequence(branch, self._new_after(node)) for branch in value[1]]
            return self._join(ends)
        if kind in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
            low, high, items = value
            return self._repeat(low, high, items, node)
        if kind is sre.AT and value in (sre.AT_BEGINNING, sre.AT_BEGINNING_STRING):
            return self._new_after(node, "start")
        if kind is sre.AT and value in (sre.AT_END, sre.AT_END_STRING):
            return self._new_after(node, "end")
        raise PatternError(f"regular expressions with {str(kind).lower()} cannot be followed.")

    def _repeat(self, low: int, high: Any, items: Sequence[tuple], node: int) -> int:
        for _ in range(low):
            node = self._sequence(items, self._new_after(node))
        if high is sre.MAXREPEAT:
            loop = self._new_after(node)
            end = self._sequence(items, self._new_after(loop))
            self.nodes[end].skips.append(("", loop))
            return self._new_after(loop)
        ends = [node]
        for _ in range(int(high) - low):
            node = self._sequence(items, self._new_after(node))
            ends.append(node)
        return self._join(ends)

    def _join(self, ends: Iterable[int]) -> int:
        ends = list(ends)
        joined = self._new_after(ends[0])
        for end in ends[1:]:
            self.nodes[end].skips.append(("", joined))
        return joined


_DIGIT: Ranges = ((48, 57),)
_WORD: Ranges = ((48, 57), (65, 90), (95, 95), (97, 122))
_SPACE: Ranges = ((9, 13), (32, 32))
_CATEGORIES = {
    sre.CATEGORY_DIGIT: _DIGIT,
    sre.CATEGORY_WORD: _WORD,
    sre.CATEGORY_SPACE: _SPACE,
}
_NEGATED_CATEGORIES = {
    sre.CATEGORY_NOT_DIGIT: _DIGIT,
    sre.CATEGORY_NOT_WORD: _WORD,
    sre.CATEGORY_NOT_SPACE: _SPACE,
}


def _ranges(kind: Any, value: Any) -> Ranges:
    if kind is sre.LITERAL:
        return ((value, value),)
    if kind is sre.NOT_LITERAL:
        return _complement(((value, value),))
    if kind is sre.ANY:
        return _complement(((10, 10),))
    parts: list[tuple[int, int]] = []
    negated = False
    for part, inner in value:
        if part is sre.NEGATE:
            negated = True
        elif part is sre.RANGE:
            parts.append(inner)
        elif part is sre.CATEGORY:
            known = _CATEGORIES.get(inner) or _complement(_NEGATED_CATEGORIES[inner])
            parts.extend(known)
        else:
            parts.extend(_ranges(part, inner))
    ranges = tuple(sorted(parts))
    return _complement(ranges) if negated else ranges


def _complement(ranges: Ranges) -> Ranges:
    result, start = [], 0
    for first, last in sorted(ranges):
        if first > start:
            result.append((start, first - 1))
        start = max(start, last + 1)
    return (*result, (start, _LAST)) if start <= _LAST else tuple(result)


def _common(left: Ranges, right: Ranges) -> Ranges:
    return tuple(
        (max(a, c), min(b, d)) for a, b in left for c, d in right if max(a, c) <= min(b, d)
    )


def _character(ranges: Ranges) -> str | None:
    """A character of the ranges, if possible one that JSON writes as it is."""
    for char in _PREFERRED:
        if any(first <= ord(char) <= last for first, last in ranges):
            return char
    codes = [first for first, _ in ranges if first <= _MAX_CODE]
    printable = [max(f, 35) for f, last in ranges if last >= 35 and f != 92 and f <= _MAX_CODE]
    return chr((printable or codes)[0]) if codes else None


@lru_cache(maxsize=256)
def automaton(pattern: str) -> Automaton:
    """Raises PatternError."""
    return Automaton(pattern)


def shortest_suffix(
    patterns: Sequence[str], prefix: str, min_length: int = 0, max_length: int | None = None
) -> str | None:
    """The shortest text that can follow `prefix` so that the whole matches every pattern.

    Lengths are of the whole, in characters. None if there is no such text.
    Raises PatternError for patterns that cannot be followed.
    """
    machines = [automaton(pattern) for pattern in patterns]
    states = []
    for machine in machines:
        places = machine.start()
        for char in prefix:
            places = machine.after(places, char)
        states.append(sorted(places))
    needed = max(0, min_length - len(prefix))
    room = None if max_length is None else max_length - len(prefix)
    return _search(machines, [tuple(choice) for choice in product(*states)], needed, room)


def _search(
    machines: Sequence[Automaton],
    starts: Iterable[tuple[_Place, ...]],
    needed: int,
    room: int | None,
) -> str | None:
    """Breadth first over the places of all machines at once and the length, up to `needed`."""
    level = {(start, 0): "" for start in starts}
    seen = set(level)
    length = 0
    while level and (room is None or length <= room):
        following: dict[tuple[tuple[_Place, ...], int], str] = {}
        for (places, count), text in level.items():
            pairs = zip(machines, places, strict=True)
            if count >= needed and all(machine.accepts(place) for machine, place in pairs):
                return text
            for char, reached in _moves(machines, places):
                key = (reached, min(count + 1, needed))
                if key not in seen:
                    seen.add(key)
                    following[key] = text + char
        if len(seen) > _MAX_SEEN:
            return None
        level, length = following, length + 1
    return None


def _moves(
    machines: Sequence[Automaton], places: tuple[_Place, ...]
) -> Iterator[tuple[str, tuple[_Place, ...]]]:
    options = [list(m.next_places(place)) for m, place in zip(machines, places, strict=True)]
    for choice in product(*options):
        ranges: Ranges = ((0, _LAST),)
        for option, _ in choice:
            ranges = _common(ranges, option)
        char = _character(ranges) if ranges else None
        if char is not None:
            for reached in product(*(targets for _, targets in choice)):
                yield char, reached


_HEX = "[0-9a-fA-F]"
_DATE = (
    "([12][0-9]{3}-("
    "(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)"
    "|([12][0-9](0[48]|[2468][048]|[13579][26])|2000)-02-29)"
)
_TIME = (
    r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
    r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?"
_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_GROUP = f"{_HEX}{{1,4}}"
_IPV6 = "|".join(
    [
        f"({_GROUP}:){{7}}{_GROUP}",
        f"::({_GROUP}(:{_GROUP}){{0,6}})?",
        *(f"({_GROUP}:){{{left}}}(:{_GROUP}){{1,{7 - left}}}" for left in range(1, 7)),
        f"({_GROUP}:){{1,7}}:",
    ]
)
_CHAR = rf"([A-Za-z0-9._~!$&'()*+,;=:@-]|%{_HEX}{{2}})"
_TAIL = rf"(\?({_CHAR}|[/?])*)?(#({_CHAR}|[/?])*)?"
_URI = (
    "[A-Za-z][A-Za-z0-9+.-]{0,19}:"
    rf"(//[A-Za-z0-9._~-]+(:[0-9]{{1,5}})?(/{_CHAR}*)*|{_CHAR}({_CHAR}|/)*){_TAIL}"
)
_RELATIVE = rf"([A-Za-z0-9._~-]+(/{_CHAR}*)*|/({_CHAR}+(/{_CHAR}*)*)?)?{_TAIL}"
_POINTER = "(/([^~/]|~[01])*)*"
_EMAIL = rf"[A-Za-z0-9]([A-Za-z0-9._+-]{{0,30}}[A-Za-z0-9])?@{_LABEL}(\.{_LABEL}){{1,4}}"
_HOSTNAME = rf"{_LABEL}(\.{_LABEL}){{0,6}}"
_DURATION_TIME = "T([0-9]{1,4}H([0-9]{1,4}M)?([0-9]{1,4}S)?|[0-9]{1,4}M([0-9]{1,4}S)?|[0-9]{1,4}S)"

# What stands for the formats that JSON Schema names. Each allows what people write and nothing
# that the format does not, so that a grammar made of it needs no second check.
FORMATS: dict[str, str] = {
    name: f"^({pattern})$"
    for name, pattern in {
        "date": _DATE,
        "time": _TIME,
        "date-time": f"{_DATE}T{_TIME}",
        "duration": rf"P([0-9]{{1,4}}[YMD]({_DURATION_TIME})?|[0-9]{{1,4}}W|{_DURATION_TIME})",
        "email": _EMAIL,
        "idn-email": _EMAIL,
        "hostname": _HOSTNAME,
        "idn-hostname": _HOSTNAME,
        "ipv4": rf"({_BYTE}\.){{3}}{_BYTE}",
        "ipv6": _IPV6,
        "uuid": f"{_HEX}{{8}}-({_HEX}{{4}}-){{3}}{_HEX}{{12}}",
        "uri": _URI,
        "iri": _URI,
        "uri-reference": f"{_URI}|{_RELATIVE}",
        "iri-reference": f"{_URI}|{_RELATIVE}",
        "uri-template": r"([A-Za-z0-9/._~-]|\{[A-Za-z0-9_]+\})*",
        "json-pointer": _POINTER,
        # Up to 99 levels: of larger numbers jsonschema refuses some, such as 100.
        "relative-json-pointer": f"(0|[1-9][0-9]?)(#|{_POINTER})",
    }.items()
}
