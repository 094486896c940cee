"""`baltoro serve` and `baltoro key`: a model for others."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from baltoro.cli.groups import grouped
from baltoro.cli.options import DenseBits, Memory, Threads

if TYPE_CHECKING:
    from baltoro.engine.options import EngineOptions
    from baltoro.server.rules import Rules


@dataclass(frozen=True, kw_only=True)
class ServedOptions:
    """What is served."""

    model: Annotated[
        str | None,
        typer.Option(
            help="A bundled model's name or a checkpoint's folder, by default tiny; with "
            "--upstream, which of its models."
        ),
    ] = None
    upstream: Annotated[
        str | None,
        typer.Option(help="An OpenAI-compatible endpoint to serve, like http://127.0.0.1:9000/v1."),
    ] = None
    upstream_api_key: Annotated[
        str, typer.Option(help="For --upstream.", envvar="OPENAI_API_KEY")
    ] = ""
    served_model_name: Annotated[
        list[str] | None, typer.Option(help="A further name that the model answers to.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class ComputingOptions:
    """How it is computed."""

    threads: Threads = None
    activations: Annotated[
        Literal["int8", "f32"], typer.Option(help="int8 is fast, f32 exact.")
    ] = "int8"
    dense_bits: DenseBits = 16
    numa: Annotated[
        bool,
        typer.Option(
            "--numa",
            help="Spread threads and memory over the nodes of a machine with several; never "
            "measured on one.",
        ),
    ] = False
    max_context: Annotated[
        int | None, typer.Option(min=1, help="Tokens of prompt and reply together.")
    ] = None
    memory: Memory = None
    cache_memory: Annotated[
        str | None, typer.Option(help="Size of the latent cache, like 4GiB.")
    ] = None
    cache_dir: Annotated[
        Path | None,
        typer.Option(help="Keep computed prompts in this folder, also for the next start."),
    ] = None
    cache_dir_size: Annotated[
        str | None,
        typer.Option(help="Of that folder at most, like 20GiB; by default part of what is free."),
    ] = None
    hot_experts: Annotated[
        Path | None,
        typer.Option(
            help="Counts the uses of experts that stay on disk; the most used are kept in memory "
            "the next time."
        ),
    ] = None

    def engine(self) -> EngineOptions:
        from baltoro.engine.options import EngineOptions

        return EngineOptions(**vars(self))


@dataclass(frozen=True, kw_only=True)
class AccessOptions:
    """Who may ask."""

    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in, with keys.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8000
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="Keys or their hashes, see `baltoro key`; by default any is accepted."),
    ] = None
    allow_anyone: Annotated[
        bool, typer.Option("--allow-anyone", help="Let other machines in without any keys.")
    ] = False
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="A web page's origin that may ask; none by default.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class RuleOptions:
    """What a request may do."""

    max_requests: Annotated[
        int, typer.Option(min=1, help="Answers in work or waiting; more are refused with 429.")
    ] = 256
    heavy: Annotated[
        int, typer.Option(min=0, help="Trajectories of a reply by MODEL-heavy; 0 offers it not.")
    ] = 8
    max_seconds: Annotated[
        float | None, typer.Option(min=0.0, help="For one request, waiting included.")
    ] = None
    max_body: Annotated[str, typer.Option(help="Size of a request's body.")] = "64MiB"
    max_prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of one request; by default what the context holds.")
    ] = None
    drain_seconds: Annotated[
        float, typer.Option(min=0.0, help="Given to running answers after SIGTERM.")
    ] = 30.0
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Refuse other sampling than the model's and missing reasoning, as Moonshot does.",
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """What is written down."""

    access_log: Annotated[
        bool, typer.Option(help="A JSON line for each request on the standard error.")
    ] = True
    log_content: Annotated[
        bool, typer.Option("--log-content", help="Write what is asked into that line, too.")
    ] = False


@grouped
def serve(
    served: ServedOptions,
    computing: ComputingOptions,
    access: AccessOptions,
    rules: RuleOptions,
    log: LogOptions,
) -> None:
    """Serve a model with an OpenAI-compatible API until Ctrl-C."""
    from baltoro.server.serve import ServeConfig
    from baltoro.server.serve import serve as run_server

    model, upstream = served.model, served.upstream
    run_server(
        ServeConfig(
            model=model if model and not upstream else "tiny",
            upstream=upstream,
            upstream_model=model if upstream else None,
            upstream_api_key=served.upstream_api_key if upstream else "",
            served_model_names=tuple(served.served_model_name or ()),
            host=access.host,
            port=access.port,
            api_key_file=access.api_key_file,
            allow_anyone=access.allow_anyone,
            access_log=log.access_log,
            drain_seconds=rules.drain_seconds,
            max_prompt_tokens=rules.max_prompt_tokens,
            engine=computing.engine(),
            rules=make_rules(access, rules, log),
        )
    )


def make_rules(access: AccessOptions, rules: RuleOptions, log: LogOptions) -> Rules:
    from baltoro.engine.memory import parse_size
    from baltoro.server.rules import Rules

    return Rules(
        max_requests=rules.max_requests,
        heavy=rules.heavy,
        max_body_bytes=parse_size(rules.max_body),
        max_seconds=rules.max_seconds,
        strict=rules.strict,
        allow_origins=tuple(access.allow_origin or ()),
        log_content=log.log_content,
    )


def key(
    name: Annotated[str, typer.Argument(help="Who gets it; stands in the log.")],
) -> None:
    """Make an API key: the line for the key file goes to standard output, the key to the error."""
    from baltoro.server.keys import new_key

    secret, line = new_key(name)
    print(f"The key, shown only now: {secret}", file=sys.stderr)
    print(line)
