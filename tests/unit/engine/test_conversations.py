"""A conversation that grows: the same ids as from nothing, and work for what was added alone."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_engine import CONFIG, random_tensors
from test_chat import DictatedChatModel

import baltoro
from baltoro.agent.events import Event, Replied
from baltoro.agent.loop import Agent
from baltoro.agent.progress import Limits
from baltoro.chat.chat_model import Sampling
from baltoro.chat.messages import Message
from baltoro.chat.template import render, with_native_ids
from baltoro.chat.tokenizer import Tokenizer
from baltoro.engine import generation
from baltoro.engine.conversations import Conversations
from baltoro.engine.engine import Engine
from baltoro.engine.turns import GeneratedTurns
from baltoro.kernels.load import load_step_model

BALTORO = str(Path(baltoro.__file__).parent)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
TOKENIZER = Tokenizer({bytes([i]): i for i in range(256)})


def from_nothing(messages: list[Message], keep_thinking: bool = False) -> list[int]:
    return render(
        TOKENIZER,
        with_native_ids(messages),
        [TOOL],
        add_generation_prompt=False,
        preserve_thinking=keep_thinking,
    )


def calling(id: str, thinking: str | None, arguments: Any = "{}") -> Message:
    call = {"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}}
    thought = {} if thinking is None else {"reasoning_content": thinking}
    return {"role": "assistant", "content": None, **thought, "tool_calls": [call]}


texts = st.sampled_from(["a", "bc", ""])
ids = st.sampled_from(["functions.f:0", "functions.f:7", "f:3", "call_1", "call_2"])
messages = st.one_of(
    texts.map(lambda text: {"role": "user", "content": text}),
    texts.map(lambda text: {"role": "system", "content": text}),
    st.builds(lambda text, why: {"role": "assistant", "content": text, "reasoning_content": why},
              texts, texts),
    st.builds(calling, ids, st.none() | texts, st.sampled_from(["{}", {"a": 1}, {"a": 1.0}])),
    st.builds(lambda id, text: {"role": "tool", "tool_call_id": id, "content": text}, ids, texts),
)  # fmt: skip


@given(
    requests=st.lists(
        st.tuples(st.integers(0, 12), st.lists(messages, max_size=4), st.booleans()), max_size=8
    )
)
def test_whatever_was_rendered_before_the_ids_are_those_of_the_whole_conversation(requests):
    conversations = Conversations(TOKENIZER, GeneratedTurns(TOKENIZER), max_conversations=3)
    talk: list[Message] = []
    for kept, more, keep_thinking in requests:
        talk = [*talk[:kept], *more]
        rendered = conversations.render(talk, [TOOL], keep_thinking)
        assert rendered.ids == from_nothing(talk, keep_thinking)


def test_a_message_that_was_changed_in_place_is_rendered_anew():
    conversations = Conversations(TOKENIZER, GeneratedTurns(TOKENIZER))
    talk = [{"role": "user", "content": "a"}, calling("functions.f:0", "b")]
    conversations.render(talk, [TOOL])
    talk[1]["tool_calls"][0]["function"]["arguments"] = '{"changed": 1}'
    assert conversations.render(talk, [TOOL]).ids == from_nothing(talk)


def test_another_salt_is_another_conversation():
    conversations = Conversations(TOKENIZER, GeneratedTurns(TOKENIZER))
    for salt in ("a", "b", "a"):
        conversations.render([{"role": "user", "content": "x"}], [], salt=salt)
    assert len(conversations._known) == 2


def test_other_tools_are_another_conversation():
    conversations = Conversations(TOKENIZER, GeneratedTurns(TOKENIZER))
    talk: list[Message] = [{"role": "user", "content": "a"}]
    with_one, with_float = (deepcopy(TOOL) for _ in range(2))
    with_one["function"]["default"], with_float["function"]["default"] = 1, 1.0
    first = conversations.render(talk, [with_one]).ids
    assert conversations.render(talk, [with_float]).ids != first


def test_conversations_beyond_the_room_are_forgotten():
    for bounds in ({"max_conversations": 2}, {"max_tokens": 150}):
        conversations = Conversations(TOKENIZER, GeneratedTurns(TOKENIZER), **bounds)
        for text in "abcde":
            conversations.render([{"role": "user", "content": text}], [])
        assert 0 < len(conversations._known) <= 2


class CountingTokenizer(Tokenizer):
    """One token per byte; counts the characters it encodes."""

    encoded = 0

    def encode(self, text: str) -> list[int]:
        self.encoded += len(text)
        return super().encode(text)


class Get:
    name = "get"
    description = "Look up a key."
    parameters = {"type": "object", "properties": {}}  # noqa: RUF012
    may_repeat = read_only = True

    async def call(self, arguments: dict[str, Any]) -> str:
        return "a value"


class Calling(DictatedChatModel):
    """Always calls the tool."""

    def constraints(self, request, prompt):
        self.reply = (
            "<think>hm</think><|tool_calls_section_begin|><|tool_call_begin|>"
            f"functions.get:{prompt.next_call_index}<|tool_call_argument_begin|>{{}}"
            "<|tool_call_end|><|tool_calls_section_end|><|im_end|>"
        )
        return super().constraints(request, prompt)


@pytest.fixture
def calling_model() -> Iterator[Calling]:
    config = replace(CONFIG, max_position_embeddings=16384)
    step_model = load_step_model(
        config, random_tensors(config), num_blocks=256, block_tokens=64, threads=1
    )
    tokenizer = CountingTokenizer({bytes([i]): i for i in range(256)})
    with Engine(step_model) as engine, Calling("small", engine, tokenizer) as model:
        yield model


class Work:
    """Counts lines of this package's Python that the thread runs, and characters encoded.

    Lines of `generation.py` are left out: how often a task waits for the engine's thread is up to
    the machine.
    """

    def __init__(self, tokenizer: CountingTokenizer):
        self.tokenizer = tokenizer
        self.lines = Counter[str]()
        self.at_replies: list[tuple[Counter[str], int]] = []

    def observe(self, event: Event) -> None:
        if isinstance(event, Replied):
            self.at_replies.append((self.lines.copy(), self.tokenizer.encoded))

    def trace(self, frame: FrameType, event: str, argument: object):
        name = frame.f_code.co_filename
        if not name.startswith(BALTORO) or name == generation.__file__:
            return None
        if event == "line":
            self.lines[f"{frame.f_code.co_filename}:{frame.f_lineno}"] += 1
        return self.trace

    def between(self, first: int, last: int) -> tuple[Counter[str], int]:
        (lines, encoded), (more, further) = self.at_replies[first], self.at_replies[last]
        return more - lines, further - encoded


async def test_a_late_step_of_an_agent_takes_no_more_work_than_an_early_one(calling_model):
    tokenizer = calling_model.tokenizer
    assert isinstance(tokenizer, CountingTokenizer)
    work = Work(tokenizer)
    agent = Agent(
        calling_model,
        [Get()],
        limits=Limits(max_steps=92),
        sampling=Sampling(temperature=0, max_tokens=200),
        observers=[work.observe],
    )
    before = sys.gettrace()
    sys.settrace(work.trace)
    try:
        run = await agent.run([{"role": "user", "content": "Go."}])
    finally:
        sys.settrace(before)
    assert (run.stop_reason, run.tool_calls) == ("step_limit", 92)
    early_lines, early_encoded = work.between(10, 20)  # calls whose numbers have two digits
    late_lines, late_encoded = work.between(80, 90)
    assert late_encoded == early_encoded
    assert late_lines.total() > 1000
    assert late_lines - early_lines == Counter()
