"""Stop strings, and how early text is shown."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from baltoro.engine.text import StopStrings


def shown(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    watch = StopStrings(stops)
    text = "".join(watch.feed(piece) for piece in pieces) + watch.finish()
    return text, watch.found


@given(
    st.text("abc", max_size=12),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 12)),
)
def test_text_ends_before_the_stop_string_that_is_complete_first(
    text: str, stops: list[str], cuts: list[int]
):
    matches = [
        (end, end - len(stop), stop)
        for stop in stops
        for end in range(len(text) + 1)
        if text[:end].endswith(stop)
    ]
    expected = (text[: min(matches)[1]], min(matches)[2]) if matches else (text, None)
    borders = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(borders)]
    assert shown(stops, pieces) == expected


@given(
    st.text("ab", max_size=10),
    st.text("ab", max_size=4),
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_what_is_shown_early_belongs_to_the_reply_whatever_follows(
    begun: str, rest: str, stops: list[str]
):
    early = StopStrings(stops).feed(begun)
    assert shown(stops, [begun + rest])[0].startswith(early)


def test_text_is_held_back_no_longer_than_needed():
    watch = StopStrings(["STOP"])
    assert [watch.feed(piece) for piece in ["aS", "T", "ST", "OX", "b"]] == [
        "a",
        "",
        "ST",
        "STOX",
        "b",
    ]


def test_empty_stop_strings_are_ignored():
    assert shown([""], ["abc"]) == ("abc", None)
