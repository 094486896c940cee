"""Far too many clients, some of them rude: does the server stay calm, and come back after kill -9?

    python benchmarks/server/overload.py --seconds 600
    python benchmarks/server/overload.py --seconds 20 --clients 16

64 clients pose unseen problems. A third of them leave in the middle of every second reply, each
eighth sends rubbish. Then the server is killed under load and started again on the same cache
folder. One JSON line is printed; the exit status is 1 unless

- the server lived, its memory stayed within 5 % over the second half, and its queue was bounded;
- every reply was complete or a clear error, none was another client's, none waited for ever;
- when all was over nothing ran, waited or held cache;
- it listened again within 3 s after its start began to count, and said the same as before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
from openai import APIStatusError, AsyncOpenAI, OpenAIError, RateLimitError

from baltoro.tasks.phrases import make_scene
from clients import (
    CACHE_MEMORY,
    START,
    TASKS,
    Exchange,
    Log,
    differ,
    quantile,
    solve,
    watch_memory,
)

MAX_REQUESTS = 32  # fewer than clients, so that the queue is full most of the time
MEMORY_SHARE = 0.05
RESTART_SECONDS = 3.0
PATIENCE_SECONDS = 120.0  # a reply without a word for so long counts as starved
RUBBISH: tuple[bytes, ...] = (
    b"{",
    b"[]",
    b'{"messages": 5}',
    b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
    b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": -1}',
    b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
    b'{"messages": ' + b"[" * 50_000,
    b"\xff\xfe\x00",
    b'{"messages": [{"role": "tool", "tool_call_id": "nope", "content": "x"}]}',
)


@dataclass
class Crowd:
    """What happened beside the talk itself."""

    log: Log = field(default_factory=Log)
    left: int = 0
    refused: int = 0  # with 429
    rubbish: Counter[int] = field(default_factory=Counter)  # by status
    starved: int = 0
    waiting: list[float] = field(default_factory=list)


async def polite(api: AsyncOpenAI, model: str, number: int, until: float, crowd: Crowd) -> None:
    """Poses problems; comes back later when it is told to."""
    rng = random.Random(number)
    while time.monotonic() < until:
        task = rng.choice(TASKS)
        scene = make_scene(rng, task.needs)
        problem = task.pose(rng, scene, "eval")
        crowd.log.posed.append((task, problem))
        try:
            answer = await solve(api, model, scene, problem, rng, crowd.log)
            crowd.log.answered.append((task, problem, answer))
        except RateLimitError as error:
            crowd.refused += 1
            await asyncio.sleep(min(float(error.response.headers["retry-after"]), 5) * rng.random())
        except OpenAIError as error:
            timeout = "Timeout" in type(error).__name__
            crowd.starved += timeout
            if not timeout:
                crowd.log.errors.append(f"{type(error).__name__}: {error}")


async def leaver(url: str, number: int, until: float, crowd: Crowd) -> None:
    """Asks for long streams and goes away after a few pieces."""
    rng = random.Random(number)
    body = {"messages": [{"role": "user", "content": "Hello there."}], "stream": True}
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client:
        while time.monotonic() < until:
            with suppress(httpx.HTTPError):
                async with client.stream(
                    "POST", f"{url}/v1/chat/completions", json=body
                ) as response:
                    crowd.refused += response.status_code == 429
                    pieces = rng.randrange(1, 8) if rng.random() < 0.5 else 10**9
                    async for _ in response.aiter_lines():
                        pieces -= 1
                        if pieces <= 0:
                            crowd.left += 1
                            break
            await asyncio.sleep(rng.random())


async def rubbish(url: str, number: int, until: float, crowd: Crowd) -> None:
    """Sends what is no request."""
    rng = random.Random(number)
    headers = {"Content-Type": "application/json"}
    paths = ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/nothing")
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, headers=headers) as client:
        while time.monotonic() < until:
            try:
                response = await client.post(url + rng.choice(paths), content=rng.choice(RUBBISH))
            except httpx.HTTPError as error:
                crowd.log.errors.append(f"rubbish was not answered: {error!r}")
            else:
                crowd.rubbish[response.status_code] += 1
                if "error" not in response.json():
                    crowd.log.errors.append(f"rubbish was answered with {response.text[:100]}")
            await asyncio.sleep(rng.random())


async def watch_queue(url: str, crowd: Crowd) -> None:
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client:
        while True:
            try:
                text = (await client.get(f"{url}/metrics")).text
            except httpx.HTTPError as error:
                crowd.log.errors.append(f"/metrics was not answered: {error!r}")
            else:
                crowd.waiting.append(metric(text, "num_requests_waiting"))
            await asyncio.sleep(2)


def metric(text: str, name: str) -> float:
    found = re.search(rf"^baltoro:{name} ([\d.e+-]+)$", text, re.MULTILINE)
    return float(found[1]) if found else -1.0


async def storm(url: str, pid: int, clients: int, seconds: float) -> Crowd:
    crowd = Crowd()
    until = time.monotonic() + seconds
    async with AsyncOpenAI(
        base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=PATIENCE_SECONDS
    ) as api:
        model = (await api.models.list()).data[0].id
        watchers = [
            asyncio.create_task(watch_memory(pid, crowd.log)),
            asyncio.create_task(watch_queue(url, crowd)),
        ]
        work = []
        for number in range(clients):
            if number % 3 == 0:
                work.append(leaver(url, number, until, crowd))
            elif number % 8 == 1:
                work.append(rubbish(url, number, until, crowd))
            else:
                work.append(polite(api, model, number, until, crowd))
        await asyncio.gather(*work)
        for watcher in watchers:
            watcher.cancel()
    return crowd


def start(model: str, threads: int | None, cache: str) -> tuple[subprocess.Popen[str], str, float]:
    """The server, its address, and the seconds until it listened."""
    command = [sys.executable, "-c", START, "serve", "--model", model, "--port", "0"]
    command += ["--cache-memory", CACHE_MEMORY, "--max-requests", str(MAX_REQUESTS)]
    command += ["--cache-dir", cache, "--no-access-log"]
    command += ["--threads", str(threads)] if threads else []
    begun = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"served at (http://\S+)", line):
            return process, found[1], time.monotonic() - begun
    sys.exit("the server did not start; see above")


async def settled(url: str) -> dict[str, float]:
    """What is left when everyone has gone, given some seconds to clean up."""
    names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    left: dict[str, float] = {}
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client:
        for _ in range(100):
            text = (await client.get(f"{url}/metrics")).text
            left = {name: metric(text, name) for name in names}
            if not any(left.values()):
                break
            await asyncio.sleep(0.1)
    return left


async def said(url: str, exchanges: Sequence[Exchange]) -> int:
    """How many of these requests are answered otherwise than before."""
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as api:
        return await differ(api, exchanges)


async def killed_under_load(process: subprocess.Popen[str], url: str, clients: int) -> None:
    """kill -9 two seconds into a load; the clients see their connections break."""
    task = asyncio.create_task(storm(url, process.pid, clients, 5.0))
    await asyncio.sleep(2)
    process.kill()
    process.wait()
    with suppress(OpenAIError, APIStatusError, httpx.HTTPError, OSError):
        await task


def run(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as cache:
        process, url, _ = start(options.model, options.threads, cache)
        try:
            crowd = asyncio.run(storm(url, process.pid, options.clients, options.seconds))
            alive = process.poll() is None
            left = asyncio.run(settled(url))
            exchanges = crowd.log.exchanges
            chosen = random.Random(0).sample(exchanges, min(options.replayed, len(exchanges)))
            differing, mixed_up = (
                asyncio.run(said(url, of)) for of in (chosen, crowd.log.suspects())
            )
            asyncio.run(killed_under_load(process, url, options.clients))
            process, url, seconds = start(options.model, options.threads, cache)
            differing_after = asyncio.run(said(url, chosen))
        finally:
            process.kill()
            process.wait()
    return summary(crowd, alive, left, differing, mixed_up, seconds, differing_after, options)


def summary(
    crowd: Crowd,
    alive: bool,
    left: dict[str, float],
    differing: int,
    mixed_up: int,
    restart_seconds: float,
    differing_after: int,
    options: argparse.Namespace,
) -> dict[str, Any]:
    log, verdicts = crowd.log, crowd.log.verdicts()
    half = log.rss_mib[len(log.rss_mib) // 2 :]
    growth = (half[-1] - half[0]) / half[0]
    passed = {
        "alive": alive,
        "memory": growth <= MEMORY_SHARE,
        "queue_bounded": max(crowd.waiting) <= MAX_REQUESTS,
        "nobody_starved": not crowd.starved,
        "no_errors": not log.errors and bool(log.answered),
        "nothing_mixed_up": not mixed_up,
        "rubbish_refused": all(400 <= status < 500 for status in crowd.rubbish),
        "nothing_left": not any(left.values()),
        "same_alone": not differing,
        "listening_again": restart_seconds <= RESTART_SECONDS,
        "same_after_kill": not differing_after,
    }
    return {
        "question": "Is the server calm under too many clients, and back after kill -9?",
        "model": options.model,
        "clients": options.clients,
        "seconds": options.seconds,
        "answered": len(log.answered),
        "requests": len(log.exchanges),
        **{name: verdicts[name] for name in ("right", "wrong")},
        "mixed_up": mixed_up,
        "left": crowd.left,
        "refused_429": crowd.refused,
        "rubbish": {str(status): count for status, count in sorted(crowd.rubbish.items())},
        "errors": len(log.errors),
        "starved": crowd.starved,
        "first_delta_seconds_p99": quantile(log.first_delta_seconds, 0.99),
        "most_waiting": max(crowd.waiting),
        "memory_growth": round(growth, 4),
        "left_over": left,
        "replies_that_differed_alone": differing,
        "restart_seconds": round(restart_seconds, 2),
        "replies_that_differed_after_kill": differing_after,
        "passed": passed,
        "error_samples": [error for error, _ in Counter(log.errors).most_common(3)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="tiny", help="a bundled model or a checkpoint's folder")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--threads", type=int, default=None, help="of the server")
    parser.add_argument("--replayed", type=int, default=20, help="requests that are sent again")
    result = run(parser.parse_args())
    print(json.dumps(result))
    sys.exit(0 if all(result["passed"].values()) else 1)


if __name__ == "__main__":
    main()
