"""Replies drawn at random under their constraints: noise wherever they are free, and in form."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from baltoro.chat.chat_model import ChatRequest, SchemaError, ToolChoice
from baltoro.chat.parser import ParsedReply, StreamParser
from baltoro.chat.tokenizer import Tokenizer
from baltoro.config import BaltoroError
from baltoro.engine.constraint import (
    ThinkingBudget,
    combined_choice,
    corrected,
    thinking_tokens,
)
from baltoro.engine.grammars.cache import JsonGrammars
from baltoro.engine.grammars.reply import ReplyGrammar, RoomError, check_room, reply_rules

TOKENIZER = Tokenizer({bytes([i]): i for i in range(256)})
GRAMMARS = JsonGrammars(TOKENIZER)
SPECIAL = TOKENIZER.special

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "unit": {"enum": ["c", "f"]},
    },
    "required": ["city", "days"],
}
TAGS = {
    "type": "object",
    "properties": {"tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True}},
    "required": ["tags"],
    "additionalProperties": False,
}
PARAMETERS: dict[str, Any] = {"get_weather": WEATHER, "get.tags-2": TAGS, "now": None, "get": {}}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": parameters}}
    for name, parameters in PARAMETERS.items()
]
ANSWER = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "why": {"type": "string"}},
    "required": ["ok", "why"],
    "additionalProperties": False,
}


def rules_of(first_index: int = 0, tools: Any = TOOLS, **fields: Any):
    request = ChatRequest(messages=[], tools=tools, **fields)
    return reply_rules(GRAMMARS, request, first_index)


class Noise:
    """A model that writes anything, special tokens more often than chance would have it."""

    def __init__(self, seed: int, opens_calls: bool = False):
        self.rng = random.Random(seed)
        self.opens_calls = opens_calls

    def draw(self, choice: Any) -> int:
        if isinstance(choice, int):
            return choice
        allowed = np.arange(TOKENIZER.vocab_size) if choice is None else choice.nonzero()[0]
        specials = [id for id in allowed if id >= 256]
        if self.opens_calls and SPECIAL.tool_calls_section_begin in specials:
            return SPECIAL.tool_calls_section_begin
        few = specials and self.rng.random() < (0.5 if len(allowed) < 8 else 0.05)
        return int(self.rng.choice(specials if few else list(allowed)))


def reply(noise: Noise, rules: Any, max_tokens: int) -> tuple[list[int], ParsedReply]:
    grammar = ReplyGrammar(TOKENIZER, rules, max_tokens)
    needed = grammar.tokens_needed()
    check_room(needed, max_tokens)
    budget = ThinkingBudget(thinking_tokens(None, max_tokens, needed), TOKENIZER)
    constraints = [grammar, budget]
    parser, ids = StreamParser(TOKENIZER, PARAMETERS, rules.first_index), []
    while len(ids) < max_tokens and not parser.ended:
        token = noise.draw(combined_choice(constraints))
        token = noise.draw(corrected(constraints, token))
        for constraint in constraints:
            constraint.accept(token)
        parser.feed_token(token)
        ids.append(token)
    return ids, parser.finish()


def check_calls(parsed: ParsedReply, first_index: int = 0) -> None:
    for index, call in enumerate(parsed.tool_calls, start=first_index):
        assert call.id == f"functions.{call.name}:{index}"
        parameters = PARAMETERS[call.name]
        schema = {"maxProperties": 0} if parameters is None else parameters
        Draft202012Validator(schema).validate(json.loads(call.arguments))


@pytest.mark.parametrize("max_tokens", [64, 65, 80, 128, 400])
def test_a_required_call_is_made_and_complete_in_any_room(max_tokens: int):
    for seed in range(12):
        rules = rules_of(seed, tool_choice=ToolChoice(mode="required"))
        ids, parsed = reply(Noise(seed), rules, max_tokens)
        assert parsed.tool_calls
        assert not parsed.truncated
        assert ids[-1] == SPECIAL.im_end
        check_calls(parsed, seed)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_named_call_is_to_that_tool(name: str):
    choice = ToolChoice(mode="required", names=(name,))
    for seed in range(10):
        ids, parsed = reply(Noise(seed), rules_of(tool_choice=choice), 110)
        assert {call.name for call in parsed.tool_calls} == {name}
        assert ids[-1] == SPECIAL.im_end
        check_calls(parsed)


def test_the_least_room_is_enough_and_one_token_less_is_refused():
    choice = ToolChoice(mode="required", names=("get_weather",))
    rules = rules_of(tool_choice=choice)
    least = ReplyGrammar(TOKENIZER, rules, 10**6).tokens_needed() + 2
    ids, parsed = reply(Noise(0), rules, least)
    assert len(ids) == least
    assert len(parsed.tool_calls) == 1
    check_calls(parsed)
    with pytest.raises(RoomError, match=f"takes {least}"):
        reply(Noise(0), rules, least - 1)


def test_a_call_that_is_not_asked_for_is_complete_too_or_not_begun():
    begun = 0
    for seed in range(60):
        ids, parsed = reply(Noise(seed, opens_calls=True), rules_of(), 12 + 3 * seed)
        assert not parsed.truncated or not parsed.tool_calls
        check_calls(parsed)
        begun += bool(parsed.tool_calls)
        if parsed.tool_calls:
            assert ids[-1] == SPECIAL.im_end
    assert 30 < begun < 60  # for the shortest ones there was no room


def test_parallel_calls_count_on_and_can_be_forbidden():
    several = 0
    for seed in range(12):
        for parallel in (True, False):
            choice = ToolChoice(mode="required", parallel=parallel)
            _, parsed = reply(Noise(seed), rules_of(3, tool_choice=choice), 400)
            check_calls(parsed, 3)
            several += len(parsed.tool_calls) > 1
            assert parallel or len(parsed.tool_calls) == 1
    assert several > 2


def test_no_call_comes_where_none_may():
    for seed in range(20):
        choice = ToolChoice(mode="none")
        ids, parsed = reply(Noise(seed, opens_calls=True), rules_of(tool_choice=choice), 300)
        assert not parsed.tool_calls
        assert not {SPECIAL.tool_calls_section_begin, SPECIAL.tool_call_begin} & set(ids)


@pytest.mark.parametrize("max_tokens", [40, 64, 300])
def test_an_answer_in_json_is_whole_and_valid_after_any_thinking(max_tokens: int):
    for seed in range(20):
        rules = rules_of(tools=[], response_schema=ANSWER)
        ids, parsed = reply(Noise(seed), rules, max_tokens)
        Draft202012Validator(ANSWER).validate(json.loads(parsed.content or ""))
        assert ids[-1] == SPECIAL.im_end


def test_an_answer_in_json_can_give_way_to_calls():
    made = 0
    for seed in range(30):
        _, parsed = reply(Noise(seed), rules_of(response_schema=ANSWER), 300)
        check_calls(parsed)
        made += bool(parsed.tool_calls)
        if not parsed.tool_calls:
            Draft202012Validator(ANSWER).validate(json.loads(parsed.content or ""))
    assert 3 < made < 30


def test_a_section_that_is_spelled_out_is_held_to_the_grammar_as_well():
    grammar = ReplyGrammar(TOKENIZER, rules_of(), 500)
    for token in TOKENIZER.encode_with_specials("<think>a</think><|tool_call_section_begin|>"):
        grammar.accept(token)
    assert grammar.choice() == SPECIAL.tool_call_begin


def test_without_tools_no_call_is_begun():
    for seed in range(10):
        _, parsed = reply(Noise(seed, opens_calls=True), rules_of(tools=[]), 200)
        assert not parsed.tool_calls


def test_free_text_is_not_constrained_at_all():
    grammar = ReplyGrammar(TOKENIZER, rules_of(), 500)
    for token in TOKENIZER.encode_with_specials("<think>what</think>An answer"):
        assert grammar.choice() is None
        assert grammar.correct(token) == token
        grammar.accept(token)


def test_ids_are_forced_in_the_tokens_of_the_template():
    grammar = ReplyGrammar(TOKENIZER, rules_of(12), 500)
    for token in TOKENIZER.encode_with_specials(
        "<think></think><|tool_calls_section_begin|><|tool_call_begin|>functions.get"
    ):
        grammar.accept(token)
    mask = grammar.choice()
    assert isinstance(mask, np.ndarray)
    assert bytes(mask.nonzero()[0].tolist()) == b".:_"
    for token in b":12":
        grammar.accept(token)
    assert grammar.choice() == SPECIAL.tool_call_argument_begin


def test_a_schema_that_cannot_be_kept_is_refused_with_the_name_of_its_tool():
    bad = {"type": "object", "properties": {"a": {"pattern": "(?=a)"}}}
    tool = {"type": "function", "function": {"name": "odd", "parameters": bad}}
    with pytest.raises(SchemaError, match="the tool 'odd'"):
        rules_of(tools=[tool])


def test_a_call_to_what_is_not_declared_cannot_be_asked_for():
    with pytest.raises(BaltoroError, match="'other' is not among"):
        rules_of(tool_choice=ToolChoice(mode="required", names=("other",)))
    with pytest.raises(BaltoroError, match="any is not among"):
        rules_of(tools=[], tool_choice=ToolChoice(mode="required"))
