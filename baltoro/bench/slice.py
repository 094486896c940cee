"""`baltoro bench slice`: layers of the real K2-Thinking, and what follows for all 61 of them.

The slice is a checkpoint of random weights with a dense layer and two MoE layers with all their
experts. Every token chooses other experts, so its weights come from memory, or from disk where
`memory` does not hold them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from baltoro.bench.expect import PROMPT
from baltoro.bench.long import fill_cache
from baltoro.bench.moe import expert_bytes
from baltoro.bench.record import Record, compare
from baltoro.bench.roofline import Roofline
from baltoro.bench.shapes import K2
from baltoro.bench.steps import RandomSteps
from baltoro.checkpoint.inspect import describe
from baltoro.checkpoint.reader import Checkpoint, open_checkpoint
from baltoro.config import ModelConfig
from baltoro.engine.memory import (
    BLOCK_TOKENS,
    default_step_tokens,
    plan_memory,
    resident_bytes,
)
from baltoro.kernels.load import load_step_model
from baltoro.kernels.step import StepModel
from baltoro.kernels.streaming import StreamCounts, Streaming

STEPS = 8  # in one measurement
CONTEXT = 1024  # at which decoding is measured


def run(
    folder: Path,
    roofline: Roofline,
    *,
    threads: int,
    memory: int | None = None,
    bandwidths: Sequence[float] = (),
    prompt: int = PROMPT,
    rounds: int = 5,
    dense_bits: int = 16,
) -> Record:
    """MoE layers per second in decoding. In the details: milliseconds, bytes, projections for 61
    layers on this memory and on `bandwidths` (bytes per second), and the time to the first token
    of a prompt."""
    checkpoint = open_checkpoint(folder)
    config = checkpoint.config
    whole = Loaded(checkpoint, config.num_hidden_layers, threads, prompt, memory, dense_bits)
    dense = Loaded(checkpoint, config.first_k_dense_replace, threads, prompt, None, dense_bits)
    fill_cache(whole.model)
    fill_cache(dense.model)
    if memory is None:  # mapped weights come from disk when they are first used, only then
        checkpoint.tensors.touch_pages()
    size = moe_layer_bytes(config, dense_bits)
    layers = config.num_hidden_layers - config.first_k_dense_replace
    whole.decode(STEPS)
    started = whole.counts()
    dense_seconds: list[float] = []

    def layers_per_second() -> float:
        without = dense.decode(STEPS)
        dense_seconds.append(without)
        return layers / (whole.decode(STEPS) - without)

    record = compare(
        "slice",
        f"{folder.name}, one of {layers} MoE layers, dense weights in {dense_bits} bits, "
        f"{threads} threads" + ("" if memory is None else f", {memory / 1e9:.1f} GB of memory"),
        unit="layers/s",
        threads=threads,
        ours=layers_per_second,
        roofline=lambda: roofline.bytes_per_second() / size,
        rounds=rounds,
    )
    details: dict[str, Any] = {
        "ms_per_moe_layer": 1e3 / record.result,
        "ms_dense_layer_and_head": 1e3 * float(np.median(dense_seconds)),
        "bytes_per_moe_layer": size,
    }
    details |= whole.disk(started)
    details |= projection(config, record, bandwidths, dense_bits)
    details |= whole.first_token(prompt)
    details |= {"resident_bytes": resident_bytes(), "memory_bytes": memory}
    return replace(record, details=details)


class Loaded:
    """The first layers of the slice, ready to run."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        layers: int,
        threads: int,
        prompt: int,
        memory: int | None,
        dense_bits: int,
    ):
        self.config = replace(checkpoint.config, num_hidden_layers=layers)
        tokens = max(prompt, CONTEXT + STEPS)
        self.step_tokens = default_step_tokens(self.config, memory)
        plan = plan_memory(
            self.config,
            "int8",
            max_context=tokens,
            memory=memory,
            cache_memory=None,
            step_tokens=self.step_tokens,
            dense_bits=dense_bits,
            threads=threads,
        )
        streaming = None
        if plan.arena_bytes is not None:
            streaming = Streaming(files=checkpoint.tensors.files, arena_bytes=plan.arena_bytes)
        self.model: StepModel = load_step_model(
            self.config,
            checkpoint.tensors,
            num_blocks=-(-tokens // BLOCK_TOKENS),
            block_tokens=BLOCK_TOKENS,
            threads=threads,
            streaming=streaming,
            dense_bits=dense_bits,
        )
        self.steps = RandomSteps(self.model)

    def decode(self, steps: int) -> float:
        """Seconds of one token, the mean over `steps` of them."""
        return sum(self.steps.seconds(CONTEXT + i, 1) for i in range(steps)) / steps

    def counts(self) -> StreamCounts | None:
        return self.model.stream_counts()

    def disk(self, since: StreamCounts | None) -> dict[str, Any]:
        """What came from disk while decoding was measured."""
        now = self.counts()
        if since is None or now is None:
            return {"disk": "all weights are mapped"}
        hits, misses = now.hits - since.hits, now.misses - since.misses
        return {
            "disk": {
                "hit_rate": hits / max(1, hits + misses),
                "bytes_read": now.bytes_read - since.bytes_read,
                "seconds_waited": now.seconds_waited - since.seconds_waited,
                "experts_held": now.slots,
            }
        }

    def first_token(self, prompt: int) -> dict[str, Any]:
        seconds = self.steps.seconds_of_prompt(prompt, self.step_tokens)
        return {
            "prompt_tokens": prompt,
            "step_tokens": min(self.step_tokens, prompt),
            "seconds_to_first_token_of_slice": seconds,
            "seconds_to_first_token_of_61_layers": seconds
            * K2.num_hidden_layers
            / self.config.num_hidden_layers,
        }


def moe_layer_bytes(config: ModelConfig, dense_bits: int) -> float:
    """Weights of one MoE layer that one token reads."""
    two, one = (
        describe(
            "",
            replace(config, num_hidden_layers=config.first_k_dense_replace + n),
            dense_bits=dense_bits,
        )
        for n in (2, 1)
    )
    return two.decode_bytes - one.decode_bytes


def projection(
    config: ModelConfig, record: Record, bandwidths: Sequence[float], dense_bits: int
) -> dict[str, Any]:
    """Tokens per second of all 61 layers and the whole vocabulary: what the model reads for a
    token, at the share of the bandwidth that the MoE layers reached."""
    full = describe("", K2, dense_bits=dense_bits).decode_bytes
    share = record.ratio_to_roofline or 0.0
    measured = (record.roofline or 0.0) * moe_layer_bytes(config, dense_bits)
    return {
        "expert_bytes": expert_bytes(config),
        "bytes_per_token_of_61_layers": full,
        "tokens_per_second_of_61_layers": {
            f"{bandwidth / 1e9:.0f} GB/s": share * bandwidth / full
            for bandwidth in (measured, *bandwidths)
        },
    }
