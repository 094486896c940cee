"""`baltoro eval BENCHMARK`, a command for each of the catalog."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from baltoro.cli.groups import grouped
from baltoro.cli.options import ModelOptions
from baltoro.config import BaltoroError
from baltoro.evals.catalog import BENCHMARKS, Benchmark, Setting

if TYPE_CHECKING:
    from baltoro.chat.chat_model import ChatModel
    from baltoro.evals.data import Found
    from baltoro.evals.report import Result
    from baltoro.evals.run import Plan, Tell

SELF = "self"  # as a judge: the model that is measured


def add_benchmarks(group: typer.Typer) -> None:
    """A command for each benchmark of the catalog."""
    for benchmark in BENCHMARKS.values():
        group.command(benchmark.name, help=described(benchmark))(measuring(benchmark))


def described(benchmark: Benchmark) -> str:
    settings = ", ".join(setting.name for setting in benchmark.settings)
    data = benchmark.data
    return (
        f"{benchmark.title}: {data.items} items; settings: {settings}.\n\n"
        f"Reads {data.name} ({data.form}; {data.licence}), which is {data.source}."
    )


@dataclass(frozen=True, kw_only=True)
class SettingOptions:
    """What is changed of the published setting."""

    repeats: Annotated[int | None, typer.Option(min=1, help="Of each item: avg@k.")] = None
    temperature: Annotated[float | None, typer.Option(min=0.0, help="Of the replies.")] = None
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of one reply.")] = None
    thinking_tokens: Annotated[int | None, typer.Option(min=0, help="Of one reply.")] = None
    max_steps: Annotated[int | None, typer.Option(min=1, help="Replies of the model.")] = None

    def changed(self, setting: Setting) -> Setting:
        given = {name: value for name, value in vars(self).items() if value is not None}
        return dataclasses.replace(setting, **given)


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What the tool search looks through."""

    index: Annotated[Path | None, typer.Option(help="Made by `baltoro index add`.")] = None
    web: Annotated[bool, typer.Option("--web", help="Let it open pages of the web.")] = False
    searxng: Annotated[str | None, typer.Option(help="A SearXNG address.")] = None


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """The model that judges answers; in tau2 the one that plays the user."""

    judge: Annotated[
        str | None, typer.Option(help="Its endpoint, or `self`: the measured model.")
    ] = None
    judge_model: Annotated[str | None, typer.Option(help="Which of the endpoint's.")] = None
    judge_key: Annotated[str, typer.Option(help="For --judge.", envvar="JUDGE_API_KEY")] = ""

    @contextlib.contextmanager
    def opened(self, benchmark: Benchmark, measured: ChatModel) -> Iterator[ChatModel | None]:
        """Raises `BaltoroError` where a judge is needed and none is named."""
        if self.judge is None and benchmark.judged:
            raise BaltoroError(
                f"answers of {benchmark.title} are compared by a judge model. Name its endpoint "
                "with --judge URL --judge-model NAME, or let the model judge itself with "
                "--judge self."
            )
        if self.judge in (None, SELF):
            yield measured if self.judge else None
            return
        other = ModelOptions(base_url=self.judge, model=self.judge_model, api_key=self.judge_key)
        with other.opened() as judge:
            yield judge


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The run."""

    setting: Annotated[
        str | None, typer.Option(help="Which of the published ways; by default the first.")
    ] = None
    heavy: Annotated[int, typer.Option(min=1, help="Trajectories to reflect on.")] = 1
    limit: Annotated[int | None, typer.Option(min=1, help="The first items only.")] = None
    seed: Annotated[int | None, typer.Option(help="Of the replies.")] = None
    quantization: Annotated[
        str, typer.Option(help="What to write down for an endpoint's weights.")
    ] = "not told"
    concurrency: Annotated[int, typer.Option(min=1, help="Items at a time.")] = 8
    log_dir: Annotated[
        Path | None, typer.Option(help="Where the run is kept, by default in runs/eval.")
    ] = None
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run there.")] = False


def measuring(benchmark: Benchmark) -> Callable[..., None]:
    """The command that measures a benchmark."""

    @grouped
    def measure(
        model: ModelOptions,
        run: RunOptions,
        settings: SettingOptions,
        judge: JudgeOptions,
        search: SearchOptions,
        data_dir: Annotated[
            Path | None, typer.Option(help="The folder with the benchmark's file.")
        ] = None,
        examples: Annotated[
            bool,
            typer.Option("--examples", help="A few items of our own instead, to try things out."),
        ] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    ) -> None:
        need_inspect()
        from baltoro.evals.data import EXAMPLES, find_data
        from baltoro.evals.run import Models, measure

        setting = settings.changed(choose_setting(benchmark, run.setting))
        found = find_data(benchmark, EXAMPLES if examples else data_dir)
        if not examples:
            tell_if_another(benchmark, found)
        with model.opened() as chat_model, judge.opened(benchmark, chat_model) as judging:
            plan = make_plan(benchmark, setting, found, run, search, chat_model, judging)
            models = Models(measured=chat_model, judge=judging, concurrency=run.concurrency)
            folder = run.log_dir or default_folder(plan)
            with progress(benchmark.name) as tell:
                result = measure(plan, models, folder, resume=run.resume, tell=tell)
        if as_json:
            print(json.dumps(result.to_json()))
        else:
            print_result(result, folder)

    return measure


@contextlib.contextmanager
def progress(name: str) -> Iterator[Tell]:
    """A bar on the standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeElapsedColumn as Elapsed
    from rich.progress import TimeRemainingColumn as Remaining

    console = Console(stderr=True)
    columns = TextColumn(name), BarColumn(), MofNCompleteColumn(), Elapsed(), Remaining()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)
        yield lambda ended, of: bar.update(task, completed=ended, total=of)


