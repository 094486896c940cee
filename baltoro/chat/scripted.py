"""A `ChatModel` that says what it was given to say: for tests and for trying clients out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from baltoro.chat.chat_model import ChatRequest, Completion, Event, Usage
from baltoro.chat.parser import StreamParser
from baltoro.chat.template import next_call_index

_PIECE_CHARS = 5  # a stream's piece is about as long as a token


class ScriptedChatModel:
    """Answers the first request with the first reply, and so on; the last is followed by an error.

    A reply is written as a model generates it, `<think>...</think>...` with the markers of tool
    calls. One whose thinking or call is not closed ends as if its tokens had run out. Usage counts
    pieces of the stream in place of tokens. `requests` holds what was asked.
    """

    def __init__(self, replies: Sequence[str], name: str = "scripted") -> None:
        self.name = name
        self.replies = list(replies)
        self.requests: list[ChatRequest] = []

    async def stream(self, request: ChatRequest) -> AsyncIterator[Event]:
        if len(self.requests) >= len(self.replies):
            raise RuntimeError(f"the script has only {len(self.replies)} replies")
        reply = self.replies[len(self.requests)]
        self.requests.append(replace(request, messages=list(request.messages)))

        names = [tool["function"]["name"] for tool in request.tools]
        parser = StreamParser(None, names, next_call_index(request.messages))
        pieces = [reply[i : i + _PIECE_CHARS] for i in range(0, len(reply), _PIECE_CHARS)]
        thinking = 0
        for piece in pieces:
            thinking += parser.in_reasoning
            for event in parser.feed_text(piece):
                yield event
        parsed = parser.finish()
        for event in parsed.events:
            yield event

        stopped = "tool_calls" if parsed.tool_calls else "stop"
        yield Completion(
            reasoning_content=parsed.reasoning_content,
            content=parsed.content,
            tool_calls=parsed.tool_calls,
            finish_reason="length" if parsed.truncated else stopped,
            usage=Usage(
                prompt=len(request.messages),
                completion=len(pieces),
                reasoning=thinking,
                cached=0,
            ),
        )
