"""How long do replies wait for their next token while a prompt of 8K tokens is computed?

python benchmarks/speed/fairness.py --threads 2

Four replies are under way; then the prompt comes. The scheduler lets a step with pieces of prompts
take 0.1 s, or four times a step of replies alone if that is more.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from baltoro.bench.decode import generate, random_prompt
from baltoro.bench.questions import Options
from baltoro.bench.record import Record
from baltoro.chat.chat_model import Sampling
from baltoro.engine.engine import Engine
from baltoro.engine.open_model import open_engine
from baltoro.engine.options import EngineOptions
from results import run_script

REPLIES = 4
SHORT_PROMPT = 16
ALONE = 64  # tokens of each reply before the long prompt comes
MOST = 20_000  # of a reply, in case the prompt never ends


async def reply(engine: Engine, seed: int, times: list[float]) -> None:
    """Append when each token came, until cancelled."""
    prompt = random_prompt(engine, SHORT_PROMPT, seed)
    sampling = Sampling(temperature=1.0, max_tokens=MOST, seed=seed)
    async for _ in engine.generate(prompt, sampling, stop_ids=()):
        times.append(time.perf_counter())


async def crowd(engine: Engine, length: int, seed: int) -> tuple[list[float], list[float], float]:
    """Seconds between a reply's tokens before the prompt and beside it, and the prompt's own."""
    times: list[list[float]] = [[] for _ in range(REPLIES)]
    tasks = [asyncio.create_task(reply(engine, seed + i, times[i])) for i in range(REPLIES)]
    while min(map(len, times)) < ALONE:
        await asyncio.sleep(0.01)
    start = time.perf_counter()
    end = (await generate(engine, random_prompt(engine, length, seed + REPLIES), 1))[0]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    gaps = [(later, later - earlier) for own in times for earlier, later in pairwise(own)]
    beside = [gap for at, gap in gaps if start < at <= end]
    return [gap for at, gap in gaps if at <= start], beside, end - start


def figures(gaps: list[float]) -> dict[str, float]:
    p50, p99 = np.quantile(gaps, [0.5, 0.99])
    return {"median": float(p50), "p99": float(p99), "longest": max(gaps), "n": len(gaps)}


def records(options: Options) -> Iterator[Record]:
    folder, length = options.checkpoint("208m"), 256 if options.small else 8192
    for threads in options.thread_counts():
        with open_engine(folder, EngineOptions(threads=threads)) as engine:
            alone, beside, seconds = [], [], []
            for i in range(options.rounds):
                before, during, taken = asyncio.run(crowd(engine, length, 100 * i))
                alone += before
                beside += during
                seconds.append(taken)
        yield Record(
            question="fairness",
            case=f"{folder.name}, {REPLIES} replies beside a prompt of {length} tokens, "
            f"{threads} threads",
            result=1 / figures(beside)["p99"],
            unit="1 / p99 seconds between tokens",
            threads=threads,
            rounds=options.rounds,
            details={
                "seconds_between_tokens_alone": figures(alone),
                "seconds_between_tokens_beside": figures(beside),
                "seconds_of_prompt": statistics.median(seconds),
            },
        )


if __name__ == "__main__":
    run_script(records, __doc__)
