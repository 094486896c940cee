"""What a question of `baltoro bench` answers: one JSON line per figure.

Everything in a record was measured in the same run: ours, the limit and the peers take turns, so
that a neighbour's load or a warmer processor meets all of them.
"""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from baltoro.checkpoint.inspect import machine_bytes
from baltoro.kernels.cores import available_cores


@dataclass(frozen=True)
class PeerResult:
    """Another engine at the same work; `missing` says why it did not run."""

    result: float | None = None
    ratio: float | None = None  # ours / theirs, the median over the rounds
    missing: str | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """One figure. Larger is better."""

    question: str
    case: str  # what of the question: sizes, number of threads
    result: float
    unit: str
    threads: int
    roofline: float | None = None  # what reading memory allows, in the same unit
    ratio_to_roofline: float | None = None  # the median over the rounds
    peers: Mapping[str, PeerResult] = field(default_factory=dict)
    rounds: int = 1
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """One line; figures with four significant digits."""
        values = asdict(self) | {"commit": commit(), "machine": machine()}
        values["peers"] = {
            name: {k: v for k, v in peer.items() if v is not None}
            for name, peer in values["peers"].items()
        }
        return json.dumps(_rounded(values), ensure_ascii=False)

    def sentence(self) -> str:
        """The figure for a reader."""
        text = f"{self.question}: {self.result:,.4g} {self.unit} ({self.case})"
        if self.ratio_to_roofline is not None:
            text += f"; {self.ratio_to_roofline:.2f} of what reading memory allows"
        for name, peer in self.peers.items():
            text += f"; {name}: " + (peer.missing or f"{peer.ratio:.2f} times as fast as it")
        lines = [
            text,
            *(f"  {key}: {value}" for key, value in _rounded(dict(self.details)).items()),
        ]
        return "\n".join(lines)


Measure = Callable[[], float]


def alternate(measures: Mapping[str, Measure], rounds: int) -> dict[str, list[float]]:
    """Every measure once a round, in an order of chance: none always comes after the same other,
    which may have left the machine warm, or its own threads awake."""
    order = random.Random(0)
    values: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name in order.sample(list(measures), len(measures)):
            values[name].append(measures[name]())
    return values


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the rounds' ratios, not the ratio of medians."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def compare(
    question: str,
    case: str,
    *,
    unit: str,
    threads: int,
    ours: Measure,
    roofline: Measure | None = None,
    peers: Mapping[str, Measure | str] | None = None,
    rounds: int = 5,
    details: Mapping[str, Any] | None = None,
) -> Record:
    """Run ours, the roofline and the peers in turn. A peer that is a text is missing, and why."""
    peers = peers or {}
    measures: dict[str, Measure] = {"ours": ours}
    if roofline is not None:
        measures["roofline"] = roofline
    # A peer may have any name, "ours" too.
    measures |= {f"peer {name}": m for name, m in peers.items() if not isinstance(m, str)}
    values = alternate(measures, rounds)
    limit = values.get("roofline")
    results = {}
    for name, peer in peers.items():
        if isinstance(peer, str):
            results[name] = PeerResult(missing=peer)
            continue
        found = values[f"peer {name}"]
        results[name] = PeerResult(
            statistics.median(found), median_ratio(values["ours"], found), None
        )
    return Record(
        question=question,
        case=case,
        result=statistics.median(values["ours"]),
        unit=unit,
        threads=threads,
        roofline=statistics.median(limit) if limit else None,
        ratio_to_roofline=median_ratio(values["ours"], limit) if limit else None,
        peers=results,
        rounds=rounds,
        details=details or {},
    )


def commit() -> str:
    """Of the source that runs; with "+" where files differ from it, "" outside a repository."""
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return ""
    git = ["git", "-C", str(folder)]
    try:
        name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], **_QUIET).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], **_QUIET).stdout.strip()
    except OSError:
        return ""
    return name + "+" * bool(changed)


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cpu": cpu_name(),
        "cores": available_cores(),
        "memory_gb": machine_bytes() / 1e9,
        "load": os.getloadavg()[0],  # of the last minute: near 0 on an idle machine
    }


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


_QUIET: dict[str, Any] = {"capture_output": True, "text": True, "check": False}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    return value
