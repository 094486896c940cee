"""What the HTTP layer costs: the same engine, driven within the process and over HTTP.

    python benchmarks/speed/http_layer.py --threads 1

One process holds the engine and its server. Sixteen requests at once go to `Engine.generate`, then
the same ones as streams over HTTP, from clients in a process of their own; which comes first
changes from round to round, and nothing is found in the prefix cache. The replies have the same
tokens, so what differs is the layer: reading requests, decoding, JSON, events. Printed are

- tokens per second over HTTP beside those within the process, and the same of the processor's
  seconds that the serving process took, which a neighbour's load hardly changes. Clients would work
  elsewhere, so these here sleep from the first event of a reply to its end;
- one over the seconds by which the first event comes later than the first token, of one request
  alone: the median of pairs.

About two minutes for each number of threads.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
import re
import socket
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread

import numpy as np

from baltoro.bench.questions import Options
from baltoro.bench.record import PeerResult, Record, median_ratio
from baltoro.chat.chat_model import Sampling
from baltoro.engine.chat import EngineChatModel
from baltoro.engine.open_model import open_model
from baltoro.engine.options import EngineOptions
from baltoro.server.app import create_app
from baltoro.server.serve import Server, bind
from results import run_script

REQUESTS, PROMPT, TOKENS = 16, 32, 128
FIRST_TOKEN_PAIRS = 8  # in a round
LONGEST_REPLY = 1 << 20  # bytes
Prompts = list[list[int]]


@dataclass(frozen=True)
class Run:
    """One crowd."""

    tokens: int
    seconds: float
    first_seconds: float  # until the first token or event of a request, the median
    cpu_seconds: float = 0.0  # of the serving process


def prompts(vocabulary: int, seed: int, requests: int) -> Prompts:
    rng = np.random.default_rng(seed)
    return rng.integers(256, vocabulary - 256, (requests, PROMPT)).tolist()


async def crowd(ask: Callable[[list[int], int], Awaitable[tuple[int, float]]], all: Prompts) -> Run:
    """All prompts at once; `ask` gives the tokens of a reply and the time of its first."""
    start = time.perf_counter()
    replies = await asyncio.gather(*(ask(ids, seed) for seed, ids in enumerate(all)))
    seconds = time.perf_counter() - start
    firsts = [first - start for _, first in replies]
    return Run(sum(n for n, _ in replies), seconds, statistics.median(firsts))


async def ask_over_http(port: int, tokens: int, prompt: list[int], seed: int) -> tuple[int, float]:
    """As a client that takes next to nothing of the processor: after the first event it sleeps
    until the reply has ended."""
    body = {"prompt": prompt, "max_tokens": tokens, "stream": True, "temperature": 1.0}
    data = json.dumps(body | {"seed": seed, "stream_options": {"include_usage": True}}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Connection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    reply = b""
    while b"data: " not in reply:
        piece = await reader.read(1 << 16)
        if not piece:
            raise RuntimeError(f"the server broke off: {reply.decode(errors='replace')}")
        reply += piece
    first = time.perf_counter()
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, LONGEST_REPLY)
    reply += await reader.read()
    writer.close()
    found = re.search(rb'"usage": ?\{[^}]*?"completion_tokens": ?(\d+)', reply[-1000:])
    assert found is not None, reply
    return int(found[1]), first


def clients(port: int, orders: Connection) -> None:
    """A process that answers each order, prompts and a number of tokens, with a Run."""
    while (order := orders.recv()) is not None:
        orders.send(asyncio.run(crowd(partial(ask_over_http, port, order[1]), order[0])))


@dataclass
class Serving:
    """A model, the loop that serves it, and the clients' process."""

    model: EngineChatModel
    loop: asyncio.AbstractEventLoop
    orders: Connection

    def over_http(self, all: Prompts, tokens: int) -> Run:
        def run() -> Run:
            self.orders.send((all, tokens))
            return self.orders.recv()

        return self.measured(run)

    def within(self, all: Prompts, tokens: int) -> Run:
        return self.measured(
            lambda: asyncio.run_coroutine_threadsafe(
                crowd(partial(self.generate, tokens), all), self.loop
            ).result()
        )

    async def generate(self, tokens: int, prompt: list[int], seed: int) -> tuple[int, float]:
        count, first = 0, 0.0
        sampling = Sampling(temperature=1.0, max_tokens=tokens, seed=seed)
        async for _ in self.model.engine.generate(prompt, self.model.with_defaults(sampling)):
            first = first or time.perf_counter()
            count += 1
        return count, first

    def measured(self, run: Callable[[], Run]) -> Run:
        self.model.engine.clear_prefixes()
        begun = time.process_time()
        seen = run()
        return Run(seen.tokens, seen.seconds, seen.first_seconds, time.process_time() - begun)


