"""A model's output, token by token, into reasoning, content and tool calls.

A state machine on token ids. The markers are special tokens, so what the model spells out in
ordinary tokens stays text: a reply that quotes `<|tool_call_begin|>` calls nothing. Only the
singular section markers, which have no token and which K2 has been seen to write, are recognised
in ordinary text. Where no token ids are to be had, `feed_text` recognises every marker by its name.

Reasoning precedes content precedes tool calls: text after the first call is dropped. However the
stream is cut, the same reply comes out, and no part of a marker is ever emitted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from baltoro.chat.chat_model import ContentDelta, ReasoningDelta, ToolCallDelta
from baltoro.chat.messages import Tool, ToolCall
from baltoro.chat.tokenizer import StreamDecoder, Tokenizer

Delta = ReasoningDelta | ContentDelta | ToolCallDelta


class _Marker(Enum):
    THINK = auto()
    END_THINK = auto()
    SECTION_BEGIN = auto()
    SECTION_END = auto()
    CALL_BEGIN = auto()
    ARGUMENT_BEGIN = auto()
    CALL_END = auto()
    END = auto()  # of the turn


class Phase(Enum):
    """Where in a reply a parser stands."""

    REASONING = auto()
    CONTENT = auto()
    SECTION = auto()  # in a section between calls, or after it
    CALL_ID = auto()
    ARGUMENTS = auto()
    ENDED = auto()


_IN_CALL = (Phase.CALL_ID, Phase.ARGUMENTS)

_SINGULAR_SPELLINGS = {
    "<|tool_call_section_begin|>": _Marker.SECTION_BEGIN,
    "<|tool_call_section_end|>": _Marker.SECTION_END,
}
_SPELLINGS = {
    "<think>": _Marker.THINK,
    "</think>": _Marker.END_THINK,
    "<|tool_calls_section_begin|>": _Marker.SECTION_BEGIN,
    "<|tool_calls_section_end|>": _Marker.SECTION_END,
    "<|tool_call_begin|>": _Marker.CALL_BEGIN,
    "<|tool_call_argument_begin|>": _Marker.ARGUMENT_BEGIN,
    "<|tool_call_end|>": _Marker.CALL_END,
    "<|im_end|>": _Marker.END,
    **_SINGULAR_SPELLINGS,
}


_INDEX = re.compile(r"[0-9]{1,9}")


class _TextMarkers:
    """Markers to look for in text. Each has its only `<` at its start."""

    def __init__(self, spellings: dict[str, _Marker]) -> None:
        self.spellings = spellings
        self.pattern = re.compile("|".join(map(re.escape, spellings)) or r"(?!)")

    def held_back(self, text: str) -> int:
        """How many characters at the end of `text` may be the beginning of a marker."""
        start = text.rfind("<")
        if start < 0:
            return 0
        tail = text[start:]
        return len(tail) if any(name.startswith(tail) for name in self.spellings) else 0


# Inside a call the other markers' names are data: think of a file being written about them.
_ALL = _TextMarkers(_SPELLINGS)
_CALL_ID_MARKERS = _TextMarkers(
    {
        name: marker
        for name, marker in _SPELLINGS.items()
        if marker not in (_Marker.THINK, _Marker.END_THINK, _Marker.SECTION_BEGIN)
    }
)
_ARGUMENT_MARKERS = _TextMarkers(
    {
        name: marker
        for name, marker in _CALL_ID_MARKERS.spellings.items()
        if marker is not _Marker.ARGUMENT_BEGIN
    }
)
_SINGULAR = _TextMarkers(_SINGULAR_SPELLINGS)
_NONE = _TextMarkers({})


@dataclass(frozen=True, kw_only=True)
class ParsedReply:
    """Everything that was said; what is None was not there, while "" was there and empty."""

    reasoning_content: str | None
    content: str | None
    tool_calls: list[ToolCall]
    reasoning_tokens: int  # between the think markers; 0 where text was fed
    truncated: bool  # the stream stopped inside the thinking or inside a call
    events: list[Delta]  # what was still held back; belongs at the end of the stream


@dataclass
class _Call:
    id: str
    name: str
    arguments: list[str] = field(default_factory=list)


class StreamParser:
    """Parses one reply: `feed_token` (or `feed_text`) as it comes, then `finish`.

    Feed the token that ends the turn too, so that `truncated` is known. Do not mix tokens and text
    in one stream. `next_index` numbers a call whose id has no usable index of its own
    (`template.next_call_index` of the conversation). Without `thinking` everything is content.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None = None,
        declared_tools: Iterable[str] = (),
        next_index: int = 0,
        thinking: bool = True,
    ) -> None:
        self._declared = list(declared_tools)
        self._next_index = next_index
        self._state = Phase.REASONING if thinking else Phase.CONTENT
        self._tokenizer = tokenizer
        self._decoder = StreamDecoder(tokenizer) if tokenizer else None
        self._token_markers = _token_markers(tokenizer) if tokenizer else {}

        self._reasoning: list[str] = []
        self._content: list[str] = []
        self._calls: list[_Call] = []
        self._reasoning_present = False
        self._reasoning_tokens = 0

        self._buffer = ""  # text that may be the beginning of a marker
        self._space = ""  # whitespace that counts only if something follows it
        self._call_id = ""
        self._noise = ""  # text in a section before any call

    @property
    def phase(self) -> Phase:
        return self._state

    @property
    def in_reasoning(self) -> bool:
        return self._state is Phase.REASONING

    @property
    def in_tool_section(self) -> bool:
        return self._state in (Phase.SECTION, *_IN_CALL)

    @property
    def ended(self) -> bool:
        """Whether the turn has been ended by its token."""
        return self._state is Phase.ENDED

    def feed_token(self, id: int) -> list[Delta]:
        """The deltas that one generated token completes."""
        if self._tokenizer is None or self._decoder is None:
            raise RuntimeError("feed_token needs a parser made with a tokenizer")
        if not self._tokenizer.is_special(id):
            self._reasoning_tokens += self.in_reasoning
            self._buffer += self._decoder.feed(id)
            return self._scan(_NONE if self._state in _IN_CALL else _SINGULAR)
        marker = self._token_markers.get(id)
        events = self._flush()
        if self._state in _IN_CALL and marker in (_Marker.THINK, _Marker.END_THINK):
            return events + self._text(self._tokenizer.special_names[id])
        return events + (self._marker(marker) if marker else [])

    def feed_text(self, text: str) -> list[Delta]:
        """The deltas that a piece of text completes, markers recognised by their names."""
        self._buffer += text
        return self._scan(None)

    def finish(self) -> ParsedReply:
        """The whole reply, once the stream has ended."""
        truncated = self.in_reasoning or self._state in _IN_CALL
        # A marker cut off by the end of the stream is not for the user; a lone "<" is.
        if self._buffer.startswith("<|") and len(self._buffer) > 2:
            self._buffer = ""
        events = self._flush()
        if self._state is Phase.REASONING:
            events += self._reasoning_delta(self._space)
        if self._state is Phase.SECTION:
            events += self._leave_section()
        return ParsedReply(
            reasoning_content="".join(self._reasoning) if self._reasoning_present else None,
            content="".join(self._content) or None,
            tool_calls=[ToolCall(c.id, c.name, "".join(c.arguments)) for c in self._calls],
            reasoning_tokens=self._reasoning_tokens,
            truncated=truncated,
            events=events,
        )

    def _scan(self, markers: _TextMarkers | None) -> list[Delta]:
        """Work off the buffer, all but what may be the beginning of a marker.

        `None` looks for the markers that mean something in the present state.
        """
        events: list[Delta] = []
        while True:
            table = self._state_markers() if markers is None else markers
            found = table.pattern.search(self._buffer)
            if not found:
                break
            before, self._buffer = self._buffer[: found.start()], self._buffer[found.end() :]
            events += self._text(before) + self._marker(table.spellings[found.group()])
        end = len(self._buffer) - table.held_back(self._buffer)
        text, self._buffer = self._buffer[:end], self._buffer[end:]
        return events + self._text(text)

    def _state_markers(self) -> _TextMarkers:
        if self._state is Phase.CALL_ID:
            return _CALL_ID_MARKERS
        return _ARGUMENT_MARKERS if self._state is Phase.ARGUMENTS else _ALL

    def _flush(self) -> list[Delta]:
        """What is held back turns out to be text."""
        text, self._buffer = self._buffer, ""
        return self._text(text + (self._decoder.finish() if self._decoder else ""))

    def _text(self, text: str) -> list[Delta]:
        if not text:
            return []
        if self._state is Phase.REASONING:
            if not self._reasoning_present and text.isspace():
                self._space += text  # dropped if <think> follows
                return []
            text, self._space = self._space + text, ""
            return self._reasoning_delta(text)
        if self._state is Phase.CONTENT:
            self._content.append(text)
            return [ContentDelta(text)]
        if self._state is Phase.CALL_ID:
            self._call_id += text
        elif self._state is Phase.ARGUMENTS:
            return self._arguments(text)
        elif self._state is Phase.SECTION and not self._calls:
            self._noise += text
        return []

    def _reasoning_delta(self, text: str) -> list[Delta]:
        if not text:
            return []
        self._reasoning_present = True
        self._reasoning.append(text)
        return [ReasoningDelta(text)]

    def _arguments(self, text: str) -> list[Delta]:
        """Arguments as they are, without the whitespace around them."""
        call = self._calls[-1]
        text = self._space + text
        if not call.arguments:
            text = text.lstrip()
        self._space = text[len(text.rstrip()) :]
        text = text.rstrip()
        if not text:
            return []
        call.arguments.append(text)
        return [ToolCallDelta(len(self._calls) - 1, None, None, text)]

    def _marker(self, marker: _Marker) -> list[Delta]:
        """Change the state. A marker that makes no sense where it stands is dropped."""
        if self._state is Phase.ENDED:
            return []
        if self._state is Phase.REASONING:
            return self._marker_in_reasoning(marker)
        events: list[Delta] = []
        if self._state is Phase.CALL_ID and marker is not _Marker.SECTION_BEGIN:
            events = self._open_call()
        if marker is _Marker.CALL_BEGIN:
            self._begin_call()
        elif marker in (_Marker.SECTION_END, _Marker.END) and self._state is not Phase.CONTENT:
            self._state = Phase.SECTION
            events += self._leave_section()
        elif self._state is Phase.CONTENT:
            if marker is _Marker.SECTION_BEGIN:
                self._state = Phase.SECTION
        elif marker is _Marker.CALL_END:
            self._state = Phase.SECTION
        if marker is _Marker.END:
            self._state = Phase.ENDED
        return events

    def _marker_in_reasoning(self, marker: _Marker) -> list[Delta]:
        space, self._space = self._space, ""
        if marker is _Marker.THINK:
            self._reasoning_present = True
            return []
        events: list[Delta] = []
        if marker is _Marker.END_THINK:
            events += self._reasoning_delta(space)
            if not self._reasoning:  # empty is not the same as none
                events.append(ReasoningDelta(""))
            self._reasoning_present = True
            self._state = Phase.CONTENT
        elif marker is _Marker.SECTION_BEGIN:
            self._state = Phase.SECTION
        elif marker is _Marker.CALL_BEGIN:
            self._begin_call()
        elif marker is _Marker.END:
            self._state = Phase.ENDED
        return events

    def _begin_call(self) -> None:
        self._state = Phase.CALL_ID
        self._call_id = self._space = self._noise = ""

    def _leave_section(self) -> list[Delta]:
        """After a section without calls the answer goes on, with what stood in the section."""
        if self._calls:
            return []
        self._state = Phase.CONTENT
        noise, self._noise = self._noise, ""
        return self._text(noise) if noise.strip() else []

    def _open_call(self) -> list[Delta]:
        """The call's id is complete. JSON that follows it without a marker is its arguments.

        A call without a name can neither be run nor be sent back: it stays text of the section.
        """
        id, brace, rest = self._call_id.partition("{")
        call = self._identify(id.strip())
        if call is None:
            self._state = Phase.SECTION
            return self._text(brace + rest)
        self._calls.append(call)
        self._state = Phase.ARGUMENTS
        opening = ToolCallDelta(len(self._calls) - 1, call.id, call.name, "")
        return [opening, *self._arguments(brace + rest)]

    def _identify(self, id: str) -> _Call | None:
        """Name and native id of a call from what the model wrote for its id; None without a name.

        The declared tools say what the name is: dots and colons may be part of it. A call to a tool
        that was not declared keeps its name, for whoever runs tools to refuse it with a sentence.
        """
        name, colon, index = id.rpartition(":")
        if not (colon and _INDEX.fullmatch(index)):
            name, index = id, ""
        name = resolve_name(name.strip(), self._declared)
        if not name:
            return None
        native = f"functions.{name}:{index}"
        if not index or any(call.id == native for call in self._calls):
            index = str(self._next_index)
            native = f"functions.{name}:{index}"
        self._next_index = max(self._next_index, int(index) + 1)
        return _Call(native, name)


