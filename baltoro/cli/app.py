"""`baltoro VERB`: each verb reads its options, calls one function and prints.

What a verb needs is imported inside it, so that `baltoro --help` is quick and no verb pays for
another. A mistake of the user's, or a file that fails, is shown as a sentence; exit code 2.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from baltoro.cli import agents, evals, plans, serving
from baltoro.cli.groups import grouped
from baltoro.cli.options import (
    ApiKey,
    MaxTokens,
    Memory,
    ModelOptions,
    Resume,
    Temperature,
)
from baltoro.config import BaltoroError

if TYPE_CHECKING:
    from rich.progress import TaskID

    from baltoro.evals.skills import SkillReport

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train, serve and drive K2-architecture thinking agents.",
)
train = typer.Typer(no_args_is_help=True, help="Train a model as a TOML file says.")
evaluate = typer.Typer(no_args_is_help=True, help="Measure what a model can do.")
app.command()(agents.chat)
app.command()(agents.agent)
app.command()(serving.serve)
app.command()(serving.key)
app.command()(plans.plan)
app.add_typer(agents.trace_app, name="trace")
app.add_typer(agents.index_app, name="index")
app.add_typer(train, name="train")
app.add_typer(evaluate, name="eval")
evals.add_benchmarks(evaluate)
evaluate.command("tool-calls")(evals.tool_calls)


@app.command()
def inspect(
    target: Annotated[str, typer.Argument(help="A checkpoint's folder or a preset.")],
    measure: Annotated[
        bool, typer.Option(help="Measure what this machine's memory allows.")
    ] = True,
) -> None:
    """Show a model's parameters, bytes, cache and the speed that memory allows here."""
    from rich.console import Console

    from baltoro.checkpoint.inspect import inspect as describe
    from baltoro.checkpoint.inspect import render

    Console(highlight=False).print(render(describe(target, measure=measure)), soft_wrap=True)


@app.command()
def quantize(
    source: Annotated[Path, typer.Argument(help="A bf16, f32 or FP8 checkpoint.")],
    target: Annotated[Path, typer.Argument(help="A folder that is made.")],
    replace: Annotated[bool, typer.Option(help="Replace the folder if it exists.")] = False,
) -> None:
    """Write a checkpoint in K2's INT4 layout; the same call goes on after an interruption."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    from baltoro.checkpoint.quantize import quantize as write_int4

    with Progress(BarColumn(), DownloadColumn(), TimeRemainingColumn()) as progress:
        bar = progress.add_task("", visible=False)  # until the source is found to be in order
        write_int4(
            source,
            target,
            replace=replace,
            progress=lambda done, total: progress.update(
                bar, completed=done, total=total, visible=True
            ),
        )
    print(f"{target} is written. Try: baltoro inspect {target}")


Config = Annotated[Path, typer.Argument(help="A TOML file, like those in recipes/.")]


@train.command()
def pretrain(config: Config, resume: Resume = False) -> None:
    """Train from random weights."""
    need_torch()
    from baltoro.train.pretrain import run

    run(config, resume)


@train.command()
def sft(config: Config, resume: Resume = False) -> None:
    """Fine-tune on demonstrations and export the checkpoint."""
    need_torch()
    from baltoro.train.sft import run

    run(config, resume)


@train.command()
def rl(config: Config, resume: Resume = False) -> None:
    """Learn from attempts at problems with verifiable answers and export the checkpoint."""
    need_torch()
    from baltoro.rl.train import run

    run(config, resume)


@app.command()
def tasks(
    config: Annotated[
        Path | None, typer.Argument(help="Of `train sft`: also each task's share of its tokens.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this one; can be repeated.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder; by default tiny's.")] = None,
) -> None:
    """List the tasks and how many tokens their demonstrations have."""
    from baltoro.chat.tokenizer import Tokenizer
    from baltoro.checkpoint.bundled import find_checkpoint
    from baltoro.tasks.lengths import lengths, mixtures, shares
    from baltoro.tasks.mixture import MORE_TASKS, TASKS

    phases = mixtures(config) if config else []
    named = task or list(dict.fromkeys(name for phase in phases for name in phase))
    loaded = Tokenizer.load(tokenizer or find_checkpoint("tiny"))
    measured = [lengths(loaded, name) for name in named or [*TASKS, *MORE_TASKS]]
    parts = [shares(phase, measured) for phase in phases]
    headings = ["task", "tokens, median", "longest", "learned"]
    rows = [
        [*m.row(), *(f"{part[m.task]:.1%}" if m.task in part else "" for part in parts)]
        for m in measured
    ]
    print_rows([*headings, *(f"phase {i}" for i in range(1, len(parts) + 1))], rows)


def print_rows(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose first column is text and whose others are numbers."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False).print(table)


@evaluate.command()
@grouped
def skills(
    model: ModelOptions,
    skill: Annotated[
        list[str] | None,
        typer.Option(help="Only this one, or any task of `baltoro tasks`; can be repeated."),
    ] = None,
    more: Annotated[bool, typer.Option("--more", help="Also what later stages teach.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Problems of each skill.")] = None,
    temperature: Temperature = 1.0,
    max_tokens: MaxTokens = 4096,
    seed: Annotated[int, typer.Option(help="Of the problems and the replies.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON only.")] = False,
) -> None:
    """Measure the bundled tasks' skills on unseen problems."""
    import asyncio

    from baltoro.evals.skills import MORE_SKILLS, SKILLS, Settings, run

    settings = Settings(
        skills=(*(skill or SKILLS), *(MORE_SKILLS if more else ())),
        limit=limit,
        temperature=temperature,
        max_tokens=max_tokens,
        seed=seed,
    )
    with model.opened() as chat_model, skill_progress() as tell:
        reports = asyncio.run(run(chat_model, settings, tell))
    if as_json:
        print(json.dumps([report.to_json() for report in reports], ensure_ascii=False))
    else:
        print_skills(reports)