@contextmanager
def serving(folder: Path, threads: int) -> Iterator[Serving]:
    with ExitStack() as stack:
        model = open_model(folder, EngineOptions(threads=threads))
        assert isinstance(model, EngineChatModel)
        stack.enter_context(model)
        listener = stack.enter_context(bind("127.0.0.1", 0))
        server = Server(create_app(model), listener, drain_seconds=0)
        loop = asyncio.new_event_loop()
        thread = Thread(target=lambda: loop.run_until_complete(server.serve(sockets=[listener])))
        ours, theirs = multiprocessing.Pipe()
        arguments = listener.getsockname()[1], theirs
        process = multiprocessing.get_context("spawn").Process(target=clients, args=arguments)
        thread.start()
        process.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield Serving(model, loop, ours)
        finally:
            ours.send(None)
            process.join()
            server.should_exit = True
            thread.join()


def pairs(both: Serving, rounds: int, requests: int, tokens: int) -> tuple[list[Run], list[Run]]:
    """Over HTTP, and within the process."""
    vocabulary, seeds = both.model.engine.model.config.vocab_size, itertools.count()
    over_http: list[Run] = []
    within: list[Run] = []
    for i in range(rounds):
        all = prompts(vocabulary, next(seeds), requests)
        ways = [(over_http, both.over_http), (within, both.within)]
        for runs, drive in ways if i % 2 else reversed(ways):
            runs.append(drive(all, tokens))
    assert [run.tokens for run in over_http] == [run.tokens for run in within]
    return over_http, within


def records(options: Options) -> Iterator[Record]:
    folder = options.checkpoint("208m")
    requests, tokens = (2, 8) if options.small else (REQUESTS, TOKENS)
    for threads in options.thread_counts():
        with serving(folder, threads) as both:
            pairs(both, 2, requests, 8)  # to warm up
            crowds = pairs(both, options.rounds, requests, tokens)
            firsts = pairs(both, options.rounds * FIRST_TOKEN_PAIRS, 1, 1)
        case = f"{folder.name}, {requests} requests at once, {threads} threads"
        yield beside(case, "tokens/s", threads, crowds, lambda run: run.seconds)
        yield beside(
            f"processor's time, {case}",
            "tokens per second of it",
            threads,
            crowds,
            lambda run: run.cpu_seconds,
        )
        yield first_event(f"first event, {folder.name}, {threads} threads", threads, firsts)


def beside(
    case: str,
    unit: str,
    threads: int,
    crowds: tuple[list[Run], list[Run]],
    seconds: Callable[[Run], float],
) -> Record:
    over_http, within = ([run.tokens / seconds(run) for run in runs] for runs in crowds)
    alone = PeerResult(statistics.median(within), median_ratio(over_http, within))
    return Record(
        question="http",
        case=case,
        result=statistics.median(over_http),
        unit=unit,
        threads=threads,
        peers={"the engine alone": alone},
        rounds=len(within),
    )


def first_event(case: str, threads: int, firsts: tuple[list[Run], list[Run]]) -> Record:
    later = [a.first_seconds - b.first_seconds for a, b in zip(*firsts, strict=True)]
    median = statistics.median(later)
    return Record(
        question="http",
        case=case,
        result=1 / max(median, 1e-4),  # a difference below the clock's noise
        unit="1 / seconds after the first token",
        threads=threads,
        rounds=len(later),
        details={
            "seconds": median,
            "quarter": float(np.quantile(later, 0.25)),
            "three_quarters": float(np.quantile(later, 0.75)),
        },
    )


if __name__ == "__main__":
    run_script(records, __doc__)