def resolve_name(name: str, declared: Sequence[str]) -> str:
    """The declared tool that is meant by what a model wrote for its name, or else that name."""
    plain = name.removeprefix("functions.")
    for candidate in (plain, name):
        if candidate in declared:
            return candidate
    suffixes = [tool for tool in declared if plain.endswith("." + tool)]
    if suffixes:
        return max(suffixes, key=len)
    if (not plain or plain.isdecimal()) and len(declared) == 1:
        return declared[0]  # only a number was written, and only one tool can be meant
    return plain


class ReplyParser(Protocol):
    """Reads one reply of any family."""

    @property
    def phase(self) -> Phase: ...

    @property
    def in_reasoning(self) -> bool: ...

    @property
    def in_tool_section(self) -> bool: ...

    @property
    def ended(self) -> bool: ...

    def feed_token(self, id: int) -> list[Delta]: ...

    def finish(self) -> ParsedReply: ...


def reply_parser(
    tokenizer: Tokenizer, tools: Sequence[Tool], next_index: int, thinking: bool
) -> ReplyParser:
    """The parser for the replies of a tokenizer's family. `tools` are those that are declared."""
    if tokenizer.prompts is not None:
        from baltoro.chat.marker_parser import MarkerParser  # it builds on this module

        return MarkerParser(tokenizer, tools, next_index, thinking)
    names = [tool["function"]["name"] for tool in tools]
    return StreamParser(tokenizer, names, next_index, thinking)


def _token_markers(tokenizer: Tokenizer) -> dict[int, _Marker]:
    """Special token -> marker. A token that would open another turn ends this one."""
    special = tokenizer.special
    ends = (special.im_end, special.eos, special.im_user, special.im_assistant, special.im_system)
    return {
        special.think: _Marker.THINK,
        special.end_think: _Marker.END_THINK,
        special.tool_calls_section_begin: _Marker.SECTION_BEGIN,
        special.tool_calls_section_end: _Marker.SECTION_END,
        special.tool_call_begin: _Marker.CALL_BEGIN,
        special.tool_call_argument_begin: _Marker.ARGUMENT_BEGIN,
        special.tool_call_end: _Marker.CALL_END,
        **dict.fromkeys(ends, _Marker.END),
    }
