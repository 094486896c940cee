"""`baltoro bench serve`: sixteen requests at once, over HTTP, against `baltoro serve`.

The clients speak OpenAI's `/v1/completions` with token ids, so that they can ask any server the
same prompts.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from baltoro.bench.record import PeerResult, Record, compare, median_ratio
from baltoro.bench.roofline import Roofline
from baltoro.checkpoint.inspect import bytes_read, describe
from baltoro.config import BaltoroError, ModelConfig

REQUESTS = 16
PROMPT = 256
TOKENS = 64
START_SECONDS = 120.0  # that a server may take until it answers
READY_PAUSE = 0.2


@dataclass(frozen=True)
class Crowd:
    """What the clients saw of one round."""

    tokens: int
    seconds: float
    first_token_seconds: Sequence[float]

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def p99_first_token(self) -> float:
        return float(np.quantile(self.first_token_seconds, 0.99))


def prompts(config: ModelConfig, seed: int, requests: int = REQUESTS) -> list[list[int]]:
    """Random ids, none of them special; nothing repeats, so no cache helps."""
    rng = np.random.default_rng(seed)
    return rng.integers(256, config.vocab_size - 256, (requests, PROMPT)).tolist()


async def crowd(base_url: str, asked: list[list[int]], extra: Mapping[str, Any]) -> Crowd:
    """All prompts at once. `extra` goes into every request, as a server needs it."""
    limits = httpx.Limits(max_connections=len(asked))
    async with httpx.AsyncClient(base_url=base_url, timeout=600, limits=limits) as client:
        start = time.perf_counter()
        replies = await asyncio.gather(*(_ask(client, ids, extra) for ids in asked))
        seconds = time.perf_counter() - start
    return Crowd(sum(n for n, _ in replies), seconds, [first - start for _, first in replies])


async def _ask(
    client: httpx.AsyncClient, ids: list[int], extra: Mapping[str, Any]
) -> tuple[int, float]:
    """How many tokens came, and when the first did."""
    body = {"prompt": ids, "max_tokens": TOKENS, "stream": True, "temperature": 1.0} | dict(extra)
    body["stream_options"] = {"include_usage": True}
    first, tokens, deltas = 0.0, 0, 0
    async with client.stream("POST", "/v1/completions", json=body) as reply:
        if reply.status_code != 200:
            text = (await reply.aread()).decode(errors="replace")
            raise BaltoroError(f"the server answered {reply.status_code}: {text[:300]}")
        async for line in reply.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = json.loads(line[6:])
            first = first or time.perf_counter()
            deltas += bool(event.get("choices"))
            tokens = (event.get("usage") or {}).get("completion_tokens") or tokens
    return tokens or deltas, first


@contextlib.contextmanager
def running(
    command: Sequence[str], port: int, env: Mapping[str, str] | None = None
) -> Iterator[str]:
    """A server's process until the end; its address, once it answers.

    Raises BaltoroError with the last of what it printed if it does not start.
    """
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(process, url)
        yield url
    finally:
        process.terminate()
        process.communicate()


def _wait_until_ready(process: subprocess.Popen[str], url: str) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        time.sleep(READY_PAUSE)
    process.kill()
    _, errors = process.communicate()
    raise BaltoroError(f"the server at {url} did not start. Its last words: {errors[-500:]}")


def free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def own_command(folder: Path, port: int, threads: int, dense_bits: int = 16) -> list[str]:
    start = "from baltoro.cli import main; main()"
    options = ["--model", str(folder), "--port", str(port), "--threads", str(threads)]
    options += ["--dense-bits", str(dense_bits)]
    return [sys.executable, "-c", start, "serve", *options]


@dataclass
class Clients:
    """All requests at once against one server, every time with other prompts."""

    url: str
    extra: Mapping[str, Any]  # what goes into every request besides
    config: ModelConfig
    requests: int
    first_tokens: list[float] = field(default_factory=list)  # seconds: 99th percentiles
    seeds: Iterator[int] = field(default_factory=itertools.count)

    def tokens_per_second(self) -> float:
        asked = prompts(self.config, next(self.seeds), self.requests)
        seen = asyncio.run(crowd(self.url, asked, self.extra))
        self.first_tokens.append(seen.p99_first_token)
        return seen.tokens_per_second

    def warm_up(self) -> None:
        self.tokens_per_second()
        self.first_tokens.clear()


def run(
    folder: Path,
    roofline: Roofline,
    *,
    threads: int,
    rounds: int = 3,
    requests: int = REQUESTS,
    dense_bits: int = 16,
    peers: Mapping[str, tuple[str, Mapping[str, Any]] | str] | None = None,
) -> Iterator[Record]:
    """Tokens per second of all clients together, whose limit is reading the weights of each step of
    all requests' next tokens; then how soon 99 of 100 have their first token.

    A peer is the address of its server with what its requests need besides, or why it is missing.
    """
    config = ModelConfig.from_json(folder)
    port = free_port()
    others = {
        name: peer if isinstance(peer, str) else Clients(*peer, config, requests)
        for name, peer in (peers or {}).items()
    }
    case = (
        f"{folder.name}, {requests} requests at once, prompts of {PROMPT}, dense weights in "
        f"{dense_bits} bits, {threads} threads"
    )
    parts = describe("", config).parts
    size = bytes_read(parts, config, requests, dense_bits=dense_bits)
    with running(own_command(folder, port, threads, dense_bits), port, dict(os.environ)) as url:
        ours = Clients(url, {}, config, requests)
        for clients in (ours, *others.values()):
            if isinstance(clients, Clients):
                clients.warm_up()
        yield compare(
            "serve",
            case,
            unit="tokens/s",
            threads=threads,
            ours=ours.tokens_per_second,
            roofline=lambda: requests * roofline.bytes_per_second() / size,
            peers={n: c if isinstance(c, str) else c.tokens_per_second for n, c in others.items()},
            rounds=rounds,
            details={"bytes_per_step": size},
        )
    yield first_token_record(case, threads, ours, others)


def first_token_record(
    case: str, threads: int, ours: Clients, others: Mapping[str, Clients | str]
) -> Record:
    """Of the rounds that were measured. Larger is better, so it is one over the seconds."""
    rates = [1 / seconds for seconds in ours.first_tokens]
    peers = {}
    for name, clients in others.items():
        if isinstance(clients, str):
            peers[name] = PeerResult(missing=clients)
            continue
        theirs = [1 / seconds for seconds in clients.first_tokens]
        peers[name] = PeerResult(statistics.median(theirs), median_ratio(rates, theirs))
    return Record(
        question="serve",
        case=f"first token, {case}",
        result=statistics.median(rates),
        unit="1 / p99 seconds",
        threads=threads,
        peers=peers,
        rounds=len(rates),
    )
