"""A thinking budget kept from outside, for endpoints that have no field for one or ignore it.

The thinking is counted as it streams. What goes past the budget is cut off there, which ends the
endpoint's work, and the model is asked again: the same conversation, its thoughts so far, and the
request to act on them. Whoever listens sees one reply with the thoughts of both.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace

from baltoro.chat.chat_model import (
    ChatRequest,
    Completion,
    Event,
    ReasoningDelta,
    Usage,
)
from baltoro.chat.messages import Message

CHARS_PER_TOKEN = 4  # of English; where tokens are shorter the budget is a larger one
LAST_THOUGHTS = 256  # tokens for a model that can not be told to stop thinking
ENOUGH = (
    "Your time for thinking is over. These are your thoughts so far:\n\n{thoughts}\n\n"
    "Do not think on. Call a tool now, or give your answer."
)

Ask = Callable[[ChatRequest], AsyncGenerator[Event, None]]


def tokens_of(chars: int) -> int:
    """About how many tokens so many characters are."""
    return -(-chars // CHARS_PER_TOKEN)


async def within_budget(ask: Ask, request: ChatRequest, tokens: int) -> AsyncIterator[Event]:
    """The reply to `request` with about `tokens` of thinking.

    A model that thinks on after it was asked to stop has a reply of thoughts alone. Usage counts
    the thinking that was cut off, but not the prompt before it: no endpoint reports on a reply that
    nobody waits for.
    """
    first = _Thinking(tokens)
    async with aclosing(ask(request)) as events:
        async for event in events:
            yield event
            first.note(event)
            if first.too_long:
                break
    if not first.too_long:
        return
    enough: Message = {"role": "user", "content": ENOUGH.format(thoughts=first.text)}
    left = max(1, request.sampling.max_tokens - first.tokens)
    sampling = replace(request.sampling, thinking_budget=0, max_tokens=left)
    again = replace(request, messages=[*request.messages, enough], sampling=sampling)
    second = _Thinking(tokens + LAST_THOUGHTS)
    async with aclosing(ask(again)) as events:
        async for event in events:
            if isinstance(event, Completion):
                yield _joined(first, event, enough)
                return
            yield event
            second.note(event)
            if second.too_long:
                break
    used = first.tokens + second.tokens
    yield Completion(
        reasoning_content=f"{first.text}\n{second.text}",
        content=None,
        tool_calls=[],
        finish_reason="stop",
        usage=Usage(prompt=0, completion=used, reasoning=used, cached=0),
    )


class _Thinking:
    """The thinking of one stream, and whether it is past the budget."""

    def __init__(self, budget: int):
        self.budget = budget
        self.text = ""
        self.ended = False  # the reply has come to something else

    def note(self, event: Event) -> None:
        if isinstance(event, ReasoningDelta):
            self.text += event.text
        else:
            self.ended = True

    @property
    def tokens(self) -> int:
        return tokens_of(len(self.text))

    @property
    def too_long(self) -> bool:
        return not self.ended and self.tokens > self.budget


def _joined(first: _Thinking, reply: Completion, enough: Message) -> Completion:
    """The second reply with the thoughts of both, counted as if there had been one."""
    usage = reply.usage
    prompt = max(0, usage.prompt - len(enough["content"]) // CHARS_PER_TOKEN)
    return replace(
        reply,
        reasoning_content="\n".join(filter(None, (first.text, reply.reasoning_content))),
        usage=Usage(
            prompt=prompt,
            completion=usage.completion + first.tokens,
            reasoning=usage.reasoning + first.tokens,
            cached=min(usage.cached, prompt),
        ),
        trace=None,  # its prompt is not the conversation's
    )