@contextlib.contextmanager
def skill_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each skill on the standard error, moved by what is yielded."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    progress = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))
    bars: dict[str, TaskID] = {}

    def tell(skill: str, done: int, total: int) -> None:
        if not bars:
            progress.start()
        if skill not in bars:
            bars[skill] = progress.add_task(skill, total=total)
        progress.update(bars[skill], completed=done)

    try:
        yield tell
    finally:
        if bars:
            progress.stop()


def print_skills(reports: Sequence[SkillReport]) -> None:
    rows = []
    for row in reports:
        interval = f"{row.low:.1%} to {row.high:.1%}"
        counts = str(row.right), str(row.n), f"{row.share:.1%}"
        rows.append([row.skill, *counts, interval, f"{row.mean_tokens:.0f}"])
    print_rows(["skill", "right", "n", "share", "95 % interval", "tokens"], rows)


@app.command()
def bench(
    question: Annotated[
        str, typer.Argument(help="moe, decode, prefill, serve, cache, slice or long.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line for each figure.")] = False,
    threads: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Can be repeated; by default one, and all cores."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="That medians are taken of.")] = 5,
    folder: Annotated[
        Path | None, typer.Option(help="Keeps random checkpoints; by default in ~/.cache.")
    ] = None,
    memory: Memory = None,
    bandwidth: Annotated[
        list[float] | None, typer.Option(help="GB/s that slice projects to; can be repeated.")
    ] = None,
    experts: Annotated[
        int | None, typer.Option(min=8, help="Of a layer of slice, fewer than 384: a smaller disk.")
    ] = None,
    dense_bits: Annotated[
        int | None,
        typer.Option(
            min=8,
            max=16,
            help="8 holds the dense part as --dense-bits 8 of serve does; decode measures both.",
        ),
    ] = None,
    small: Annotated[
        bool, typer.Option("--small", help="Tiny sizes, to see that a question works.")
    ] = False,
) -> None:
    """Measure how fast this machine computes, beside what its memory allows."""
    from baltoro.bench.questions import Options, ask

    options = Options(
        threads=threads or (),
        rounds=rounds,
        small=small,
        folder=folder,
        memory=memory,
        bandwidths=bandwidth or (),
        experts=experts,
        dense_bits=dense_bits,
        progress=tell_bytes_written,
    )
    for record in ask(question, options):
        print(record.to_json() if as_json else record.sentence(), flush=True)


