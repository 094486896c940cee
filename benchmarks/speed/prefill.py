"""`baltoro bench prefill` with llama.cpp and ik_llama.cpp beside it, and 512 tokens of one MLP.

    BALTORO_PEERS=FOLDER python benchmarks/speed/prefill.py --threads 1 --threads 2

A prompt of 512 tokens leaves K2's 384 experts some eleven tokens each, so 8 and 16 tokens for an
expert are what matters. The MLP that all 512 tokens meet shows the kernels without that limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from baltoro.bench import prefill
from baltoro.bench.questions import Options
from baltoro.bench.record import Record
from baltoro.bench.shapes import in_memory
from baltoro.checkpoint.layout import expert_shapes
from baltoro.config import ModelConfig
from peers.find import Peers
from results import run_script

DENSE_TOKENS = 512


def records(options: Options) -> Iterator[Record]:
    config = prefill.CONFIG
    if options.small:
        config = replace(config, hidden_size=1024, moe_intermediate_size=512)
    for tokens in prefill.TOKENS_PER_EXPERT:
        yield from beside_peers(config, tokens, options)
    one = replace(config, n_routed_experts=1, num_experts_per_tok=1)
    yield from beside_peers(one, DENSE_TOKENS, options)


def beside_peers(config: ModelConfig, tokens: int, options: Options) -> Iterator[Record]:
    """GFLOP/s at `tokens` for each expert. The peers choose experts as often, by chance as well."""
    tensors = in_memory(config)
    used = config.num_experts_per_tok
    n = tokens * config.n_routed_experts // used
    gflop = 2e-9 * used * n * sum(rows * cols for rows, cols in expert_shapes(config).values())
    shape = ["--hidden", config.hidden_size, "--width", config.moe_intermediate_size]
    shape += ["--experts", config.n_routed_experts, "--used", used, "--tokens", n, "--steps", 1]
    for threads in options.thread_counts():
        with Peers() as peers:
            peers.add_ggml([*shape, "--threads", threads], lambda s: gflop / s, plain=True)
            yield prefill.run(
                config,
                tensors,
                options.roofline(threads),
                tokens_per_expert=tokens,
                threads=threads,
                rounds=options.rounds,
                peers=peers.measures,
            )


if __name__ == "__main__":
    run_script(records, __doc__)
