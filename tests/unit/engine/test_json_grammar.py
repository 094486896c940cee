"""Random texts of every schema, completed from wherever they stand, beside plain jsonschema."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator, validators
from own_schemas import SCHEMAS

from baltoro.chat.chat_model import SchemaError
from baltoro.chat.tokenizer import Tokenizer
from baltoro.checkpoint.bundled import bundled_models
from baltoro.engine.grammars.cache import JsonGrammars
from baltoro.engine.grammars.json_grammar import JsonText
from baltoro.engine.grammars.reply import arguments_schema

REFUSED = {
    "back-reference": "groupref",
    "contains at most": "contains, maxContains",
    "look-ahead": "assert",
    "one of integer and number": "oneOf",
    "overlapping patterns": "not disjoint",
    "reference elsewhere": "example.com",
    "unicode class": "regex",
    "unique objects": "uniqueItems",
    "unsatisfiable": "unsatisfiable",
    "word boundary": " at ",
}
KEPT = sorted(SCHEMAS.keys() - REFUSED.keys())
OLD = {"old tuple", "old depends"}  # without $schema, but of no newer draft than 7


@pytest.fixture(scope="module")
def grammars() -> JsonGrammars:
    """Of single bytes, so that a text can stop within a character."""
    return JsonGrammars(Tokenizer({bytes([i]): i for i in range(256)}))


@pytest.fixture(scope="module")
def tiny_grammars() -> JsonGrammars:
    if "tiny" not in bundled_models():
        pytest.skip("the bundled model is not there: make it with recipes/tiny.sh")
    return JsonGrammars(Tokenizer.load(bundled_models()["tiny"]))


def oracle(name: str) -> Any:
    newest = Draft7Validator if name in OLD else Draft202012Validator
    draft = validators.validator_for(SCHEMAS[name], newest)
    return draft(SCHEMAS[name], format_checker=draft.FORMAT_CHECKER)


def random_text(grammars: JsonGrammars, name: str, rng: random.Random, tokens: int) -> bytes:
    """So many tokens at random, then the shortest end; there has to be one after every token."""
    grammar = grammars.of(arguments_schema({"name": "f", "parameters": SCHEMAS[name]}))
    text, written = JsonText(grammar), b""

    def add(token: int) -> None:
        nonlocal written
        text.accept(token)
        written += grammars.tokenizer.decode_bytes([token])

    for _ in range(tokens):
        mask = text.mask()
        mask[grammar.end] = False
        if not mask.any():
            break
        token = int(rng.choice(mask.nonzero()[0]))
        tried = text.copy()
        tried.accept(token)
        if grammar.checked and tried.ending() is None:
            break
        assert tried.ending() is not None, (name, written, token)
        add(token)
    for token in text.ending() or []:
        add(token)
    return written


@pytest.mark.parametrize("name", KEPT[::4])
def test_a_text_can_be_completed_from_everywhere(grammars: JsonGrammars, name: str):
    rng = random.Random(name)
    for tokens in (0, 7, 25):
        oracle(name).validate(json.loads(random_text(grammars, name, rng, tokens)))


@pytest.mark.parametrize("name", KEPT[1::4])
def test_a_text_in_long_tokens_can_be_completed_from_everywhere(
    tiny_grammars: JsonGrammars, name: str
):
    rng = random.Random(name)
    oracle(name).validate(json.loads(random_text(tiny_grammars, name, rng, 15)))


@pytest.mark.long
@pytest.mark.parametrize("name", KEPT)
def test_every_text_can_be_completed_from_everywhere(
    grammars: JsonGrammars, tiny_grammars: JsonGrammars, name: str
):
    for seed in range(5):
        rng = random.Random(f"{name} {seed}")
        for each in (grammars, tiny_grammars):
            for tokens in (0, 10, 60):
                oracle(name).validate(json.loads(random_text(each, name, rng, tokens)))


@pytest.mark.parametrize("written", [r"\n", r"\ue0a1", r"\u00E9", r"\ud83d\ude42", r"\\"])
@pytest.mark.parametrize("place", ['{"%s', '{"k": "%s', '{"k": ["%s'])
def test_a_text_that_stops_within_an_escape_can_be_completed(
    grammars: JsonGrammars, place: str, written: str
):
    for end in range(1, len(written) + 1):
        begun = place % written[:end]
        text = grammars.of({"type": "object"}).begin()
        try:
            for byte in begun.encode():
                text.accept(byte)
        except RuntimeError:
            return  # the grammar does not take the escape
        ending = text.ending()
        assert ending is not None, begun
        json.loads(begun + grammars.tokenizer.decode(ending))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_promised_is_refused_and_named(grammars: JsonGrammars, name: str):
    with pytest.raises(SchemaError, match=REFUSED[name]):
        grammars.of(arguments_schema({"name": "f", "parameters": SCHEMAS[name]}))


def test_at_most_a_tenth_is_refused():
    assert len(SCHEMAS) >= 200
    assert len(REFUSED) <= len(SCHEMAS) / 10


def test_a_type_that_json_schema_does_not_know_is_refused(grammars: JsonGrammars):
    with pytest.raises(SchemaError, match="dict"):
        grammars.of({"type": "object", "properties": {"a": {"type": "dict"}}})


def test_arguments_are_an_object():
    with pytest.raises(SchemaError, match="'array'"):
        arguments_schema({"name": "f", "parameters": {"type": "array"}})
    assert arguments_schema({"name": "f"})["additionalProperties"] is False


def test_what_the_grammar_does_not_hold_is_known(grammars: JsonGrammars):
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    grammar = grammars.of(schema)
    assert grammar.checked == ("uniqueItems",)
    text = JsonText(grammar)
    for token in b"[1,2,1":
        text.accept(token)
    assert text.whole is False
    ending = bytes(text.ending() or [])
    assert len(set(json.loads(b"[1,2,1" + ending))) == 3


def test_what_older_drafts_called_dependencies_holds_where_no_draft_is_named(
    grammars: JsonGrammars,
):
    properties = {"a": {"type": "string"}, "b": {"type": "string"}}
    schema = {"type": "object", "properties": properties, "dependencies": {"a": ["b"]}}
    text = JsonText(grammars.of(schema))
    for token in b'{"a":"x"':
        text.accept(token)
    closed = text.copy()
    closed.accept(ord("}"))
    assert closed.ending() is None
    written = b'{"a":"x"' + bytes(text.ending() or [])
    Draft7Validator(schema).validate(json.loads(written))


def test_schemas_of_one_draft_share_their_validators_class(grammars: JsonGrammars):
    classes = {type(grammars.of({"maxLength": n}).validator) for n in range(1, 4)}
    assert len(classes) == 1


@pytest.mark.parametrize("begin", ["7", "-0.7", "7e", "1." + 3998 * "7"])
def test_no_number_grows_too_long_to_be_read(grammars: JsonGrammars, begin: str):
    text, written = grammars.of({"type": ["number", "string"]}).begin(), ""
    for char in begin:
        text.accept(ord(char))
        written += char
    while text.mask()[ord("7")]:
        text.accept(ord("7"))
        written += "7"
    assert text.ending() == []
    assert len(written) == 4000
    assert json.loads(written)


def test_text_may_have_any_number_of_digits(grammars: JsonGrammars):
    text = grammars.of({"type": ["integer", "string"]}).begin()
    for char in '"' + 4000 * "7":
        text.accept(ord(char))
    assert text.mask()[ord("0") : ord("9") + 1].all()