def make_plan(
    benchmark: Benchmark,
    setting: Setting,
    found: Found,
    run: RunOptions,
    search: SearchOptions,
    model: ChatModel,
    judge: ChatModel | None,
) -> Plan:
    """What the options ask for."""
    from baltoro.cli.work import known_context
    from baltoro.evals.run import Plan
    from baltoro.evals.solver import Way

    if judge is None and benchmark.simulated_user:
        judge = model
    context = known_context(model)
    return Plan(
        benchmark=benchmark,
        way=Way(
            setting=setting, heavy=run.heavy, seed=run.seed, max_context=context, **vars(search)
        ),
        data=found,
        model=model.name,
        quantization=quantization_of(model, run.quantization),
        judge=judge.name if judge else None,
        limit=run.limit,
    )


def tell_if_another(benchmark: Benchmark, found: Found) -> None:
    """Say before a long run that its file is not the one that figures are compared with."""
    if found.official is False:
        print(
            f"note: {found.path} is another file than the published figures belong to: its "
            f"SHA-256 is {found.sha256}, theirs {benchmark.data.sha256}.",
            file=sys.stderr,
        )


def choose_setting(benchmark: Benchmark, name: str | None) -> Setting:
    """The published setting of this name."""
    setting = benchmark.setting(name)
    if setting is None:
        names = ", ".join(each.name for each in benchmark.settings)
        raise BaltoroError(f"{benchmark.title} has no setting '{name}'. There are: {names}.")
    return setting


def need_inspect() -> None:
    for package in ("inspect_ai", "inspect_evals"):
        if importlib.util.find_spec(package) is None:
            raise BaltoroError(
                f"benchmarks need {package}, which is not installed: pip install 'baltoro[eval]'."
            )


def quantization_of(model: ChatModel, told: str) -> str:
    """How the weights are stored, as their configuration says it; for an endpoint as `told`."""
    from baltoro.engine.chat import EngineChatModel

    if not isinstance(model, EngineChatModel):
        return told
    found = model.engine.model.config.quantization_config
    return f"routed experts INT{found.num_bits}, groups of {found.group_size}" if found else "none"


def default_folder(plan: Plan) -> Path:
    heavy = f"-heavy{plan.way.heavy}" if plan.way.heavy > 1 else ""
    name = f"{plan.benchmark.name}-{plan.way.setting.name}{heavy}"
    return Path("runs/eval") / plan.model.replace("/", "_") / name


def print_result(result: Result, folder: Path) -> None:
    """The figure with what it depends on, beside the published ones."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    kind = f"avg@{result.repeats}" + (f", heavy {result.heavy}" if result.heavy > 1 else "")
    table = Table(title=f"{result.benchmark}, {result.setting}, {kind}")
    for column in ("model", "score", "95 % interval", "tokens ran out", "no answer", "tokens"):
        table.add_column(column)
    table.add_row(
        result.model,
        f"{result.score:.1%}",
        f"{result.low:.1%} to {result.high:.1%}",
        f"{result.cut:.1%}",
        f"{result.unanswered:.1%}",
        f"{result.mean_tokens:,.0f}",
    )
    for model, score in result.published.items():
        table.add_row(model, f"{score:.1f}%", "published")
    console.print(table)
    role = "user played by" if BENCHMARKS[result.benchmark].simulated_user else "judge"
    judge = f", {role} {result.judge}" if result.judge else ""
    items = "1 item" if result.items == 1 else f"{result.items} items"
    console.print(f"{items}; weights: {result.quantization}{judge}.", soft_wrap=True)
    if result.differences:
        console.print(f"Not as published: {'; '.join(result.differences)}.", soft_wrap=True)
    console.print(f"Every message: inspect view --log-dir {folder / 'logs'}", soft_wrap=True)


@grouped
def tool_calls(
    file: Annotated[Path, typer.Argument(help="JSON lines: requests with messages and tools.")],
    model: ModelOptions,
    limit: Annotated[int | None, typer.Option(min=1, help="The first requests only.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure when an endpoint calls tools, and whether its calls fit their schemas.

    A request may say what is expected: should_call, or finish_reason as another endpoint ended it.
    """
    import asyncio

    from baltoro.evals.tool_calls import measure, read_requests

    lines = read_requests(file)[:limit]
    with model.opened() as chat_model:
        found = asyncio.run(measure(chat_model, lines, concurrency))
    if as_json:
        print(json.dumps(found.to_json()))
        return
    low, high = found.valid_interval
    print(f"{found.requests} requests, {found.replies_with_calls} replies with calls.")
    print(f"Trigger F1 {found.f1:.3f} over {found.expected_calls} expected calls.")
    print(f"Schema accuracy {found.schema_accuracy:.1%} (95 %: {low:.1%} to {high:.1%}).")
    for fault in found.faults:
        print(f"  {fault}")
