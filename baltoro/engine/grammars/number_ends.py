"""How the beginning of a number can go on so that the number is within its bounds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from fractions import Fraction

from baltoro.engine.grammars.flat_schema import TYPES, Flat

_MAX_DIGITS = 25  # that a number is prolonged by
_FRACTION_DIGITS = 12

_NUMBER = re.compile(r"(-?)(?:(0|[1-9][0-9]*)(?:(\.)([0-9]*))?(?:[eE]([-+]?)([0-9]*))?)?")


def number_ends(flat: Flat, raw: str) -> Iterator[str]:
    """What makes a number in its bounds of a beginning, short ones first."""
    match = _NUMBER.fullmatch(raw)
    if match is None:
        return
    sign, whole, point, decimals, _, power = match.groups()
    if power is not None:
        yield "" if power else "0"
    elif whole is None:
        starts = [raw + digit for digit in "0123456789"]
        if not raw:
            starts += [f"-{digit}" for digit in "0123456789"]
        ends = [(start + rest)[len(raw) :] for start in starts for rest in number_ends(flat, start)]
        yield from sorted(dict.fromkeys(ends), key=len)
    elif point:
        yield from _decimal_ends(flat, sign, whole, decimals, 0 if decimals else 1)
    else:
        yield from _whole_ends(flat, sign, whole)
        if "number" in flat.get("type", TYPES):
            yield from ("." + rest for rest in _decimal_ends(flat, sign, whole, "", 1))


def _whole_ends(flat: Flat, sign: str, whole: str) -> Iterator[str]:
    for more in range(1 if whole == "0" else _MAX_DIGITS):
        least = int(whole) * 10**more
        found = _within(flat, sign, least, least + 10**more - 1, 1)
        if found is not None:
            yield str(found)[len(whole) :]


def _decimal_ends(flat: Flat, sign: str, whole: str, decimals: str, at_least: int) -> Iterator[str]:
    for more in range(at_least, _FRACTION_DIGITS):
        least = int(whole + decimals) * 10**more
        scale = 10 ** (len(decimals) + more)
        found = _within(flat, sign, least, least + 10**more - 1, scale)
        if found is not None:
            yield str(found).rjust(len(decimals) + more, "0")[-more:] if more else ""


def _within(flat: Flat, sign: str, least: int, most: int, scale: int) -> int | None:
    """The smallest v from `least` to `most` for which sign v / scale is in all bounds."""
    low, high = _bounds(flat)
    if sign:
        low, high = (high and (-high[0], high[1])), (low and (-low[0], low[1]))
    if low is not None:
        edge = low[0] * scale
        least = max(least, math.floor(edge) + 1 if low[1] else math.ceil(edge))
    if high is not None:
        edge = high[0] * scale
        most = min(most, math.ceil(edge) - 1 if high[1] else math.floor(edge))
    step = _step_of(flat, scale) if flat.get("multipleOf") else 1
    found = -(-least // step) * step if step else least
    return found if found <= most else None


def _step_of(flat: Flat, scale: int) -> int:
    """What v is a multiple of if v / scale is one of every `multipleOf`."""
    return math.lcm(*(abs((Fraction(str(m)) * scale).numerator) for m in flat["multipleOf"]))


_Bound = tuple[Fraction, bool]  # and whether it is excluded


def _bounds(flat: Flat) -> tuple[_Bound | None, _Bound | None]:
    def given(keyword: str, excluded: bool) -> list[_Bound]:
        return [(Fraction(str(flat[keyword])), excluded)] if keyword in flat else []

    low = given("minimum", False) + given("exclusiveMinimum", True)
    high = given("maximum", False) + given("exclusiveMaximum", True)
    return max(low, default=None), min(high, key=lambda b: (b[0], not b[1]), default=None)
