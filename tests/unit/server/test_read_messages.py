"""What clients send in place of plain messages, and what the model gets to see."""

from __future__ import annotations

from baltoro.server.messages import read_messages, read_tools

CALL = {"id": "search:0", "type": "function", "function": {"name": "search", "arguments": "{}"}}


def test_text_parts_are_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert read_messages([{"role": "user", "content": parts}])[0]["content"] == "ab"


def test_missing_content_is_null():
    assert read_messages([{"role": "assistant"}]) == [{"role": "assistant", "content": None}]


def test_a_turn_without_its_reasoning_is_accepted():
    history = [
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "search:0", "content": "x"},
    ]
    assert "reasoning_content" not in read_messages(history)[0]


def test_reasoning_is_read_under_both_names_and_may_be_empty():
    for name in ("reasoning_content", "reasoning"):
        message = {"role": "assistant", "content": "x", name: ""}
        assert read_messages([message])[0]["reasoning_content"] == ""


def test_the_name_of_a_speaker_is_kept_and_unknown_keys_are_not():
    message = {"role": "user", "name": "ada", "content": "x", "provider_specific_fields": {}}
    read = {"role": "user", "content": "x", "name": "ada"}
    assert read_messages([message]) == [read]


def test_a_developer_speaks_as_the_system():
    assert read_messages([{"role": "developer", "content": "x"}])[0]["role"] == "system"


def test_a_result_may_answer_any_call_before_it():
    other = {**CALL, "id": "search:1"}
    history = [
        {"role": "assistant", "tool_calls": [CALL, other]},
        {"role": "tool", "tool_call_id": "search:1", "content": "b"},
        {"role": "tool", "tool_call_id": "search:0", "content": "a"},
    ]
    assert [m.get("tool_call_id") for m in read_messages(history)] == [None, "search:1", "search:0"]


def test_tools_reach_the_model_as_they_were_declared():
    tool = {"type": "function", "function": {"strict": True, "name": "a.b-c_1", "x": [1]}}
    assert read_tools([tool]) == [tool]
    assert read_tools(None) == []
