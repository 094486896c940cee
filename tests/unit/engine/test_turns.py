"""Texts come back as the ids they were generated with."""

from __future__ import annotations

import pytest

from baltoro.chat.format import ChatFormat
from baltoro.chat.messages import Message
from baltoro.chat.template import render
from baltoro.chat.tokenizer import Tokenizer
from baltoro.engine.turns import GeneratedTurns, conversation_keys

ASK: Message = {"role": "user", "content": "abab"}


@pytest.fixture
def pairs() -> Tokenizer:
    """Bytes and one merge, so that "ab" has two spellings: 256, and 97 98."""
    ranks = {bytes([i]): i for i in range(256)} | {b"ab": 256}
    return Tokenizer(ranks, chat_format=ChatFormat(default_system_prompt=""))


def turn_ids(tokenizer: Tokenizer, thinking: list[int], content: list[int]) -> list[int]:
    s = tokenizer.special
    return [s.think, *thinking, s.end_think, *content, s.im_end]


def called(tokenizer: Tokenizer, thinking: list[int], arguments: list[int]) -> list[int]:
    s = tokenizer.special
    call = [*tokenizer.encode("functions.f:0"), s.tool_call_argument_begin, *arguments]
    section = [s.tool_calls_section_begin, s.tool_call_begin, *call, s.tool_call_end]
    return turn_ids(tokenizer, thinking, [*section, s.tool_calls_section_end])


def test_a_turn_keeps_its_ids_in_the_next_prompt(pairs: Tokenizer):
    turns = GeneratedTurns(pairs)
    prompt = render(pairs, [ASK])
    reply = called(pairs, thinking=[97, 98, 256, 97], arguments=[123, 97, 98, 125])
    turns.remember(conversation_keys([ASK], [])[-1], reply)
    call = {"id": "functions.f:0", "function": {"name": "f", "arguments": "{ab}"}}
    conversation = [
        ASK,
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "ababa",
            "tool_calls": [call],
        },
        {"role": "tool", "tool_call_id": "functions.f:0", "content": "ab"},
    ]
    rendered = render(pairs, conversation)
    restored = turns.restore(rendered, conversation, conversation_keys(conversation, []))
    assert rendered[: len(prompt + reply)] != prompt + reply
    assert restored[: len(prompt + reply)] == prompt + reply
    assert restored[len(prompt + reply) :] == rendered[-(len(restored) - len(prompt + reply)) :]


def test_the_answer_keeps_its_ids_when_the_template_drops_the_thinking(pairs: Tokenizer):
    turns = GeneratedTurns(pairs)
    turns.remember(conversation_keys([ASK], [])[-1], turn_ids(pairs, [97, 98], [97, 98, 99]))
    conversation = [ASK, {"role": "assistant", "content": "abc", "reasoning_content": "ab"}, ASK]
    restored = turns.restore(
        render(pairs, conversation), conversation, conversation_keys(conversation, [])
    )
    kept = render(pairs, [ASK]) + turn_ids(pairs, [], [97, 98, 99])
    assert restored[: len(kept)] == kept


@pytest.mark.parametrize(
    "conversation",
    [
        [ASK, {"role": "assistant", "content": "abd"}, ASK],
        [ASK, ASK, {"role": "assistant", "content": "abc"}, ASK],
        [{"role": "user", "content": "Another question"}, {"role": "assistant", "content": "abc"}],
        [ASK, {"role": "user", "content": "abc"}],
    ],
    ids=["changed", "later", "elsewhere", "by-the-user"],
)
def test_other_texts_and_other_conversations_are_left_alone(
    pairs: Tokenizer, conversation: list[Message]
):
    turns = GeneratedTurns(pairs)
    turns.remember(conversation_keys([ASK], [])[-1], turn_ids(pairs, [], [97, 98, 99]))
    rendered = render(pairs, conversation)
    assert turns.restore(rendered, conversation, conversation_keys(conversation, [])) == rendered


def test_text_that_is_not_utf8_comes_back_as_its_bytes(pairs: Tokenizer):
    turns = GeneratedTurns(pairs)
    turns.remember(conversation_keys([ASK], [])[-1], turn_ids(pairs, [], [0xFF, 97]))
    conversation = [ASK, {"role": "assistant", "content": "\ufffda"}, ASK]
    restored = turns.restore(
        render(pairs, conversation), conversation, conversation_keys(conversation, [])
    )
    assert 0xFF in restored


def test_turns_that_nobody_came_back_to_are_forgotten(pairs: Tokenizer):
    turns = GeneratedTurns(pairs, max_bytes=1000)
    conversations: list[list[Message]] = [
        [{"role": "user", "content": str(number)}, {"role": "assistant", "content": "ab" * 20}]
        for number in range(3)
    ]
    for conversation in conversations:
        key = conversation_keys(conversation[:1], [])[-1]
        turns.remember(key, turn_ids(pairs, [], [97, 98] * 20))
    known = []
    for conversation in conversations:
        rendered = render(pairs, conversation)
        keys = conversation_keys(conversation, [])
        known.append(turns.restore(rendered, conversation, keys) != rendered)
    assert known == [False, True, True]


def test_the_key_of_a_conversation_depends_on_what_was_said_and_not_on_thinking():
    said = {"role": "assistant", "content": "x"}
    thought = {**said, "reasoning_content": "long", "tool_calls": None}
    tool = {"type": "function", "function": {"name": "f"}}
    key = conversation_keys([ASK, said], [])[-1]
    assert conversation_keys([ASK, thought], [])[-1] == key
    assert conversation_keys([ASK, {**said, "content": "y"}], [])[-1] != key
    assert conversation_keys([ASK, said], [tool])[-1] != key
