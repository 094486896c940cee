"""Replies of the relatives, token by token, into reasoning, content and tool calls.

Their markers all are tokens of their own, so whatever is spelled out in ordinary tokens is text.
DeepSeek's calls hold one JSON text; GLM's hold a name and a value for each argument, from which the
JSON is made as it comes. What comes out is what `StreamParser` gives for K2.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from baltoro.chat.chat_model import ContentDelta, ReasoningDelta, ToolCallDelta
from baltoro.chat.messages import Tool, ToolCall
from baltoro.chat.parser import Delta, ParsedReply, Phase, resolve_name
from baltoro.chat.reply_form import KeyMarkers
from baltoro.chat.tokenizer import StreamDecoder, Tokenizer
from baltoro.chat.value_kind import ANY, value_kind

_FENCE = re.compile(r"\s*```(?:json)?[ \t]*\n|(?=\{)")
_TAIL = re.compile(r"[\s`]*\Z")


class MarkerParser:
    """Parses one reply: `feed_token` as it comes, then `finish`.

    Feed the token that ends the turn too. `next_index` numbers the calls. `thinking` says whether
    the reply begins inside the thinking; otherwise a marker may still open it, before any answer.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        tools: Sequence[Tool] = (),
        next_index: int = 0,
        thinking: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._form = tokenizer.form
        self._decoder = StreamDecoder(tokenizer)
        self._functions = {tool["function"]["name"]: tool["function"] for tool in tools}
        self._next_index = next_index
        self._phase = Phase.REASONING if thinking else Phase.CONTENT
        self._reasoning: list[str] = []
        self._reasoning_present = False
        self._reasoning_tokens = 0
        self._content: list[str] = []
        self._space = ""  # before an answer; it counts only if an answer follows
        self._head = ""  # of a call, up to its arguments
        self._calls: list[ToolCall] = []
        self._arguments: list[str] = []  # of the last call
        self._body: _JsonBody | _KeyedBody | None = None

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def in_reasoning(self) -> bool:
        return self._phase is Phase.REASONING

    @property
    def in_tool_section(self) -> bool:
        return self._phase in (Phase.SECTION, Phase.CALL_ID, Phase.ARGUMENTS)

    @property
    def ended(self) -> bool:
        return self._phase is Phase.ENDED

    def feed_token(self, id: int) -> list[Delta]:
        """The deltas that one generated token completes."""
        if self.ended:
            return []
        if not self._tokenizer.is_special(id):
            self._reasoning_tokens += self.in_reasoning
            return self._text(self._decoder.feed(id))
        return self._text(self._decoder.finish()) + self._marker(id)

    def finish(self) -> ParsedReply:
        """The whole reply, once the stream has ended."""
        truncated = self._phase in (Phase.REASONING, Phase.CALL_ID, Phase.ARGUMENTS)
        events = self._text(self._decoder.finish())
        self._close_call()
        return ParsedReply(
            reasoning_content="".join(self._reasoning) if self._reasoning_present else None,
            content="".join(self._content) or None,
            tool_calls=list(self._calls),
            reasoning_tokens=self._reasoning_tokens,
            truncated=truncated,
            events=events,
        )

    def _text(self, text: str) -> list[Delta]:
        if not text:
            return []
        if self._phase is Phase.REASONING:
            self._reasoning_present = True
            self._reasoning.append(text)
            return [ReasoningDelta(text)]
        if self._phase is Phase.CONTENT:
            text, self._space = self._space + text, ""
            if not self._content and text.isspace():
                self._space = text
                return []
            # What stands between the thinking and the answer belongs to neither.
            text = text.lstrip() if self._reasoning_present and not self._content else text
            self._content.append(text)
            return [ContentDelta(text)]
        if self._phase is Phase.CALL_ID:
            self._head += text
            return self._fenced_call() if self._form.is_fenced else []
        if self._phase is Phase.ARGUMENTS and self._body is not None:
            return self._added(self._body.text(text))
        return []

    def _marker(self, id: int) -> list[Delta]:
        """Change the state. A marker that makes no sense where it stands is dropped."""
        form = self._form
        if id in form.ends:
            events = self._end_call() if self._phase in (Phase.CALL_ID, Phase.ARGUMENTS) else []
            self._phase = Phase.ENDED
            return events
        if id == form.think and self._phase is Phase.CONTENT and not self._content:
            self._phase, self._reasoning_present, self._space = Phase.REASONING, True, ""
        elif id == form.end_think and self.in_reasoning:
            self._phase, was_empty = Phase.CONTENT, not self._reasoning
            self._reasoning_present = True
            return [ReasoningDelta("")] if was_empty else []
        elif self._phase in (Phase.CALL_ID, Phase.ARGUMENTS):
            return self._marker_in_call(id)
        elif id == form.call_begin:
            self._phase, self._head = Phase.CALL_ID, ""
        elif id == form.section_begin:
            self._phase = Phase.SECTION
        return []

    def _marker_in_call(self, id: int) -> list[Delta]:
        form, keys = self._form, self._form.keys
        if id == form.call_end or id == form.section_end:
            events = self._end_call()
            self._phase = Phase.SECTION
            return events
        if id == form.call_begin:  # the last one was not closed
            events = self._end_call()
            self._phase, self._head = Phase.CALL_ID, ""
            return events
        if self._phase is Phase.CALL_ID:
            if id == form.separator:
                if not form.is_fenced:
                    return self._open_call(_JsonBody())
                self._head = ""  # it was the kind of call, which always is a function
                return []
            if keys is not None and id == keys.key:
                opened = self._open_call(self._keyed_body(keys))
                return [*opened, *self._added(self._body.marker(id) if self._body else "")]
            return []
        if self._body is None:
            return []
        added = self._body.marker(id)
        if added is None:  # it means nothing here, so it is what somebody writes about
            added = self._body.text(self._tokenizer.special_names.get(id, ""))
        return self._added(added)

    def _fenced_call(self) -> list[Delta]:
        """The name stands in the first line, and behind it a block of code."""
        name, newline, rest = self._head.lstrip().partition("\n")
        found = _FENCE.search(newline + rest) if newline else None
        if found is None:
            return []
        self._head = name
        return self._open_call(_JsonBody(), (newline + rest)[found.end() :])

    def _keyed_body(self, keys: KeyMarkers) -> _KeyedBody:
        name = resolve_name(self._head.strip(), list(self._functions))
        return _KeyedBody(keys, (self._functions.get(name) or {}).get("parameters") or {})

    def _open_call(self, body: _JsonBody | _KeyedBody, text: str = "") -> list[Delta]:
        """The name is complete. A call without one can neither be run nor be sent back."""
        self._phase, self._arguments = Phase.ARGUMENTS, []
        name = resolve_name(self._head.strip(), list(self._functions))
        if not name:
            self._body = None
            return []
        self._body = body
        self._calls.append(ToolCall(f"functions.{name}:{self._next_index}", name, ""))
        self._next_index += 1
        opening = ToolCallDelta(len(self._calls) - 1, self._calls[-1].id, name, "")
        return [opening, *self._added(body.text(text) if text else "")]

    def _end_call(self) -> list[Delta]:
        events: list[Delta] = []
        if self._phase is Phase.CALL_ID:  # it had no arguments
            keys = self._form.keys
            self._head = self._head.lstrip().partition("\n")[0]
            events = self._open_call(self._keyed_body(keys) if keys else _JsonBody())
        if self._body is not None:
            events += self._added(self._body.end())
        self._close_call()
        return events

    def _close_call(self) -> None:
        if self._body is not None:
            call = self._calls[-1]
            self._calls[-1] = ToolCall(call.id, call.name, "".join(self._arguments))
        self._body = None

    def _added(self, arguments: str | None) -> list[Delta]:
        if not arguments or self._body is None:
            return []
        self._arguments.append(arguments)
        return [ToolCallDelta(len(self._calls) - 1, None, None, arguments)]


