"""INT4 against bf16 experts: one MoE layer of K2's sizes with 128 experts, one and 16 tokens.

    python benchmarks/speed/formats.py --threads 2

The bytes differ by a factor of 3.56. How much of it a batch gets depends on the kernels; the bf16
layer also shows how near the mat-vecs of the unquantized part are to what memory allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from baltoro.bench.moe import MoeLayer, expert_bytes
from baltoro.bench.questions import Options
from baltoro.bench.record import Record, compare
from baltoro.bench.shapes import MOE_LAYER, in_memory
from baltoro.config import ModelConfig
from results import run_script

EXPERTS = 128
BATCHES = (1, 16)


def records(options: Options) -> Iterator[Record]:
    int4 = replace(MOE_LAYER, n_routed_experts=EXPERTS, num_experts_per_tok=8)
    if options.small:
        int4 = replace(int4, hidden_size=256, moe_intermediate_size=128)
    bf16 = replace(int4, quantization_config=None)
    int4_tensors, bf16_tensors = in_memory(int4), in_memory(bf16)
    for threads in options.thread_counts():
        packed = MoeLayer(int4, int4_tensors, threads)
        plain = MoeLayer(bf16, bf16_tensors, threads)
        for batch in BATCHES:
            yield against_bf16(packed, plain, batch, threads, options.rounds)
            yield of_the_limit(packed, "INT4", batch, threads, options)
            yield of_the_limit(plain, "bf16", batch, threads, options)


def against_bf16(
    packed: MoeLayer, plain: MoeLayer, batch: int, threads: int, rounds: int
) -> Record:
    """How many times faster the INT4 layer is; the limit is how many times fewer bytes it reads."""
    ratio = expert_bytes(plain.config) / expert_bytes(packed.config)
    return compare(
        "formats",
        f"INT4 against bf16 experts, batch {batch}, {threads} threads",
        unit="times faster",
        threads=threads,
        ours=lambda: plain.seconds_per_step(batch) / packed.seconds_per_step(batch),
        roofline=lambda: ratio,
        rounds=rounds,
    )


def of_the_limit(layer: MoeLayer, name: str, batch: int, threads: int, options: Options) -> Record:
    """GB/s of the experts that the batch is expected to choose."""
    roofline = options.roofline(threads)
    size = bytes_of_batch(layer.config, batch)
    return compare(
        "formats",
        f"{name} experts, batch {batch}, {threads} threads",
        unit="GB/s",
        threads=threads,
        ours=lambda: size / layer.seconds_per_step(batch) / 1e9,
        roofline=lambda: roofline.bytes_per_second() / 1e9,
        rounds=options.rounds,
    )


def bytes_of_batch(config: ModelConfig, batch: int) -> float:
    """The router, and each expert that one of the tokens chose, once."""
    chosen = config.num_experts_per_tok / config.n_routed_experts
    experts = config.n_routed_experts * (1 - (1 - chosen) ** batch)
    return experts * expert_bytes(config) + config.n_routed_experts * config.hidden_size * 2


if __name__ == "__main__":
    run_script(records, __doc__)
