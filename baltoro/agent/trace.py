"""A run as a file: one JSON object per line, appended as it happens.

An interrupted run leaves a trace that is good up to its last line. A line has `event` (`started`,
`replied`, `returned`, `finished`), `time` (seconds since 1970), and what the event carries.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import IO, Any

from baltoro.agent.events import Event, Finished, Replied, Returned, Started
from baltoro.chat.chat_model import TokenTrace
from baltoro.config import BaltoroError


class Trace:
    """Observes runs and appends them to a file. Usable as a context manager."""

    def __init__(self, path: str | Path):
        """Raises `BaltoroError` if the file can not be written."""
        try:
            self.file: IO[str] = open(path, "a", encoding="utf-8")  # noqa: SIM115 - see close
        except OSError as error:
            raise BaltoroError(f"cannot write the trace {path}: {error.strerror}.") from None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started | Replied | Returned | Finished):
            line = {"event": type(event).__name__.lower(), "time": time.time(), **as_json(event)}
            self.file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self.file.flush()

    def close(self) -> None:
        self.file.close()

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def as_json(event: Started | Replied | Returned | Finished) -> dict[str, Any]:
    """What is kept of an event: enough to run the conversation again and to compare."""
    match event:
        case Started(model, messages, tools):
            return {"model": model, "messages": messages, "tools": tools}
        case Replied(step, reply, seconds):
            return {
                "step": step,
                "seconds": seconds,
                "message": reply.to_message(),
                "finish_reason": reply.finish_reason,
                "usage": dataclasses.asdict(reply.usage),
                "tokens": tokens(reply.trace),
            }
        case Returned(step, call, result, seconds):
            return {
                "step": step,
                "seconds": seconds,
                "id": call.id,
                "name": call.name,
                "arguments": call.arguments,
                "result": result,
            }
        case Finished(run):
            # The messages are those of the lines before.
            return {
                "stop_reason": run.stop_reason,
                "answer": run.answer,
                "steps": run.steps,
                "tool_calls": run.tool_calls,
                "seconds": run.seconds,
                "usage": dataclasses.asdict(run.usage),
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
