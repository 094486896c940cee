"""Twice as many threads as cores: how much of the speed is left?

python benchmarks/speed/threads.py
"""

from __future__ import annotations

from collections.abc import Iterator

from baltoro.bench.decode import tokens_per_second
from baltoro.bench.questions import Options
from baltoro.bench.record import Record, compare
from baltoro.engine.open_model import open_engine
from baltoro.engine.options import EngineOptions
from baltoro.kernels.cores import available_cores
from results import run_script


def records(options: Options) -> Iterator[Record]:
    folder, cores = options.checkpoint("208m"), available_cores()
    with (
        open_engine(folder, EngineOptions(threads=2 * cores)) as crowded,
        open_engine(folder, EngineOptions(threads=cores)) as fitting,
    ):
        seeds = iter(range(10**9))
        yield compare(
            "threads",
            f"{folder.name}, decode, {2 * cores} threads on {cores} cores",
            unit="tokens/s",
            threads=2 * cores,
            ours=lambda: tokens_per_second(crowded, next(seeds)),
            peers={f"{cores} threads": lambda: tokens_per_second(fitting, next(seeds))},
            rounds=options.rounds,
        )


if __name__ == "__main__":
    run_script(records, __doc__)
