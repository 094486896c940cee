"""What a checkpoint weighs and what decoding with it reads, computed from its configuration."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from baltoro.checkpoint.layout import TensorSpec, expected_tensors
from baltoro.checkpoint.reader import open_checkpoint
from baltoro.config import PRESETS, BaltoroError, ModelConfig, QuantizationConfig
from baltoro.kernels.control_groups import cgroup_memory
from baltoro.kernels.cores import available_cores
from baltoro.quant.int4 import GROUP_SIZE

if TYPE_CHECKING:
    from rich.console import Group

CACHE_NUMBER_BYTES = 2  # the latent cache is bf16

# The first mark that a tensor's name contains says which part it belongs to.
_PART_MARKS = {
    "embed_tokens": "embedding",
    "lm_head": "output head",
    "norm.weight": "norms",
    ".self_attn.": "attention",
    ".mlp.experts.": "routed experts",
    ".mlp.shared_experts.": "shared experts",
    ".mlp.gate.": "routers",
    ".mlp.": "dense MLP",
}
PARTS = tuple(dict.fromkeys(_PART_MARKS.values()))


@dataclass(frozen=True)
class Part:
    """One kind of weights, over all layers."""

    parameters: int
    size_bytes: int


@dataclass(frozen=True)
class Report:
    """The numbers of one model. Rates are None unless the machine was measured."""

    name: str
    config: ModelConfig
    parts: Mapping[str, Part]
    active_parameters: int  # all but the experts that a token does not choose
    cache_bytes_per_token: int  # of context, all layers together
    decode_bytes: int  # weights read for one token when it is alone in its batch
    bandwidth: float | None = None  # bytes per second that this machine reads

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.parts.values())

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts.values())

    def tokens_per_second(self, context: int = 0) -> float | None:
        """The most that reading weights and the cache of `context` tokens leaves room for."""
        if self.bandwidth is None:
            return None
        return self.bandwidth / (self.decode_bytes + context * self.cache_bytes_per_token)


def inspect(target: str | Path, *, measure: bool = False) -> Report:
    """Describe a preset, in its released INT4 layout, or a checkpoint folder, which is checked.

    `measure` reads memory for about a second, to say how many tokens per second it allows.

    Raises `BaltoroError` if `target` is neither, and as `open_checkpoint` does.
    """
    if str(target) in PRESETS:
        preset = PRESETS[str(target)]
        config = dataclasses.replace(preset, quantization_config=QuantizationConfig())
    elif Path(target).is_dir():
        config = open_checkpoint(target).config
    else:
        raise BaltoroError(
            f"'{target}' is neither a checkpoint folder nor a preset. "
            f"The presets are: {', '.join(PRESETS)}."
        )
    return describe(str(target), config, measure_bandwidth() if measure else None)


def describe(
    name: str, config: ModelConfig, bandwidth: float | None = None, *, dense_bits: int = 16
) -> Report:
    """The numbers that follow from a configuration; `dense_bits` as in `bytes_read`."""
    parts = count_parts(expected_tensors(config))
    experts = parts["routed experts"]
    share = config.num_experts_per_tok / config.n_routed_experts
    idle = experts.parameters - round(experts.parameters * share)
    return Report(
        name=name,
        config=config,
        parts=parts,
        active_parameters=sum(part.parameters for part in parts.values()) - idle,
        cache_bytes_per_token=config.latent_dim * config.num_hidden_layers * CACHE_NUMBER_BYTES,
        decode_bytes=bytes_read(parts, config, dense_bits=dense_bits),
        bandwidth=bandwidth,
    )


def bytes_read(
    parts: Mapping[str, Part], config: ModelConfig, batch: int = 1, *, dense_bits: int = 16
) -> int:
    """Bytes of weights that a step reads which decodes one token for each of `batch` requests.

    All but the experts that nobody chose, where all are chosen equally often, and but the rows of
    the embedding table that nobody needs. With `dense_bits` 8, INT8 copies are read in place of
    the bf16 weights; the routers have none.
    """
    experts, embedding = parts["routed experts"].size_bytes, parts["embedding"].size_bytes
    routers = parts["routers"].size_bytes
    rows = min(batch, config.vocab_size) * (embedding // config.vocab_size)
    size = sum(part.size_bytes for part in parts.values())
    dense = size - experts - embedding - routers + rows
    chosen = experts_chosen(config, batch) / config.n_routed_experts
    return (int8_bytes(dense) if dense_bits == 8 else dense) + routers + round(experts * chosen)


def int8_bytes(size: int) -> int:
    """Bytes of the INT8 copy of `size` bytes of bf16 weights: with a bf16 scale for each group."""
    return size * (8 * GROUP_SIZE + 16) // (16 * GROUP_SIZE)


def experts_chosen(config: ModelConfig, batch: int) -> float:
    """Different experts of a layer that `batch` tokens choose, if all are equally likely."""
    left_alone = 1 - config.num_experts_per_tok / config.n_routed_experts
    return config.n_routed_experts * (1 - left_alone**batch)


def count_parts(tensors: Mapping[str, TensorSpec]) -> dict[str, Part]:
    """Parameters and bytes of every part, zero where a model has none."""
    parameters, sizes = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0)
    for name, spec in tensors.items():
        part = next(part for mark, part in _PART_MARKS.items() if mark in name)
        parameters[part] += spec.parameters
        sizes[part] += spec.nbytes
    return {part: Part(parameters[part], sizes[part]) for part in PARTS}


def measure_bandwidth(size_bytes: int = 1 << 29, repeats: int = 3) -> float:
    """Bytes per second that all cores together read from memory; the best of `repeats`."""
    pieces = np.array_split(np.ones(size_bytes // 8, dtype=np.int64), available_cores())
    best = 0.0
    with ThreadPoolExecutor(len(pieces)) as pool:
        for _ in range(repeats):
            start = time.perf_counter()
            for _ in pool.map(np.bitwise_or.reduce, pieces):
                pass
            best = max(best, size_bytes / (time.perf_counter() - start))
    return best


def fits_in_memory(report: Report) -> bool:
    """Whether this machine has memory for all weights."""
    return report.size_bytes <= machine_bytes()


def render(report: Report) -> Group:
    """The report for a terminal."""
    # A server reads reports too, and starts sooner without what shows them.
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table("part", box=None, title=report.name, title_justify="left")
    for heading in ("parameters", "bytes", "share"):
        table.add_column(heading, justify="right")
    for name, part in report.parts.items():
        share = part.size_bytes / report.size_bytes
        table.add_row(name, f"{part.parameters:,}", f"{part.size_bytes:,}", f"{share:.2%}")
    return Group(table, Text("\n".join(["", *_sentences(report)])))


def _sentences(report: Report) -> list[str]:
    config = report.config
    lines = [
        f"{_count(report.parameters)} parameters, {_count(report.active_parameters)} active "
        f"per token ({config.num_experts_per_tok} of {config.n_routed_experts} experts)",
        f"{size_text(report.size_bytes)} on disk ({report.size_bytes:,} bytes)",
        f"{report.cache_bytes_per_token:,} bytes of cache per token, "
        f"{size_text(report.cache_bytes_per_token * config.max_position_embeddings)} for all "
        f"{config.max_position_embeddings:,}",
        f"{size_text(report.decode_bytes)} of weights read per decoded token",
    ]
    if report.bandwidth is not None:
        full = report.tokens_per_second(config.max_position_embeddings)
        lines.append(
            f"{size_text(report.bandwidth)}/s read from memory here, which allows "
            f"{report.tokens_per_second():,.1f} tokens/s, {full:,.1f} at full context"
        )
        if not fits_in_memory(report):
            lines.append(
                f"The weights do not fit into this machine's {size_text(machine_bytes())} of "
                "memory: the disk will be slower."
            )
    return lines


def machine_bytes() -> int:
    """This machine's memory, or what the control group of this process may take of it."""
    return int(min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), cgroup_memory()))


def _count(number: int) -> str:
    return f"{number / 1e9:,.1f}B" if number >= 1e9 else f"{number / 1e6:,.2f}M"


def size_text(size_bytes: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:,.1f} {unit}"
    return f"{size_bytes / 1e3:,.1f} kB"
