"""Traces as text."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from baltoro.agent.drift import drift, summary
from baltoro.agent.recorded import Recorded, Step
from baltoro.agent.replay import Compared, diff, replay
from baltoro.agent.view import safe
from baltoro.chat.chat_model import ChatModel

console = Console(highlight=False)


def plain(text: str, style: str = "") -> Text:
    """A model's text as it is: what looks like markup or an emoji's name in it is neither."""
    return Text(safe(text), style)


def print_runs(runs: Sequence[Recorded]) -> None:
    """Each run: a line for each step, then how it ended and how it changed."""
    for run in runs:
        console.print(plain(f"{run.name}: {run.model}" if run.name else run.model, "bold"))
        console.print(step_table(run))
        for line in run.violations:
            console.print(plain(f"step {line['step']}: {line['rule']}: {line['found']}"))
        end = run.finished
        text = f"{end['stop_reason']}: {end['answer'] or end['partial']}" if end else "no end"
        console.print(plain(text))
        print_drift(run, "")


def step_table(run: Recorded) -> Table:
    table = Table(box=None)
    for name in ("step", "tokens", "thinking", "cached", "seconds"):
        table.add_column(name, justify="right")
    table.add_column("what", overflow="ellipsis", no_wrap=True, ratio=1)
    for step in run.steps:
        usage = step.usage
        cached = f"{usage.cached / usage.prompt:.0%}" if usage.prompt else ""
        figures = (step.number, usage.completion, usage.reasoning)
        seconds = f"{step.reply['seconds']:.1f}"
        table.add_row(*map(str, figures), cached, seconds, plain(what(step)))
    return table


def what(step: Step) -> str:
    """A step in a line."""
    if step.dropped:
        return f"dropped: {step.dropped['measure']}"
    if step.calls:
        return ", ".join(f"{name} {arguments}" for name, arguments in step.calls)
    return str(step.message.get("content") or "")


def print_drift(run: Recorded, title: str) -> None:
    """The figures of a run's thirds, side by side."""
    table = Table(box=None, title=plain(title) if title else None)
    for name in ("", "first third", "middle", "last third"):
        table.add_column(name, justify="right" if name else "left")
    for label, *means in summary(drift(run)):
        table.add_row(label, *(f"{mean:.3g}" for mean in means))
    console.print(table)


def print_difference(
    label: str, one: tuple[Path, Recorded | None], other: tuple[Path, Recorded | None]
) -> bool:
    """The run of this label in two traces: its drift, and the first reply that differs. Whether
    there is one."""
    found = [(path, run) for path, run in (one, other) if run is not None]
    for path, run in found:
        print_drift(run, f"{path}, {label}" if label else str(path))
    if len(found) == 1:
        print(f"{label or 'the run'} is only in {found[0][0]}.")
        return True
    difference = diff(*(run for _, run in found))
    if difference:
        print(headed(label, difference))
    return difference is not None


async def replay_runs(
    runs: Mapping[str, Recorded],
    model: ChatModel,
    *,
    temperature: float | None = None,
    keep_going: bool = False,
) -> tuple[int, int]:
    """Ask a model again for the replies of each run; how many do the same, how many differ. What
    differs is printed; the first of that is the last unless it is to `keep_going`."""
    same = different = 0
    for label, run in runs.items():
        async with contextlib.aclosing(replay(run, model, temperature=temperature)) as compared:
            async for each in compared:
                same, different = same + each.same, different + (not each.same)
                if each.same:
                    continue
                print(headed(label, each))
                if not keep_going:
                    return same, different
    return same, different


def headed(label: str, compared: Compared) -> str:
    return safe(f"{label}, {compared.difference}" if label else compared.difference)
