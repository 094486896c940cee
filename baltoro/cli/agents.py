"""The verbs with which a person talks to a model and lets it work."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from baltoro.cli.groups import grouped
from baltoro.cli.options import ModelOptions, SamplingOptions, Tools
from baltoro.config import BaltoroError

if TYPE_CHECKING:
    from baltoro.agent.loop import Agent
    from baltoro.agent.progress import Limits
    from baltoro.chat.chat_model import ChatModel
    from baltoro.chat.messages import Message
    from baltoro.cli.work import Work
    from baltoro.tools.by_name import Kit

trace_app = typer.Typer(no_args_is_help=True, help="Look at what an agent did, and do it again.")
index_app = typer.Typer(no_args_is_help=True, help="Make a library for the tool search.")

System = Annotated[str | None, typer.Option(help="The system message.")]


@grouped
def chat(
    model: ModelOptions,
    replies: SamplingOptions,
    prompt: Annotated[
        str | None, typer.Argument(help="One question; without it a conversation starts.")
    ] = None,
    system: System = None,
    tools: Tools = "",
) -> None:
    """Talk with a model; its thinking is shown dimmed."""
    from baltoro.agent.loop import Agent
    from baltoro.agent.view import TerminalView
    from baltoro.tools.by_name import Kit

    with (
        model.opened() as chat_model,
        asyncio.Runner() as runner,
        closing_kit(Kit(), runner) as kit,
    ):
        view = TerminalView()
        sampling = replies.sampling()
        agent = Agent(chat_model, kit.make(tools), sampling=sampling, observers=[view])
        messages: list[Message] = [{"role": "system", "content": system}] if system else []
        if prompt is not None:
            answer_once(runner, agent, [*messages, {"role": "user", "content": prompt}])
        else:
            converse(runner, agent, messages)


def answer_once(runner: asyncio.Runner, agent: Agent, messages: list[Message]) -> None:
    """Answer one question. The exit code is 1 when there is no answer."""
    if runner.run(agent.run(messages)).stop_reason != "answered":
        raise typer.Exit(1)


def converse(runner: asyncio.Runner, agent: Agent, messages: list[Message]) -> None:
    """Read a line, answer it, and so on until the end of the input."""
    print(f"{agent.model.name}: Ctrl-C stops an answer, Ctrl-D or an empty line ends.")
    while line := read_line():
        question: Message = {"role": "user", "content": line}
        try:
            run = runner.run(agent.run([*messages, question]))
        except KeyboardInterrupt:
            print("\n(stopped; your question is forgotten)")
            continue
        messages = run.messages


@contextlib.contextmanager
def closing_kit(kit: Kit, runner: asyncio.Runner) -> Iterator[Kit]:
    try:
        yield kit
    finally:
        runner.run(kit.close())


def read_line() -> str:
    """What the user types, with line editing; empty at the end."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - input() uses it once it is imported
    try:
        return input("\n> ").strip()
    except (EOFError, KeyboardInterrupt):
        print()
        return ""


@dataclass(frozen=True, kw_only=True)
class ToolOptions:
    """Tools."""

    tools: Tools = "python"
    mcp: Annotated[
        list[str] | None, typer.Option(help="An MCP server: its command or address; repeatable.")
    ] = None
    workdir: Annotated[
        Path | None, typer.Option(help="The folder that tools work in; by default a new one.")
    ] = None
    index: Annotated[Path | None, typer.Option(help="For the tool search.")] = None
    web: Annotated[bool, typer.Option("--web", help="Let search open pages of the web.")] = False
    searxng: Annotated[str | None, typer.Option(help="A SearXNG address to search with.")] = None
    sandbox: Annotated[
        Literal["bubblewrap", "docker", "podman"], typer.Option(help="Where code runs.")
    ] = "bubblewrap"
    sandbox_image: Annotated[
        str | None,
        typer.Option(help="Of docker or podman, on this machine already; by default Python's."),
    ] = None
    approve: Annotated[
        bool, typer.Option("--approve", help="Ask before each call that may change something.")
    ] = False

    def kit(self) -> Kit:
        from baltoro.tools.by_name import Kit

        return Kit(
            workdir=self.workdir,
            index=self.index,
            web=self.web,
            searxng_url=self.searxng,
            sandbox=self.sandbox,
            image=self.sandbox_image,
        )


