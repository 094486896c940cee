"""`baltoro bench moe` with llama.cpp, ik_llama.cpp, torch, mlx and kt-kernel beside it.

BALTORO_PEERS=FOLDER python benchmarks/speed/moe.py --threads 1 --threads 2
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from baltoro.bench import moe
from baltoro.bench.questions import Options
from baltoro.bench.record import Record
from baltoro.bench.shapes import MOE_LAYER, in_memory
from baltoro.config import ModelConfig
from baltoro.kernels.step import Activations
from peers.find import Peers
from results import run_script


def records(options: Options) -> Iterator[Record]:
    """64 experts beside the peers, 384 alone."""
    config = MOE_LAYER
    if options.small:
        config = replace(config, hidden_size=256, moe_intermediate_size=128)
    yield from beside_peers(config, options)
    large = moe.with_experts(384, config)
    tensors = in_memory(large)
    for threads in options.thread_counts():
        roofline = options.roofline(threads)
        yield moe.run(large, tensors, roofline, threads=threads, rounds=options.rounds)


def beside_peers(config: ModelConfig, options: Options) -> Iterator[Record]:
    tensors = in_memory(config)
    size = moe.decode_bytes(config)  # the peers' layer has no router: a little less work
    shape = ["--hidden", config.hidden_size, "--width", config.moe_intermediate_size]
    adders: dict[Activations, Callable] = {"int8": Peers.add_ggml, "f32": Peers.add_python}
    for threads in options.thread_counts():
        for activations, add in adders.items():
            with Peers() as peers:
                add(peers, [*shape, "--threads", threads], lambda s: size / s / 1e9)
                yield moe.run(
                    config,
                    tensors,
                    options.roofline(threads),
                    threads=threads,
                    activations=activations,
                    rounds=options.rounds,
                    peers=peers.measures,
                )


if __name__ == "__main__":
    run_script(records, __doc__)
