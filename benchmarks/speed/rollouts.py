"""Rollouts: sixteen replies at once from the INT4 engine, beside other ways to sample.

    BALTORO_PEERS=FOLDER python benchmarks/speed/rollouts.py --threads 2

Ours is the engine in the process of the trainer. llama.cpp's server holds the same INT4 experts.
transformers' `generate` is what TRL's trainers call where there is no GPU engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from baltoro.bench.record import Measure, Record, compare
from baltoro.bench.serve import crowd, prompts
from baltoro.chat.chat_model import Sampling
from baltoro.checkpoint.bundled import find_checkpoint
from baltoro.checkpoint.reader import open_checkpoint
from baltoro.config import ModelConfig
from baltoro.engine.open_model import open_engine
from baltoro.engine.options import EngineOptions
from baltoro.train.load import load_model
from baltoro.train.updater import use_threads
from peers.deepseek import deepseek_v3
from peers.find import find
from peers.write_gguf import write
from results import arguments, keep
from serve import llama_server

TOKENS = 64  # of each reply, as in `bench serve`, whose prompts these are
REQUESTS = 16
Batch = list[list[int]]


def ours(folder: Path, threads: int) -> Measure:
    engine = open_engine(folder, EngineOptions(threads=threads))

    async def reply(prompt: list[int], seed: int) -> int:
        sampling = Sampling(max_tokens=TOKENS, seed=seed, logprobs=True)
        return len([event async for event in engine.generate(prompt, sampling, stop_ids=())])

    async def all_of(batch: Batch) -> None:
        await asyncio.gather(*(reply(prompt, i) for i, prompt in enumerate(batch)))

    return rate(folder, lambda batch: asyncio.run(all_of(batch)))


def rate(folder: Path, sample) -> Measure:
    """Generated tokens in a second, with new prompts each time."""
    config, seeds = ModelConfig.from_json(folder), iter(range(10**9))

    def measure() -> float:
        batch = prompts(config, next(seeds), REQUESTS)
        started = time.perf_counter()
        sample(batch)
        return REQUESTS * TOKENS / (time.perf_counter() - started)

    return measure


def generate(folder: Path) -> Measure | str:
    """transformers' generate in f32: on CPUs bf16 products are slower."""
    model = deepseek_v3(load_model(str(folder), "tiny"))
    if isinstance(model, str):
        return model

    @torch.no_grad()
    def sample(batch: Batch) -> None:
        ids = torch.tensor(batch)
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=TOKENS,
            min_new_tokens=TOKENS,
            do_sample=True,
            pad_token_id=0,
        )

    return rate(folder, sample)


def gguf_of(folder: Path, target: Path) -> Path | str:
    program = find("llama/bin/llama-server")
    if isinstance(program, str):
        return program
    try:
        return write(open_checkpoint(folder), target)
    except (ImportError, ValueError) as missing:
        return f"the peer's model cannot be written: {missing}"


@contextlib.contextmanager
def peers(folder: Path, threads: int) -> Iterator[dict[str, Measure | str]]:
    scratch = Path("runs/evidence/rollouts")
    scratch.mkdir(parents=True, exist_ok=True)
    with llama_server(gguf_of(folder, scratch / "tiny.gguf"), threads, REQUESTS) as peer:
        llama: Measure | str
        if isinstance(peer, str):
            llama = peer
        else:
            url, extra = peer
            llama = rate(folder, lambda batch: asyncio.run(crowd(url, batch, extra)))
        yield {"llama-server": llama, "transformers generate (TRL)": generate(folder)}


def record(folder: Path, threads: int, rounds: int) -> Record:
    use_threads(threads)
    with peers(folder, threads) as others:
        return compare(
            "rollouts",
            f"{folder.name}, {REQUESTS} replies of {TOKENS} tokens at once, {threads} threads",
            unit="tokens/s",
            threads=threads,
            ours=ours(folder, threads),
            peers=others,
            rounds=rounds,
        )


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--model", default="tiny", help="a bundled model or a folder")
    given = parser.parse_args()
    for threads in given.threads or (1, 2):
        rounds = 1 if given.small else given.rounds
        keep([record(find_checkpoint(given.model), threads, rounds)], given.records)
