"""Regular expressions beside Python's own."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from own_schemas import FORMATS as FORMAT_NAMES
from own_schemas import PATTERNS

from baltoro.engine.grammars.patterns import FORMATS, PatternError, automaton, shortest_suffix


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS.keys())
def test_every_beginning_of_a_match_can_be_completed(pattern: str):
    whole = shortest_suffix([pattern], "")
    assert whole is not None
    for end in range(len(whole) + 1):
        rest = shortest_suffix([pattern], whole[:end])
        assert rest is not None
        assert re.search(pattern, whole[:end] + rest)
        assert len(rest) <= len(whole) - end


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS.keys())
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_what_matches_is_what_python_says(pattern: str, data: st.DataObject):
    like = st.from_regex(pattern) if data.draw(st.booleans()) else st.text(max_size=8)
    text = data.draw(like).rstrip("\n")  # Python's $ stands before a last line end too
    expected = re.search(pattern, text, re.ASCII) is not None
    if "\\s" not in pattern:
        assert automaton(pattern).matches(text) == expected


def test_lengths_and_several_patterns_hold_at_once():
    assert shortest_suffix(["^[a-z]+$", "b"], "", 5, 6) in {"aaaab", "baaaa"}
    assert shortest_suffix(["^a{3}$"], "", 5) is None
    assert shortest_suffix([], "ab", 5) == "aaa"
    assert shortest_suffix(["^[a-z]+$"], "A") is None


@pytest.mark.parametrize(
    "pattern", ["(?=a)b", r"(a)\1", r"\bfoo", "(", "(?i)a", "(a{0,999}){0,999}"]
)
def test_what_cannot_be_followed_is_said(pattern: str):
    with pytest.raises(PatternError):
        automaton(pattern)


def test_a_pattern_that_python_chokes_on_takes_linear_time():
    assert not automaton("^(a+)+$").matches("a" * 2000 + "!")


@pytest.mark.parametrize("name", FORMAT_NAMES)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_what_stands_for_a_format_is_of_the_format(name: str, data: st.DataObject):
    text = data.draw(st.from_regex(FORMATS[name], fullmatch=True))
    Draft202012Validator(
        {"format": name}, format_checker=Draft202012Validator.FORMAT_CHECKER
    ).validate(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("date", "2024-02-29"),
        ("date", "1999-12-31"),
        ("time", "23:59:59.5+02:00"),
        ("date-time", "2025-11-06T10:00:00Z"),
        ("duration", "PT1H30M"),
        ("email", "jo.doe+tag@mail.example.org"),
        ("ipv4", "192.168.0.255"),
        ("ipv6", "2001:db8::ff00:42"),
        ("uuid", "123e4567-e89b-12d3-a456-426614174000"),
        ("uri", "https://example.com:8080/a/b?c=d#e"),
        ("uri", "mailto:a@b.c"),
        ("uri-reference", "../a/b?c"),
        ("json-pointer", "/a~1b/0"),
    ],
)
def test_what_people_write_is_allowed(name: str, text: str):
    assert automaton(FORMATS[name]).matches(text)
