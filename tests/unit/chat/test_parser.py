"""Replies to reasoning, content and tool calls, at every cut of the stream."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from chat_golden import golden_cases
from hypothesis import example, given
from hypothesis import strategies as st

from baltoro.chat.chat_model import ContentDelta, ReasoningDelta, ToolCallDelta
from baltoro.chat.messages import Message, ToolCall
from baltoro.chat.parser import Delta, ParsedReply, Phase, StreamParser
from baltoro.chat.template import render_training
from baltoro.chat.tokenizer import SPECIAL_OFFSETS, Tokenizer

TOOLS = ["get_weather", "search", "ns.tool", "write-file"]
MARKERS = [
    "<think>",
    "</think>",
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    "<|tool_call_section_begin|>",
    "<|tool_call_section_end|>",
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
    "<|im_end|>",
]


@dataclass
class Parsed:
    """A reply as whole, and as a client puts it together from the stream."""

    reply: ParsedReply
    events: list[Delta]

    def said(self) -> tuple[str | None, str | None, list[ToolCall], bool]:
        reply = self.reply
        return reply.reasoning_content, reply.content, reply.tool_calls, reply.truncated


def check_stream(parsed: Parsed) -> Parsed:
    """The deltas add up to the reply, in the order of reasoning, content, calls."""
    reply, events = parsed.reply, parsed.events
    order = [ReasoningDelta, ContentDelta, ToolCallDelta]
    kinds = [order.index(type(event)) for event in events]
    assert kinds == sorted(kinds)
    assert "".join(e.text for e in events if isinstance(e, ReasoningDelta)) == (
        reply.reasoning_content or ""
    )
    assert "".join(e.text for e in events if isinstance(e, ContentDelta)) == (reply.content or "")
    calls: list[ToolCall] = []
    for event in events:
        if isinstance(event, ToolCallDelta):
            if event.index == len(calls):
                assert event.id is not None
                assert event.name is not None
                calls.append(ToolCall(event.id, event.name, ""))
            else:
                assert (event.index, event.id, event.name) == (len(calls) - 1, None, None)
            last = calls[-1]
            calls[-1] = ToolCall(last.id, last.name, last.arguments + event.arguments)
    assert calls == reply.tool_calls
    assert len({call.id for call in calls}) == len(calls)
    return parsed


def parse_ids(tokenizer: Tokenizer, ids: Iterable[int], **options: Any) -> Parsed:
    parser = StreamParser(tokenizer, **{"declared_tools": TOOLS, **options})
    events = [event for id in ids for event in parser.feed_token(id)]
    reply = parser.finish()
    return check_stream(Parsed(reply, events + reply.events))


def parse_text(pieces: Iterable[str], **options: Any) -> Parsed:
    parser = StreamParser(**{"declared_tools": TOOLS, **options})
    events = [event for piece in pieces for event in parser.feed_text(piece)]
    reply = parser.finish()
    return check_stream(Parsed(reply, events + reply.events))


def check_expected(reply: ParsedReply, expected: dict) -> None:
    assert reply.reasoning_content == expected["reasoning_content"]
    assert reply.content == expected["content"]
    assert len(reply.tool_calls) == len(expected["tool_calls"])
    for call, wanted in zip(reply.tool_calls, expected["tool_calls"], strict=True):
        assert {key: getattr(call, key) for key in wanted} == wanted


def cut(text: str, places: Iterable[int]) -> list[str]:
    ends = [*sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@pytest.mark.parametrize("case", golden_cases("parser_cases.json"))
def test_token_ids_parse_as_expected(case: dict, tokenizer: Tokenizer):
    ids = tokenizer.encode_with_specials(case["generated"])
    check_expected(parse_ids(tokenizer, ids, declared_tools=case["tools"]).reply, case["expect"])


@pytest.mark.parametrize("case", golden_cases("parser_cases.json"))
def test_text_cut_in_two_anywhere_parses_as_expected(case: dict):
    text = case["generated"]
    for place in range(0, len(text) + 1, 1 if len(text) < 2000 else 23):
        parsed = parse_text(cut(text, [place]), declared_tools=case["tools"])
        check_expected(parsed.reply, case["expect"])


@pytest.mark.parametrize("case", golden_cases("parser_cases.json"))
@pytest.mark.parametrize("size", [1, 2, 3, 7, 10**6])
def test_text_in_equal_pieces_parses_as_expected(case: dict, size: int):
    pieces = cut(case["generated"], range(size, len(case["generated"]), size))
    check_expected(parse_text(pieces, declared_tools=case["tools"]).reply, case["expect"])


@pytest.mark.parametrize("case", golden_cases("parser_cases.json"))
def test_text_parses_as_expected_with_byte_tokens(case: dict):
    """The other extreme of cutting: ordinary text one byte per token."""
    bytes_only = Tokenizer({bytes([byte]): byte for byte in range(256)})
    ids = bytes_only.encode_with_specials(case["generated"])
    check_expected(parse_ids(bytes_only, ids, declared_tools=case["tools"]).reply, case["expect"])


pieces_of_replies = st.lists(
    st.sampled_from(
        [*MARKERS, "functions.search:0", "search:1", "x.y", "0", '{"q":"a < b"}', "Hi 世界", " "]
    )
    | st.sampled_from(["<", "<|", "<|tool", "</thi", "|>", "\n"])
    | st.text(max_size=5),
    max_size=12,
)
places = st.lists(st.integers(0, 500), max_size=8)


@given(pieces=pieces_of_replies, places=places)
@example(pieces=["<|tool_call_begin|>", "<|tool_call_begin|>"], places=[])
def test_text_parses_the_same_however_it_is_cut(pieces: list[str], places: list[int]):
    text = "".join(pieces)
    whole = parse_text([text]).said()
    assert parse_text(cut(text, places)).said() == whole
    assert parse_text(text).said() == whole


@given(pieces=pieces_of_replies)
def test_marker_never_reaches_the_user(tokenizer: Tokenizer, pieces: list[str]):
    text = "".join(pieces)
    as_tokens = parse_ids(tokenizer, tokenizer.encode_with_specials(text))
    as_text = parse_text([text])
    for marker in MARKERS:
        for event in (*as_tokens.events, *as_text.events):
            if isinstance(event, ReasoningDelta | ContentDelta):
                assert marker not in event.text


@given(
    ids=st.lists(
        st.integers(0, 270)
        | st.sampled_from(sorted(SPECIAL_OFFSETS.values())).map(lambda o: -1 - o)
    )
)
def test_any_token_stream_parses(tokenizer: Tokenizer, ids: list[int]):
    first = len(tokenizer.ranks)
    parse_ids(tokenizer, [id if id >= 0 else first - 1 - id for id in ids])


words = st.text(max_size=12) | st.sampled_from(
    [*MARKERS[:4], *MARKERS[6:], "a < b", "世界", " a\n", "\n"]
)
names = st.sampled_from(TOOLS)
calls = st.lists(st.tuples(names, st.dictionaries(words, words, max_size=2)), max_size=3)


@given(reasoning=words, content=words, calls=calls, first=st.integers(0, 300))
def test_rendering_what_was_parsed_gives_the_same_ids(
    tokenizer: Tokenizer,
    reasoning: str,
    content: str,
    calls: list[tuple[str, dict]],
    first: int,
):
    made = [
        ToolCall(f"functions.{name}:{first + i}", name, json.dumps(arguments, ensure_ascii=False))
        for i, (name, arguments) in enumerate(calls)
    ]
    generated = generated_ids(tokenizer, reasoning, content, made)
    reply = parse_ids(tokenizer, generated).reply
    assert (reply.reasoning_content, reply.content or "") == (reasoning, content)
    assert reply.tool_calls == made
    assert not reply.truncated
    again = generated_ids(tokenizer, reply.reasoning_content or "", reply.content, reply.tool_calls)
    assert again == generated


def generated_ids(
    tokenizer: Tokenizer, reasoning: str, content: str | None, calls: list[ToolCall]
) -> list[int]:
    """What a model generates to say this."""
    reply: Message = {
        "role": "assistant",
        "reasoning_content": reasoning,
        "content": content,
        "tool_calls": [call.to_message_part() for call in calls],
    }
    ids, mask = render_training(tokenizer, [{"role": "user", "content": "q"}, reply])
    return [id for id, bit in zip(ids, mask, strict=True) if bit]


def test_markers_spelled_in_ordinary_tokens_are_text(tokenizer: Tokenizer):
    spelled = "<|tool_calls_section_begin|><|tool_call_begin|>functions.search:0<|im_end|>"
    special = tokenizer.special
    ids = [*tokenizer.encode("</think>"), special.end_think, *tokenizer.encode(spelled)]
    reply = parse_ids(tokenizer, [*ids, special.im_end]).reply
    assert reply.reasoning_content == "</think>"
    assert reply.content == spelled
    assert reply.tool_calls == []


def call_text(id: str, arguments: str = "{}") -> str:
    return f"<|tool_call_begin|>{id}<|tool_call_argument_begin|>{arguments}<|tool_call_end|>"


def calls_of(text: str, **options: Any) -> list[tuple[str, str]]:
    calls = parse_text([text], **options).reply.tool_calls
    return [(call.id, call.name) for call in calls]


@pytest.mark.parametrize(
    ("written", "id", "name"),
    [
        ("functions.search:3", "functions.search:3", "search"),
        ("search:3", "functions.search:3", "search"),
        ("search", "functions.search:9", "search"),
        ("functions.search:x", "functions.search:x:9", "search:x"),
        ("ns.tool:1", "functions.ns.tool:1", "ns.tool"),
        ("functions.api.search:1", "functions.search:1", "search"),
        ("functions.api.ns.tool:1", "functions.ns.tool:1", "ns.tool"),
        ("functions.unknown:1", "functions.unknown:1", "unknown"),
        ("functions.search:" + "1" * 5000, None, None),
    ],
)
def test_name_comes_from_the_declared_tools_and_index_from_the_id(
    written: str, id: str | None, name: str | None
):
    [(native, resolved)] = calls_of(call_text(written), next_index=9)
    if id is not None:
        assert (native, resolved) == (id, name)
    else:
        assert native.endswith(":9")


def test_bare_number_means_the_only_tool():
    assert calls_of(call_text("0"), declared_tools=["f"]) == [("functions.f:0", "f")]


def test_calls_without_index_are_numbered_on_from_the_conversation():
    text = call_text("search") + call_text("search:12") + call_text("search")
    assert [id for id, _ in calls_of(text, next_index=5)] == [
        "functions.search:5",
        "functions.search:12",
        "functions.search:13",
    ]


def test_index_that_is_used_twice_is_made_unique():
    text = call_text("functions.search:0") * 2
    assert [id for id, _ in calls_of(text)] == ["functions.search:0", "functions.search:1"]


def test_unclosed_call_is_closed_by_the_next():
    text = '<|tool_call_begin|>search:0<|tool_call_argument_begin|>{"q":' + call_text("search:1")
    first, second = parse_text([text]).reply.tool_calls
    assert (first.arguments, second.arguments) == ('{"q":', "{}")


def test_arguments_without_their_marker_are_found():
    text = '<|tool_call_begin|>functions.search:0{"q": {}}<|tool_call_end|>'
    assert parse_text([text]).reply.tool_calls == [
        ToolCall("functions.search:0", "search", '{"q": {}}')
    ]


@pytest.mark.parametrize("marker", ["<think>", "</think>", "<|tool_calls_section_begin|>"])
def test_markers_that_cannot_end_arguments_are_part_of_them(marker: str):
    arguments = json.dumps({"text": marker})
    assert parse_text([call_text("search:0", arguments)]).reply.tool_calls[0].arguments == arguments


def test_think_tokens_inside_arguments_are_text(tokenizer: Tokenizer):
    ids = tokenizer.encode_with_specials(call_text("search:0", '{"x":"<think>"}'))
    assert parse_ids(tokenizer, ids).reply.tool_calls[0].arguments == '{"x":"<think>"}'


def test_text_after_a_call_is_dropped():
    parsed = parse_text(["</think>before" + call_text("search:0") + "after"])
    assert parsed.reply.content == "before"


def test_section_without_calls_leaves_its_text():
    section = "</think>a<|tool_calls_section_begin|>{}<|tool_calls_section_end|>c"
    assert parse_text([section.format(" ")]).reply.content == "ac"
    assert parse_text([section.format("b")]).reply.content == "abc"
    assert parse_text(["</think><|tool_calls_section_begin|>b"]).reply.content == "b"


def test_nothing_counts_after_the_end_of_the_turn(tokenizer: Tokenizer):
    for end in ("<|im_end|>", "[EOS]", "<|im_user|>"):
        ids = tokenizer.encode_with_specials(f"<think>a</think>b{end}c</think>" + call_text("f:0"))
        reply = parse_ids(tokenizer, ids).reply
        assert (reply.content, reply.tool_calls, reply.truncated) == ("b", [], False)


@pytest.mark.parametrize(
    ("text", "truncated"),
    [
        ("<think>a", True),
        ("<think>a<|im_end|>", False),
        ("a</think>", False),
        ("a</think>b", False),
        ("</think><|tool_call_begin|>sea", True),
        ("</think><|tool_call_begin|>search:0<|tool_call_argument_begin|>{", True),
        ("</think>" + call_text("search:0"), False),
    ],
)
def test_truncated_means_inside_thinking_or_a_call(text: str, truncated: bool):
    assert parse_text([text]).reply.truncated is truncated


def test_unfinished_id_is_no_call():
    assert calls_of("</think><|tool_call_begin|>sea") == []


@pytest.mark.parametrize("written", ["", " ", ":0", "functions.", "functions.:0"])
def test_call_without_a_name_is_no_call_and_its_text_stays(written: str):
    reply = parse_text(["</think>a" + call_text(written, '{"q":1}')]).reply
    assert (reply.content, reply.tool_calls, reply.truncated) == ('a{"q":1}', [], False)
    assert calls_of(call_text(written) + call_text("search")) == [("functions.search:0", "search")]


def test_turn_that_ends_before_a_calls_name_has_no_call(tokenizer: Tokenizer):
    ids = tokenizer.encode_with_specials("</think>a<|tool_call_begin|><|im_end|>")
    reply = parse_ids(tokenizer, ids).reply
    assert (reply.content, reply.tool_calls) == ("a", [])


def test_without_thinking_everything_is_content():
    reply = parse_text(["<think>a</think>b"], thinking=False).reply
    assert (reply.reasoning_content, reply.content) == (None, "ab")


def test_silence_is_not_empty_thinking():
    assert parse_text([]).reply.reasoning_content is None
    assert parse_text(["<think>"]).reply.reasoning_content == ""


def test_whitespace_before_the_thinking_is_dropped():
    assert parse_text("\n <think>\na</think>").reply.reasoning_content == "\na"
    assert parse_text("\n a</think>").reply.reasoning_content == "\n a"


def test_reasoning_tokens_are_counted_without_their_markers(tokenizer: Tokenizer):
    thought = tokenizer.encode("some thoughts 世界")
    special = tokenizer.special
    ids = [special.think, *thought, special.end_think, *tokenizer.encode("answer")]
    assert parse_ids(tokenizer, ids).reply.reasoning_tokens == len(thought)


def test_character_that_is_split_over_tokens_comes_out_whole(tokenizer: Tokenizer):
    parser = StreamParser(tokenizer, thinking=False)
    events = [event for id in "aé世".encode() for event in parser.feed_token(id)]
    assert events == [ContentDelta("a"), ContentDelta("é"), ContentDelta("世")]


def test_states_tell_where_the_reply_is(tokenizer: Tokenizer):
    parser = StreamParser(tokenizer)
    special = tokenizer.special
    assert parser.in_reasoning
    parser.feed_token(special.tool_calls_section_begin)
    assert (parser.in_reasoning, parser.in_tool_section) == (False, True)
    for id in (special.tool_call_begin, ord("f"), special.tool_call_argument_begin):
        parser.feed_token(id)
    assert parser.phase is Phase.ARGUMENTS
    parser.feed_token(special.im_end)
    assert parser.ended
    assert not parser.in_tool_section
