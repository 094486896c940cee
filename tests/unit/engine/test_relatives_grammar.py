"""Replies of K2's relatives drawn at random under their constraints: noise, and calls in form."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from own_schemas import VALUES

from baltoro.chat.chat_model import ChatRequest, SchemaError, ToolChoice
from baltoro.chat.json_tokenizer import JsonTokenizer
from baltoro.chat.parser import ParsedReply, reply_parser
from baltoro.engine.constraint import ThinkingBudget, combined_choice, corrected, thinking_tokens
from baltoro.engine.grammars.cache import JsonGrammars
from baltoro.engine.grammars.reply import ReplyGrammar, RoomError, check_room, reply_rules

sys.path.append(str(Path(__file__).parents[1] / "chat"))
import relatives_kit as kit

TEXT = {"type": "string"}
WEATHER = {
    "type": "object",
    "properties": {
        "city": TEXT,
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "unit": {"enum": ["c", "f"]},
        "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
        "note": {"type": ["string", "null"]},
        "place": {"anyOf": [TEXT, {"type": "array", "items": {"type": "number"}, "minItems": 2}]},
        "where": {"$ref": "#/$defs/point"},
    },
    "$defs": {
        "point": {
            "type": "object",
            "properties": {"x": {"type": "number"}, "tags": {"type": "array", "items": TEXT}},
            "required": ["x"],
            "additionalProperties": False,
        }
    },
    "required": ["city", "days"],
}
PARAMETERS: dict[str, Any] = {
    "get_weather": WEATHER,
    "get": {"type": "object", "properties": {"all": {"type": "boolean"}}},
    "get_all": None,
    "天气-now": {"type": "object", "properties": {}, "required": ["é"]},
}


def declared(parameters: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "function", "function": {"name": name, "parameters": schema}}
        for name, schema in parameters.items()
    ]


TOOLS = declared(PARAMETERS)


class Family:
    """A tokenizer, the grammars of it, and replies drawn under them."""

    def __init__(self, tokenizer: JsonTokenizer):
        self.tokenizer = tokenizer
        self.form = tokenizer.form
        self.grammars = JsonGrammars(tokenizer)
        asked = [{"role": "user", "content": "?"}]
        self.opened = tokenizer.prompts.opened(tokenizer.prompts.render(asked))

    def rules(self, tools: Any = TOOLS, first_index: int = 0, **fields: Any):
        request = ChatRequest(messages=[], tools=tools, **fields)
        return reply_rules(self.grammars, request, first_index)

    def reply(
        self, seed: int, rules: Any, max_tokens: int, tools: Any = TOOLS, opens_calls: bool = False
    ) -> tuple[list[int], ParsedReply]:
        rng = random.Random(seed)
        grammar = ReplyGrammar(self.tokenizer, rules, max_tokens + len(self.opened))
        needed = grammar.tokens_needed()
        check_room(needed, max_tokens)
        constraints: list[Any] = [grammar]
        if self.form.thinks:
            tokens = thinking_tokens(None, max_tokens, needed)
            constraints.append(ThinkingBudget(tokens, self.tokenizer))
        for token in self.opened:
            for constraint in constraints:
                constraint.accept(token)
        thinking = self.form.opens_thinking(self.opened)
        parser = reply_parser(self.tokenizer, tools, rules.first_index, thinking)
        ids: list[int] = []
        while len(ids) < max_tokens and not parser.ended:
            token = self.draw(rng, combined_choice(constraints), opens_calls)
            token = self.draw(rng, corrected(constraints, token), opens_calls)
            for constraint in constraints:
                constraint.accept(token)
            parser.feed_token(token)
            ids.append(token)
        return ids, parser.finish()

    def draw(self, rng: random.Random, choice: Any, opens_calls: bool) -> int:
        """Any token that may come, markers more often than chance would have it."""
        if isinstance(choice, int):
            return choice
        size = self.tokenizer.vocab_size
        allowed = np.arange(size) if choice is None else choice.nonzero()[0]
        markers = [int(id) for id in allowed if self.tokenizer.is_special(id)]
        opener = self.form.call_openers[0]
        if opens_calls and opener in markers:
            return opener
        few = markers and rng.random() < (0.5 if len(allowed) < 8 else 0.05)
        return int(rng.choice(markers if few else list(allowed)))


@pytest.fixture(scope="module", params=kit.FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family(kit.make_tokenizer(tmp_path_factory.mktemp("tokenizer") / "it", request.param))


@pytest.fixture(scope="module")
def glm(tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = tmp_path_factory.mktemp("tokenizer") / "glm"
    return Family(kit.make_tokenizer(folder, "glm-4.7-flash"))


def check_calls(parsed: ParsedReply, parameters: dict[str, Any], first_index: int = 0) -> None:
    for index, call in enumerate(parsed.tool_calls, start=first_index):
        assert call.id == f"functions.{call.name}:{index}"
        schema = parameters[call.name]
        arguments = json.loads(call.arguments)
        Draft202012Validator({"maxProperties": 0} if schema is None else schema).validate(arguments)


@pytest.mark.parametrize("max_tokens", [90, 97, 140, 400])
def test_a_required_call_is_made_and_complete_in_any_room(family: Family, max_tokens: int):
    names: set[str] = set()
    for seed in range(8):
        rules = family.rules(first_index=seed, tool_choice=ToolChoice(mode="required"))
        ids, parsed = family.reply(seed, rules, max_tokens)
        assert parsed.tool_calls
        assert not parsed.truncated
        assert ids[-1] == family.form.end_after_calls
        check_calls(parsed, PARAMETERS, seed)
        names |= {call.name for call in parsed.tool_calls}
    assert len(names) > 1 or max_tokens < 100


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_named_call_is_to_that_tool_in_the_least_room_too(family: Family, name: str):
    rules = family.rules(tool_choice=ToolChoice(mode="required", names=(name,)))
    least = ReplyGrammar(family.tokenizer, rules, 10**6).tokens_needed() + 2
    for seed in range(6):
        for room in (least, least + 5 * seed):
            ids, parsed = family.reply(seed, rules, room)
            assert {call.name for call in parsed.tool_calls} == {name}
            assert ids[-1] == family.form.end_after_calls
            check_calls(parsed, PARAMETERS)
    with pytest.raises(RoomError, match=f"takes {least}"):
        family.reply(0, rules, least - 1)


def test_calls_that_are_not_asked_for_are_complete_or_not_begun(family: Family):
    begun = several = 0
    for seed in range(40):
        ids, parsed = family.reply(seed, family.rules(), 4 + 9 * seed, opens_calls=True)
        check_calls(parsed, PARAMETERS)
        assert not parsed.tool_calls or ids[-1] == family.form.end_after_calls
        begun += bool(parsed.tool_calls)
        several += len(parsed.tool_calls) > 1
    assert 20 < begun < 40  # for the shortest one there was no room
    assert several


def test_no_call_comes_where_none_may_and_one_where_one_may(family: Family):
    for seed in range(6):
        rules = family.rules(tool_choice=ToolChoice(mode="none"))
        ids, parsed = family.reply(seed, rules, 200, opens_calls=True)
        assert not parsed.tool_calls
        assert not set(family.form.call_openers) & set(ids)
        choice = ToolChoice(mode="required", parallel=False)
        _, parsed = family.reply(seed, family.rules(tool_choice=choice), 300)
        assert len(parsed.tool_calls) == 1


@pytest.mark.parametrize("max_tokens", [60, 300])
def test_an_answer_in_json_is_whole_and_valid(family: Family, max_tokens: int):
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "why": TEXT},
        "required": ["ok", "why"],
        "additionalProperties": False,
    }
    for seed in range(6):
        rules = family.rules([], response_schema=schema)
        _, parsed = family.reply(seed, rules, max_tokens)
        Draft202012Validator(schema).validate(json.loads(parsed.content or ""))


@pytest.mark.parametrize("name", [*VALUES][::3])
def test_each_argument_that_stands_for_itself_is_kept_to_its_schema_or_refused(
    glm: Family, name: str
):
    schema = {"type": "object", "properties": {"v": VALUES[name]}, "required": ["v"]}
    tools = declared({"f": schema})
    choice = ToolChoice(mode="required", parallel=False)
    if name in REFUSED:
        with pytest.raises(SchemaError):
            glm.rules(tools, tool_choice=choice)
        return
    rules = glm.rules(tools, tool_choice=choice)
    for seed in range(3):
        ids, parsed = glm.reply(seed, rules, 160 + 30 * seed, tools)
        assert ids[-1] == glm.form.end_after_calls
        check_calls(parsed, {"f": schema})


# The first is refused as JSON too; of the others it can't be told whether they hold texts.
REFUSED = {"contains at most", "one of by required", "all of any of", "not a kind"}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, "'anyOf' beside 'properties'"),
        (
            {
                "properties": {
                    "a": {"anyOf": [{"type": "string", "pattern": "^x"}, {"type": "null"}]}
                }
            },
            "of 'a': texts of some form",
        ),
        ({"properties": {"a": {"type": "string", "pattern": "(?=x)"}}}, "of 'a'"),
    ],
)
def test_what_can_not_be_kept_where_each_argument_stands_for_itself_is_refused(
    glm: Family, schema: dict[str, Any], said: str
):
    with pytest.raises(SchemaError, match=said) as refused:
        glm.rules(declared({"f": {"type": "object", **schema}}))
    assert refused.value.param == "tools"
