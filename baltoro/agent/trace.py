"""A run as a file: one JSON object per line, appended as it happens.

An interrupted run leaves a trace that is good up to its last line; `recorded.py` reads it. A line
has `event`, `time` (seconds since 1970), `run` where a file holds several runs at once, and what
the event carries:

    started    model, messages, tools           resumed    calls in doubt
    replied    message, finish_reason, usage,   called     a call begins: told before it is done
               sampling, cost, tokens           returned   result, failed
    dropped    the reply is not kept            retried    the endpoint failed
    shortened  what is sent from now on         violated   a rule of `invariants.py`
    finished   why, answer or partial answer, totals
    heavy      n, messages: the runs that follow are its trajectories and their reflection
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from baltoro.agent.events import Called, Event, Finished, Kept, Replied, Resumed, Returned
from baltoro.chat.chat_model import Sampling, TokenTrace
from baltoro.config import BaltoroError


class Trace:
    """Observes runs and appends them to a file. Usable as a context manager."""

    def __init__(self, path: str | Path):
        """Raises `BaltoroError` if the file can not be written."""
        try:
            self.file: IO[bytes] = open(path, "ab")  # noqa: SIM115 - see close
        except OSError as error:
            raise BaltoroError(f"cannot write the trace {path}: {error.strerror}.") from None
        if self.file.tell() and not _ends_with_newline(path):
            self.file.write(b"\n")  # after a line that was cut short

    def __call__(self, event: Event, run: str | None = None) -> None:
        if not isinstance(event, Kept):
            return
        name = {"run": run} if run is not None else {}
        head = {"event": type(event).__name__.lower(), "time": time.time(), **name}
        self.write({**head, **as_json(event)})

    def of(self, run: str | None) -> Callable[[Event], None]:
        """An observer for one of several runs in this file."""
        return lambda event: self(event, run)

    def write(self, line: dict[str, Any]) -> None:
        # Half of a surrogate pair, which JSON can hold, is no UTF-8.
        text = json.dumps(line, ensure_ascii=False).encode("utf-8", errors="surrogatepass")
        # One write for a line: after a crash there is all of it or its beginning.
        self.file.write(text + b"\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _ends_with_newline(path: str | Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def as_json(event: Kept) -> dict[str, Any]:
    """What is kept of an event: enough to run the conversation again and to compare."""
    match event:
        case Resumed(in_doubt):
            return {"in_doubt": [call.id for call in in_doubt]}
        case Replied(step, reply, seconds, sampling, cost):
            return {
                "step": step,
                "seconds": seconds,
                "message": reply.to_message(),
                "finish_reason": reply.finish_reason,
                "usage": dataclasses.asdict(reply.usage),
                "sampling": changed(sampling),
                "cost": dataclasses.asdict(cost) if cost else None,
                "tokens": tokens(reply.trace),
            }
        case Called(step, call):
            return {"step": step, "id": call.id, "name": call.name}
        case Returned(step, call, result, seconds, failed):
            return {
                "step": step,
                "seconds": seconds,
                "id": call.id,
                "name": call.name,
                "arguments": call.arguments,
                "result": result,
                "failed": failed,
            }
        case Finished(run):
            # The messages are those of the lines before.
            line = dataclasses.asdict(dataclasses.replace(run, messages=[]))
            del line["messages"]
            return line
    return dataclasses.asdict(event)


def changed(sampling: Sampling) -> dict[str, Any]:
    """What differs from the defaults."""
    default = Sampling()
    return {
        each.name: getattr(sampling, each.name)
        for each in dataclasses.fields(sampling)
        if getattr(sampling, each.name) != getattr(default, each.name)
    }


def tokens(trace: TokenTrace | None) -> dict[str, Any] | None:
    """The token level of a reply. Its prompt repeats all turns before, so only its length is."""
    if trace is None:
        return None
    return {
        "num_prompt_ids": len(trace.prompt_ids),
        "generated_ids": trace.generated_ids,
        "logprobs": trace.logprobs,
        "sampled_logprobs": trace.sampled_logprobs,
        "weights_version": trace.weights_version,
    }