class _JsonBody:
    """Arguments as they are, without whitespace and the end of a block around them."""

    def __init__(self) -> None:
        self._begun = False
        self._held = ""

    def text(self, text: str) -> str:
        text = self._held + text
        if not self._begun:
            text = text.lstrip()
        found = _TAIL.search(text)
        end = found.start() if found else len(text)
        self._held, text = text[end:], text[:end]
        self._begun = self._begun or bool(text)
        return text

    def marker(self, id: int) -> str | None:
        return None

    def end(self) -> str:
        return ""


class _KeyedBody:
    """Arguments as JSON, made of names and values. A value is a text, or JSON, as its schema says;
    where it may be either, it is JSON if it reads as such."""

    def __init__(self, keys: KeyMarkers, schema: Any) -> None:
        self._keys = keys
        self._schema = schema
        self._written = ""  # the name of an argument, or a value that is not known to be text
        self._inside: int | None = None  # the marker that opened the name or value
        self._kind = ANY
        self._count = 0

    @property
    def _is_text(self) -> bool:
        """Whether the value is certain to be one, so that it can be told as it comes."""
        return not self._kind.others

    def text(self, text: str) -> str:
        if self._inside == self._keys.value and self._is_text:
            return json.dumps(text, ensure_ascii=False)[1:-1]
        if self._inside is not None:
            self._written += text
        return ""

    def marker(self, id: int) -> str | None:
        keys = self._keys
        if self._inside is None and id == keys.key:
            self._inside, self._written = id, ""
        elif self._inside == keys.key and id == keys.end_key:
            self._inside = None
            return self._begin_argument()
        elif self._inside is None and id == keys.value:
            self._inside, self._written = id, ""
            return '"' if self._is_text else ""
        elif self._inside == keys.value and id == keys.end_value:
            self._inside = None
            return '"' if self._is_text else self._kind.json_of(self._written)
        elif self._inside is not None:
            return None
        return ""

    def end(self) -> str:
        return "}" if self._count else "{}"

    def _begin_argument(self) -> str:
        name = self._written.strip()
        self._kind = value_kind(self._schema, name)
        self._count += 1
        return f"{'{' if self._count == 1 else ', '}{json.dumps(name, ensure_ascii=False)}: "
