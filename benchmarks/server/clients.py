"""Eight clients at once: does every one get its own answer, without errors, in flat memory?

    python benchmarks/server/clients.py --seconds 120
    python benchmarks/server/clients.py --model DIR --clients 8 --seconds 20

Starts a server of its own, lets each client pose unseen problems (comparisons, sums, chains of
lookups through a tool; every second reply streamed), and prints one JSON line. A reply is *mixed
up* if it is wrong for its own question and right for one that was posed elsewhere. After the load,
some requests are sent again, one at a time with the same seed: the same text must come back as in
the crowd. The exit status is 1 if anything failed, was mixed up or differed, or memory grew.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI, OpenAIError

from baltoro.chat.messages import Message
from baltoro.tasks.compare import Compare
from baltoro.tasks.lookups import Chain
from baltoro.tasks.phrases import make_scene
from baltoro.tasks.sums import Sums
from baltoro.tasks.task import Problem, Scene

Posed = Compare | Sums | Chain
TASKS: tuple[Posed, ...] = (Compare(), Sums(), Chain(longest=6))
MAX_TURNS = 12  # of one problem; a chain of 6 needs 7
MAX_TOKENS = 1024
REPLAYED = 40  # requests that are sent again at the end
# The cache takes memory as its blocks are first used. It is small here, so that all of it is in use
# after the first half; what grows after that is a leak.
CACHE_MEMORY = "6MiB"
GROWTH_SHARE, GROWTH_MIB = 0.02, 2.0

START = "from baltoro.cli import main; main()"


@dataclass(frozen=True)
class Reply:
    """What a client sees of one reply."""

    reasoning: str
    content: str
    calls: tuple[tuple[str, str, str], ...]  # id, name, arguments
    finish_reason: str | None

    def message(self) -> Message:
        message: Message = {"role": "assistant", "content": self.content}
        message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = [
                {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
                for id, name, arguments in self.calls
            ]
        return message


Exchange = tuple[dict[str, Any], Reply]


@dataclass
class Log:
    """What happened, over all clients."""

    posed: list[tuple[Posed, Problem]] = field(default_factory=list)
    answered: list[tuple[Posed, Problem, str]] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    first_delta_seconds: list[float] = field(default_factory=list)
    completion_tokens: int = 0
    rss_mib: list[float] = field(default_factory=list)

    def verdicts(self) -> Counter[str]:
        """right and wrong, by task and in all."""
        counts: Counter[str] = Counter()
        for task, problem, reply in self.answered:
            verdict = "right" if task.verify(problem, reply) else "wrong"
            counts[verdict] += 1
            counts[f"{task.name}_{verdict}"] += 1
        return counts

    def suspects(self) -> list[Exchange]:
        """The exchanges with a wrong answer that is right for another problem.

        Among many thousand problems chance brings some about, as when a digit of a sum is misread.
        Asked again alone, such a request gets the same reply; one that got another's does not.
        """
        wrong = {
            (problem.question, reply)
            for task, problem, reply in self.answered
            if not task.verify(problem, reply)
            and any(t.verify(p, reply) for t, p in self.posed if p is not problem)
        }
        return [
            (body, reply)
            for body, reply in self.exchanges
            if any((said["content"], reply.content) in wrong for said in body["messages"])
        ]


async def ask(api: AsyncOpenAI, body: dict[str, Any], stream: bool, log: Log) -> Reply:
    """One request, read whole or as a stream."""
    if not stream:
        reply = await api.chat.completions.create(**body)
        choice = reply.choices[0]
        log.completion_tokens += reply.usage.completion_tokens if reply.usage else 0
        calls = tuple(
            (call.id, call.function.name, call.function.arguments)
            for call in choice.message.tool_calls or []
        )
        reasoning = getattr(choice.message, "reasoning_content", None) or ""
        return Reply(reasoning, choice.message.content or "", calls, choice.finish_reason)
    return await ask_streaming(api, body, log)


async def ask_streaming(api: AsyncOpenAI, body: dict[str, Any], log: Log) -> Reply:
    started = time.perf_counter()
    reasoning, content, finish_reason = "", "", None
    calls: dict[int, list[str]] = {}
    options = {"stream": True, "stream_options": {"include_usage": True}}
    async for chunk in await api.chat.completions.create(**body, **options):
        if chunk.usage:
            log.completion_tokens += chunk.usage.completion_tokens
        for choice in chunk.choices:
            if started:
                log.first_delta_seconds.append(time.perf_counter() - started)
                started = 0.0
            delta = choice.delta
            reasoning += getattr(delta, "reasoning_content", None) or ""
            content += delta.content or ""
            finish_reason = choice.finish_reason or finish_reason
            for part in delta.tool_calls or []:
                call = calls.setdefault(part.index, ["", "", ""])
                for i, piece in enumerate((part.id, part.function.name, part.function.arguments)):
                    call[i] += piece or ""
    made = tuple((id, name, arguments) for id, name, arguments in calls.values())
    return Reply(reasoning, content, made, finish_reason)


async def solve(
    api: AsyncOpenAI, model: str, scene: Scene, problem: Problem, rng: random.Random, log: Log
) -> str:
    """Talk until an answer comes without a call; gives its content."""
    messages: list[Message] = [{"role": "user", "content": problem.question}]
    if scene.system is not None:
        messages.insert(0, {"role": "system", "content": scene.system})
    for _ in range(MAX_TURNS):
        seed = rng.randrange(2**32)
        body: dict[str, Any] = {"model": model, "messages": list(messages), "seed": seed}
        body |= {"temperature": 1.0, "max_tokens": MAX_TOKENS}
        body |= {"tools": scene.tools} if scene.tools else {}
        reply = await ask(api, body, rng.random() < 0.5, log)
        log.exchanges.append((body, reply))
        if not reply.calls:
            return reply.content
        messages.append(reply.message())
        messages += [
            {"role": "tool", "tool_call_id": id, "content": look_up(problem, arguments)}
            for id, _, arguments in reply.calls
        ]
    return ""


def look_up(problem: Problem, arguments: str) -> str:
    try:
        (key,) = json.loads(arguments).values()
        return problem.table[key]
    except (ValueError, KeyError, TypeError, AttributeError):
        return "There is no such key."


async def client(api: AsyncOpenAI, model: str, number: int, until: float, log: Log) -> None:
    """Poses problem after problem."""
    rng = random.Random(number)
    while time.monotonic() < until:
        task = rng.choice(TASKS)
        scene = make_scene(rng, task.needs)
        problem = task.pose(rng, scene, "eval")
        log.posed.append((task, problem))
        try:
            answer = await solve(api, model, scene, problem, rng, log)
        except (OpenAIError, OSError) as error:
            log.errors.append(f"{type(error).__name__}: {error}")
            continue
        log.answered.append((task, problem, answer))


async def watch_memory(pid: int, log: Log) -> None:
    while True:
        status = Path(f"/proc/{pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        log.rss_mib.append(int(found[1]) / 1024 if found else 0.0)
        await asyncio.sleep(1)


async def load(url: str, pid: int, clients: int, seconds: float) -> tuple[Log, int, int]:
    """The crowd, then some of its requests alone.

    Gives the log, how many replies differed, and of suspects how many.
    """
    log = Log()
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as api:
        model = (await api.models.list()).data[0].id
        memory = asyncio.create_task(watch_memory(pid, log))
        until = time.monotonic() + seconds
        await asyncio.gather(*(client(api, model, i, until, log) for i in range(clients)))
        memory.cancel()
        chosen = random.Random(0).sample(log.exchanges, min(REPLAYED, len(log.exchanges)))
        differing = await differ(api, chosen)
        mixed_up = await differ(api, log.suspects())
    return log, differing, mixed_up


async def differ(api: AsyncOpenAI, exchanges: Sequence[Exchange]) -> int:
    """How many of these requests are answered otherwise than before."""
    replies = [await ask(api, body, False, Log()) for body, _ in exchanges]
    return sum(now != then for now, (_, then) in zip(replies, exchanges, strict=True))


@contextmanager
def server(model: str, threads: int | None) -> Iterator[tuple[str, int]]:
    """`baltoro serve` on a free port: its address and process id."""
    command = [sys.executable, "-c", START, "serve", "--model", model, "--port", "0"]
    command += ["--cache-memory", CACHE_MEMORY]
    command += ["--threads", str(threads)] if threads else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if found := re.search(r"served at (http://\S+)", line):
                    yield found[1], process.pid
                    return
            sys.exit("the server did not start; see above")
        finally:
            process.terminate()


def quantile(values: list[float], share: float) -> float | None:
    ordered = sorted(values)
    return round(ordered[int(share * (len(ordered) - 1))], 4) if ordered else None


def summary(log: Log, differing: int, mixed_up: int, options: argparse.Namespace) -> dict[str, Any]:
    quarters = [log.rss_mib[i * (len(log.rss_mib) - 1) // 4] for i in range(5)]
    growth = quarters[4] - quarters[2]
    flat = growth <= max(GROWTH_MIB, GROWTH_SHARE * quarters[2])
    verdicts = log.verdicts()
    passed = bool(log.answered) and not log.errors and not mixed_up and not differing and flat
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return {
        "question": "Does each of several clients at once get its own answer?",
        "commit": commit.stdout.strip(),
        "model": options.model,
        "clients": options.clients,
        "seconds": options.seconds,
        "problems": len(log.answered),
        "requests": len(log.exchanges),
        "errors": len(log.errors),
        **{name: verdicts[name] for name in ("right", "wrong")},
        "mixed_up": mixed_up,
        "by_task": {name: n for name, n in sorted(verdicts.items()) if name.count("_")},
        "replayed": min(REPLAYED, len(log.exchanges)),
        "replies_that_differed_alone": differing,
        "tokens_per_second": round(log.completion_tokens / options.seconds, 1),
        "first_delta_seconds_p50": quantile(log.first_delta_seconds, 0.5),
        "first_delta_seconds_p95": quantile(log.first_delta_seconds, 0.95),
        "rss_mib_by_quarter": [round(rss, 1) for rss in quarters],
        "memory_flat": flat,
        "passed": passed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="tiny", help="a bundled model or a checkpoint's folder")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--threads", type=int, default=None, help="of the server")
    options = parser.parse_args()
    with server(options.model, options.threads) as (url, pid):
        log, differing, mixed_up = asyncio.run(load(url, pid, options.clients, options.seconds))
    result = summary(log, differing, mixed_up, options)
    print(json.dumps(result))
    for error, count in Counter(log.errors).most_common(5):
        print(f"{count} x {error}", file=sys.stderr)
    sys.exit(0 if result["passed"] else 1)


if __name__ == "__main__":
    main()
