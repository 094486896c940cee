"""What happens in a run, as told to whoever watches: a trace, a terminal, a test."""

from __future__ import annotations

from dataclasses import dataclass

from baltoro.chat import chat_model, messages
from baltoro.chat.chat_model import Completion, Usage
from baltoro.chat.messages import Message, ToolCall


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run."""

    stop_reason: str  # answered | step_limit | token_limit | time_limit | reply_cut | no_answer
    answer: str | None  # what the model said at the end; only when it answered
    messages: list[Message]  # the whole conversation; it can be gone on from
    steps: int  # replies of the model
    tool_calls: int
    usage: Usage  # of all steps together
    seconds: float


@dataclass(frozen=True)
class Started:
    model: str
    messages: list[Message]
    tools: list[messages.Tool]


@dataclass(frozen=True)
class Replied:
    """The model's reply is complete; its calls are about to run."""

    step: int  # from 1
    completion: Completion
    seconds: float


@dataclass(frozen=True)
class Returned:
    """A call has its result."""

    step: int
    call: ToolCall
    result: str
    seconds: float


@dataclass(frozen=True)
class Finished:
    run: Run


Event = chat_model.Event | Started | Replied | Returned | Finished