def tell_bytes_written(done: int, total: int) -> None:
    print(f"written {done / 1e9:.1f} of {total / 1e9:.1f} GB", file=sys.stderr)


@app.command()
def doctor(
    url: Annotated[
        str | None, typer.Argument(help="An endpoint to examine, like http://127.0.0.1:8000/v1.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="What to expect of it here: a checkpoint's folder, or a preset like k2-thinking. "
            "With a URL, which of the endpoint's models."
        ),
    ] = None,
    api_key: ApiKey = "",
) -> None:
    """Show what this machine and build can do, or which promises an endpoint keeps."""
    if url is not None:
        return agents.examine_endpoint(url, model, api_key)
    from rich.console import Console

    console = Console(highlight=False)
    for name, fact in machine(model):
        console.print(f"[bold]{name:<10}[/bold] {fact}", soft_wrap=True)


def machine(model: str | None) -> Iterator[tuple[str, str]]:
    """What matters to baltoro, one fact after the other, and what to expect of a model."""
    import os
    import platform
    from importlib.metadata import version

    from baltoro.checkpoint.bundled import bundled_models
    from baltoro.checkpoint.inspect import measure_bandwidth
    from baltoro.kernels.cores import available_cores
    from baltoro.kernels.load import choose_kernels
    from baltoro.kernels.numa import read_nodes
    from baltoro.tools.bubblewrap import Bubblewrap

    yield "baltoro", f"{version('baltoro')}, Python {platform.python_version()}"
    yield "cores", f"{available_cores()} of {os.cpu_count()}, {platform.machine()}"
    if len(nodes := read_nodes()) > 1:
        yield (
            "nodes",
            f"{len(nodes)} with memory of their own; serve --numa spreads threads and memory over "
            "them, which was never measured: try both",
        )
    kernels = choose_kernels()
    yield "kernels", f"{kernels.name}: {kernels.reason} (of {', '.join(kernels.available)})"
    bandwidth = measure_bandwidth()
    yield "memory", f"{bandwidth / 1e9:.1f} GB/s read by all cores together"
    yield "models", ", ".join(bundled_models()) or "none is built in"
    try:
        walls = Bubblewrap().walls
        calls = "filtered" if walls.filter else f"not filtered ({walls.unfiltered})"
        yield "sandbox", f"works, with {walls.bubblewrap}; system calls are {calls}"
    except BaltoroError as error:
        yield "sandbox", f"none, so the tool python is refused: {error}"
    if model is not None:
        yield from expectations(model, bandwidth)


def expectations(model: str, bandwidth: float) -> Iterator[tuple[str, str]]:
    """How fast a model would be here."""
    from dataclasses import replace

    from baltoro.bench.expect import expect
    from baltoro.checkpoint.inspect import fits_in_memory, inspect

    report = replace(inspect(model), bandwidth=bandwidth)
    found = expect(report)
    yield (
        "decode",
        f"at most {found.tokens_per_second:,.3g} tokens/s of {model} alone: each reads "
        f"{report.decode_bytes / 1e9:,.3g} GB of weights",
    )
    yield (
        "prompt",
        f"{found.prompt:,} tokens take about {found.seconds_to_first_token:,.1f} s to the first "
        "one of a reply",
    )
    if not fits_in_memory(report):
        yield (
            "disk",
            f"{report.size_bytes / 1e9:,.0f} GB of weights do not fit into memory: experts are "
            "read from disk (serve --memory), which is slower than both",
        )


def need_torch() -> None:
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise BaltoroError(
            "training needs torch, which is not installed. "
            "Install it with: pip install -c constraints.txt -e '.[train]'"
        )


def main() -> None:
    try:
        app()
    except BaltoroError as error:
        sentence = str(error)
    except OSError as error:  # no right to read, a full disk
        file = f"{error.filename}: " if error.filename else ""
        sentence = f"{file}{error.strerror or error}."
    else:
        return
    print(f"baltoro: {sentence}", file=sys.stderr)
    sys.exit(2)
