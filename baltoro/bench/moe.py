"""`baltoro bench moe`: one MoE layer at K2's sizes, one token at a time, weights cold.

Nine of the experts are INT4 matrices of 7168 x 2048; each token takes other ones, so that nearly
every weight comes from memory. Counted are the weights' bytes, as they are stored.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from baltoro.bench.record import Measure, Record, compare
from baltoro.bench.roofline import Roofline
from baltoro.bench.shapes import MOE_LAYER, in_memory
from baltoro.checkpoint.layout import expert_shapes
from baltoro.config import ModelConfig
from baltoro.kernels.load import load_step_model
from baltoro.kernels.native import NativeModel
from baltoro.kernels.step import Activations

TOKENS = 12  # that one measurement takes the median of


class MoeLayer:
    """The layer, loaded, with tokens that choose their experts by its own router."""

    def __init__(
        self,
        config: ModelConfig,
        tensors: Mapping[str, NDArray],
        threads: int,
        activations: Activations = "int8",
    ):
        model = load_step_model(
            config, tensors, num_blocks=1, activations=activations, threads=threads
        )
        assert isinstance(model, NativeModel)
        self.config = config
        self._model = model
        self._rng = np.random.default_rng(0)

    def seconds_per_step(self, n: int = 1, repeats: int = TOKENS) -> float:
        """Of a step of n tokens, the median of `repeats` steps with other tokens each."""
        # Drawn beforehand: as the layers of a model, steps follow each other without a pause in
        # which threads would fall asleep.
        shape = (repeats, n, self.config.hidden_size)
        steps = self._rng.standard_normal(shape, np.float32)
        times = [time.perf_counter()]
        for x in steps:
            self._model.run_mlp(0, x)
            times.append(time.perf_counter())
        return float(np.median(np.diff(times)))


def with_experts(experts: int, config: ModelConfig = MOE_LAYER) -> ModelConfig:
    return replace(config, n_routed_experts=experts)


def expert_bytes(config: ModelConfig) -> float:
    """Of one routed expert."""
    weights = sum(rows * cols for rows, cols in expert_shapes(config).values())
    if config.quantization_config is None:
        return weights * 2.0
    return weights * (0.5 + 2 / config.quantization_config.group_size)


def decode_bytes(config: ModelConfig) -> float:
    """Weights that one token reads in the layer: its experts and the router."""
    router = config.n_routed_experts * config.hidden_size * 2
    return config.num_experts_per_tok * expert_bytes(config) + router


def run(
    config: ModelConfig,
    tensors: Mapping[str, NDArray],
    roofline: Roofline,
    *,
    threads: int,
    activations: Activations = "int8",
    rounds: int = 5,
    peers: Mapping[str, Measure | str] | None = None,
) -> Record:
    """GB/s of one layer. Peers return `decode_bytes` over their time, in GB/s."""
    layer = MoeLayer(config, tensors, threads, activations)
    layer.seconds_per_step()
    size = decode_bytes(config)
    return compare(
        "moe",
        f"{config.num_experts_per_tok} of {config.n_routed_experts} experts, "
        f"{activations} activations, {threads} threads",
        unit="GB/s",
        threads=threads,
        ours=lambda: size / layer.seconds_per_step() / 1e9,
        roofline=lambda: roofline.bytes_per_second() / 1e9,
        peers=peers,
        rounds=rounds,
        details={"bytes_per_token": size},
    )


def answer(threads: tuple[int, ...], rounds: int, small: bool) -> list[Record]:
    """64 and 384 experts with INT8 activations, 64 with f32 ones."""
    config = MOE_LAYER
    if small:
        config = replace(config, hidden_size=256, moe_intermediate_size=128)
    records = []
    kinds: dict[int, tuple[Activations, ...]] = {64: ("int8", "f32"), 384: ("int8",)}
    for experts in kinds:
        sized = with_experts(experts, config)
        tensors = in_memory(sized)
        for count in threads:
            roofline = Roofline(count, 1 << 22) if small else Roofline(count)
            for activations in kinds[experts]:
                records.append(
                    run(
                        sized,
                        tensors,
                        roofline,
                        threads=count,
                        activations=activations,
                        rounds=rounds,
                    )
                )
        del tensors
    return records
