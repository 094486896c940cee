"""`baltoro bench long`: decoding at the end of a context of 262,144 tokens.

The cache is filled with random latents instead of a prompt's, whose computation would take hours;
reading them costs the same.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from baltoro.bench.record import Record, compare
from baltoro.bench.roofline import Roofline
from baltoro.checkpoint.inspect import describe
from baltoro.checkpoint.reader import open_checkpoint
from baltoro.config import BaltoroError
from baltoro.engine.memory import BLOCK_TOKENS
from baltoro.kernels.load import load_step_model
from baltoro.kernels.step import StepModel

STEPS = 8  # in one measurement


def fill_cache(model: StepModel, seed: int = 0) -> None:
    """Random numbers of a size that normalized latents have, in every block."""
    rng = np.random.default_rng(seed)
    config = model.config
    for block in range(model.num_blocks):
        shape = (config.num_hidden_layers, model.block_tokens, config.latent_dim)
        values = rng.standard_normal(shape, np.float32).view(np.uint32) >> 16
        model.write_block(block, values.astype(np.uint16).view(np.uint8))


def seconds_per_token(model: StepModel, context: int, steps: int = STEPS) -> float:
    """Of decoding at the end of `context` tokens. Raises BaltoroError for logits not finite."""
    table = np.arange(model.num_blocks, dtype=np.int32)[None]
    row = np.zeros(1, np.int32)
    start = time.perf_counter()
    for position in range(context - steps, context):
        token = np.array([position % model.config.vocab_size], np.int32)
        logits = model.step(token, np.array([position], np.int32), row, table, row)
        if not np.isfinite(logits).all():
            raise BaltoroError(f"the logits at position {position} are not finite.")
    return (time.perf_counter() - start) / steps


def run(
    folder: Path,
    roofline: Roofline,
    *,
    threads: int,
    context: int,
    rounds: int = 3,
    dense_bits: int = 16,
) -> Record:
    """Tokens per second at the end of the context; the limit counts weights and cache."""
    checkpoint = open_checkpoint(folder)
    model = load_step_model(
        checkpoint.config,
        checkpoint.tensors,
        num_blocks=-(-context // BLOCK_TOKENS),
        block_tokens=BLOCK_TOKENS,
        threads=threads,
        dense_bits=dense_bits,
    )
    fill_cache(model)
    report = describe("", checkpoint.config, dense_bits=dense_bits)
    size = report.decode_bytes + context * report.cache_bytes_per_token
    seconds_per_token(model, context)
    short = [seconds_per_token(model, 2 * BLOCK_TOKENS) for _ in range(rounds)]
    return compare(
        "long",
        f"{folder.name}, the last of {context} tokens, dense weights in {dense_bits} bits, "
        f"{threads} threads",
        unit="tokens/s",
        threads=threads,
        ours=lambda: 1 / seconds_per_token(model, context),
        roofline=lambda: roofline.bytes_per_second() / size,
        rounds=rounds,
        details={
            "cache_bytes": context * report.cache_bytes_per_token,
            "bytes_per_token": size,
            "tokens_per_second_at_128": 1 / min(short),
        },
    )
