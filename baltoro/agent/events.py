"""What happens in a run, as told to whoever watches: a trace, a terminal, a test."""

from __future__ import annotations

from dataclasses import dataclass, field

from baltoro.agent.prices import Cost
from baltoro.chat import chat_model, messages
from baltoro.chat.chat_model import Completion, Sampling, Usage
from baltoro.chat.messages import Message, ToolCall


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that ended or was paused."""

    # answered | step_limit | token_limit | money_limit | time_limit | context_full | reply_cut |
    # no_answer | loop | paused
    stop_reason: str
    answer: str | None  # what the model said at the end; only when it answered
    partial: str | None = None  # without an answer: what is known so far
    messages: list[Message]  # the whole conversation; it can be gone on from
    steps: int  # replies of the model
    tool_calls: int
    usage: Usage  # of all steps together
    seconds: float
    cost: Cost | None = None  # where the model's price is known
    violations: int = 0  # of the loop's invariants


@dataclass(frozen=True)
class Started:
    model: str
    messages: list[Message]
    tools: list[messages.Tool]


@dataclass(frozen=True)
class Heavy:
    """Heavy mode begins: `n` trajectories, each a run of its own, at these messages."""

    n: int
    messages: list[Message]


@dataclass(frozen=True)
class Resumed:
    """A run goes on that was interrupted. Calls in doubt had begun, and nobody knows their end."""

    in_doubt: list[ToolCall]


@dataclass(frozen=True)
class Retried:
    """A reply could not be had; what was streamed of it is void. It is asked for again."""

    step: int
    attempt: int  # from 1
    error: str
    wait_seconds: float


@dataclass(frozen=True)
class Violated:
    """A rule that holds for every request was broken, by the loop or by the endpoint."""

    step: int
    rule: str
    found: str
    by: str  # loop | endpoint | history (what the run was given)


@dataclass(frozen=True)
class Shortened:
    """The prompt got shorter: its first `replaced` messages are sent as `by` from now on."""

    step: int
    strategy: str
    replaced: int
    by: list[Message]
    tokens_before: int  # estimated
    tokens_after: int
    usage: Usage | None = None  # of the notes that the model wrote for it


@dataclass(frozen=True)
class Replied:
    """The model's reply is complete; its calls are about to run."""

    step: int  # from 1
    completion: Completion
    seconds: float
    sampling: Sampling = field(default_factory=Sampling)
    cost: Cost | None = None


@dataclass(frozen=True)
class Dropped:
    """The reply of this step is not kept: it would have gone round in a circle once more."""

    step: int
    cycle: int  # turns after which the calls and their results repeat
    measure: str  # resample | withdraw_tools | stop


@dataclass(frozen=True)
class Called:
    """A call begins. It is told before anything is done, so that nothing is done twice."""

    step: int
    call: ToolCall


@dataclass(frozen=True)
class Returned:
    """A call has its result."""

    step: int
    call: ToolCall
    result: str
    seconds: float
    failed: bool = False  # the model did something wrong, or the tool could not do it


@dataclass(frozen=True)
class Finished:
    run: Run


Kept = (
    Heavy
    | Started
    | Resumed
    | Retried
    | Violated
    | Shortened
    | Replied
    | Dropped
    | Called
    | Returned
    | Finished
)  # what a trace keeps
Event = chat_model.Event | Kept