@dataclass(frozen=True, kw_only=True)
class LimitOptions:
    """Limits."""

    max_steps: Annotated[int, typer.Option(min=1, help="Replies of the model.")] = 300
    max_seconds: Annotated[float | None, typer.Option(min=0.0, help="Wall clock.")] = None
    max_total_tokens: Annotated[int | None, typer.Option(min=1, help="In all replies.")] = None
    max_money: Annotated[float | None, typer.Option(min=0.0, help="US dollars.")] = None
    prices: Annotated[Path | None, typer.Option(help="A TOML file with prices.")] = None
    thinking_budget: Annotated[int | None, typer.Option(min=0, help="Tokens per step.")] = None
    context: Annotated[
        str, typer.Option(help="When it is full: none, hide-all, keep-last-k, summarize.")
    ] = "hide-all"
    max_context: Annotated[int | None, typer.Option(min=1, help="Tokens, if unknown.")] = None

    def limits(self) -> Limits:
        from baltoro.agent.progress import Limits

        return Limits(
            max_steps=self.max_steps,
            max_tokens=self.max_total_tokens,
            max_money=self.max_money,
            max_seconds=self.max_seconds,
        )


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The run."""

    heavy: Annotated[int, typer.Option(min=1, help="Trajectories to reflect on.")] = 1
    trace: Annotated[
        Path | None, typer.Option(help="Append all that happens to this JSON lines file.")
    ] = None
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --trace.")] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print the run as JSON only.")] = False


@grouped
def agent(
    model: ModelOptions,
    replies: SamplingOptions,
    tools: ToolOptions,
    limits: LimitOptions,
    run: RunOptions,
    task: Annotated[str | None, typer.Argument(help="What to do.")] = None,
    system: System = None,
) -> None:
    """Let a model work on a task with tools. The exit code is 1 when there is no answer.

    Ctrl-C pauses: what there is so far is shown, and --resume goes on from the trace.
    """
    if (task is None) != run.resume:
        raise BaltoroError("give a task, or --resume with --trace FILE to go on with one.")
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": task})
    with model.opened() as chat_model:
        work = make_work(chat_model, model, replies, tools, limits, run)
        ended = work.resume() if run.resume else work.run(messages, run.heavy)
    if run.as_json:
        text = json.dumps(dataclasses.asdict(ended), ensure_ascii=False)
        # Half of a surrogate pair, which is no UTF-8, gets its escape in JSON.
        print(text.encode("utf-8", errors="backslashreplace").decode())
    if ended.stop_reason != "answered":
        raise typer.Exit(1)


def make_work(
    chat_model: ChatModel,
    model: ModelOptions,
    replies: SamplingOptions,
    tools: ToolOptions,
    limits: LimitOptions,
    run: RunOptions,
) -> Work:
    """Raises `BaltoroError` for options that can not work."""
    from baltoro.agent.prices import find_price
    from baltoro.cli.work import Work

    return Work(
        model=chat_model,
        tools=tools.tools,
        mcp=tuple(tools.mcp or ()),
        make_kit=tools.kit,
        limits=limits.limits(),
        price=find_price(chat_model.name, model.base_url, limits.prices),
        sampling=replies.sampling(limits.thinking_budget),
        context=limits.context,
        max_context=limits.max_context,
        approve=tools.approve,
        trace=run.trace,
        quiet=run.as_json,
    )


@index_app.command("add")
def index_add(
    index: Annotated[Path, typer.Argument(help="The index, which is made if it is not there.")],
    sources: Annotated[list[Path], typer.Argument(help="Folders, HTML, text or JSON lines.")],
) -> None:
    """Add documents to an index for the tool search."""
    from baltoro.tools.index import Index, read_documents

    opened = Index(index, create=True)
    added = sum(opened.add(read_documents(source)) for source in sources)
    print(f"{added} documents added; {index} holds {len(opened)}.")
    opened.close()


TraceFile = Annotated[Path, typer.Argument(help="A trace that `baltoro agent --trace` wrote.")]


@trace_app.command()
def show(
    file: TraceFile,
    html: Annotated[Path | None, typer.Option(help="Write a page that shows all of it.")] = None,
) -> None:
    """Show the runs of a trace: each step, and how the run changed on its way."""
    from baltoro.agent.html import page
    from baltoro.agent.recorded import read_trace
    from baltoro.cli.show import print_runs

    runs = read_trace(file)
    if html is not None:
        html.write_text(page(runs, file.name), encoding="utf-8", errors="replace")
        print(f"{html} is written.")
    else:
        print_runs(runs)


@trace_app.command()
@grouped
def replay(
    file: TraceFile,
    model: ModelOptions,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="By default as it was recorded.")
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--all", help="Go on after the first difference.")
    ] = False,
) -> None:
    """Ask a model again for each reply of a trace. The exit code is 1 where one differs."""
    from baltoro.agent.recorded import by_label, read_trace
    from baltoro.cli.show import replay_runs

    runs = by_label(read_trace(file))
    with model.opened() as chat_model:
        same, different = asyncio.run(
            replay_runs(runs, chat_model, temperature=temperature, keep_going=keep_going)
        )
    recorded = sum(len(run.steps) for run in runs.values())
    print(f"{same} replies do the same, {different} differ, of {recorded} recorded.")
    if different:
        raise typer.Exit(1)


@trace_app.command("diff")
def trace_diff(one: TraceFile, other: TraceFile) -> None:
    """Show for each run the first reply in which two traces differ. The exit code is 1 if there is
    one."""
    from baltoro.agent.recorded import by_label, read_trace
    from baltoro.cli.show import print_difference

    mine, theirs = (by_label(read_trace(path)) for path in (one, other))
    labels = list(mine | theirs)
    differ = [
        print_difference(label, (one, mine.get(label)), (other, theirs.get(label)))
        for label in labels
    ]
    if any(differ):
        raise typer.Exit(1)
    print("Both runs do the same." if len(labels) == 1 else f"All {len(labels)} do the same.")


def examine_endpoint(url: str, model: str | None, api_key: str) -> None:
    """Print which dialect an endpoint speaks and which promises it keeps."""
    from rich.console import Console

    from baltoro.agent.doctor import Promise, examine
    from baltoro.chat.endpoint import open_endpoint
    from baltoro.cli.show import plain

    console = Console(highlight=False)
    endpoint = open_endpoint(url, model, api_key)
    context = f"{endpoint.max_context:,} tokens" if endpoint.max_context else "not told"
    name, dialect = endpoint.name, endpoint.dialect.name
    console.print(plain(f"{name} at {url}: dialect {dialect}, context {context}"))
    marks = {True: "[green]kept[/]", False: "[red]broken[/]", None: "[yellow]unknown[/]"}

    def show_promise(promise: Promise) -> None:
        console.print(f"{marks[promise.kept]:<20} {promise.name}: ", end="")
        console.print(plain(promise.found), soft_wrap=True)

    async def ask_all() -> None:
        async for promise in examine(endpoint):
            show_promise(promise)

    asyncio.run(ask_all())
