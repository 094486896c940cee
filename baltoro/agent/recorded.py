"""Reading a trace: its runs, their steps, and the state in which an interrupted one is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from baltoro.agent.context import Prompt
from baltoro.agent.events import Run
from baltoro.agent.heavy import REFLECTION, InterruptedHeavy
from baltoro.agent.loop import Interrupted, calls_of
from baltoro.agent.prices import Cost
from baltoro.agent.progress import NOTHING, added
from baltoro.chat.chat_model import Completion, Usage
from baltoro.chat.messages import Message, Tool
from baltoro.config import BaltoroError

Line = dict[str, Any]


@dataclass
class Step:
    """One reply and what became of it."""

    number: int
    prompt: list[Message]  # what was sent
    reply: Line  # the line `replied`
    tools_offered: bool = True
    dropped: Line | None = None
    called: list[str] = field(default_factory=list)  # ids of the calls that began
    returned: list[Line] = field(default_factory=list)
    retried: int = 0

    @property
    def message(self) -> Message:
        return self.reply["message"]

    @property
    def usage(self) -> Usage:
        return Usage(**self.reply["usage"])

    @property
    def calls(self) -> list[tuple[str, str]]:
        """Name and arguments of each call."""
        return [(call.name, call.arguments) for call in calls_of(self.message)]

    def result(self, id: str) -> Message | None:
        for line in self.returned:
            if line["id"] == id:
                return {"role": "tool", "tool_call_id": id, "content": line["result"]}
        return None


@dataclass
class Recorded:
    """One run of a trace."""

    name: str | None
    model: str
    tools: list[Tool]
    messages: list[Message]  # the conversation, without results of an unfinished turn
    prompt: Prompt = field(default_factory=Prompt)
    steps: list[Step] = field(default_factory=list)
    pending: Step | None = None  # the last one, until it is known what became of it
    finished: Line | None = None
    violations: list[Line] = field(default_factory=list)
    shortened: list[Line] = field(default_factory=list)
    retried: int = 0  # since the last reply
    seconds: float = 0.0  # from the first to the last line, without interruptions
    last_time: float = 0.0

    def add(self, line: Line) -> None:
        """The next line of this run."""
        if line["event"] != "resumed":
            self.seconds += line["time"] - self.last_time
        self.last_time = line["time"]
        match line["event"]:
            case "resumed":
                self.finished = None
            case "replied":
                self._settle()
                prompt = self.prompt.of(self.messages)
                offered = not self._tools_withdrawn
                self.pending = Step(line["step"], prompt, line, offered, retried=self.retried)
                self.steps.append(self.pending)
                self.retried = 0
            case "dropped":
                self.steps[-1].dropped = line
                self.pending = None
            case "called":
                self.steps[-1].called.append(line["id"])
            case "returned":
                self.steps[-1].returned.append(line)
            case "shortened":
                self._settle()
                self.prompt = Prompt(line["replaced"], line["by"])
                self.shortened.append(line)
            case "violated":
                self.violations.append(line)
            case "retried":
                self.retried += 1
            case "finished":
                self._settle()
                self.finished = line

    def _settle(self) -> None:
        """Make the last reply and its results part of the conversation, as the loop does."""
        step, self.pending = self.pending, None
        if step is None:
            return
        results = [step.result(call.id) for call in calls_of(step.message)]
        found = [result for result in results if result is not None]
        if len(found) == len(results):
            self.messages += [step.message, *found]
        elif step.message.get("content"):  # cut short, or calls after the tools were withdrawn
            message = {k: v for k, v in step.message.items() if k != "tool_calls"}
            self.messages.append(message)

    def ended(self) -> Run | None:
        """The run as it ended; None if it goes on, was paused, or was interrupted."""
        end = self.finished
        if end is None or end["stop_reason"] == "paused":
            return None
        kept = {key: end[key] for key in _AS_THEY_ENDED}
        cost = Cost(**end["cost"]) if end["cost"] else None
        return Run(**kept, messages=list(self.messages), usage=Usage(**end["usage"]), cost=cost)

    def interrupted(self) -> Interrupted:
        """The state from which this run can go on. Raises `BaltoroError` if it is at its end."""
        if self.finished and self.finished["stop_reason"] == "answered":
            raise BaltoroError("the run of this trace has its answer; there is nothing to resume.")
        step, messages = self.pending, list(self.messages)
        begun = bool(step and (step.called or step.returned))
        if step and begun:
            messages.append(step.message)
        results = [step.result(call.id) for call in calls_of(step.message)] if step else []
        ours = [each.message for each in self.steps]
        return Interrupted(
            model=self.model,
            messages=messages,
            prompt=self.prompt,
            steps=self.steps[-1].number if self.steps else 0,
            tool_calls=sum(len(calls_of(m)) for m in messages if any(m is own for own in ours)),
            usage=self.usage,
            seconds=self.seconds,
            resampled=self._resampled(),
            tools_withdrawn=self._tools_withdrawn,
            undecided=completion(step) if step and not begun else None,
            results={result["tool_call_id"]: result for result in results if result},
            begun=frozenset(step.called if step else ()),
        )

    @property
    def _tools_withdrawn(self) -> bool:
        return any(s.dropped and s.dropped["measure"] == "withdraw_tools" for s in self.steps)

    def _resampled(self) -> int:
        """Replies in a row that were dropped at the end because they closed a circle."""
        count = 0
        for step in reversed(self.steps):
            if not (step.dropped and step.dropped["cycle"]):
                break
            count += 1
        return count

    @property
    def usage(self) -> Usage:
        """Of its replies, and of the notes with which its prompt was shortened."""
        total = NOTHING
        for step in self.steps:
            total = added(total, step.usage)
        for line in self.shortened:
            if used := line.get("usage"):
                total = added(total, Usage(**used))
        return total

    @property
    def answer(self) -> str | None:
        return (self.finished or {}).get("answer")


_AS_THEY_ENDED = "stop_reason answer partial steps tool_calls seconds violations".split()


@dataclass
class RecordedHeavy:
    """Heavy mode of a trace: its trajectories and their reflection."""

    n: int
    messages: list[Message]
    runs: list[Recorded] = field(default_factory=list)

    def interrupted(self) -> InterruptedHeavy:
        """The state from which it can go on. Raises `BaltoroError` if it is at its end."""
        runs = {run.name or "": run for run in self.runs}
        reflection = runs.get(REFLECTION)
        if reflection is not None and reflection.ended():
            raise BaltoroError("the trace's heavy mode is at its end; there is nothing to resume.")
        usage = NOTHING
        for run in self.runs:
            usage = added(usage, run.usage)
        side_by_side = [run.seconds for run in self.runs if run is not reflection]
        return InterruptedHeavy(
            n=self.n,
            messages=self.messages,
            runs={name: run.ended() or run.interrupted() for name, run in runs.items()},
            usage=usage,
            seconds=max(side_by_side, default=0.0) + (reflection.seconds if reflection else 0.0),
        )


def completion(step: Step) -> Completion:
    """The reply as the model gave it."""
    message = step.message
    return Completion(
        reasoning_content=message.get("reasoning_content"),
        content=message.get("content"),
        tool_calls=calls_of(message),
        finish_reason=step.reply["finish_reason"],
        usage=step.usage,
    )


def read_trace(path: str | Path) -> list[Recorded]:
    """The runs of a trace in the order in which they started.

    A line that was cut short when its process ended is left out. Raises `BaltoroError` for anything
    else that is no trace.
    """
    runs: list[Recorded] = []
    for work in read_works(path):
        runs += [work] if isinstance(work, Recorded) else work.runs
    if not runs:
        raise BaltoroError(f"{path} holds no run.")
    return runs


def read_works(path: str | Path) -> list[Recorded | RecordedHeavy]:
    """The same, with the runs of heavy mode together."""
    works: list[Recorded | RecordedHeavy] = []
    current: dict[str | None, Recorded] = {}
    for number, line in _lines(path):
        name = line.get("run")
        if line["event"] == "heavy":
            works.append(RecordedHeavy(line["n"], list(line["messages"])))
            current.clear()
        elif line["event"] == "started":
            run = current[name] = Recorded(
                name, line["model"], line["tools"], list(line["messages"]), last_time=line["time"]
            )
            heavy = works[-1] if works and name is not None else None
            (heavy.runs if isinstance(heavy, RecordedHeavy) else works).append(run)
        elif name in current:
            current[name].add(line)
        else:
            raise BaltoroError(f"{path}, line {number}: '{line['event']}' before any 'started'.")
    return works


def _lines(path: str | Path) -> Iterator[tuple[int, Line]]:
    """Number and content of each line.

    A process that is killed leaves the beginning of a line, cut anywhere; the next one starts or
    resumes below it. What can not be read anywhere else is damage.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BaltoroError(f"cannot read the trace {path}: {error.strerror}.") from None
    cut: int | None = None  # the first line that can not be read, of those right above
    any_read = False
    for number, raw in enumerate(data.split(b"\n"), 1):
        line = _line(raw)
        if line is not None:
            if cut and line["event"] not in _BEGINNINGS:
                raise _no_line(path, cut)
            cut, any_read = None, True
            yield number, line
        elif raw.strip():
            if not any_read and not _HEAD.startswith(raw[: len(_HEAD)]):
                raise _no_line(path, number)  # another kind of file
            cut = cut or number


_HEAD = b'{"event"'
_BEGINNINGS = frozenset({"heavy", "started", "resumed"})  # what a new process can write first


def _line(raw: bytes) -> Line | None:
    try:
        # Half of a surrogate pair, which JSON can hold, is no UTF-8.
        line = json.loads(raw.decode("utf-8", errors="surrogatepass"))
        _ = line["event"], line["time"]
    except (ValueError, KeyError, TypeError):
        return None
    return line


def _no_line(path: str | Path, number: int) -> BaltoroError:
    return BaltoroError(
        f"{path}, line {number} is no line of a trace, and the one below it neither starts nor "
        "resumes a run. Take another copy of the file, or remove the damaged lines from it."
    )


def by_label(runs: Sequence[Recorded]) -> dict[str, Recorded]:
    """The runs of a trace, each with what to call it: its name, otherwise its place. A run without
    a name that is alone needs none."""
    if len(runs) == 1 and runs[0].name is None:
        return {"": runs[0]}
    labels: dict[str, Recorded] = {}
    for place, run in enumerate(runs, 1):
        label = f"run {run.name or place}"
        labels[f"{label}, number {place} of the file" if label in labels else label] = run
    return labels
