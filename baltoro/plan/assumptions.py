"""What a plan takes for granted. Every value can be set in a TOML file; each says where it is from.

DeepSeek-V3's report is arXiv 2412.19437, K2's is arXiv 2507.20534.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from baltoro.config import BaltoroError, from_mapping, read_toml


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One device. Rates are the maker's, for dense products and one direction of a link."""

    name: str
    flops: float  # bf16 operations per second, f32 accumulation, without sparsity
    memory_bytes: float
    memory_bandwidth: float  # bytes per second
    node_bandwidth: float  # bytes per second to another device of the node, each way
    network_bandwidth: float  # bytes per second to another node, each way
    per_node: int = 8


# From the makers' data sheets; the network is one 400 Gbit/s port for each device (K2, 2.4).
ACCELERATORS = {
    device.name: device
    for device in (
        Accelerator(
            name="A100",
            flops=312e12,
            memory_bytes=80e9,
            memory_bandwidth=2.039e12,
            node_bandwidth=300e9,
            network_bandwidth=25e9,
        ),
        Accelerator(
            name="H800",
            flops=989.4e12,
            memory_bytes=80e9,
            memory_bandwidth=3.35e12,
            node_bandwidth=200e9,
            network_bandwidth=50e9,
        ),
        Accelerator(
            name="H100",
            flops=989.4e12,
            memory_bytes=80e9,
            memory_bandwidth=3.35e12,
            node_bandwidth=450e9,
            network_bandwidth=50e9,
        ),
        Accelerator(
            name="H200",
            flops=989.4e12,
            memory_bytes=141e9,
            memory_bandwidth=4.8e12,
            node_bandwidth=450e9,
            network_bandwidth=50e9,
        ),
    )
}

Recompute = Literal["nothing", "selective", "layers"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """A pretraining run. The defaults are what is published of K2's, and of its nearest relative.

    K2's hours are not published. `utilization` is what the formulas here give for DeepSeek-V3,
    whose hours are (2,664,000 H800 hours for 14.8T tokens, table 1), and the price is the one that
    report assumes.
    """

    accelerator: str = "H800"  # K2, 2.4
    tokens: float = 15.5e12  # K2, 2.5
    context: int = 4096  # tokens of a sequence; K2, 2.5
    batch_tokens: int = 67_108_864  # of an optimizer step; "67M", K2, 2.5
    utilization: float = 0.39  # of `flops` that the model's operations get, stops included
    dollars_per_hour: float = 2.0  # of one device; DeepSeek-V3, table 1
    devices: int = 2048  # for time and memory only; K2's number is not published
    pipeline: int = 16  # ranks that share the layers; K2, 2.4
    expert: int = 16  # ranks that share a layer's experts; K2, 2.4
    zero_stage: int = 1  # what data-parallel ranks share: 1 optimizer, 2 gradients too, 3 all
    micro_batch: int = 1  # sequences that a rank computes at a time
    recompute: Recompute = "selective"  # what backward computes again; K2, 2.4
    weight_bytes: float = 2.0  # bf16; K2, 2.4
    gradient_bytes: float = 4.0  # f32 accumulation; K2, 2.4


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Decoding from the released INT4 layout."""

    accelerator: str = "H200"
    devices: int = 8  # one node, the smallest that K2's deployment guide gives for 256K
    context: int = 32768  # tokens that each request has in the cache
    batches: tuple[int, ...] = (1, 4, 16, 64, 256)


@dataclass(frozen=True, kw_only=True)
class Range:
    """How far one assumption about training may be off, and why."""

    low: float
    high: float
    reason: str


def default_ranges() -> dict[str, Range]:
    return {
        "utilization": Range(
            low=0.26,
            high=0.43,
            reason="0.39 came with FP8 products, and 0.26 is two thirds of it, for bf16 ones; "
            "0.43 is the best of Llama 3 405B, bf16 and dense (arXiv 2407.21783, table 4)",
        ),
        "dollars_per_hour": Range(
            low=1.5, high=3.0, reason="own cluster or long contract, and on demand; assumed"
        ),
        "tokens": Range(
            low=15.5e12, high=15.96e12, reason="with the 460B of annealing and long context (K2)"
        ),
        "context": Range(low=4096, high=8192, reason="attention over sequences twice as long"),
    }


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """Everything a plan takes for granted."""

    training: Training = field(default_factory=Training)
    serving: Serving = field(default_factory=Serving)
    # By name of a field of `training`.
    ranges: Mapping[str, Range] = field(default_factory=default_ranges)

    def __post_init__(self) -> None:
        """Raises `BaltoroError` for what no run could have."""
        for part in (self.training, self.serving):
            _check_positive(part)
            find_accelerator(part.accelerator)
        t = self.training
        if t.utilization > 1:
            raise BaltoroError(f"utilization is {t.utilization}; it is a share, at most 1.")
        if t.zero_stage not in range(4):
            raise BaltoroError(f"zero_stage is {t.zero_stage}; known are 0, 1, 2 and 3.")
        if t.devices % (t.pipeline * t.expert):
            raise BaltoroError(
                f"devices is {t.devices}, but must be a multiple of pipeline * expert, "
                f"{t.pipeline} * {t.expert}."
            )
        for name, span in self.ranges.items():
            if name not in RANGED or not 0 < span.low <= span.high:
                raise BaltoroError(
                    f"ranges.{name} must go from low to high and be one of {', '.join(RANGED)}."
                )


RANGED = ("tokens", "context", "utilization", "dollars_per_hour")


def _check_positive(part: Training | Serving) -> None:
    for f in dataclasses.fields(part):
        value = getattr(part, f.name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and f.name != "zero_stage" and not number > 0:
                raise BaltoroError(f"{f.name} is {number}, but must be above 0.")


def find_accelerator(name: str) -> Accelerator:
    """A device by name. Raises `BaltoroError` that lists the names there are."""
    if name not in ACCELERATORS:
        raise BaltoroError(
            f"there is no accelerator '{name}'. Known are {', '.join(ACCELERATORS)}."
        )
    return ACCELERATORS[name]


def load_assumptions(path: str | Path) -> Assumptions:
    """The defaults with what a TOML file says in place: `[training]`, `[serving]`, `[ranges.X]`.

    Raises `BaltoroError` for what can't be read, unknown keys, and values no run could have.
    """
    return from_mapping(Assumptions, _parts(read_toml(path), str(path)), str(path))


def _parts(values: dict[str, Any], where: str) -> dict[str, Any]:
    for name in ("training", "serving", "ranges"):
        if not isinstance(values.get(name, {}), dict):
            raise BaltoroError(f"{where}: '{name}' must be a table, like [{name}].")
    if "training" in values:
        values["training"] = from_mapping(Training, values["training"], f"{where}, training")
    if "serving" in values:
        values["serving"] = from_mapping(Serving, values["serving"], f"{where}, serving")
    if "ranges" in values:
        values["ranges"] = default_ranges() | {
            name: from_mapping(Range, span, f"{where}, ranges.{name}")
            for name, span in values["ranges"].items()
        }
    return values
