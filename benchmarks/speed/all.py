"""`make bench`: every bar, the most important first, and RESULTS.md of what there is.

    BALTORO_PEERS=FOLDER python benchmarks/speed/all.py
    python benchmarks/speed/all.py moe decode        only these steps
    python benchmarks/speed/all.py --skip slice --skip "slice from disk"

Made for an idle machine: about 25 minutes on two cores without the slice, which writes a checkpoint
of 21 GB the first time; each step tells how long it took. `moe decode prefill serve` make a short
run. Records and RESULTS.md are written as they come, and a step that is done is not run again for
the same commit: an interrupted run goes on. `--again` runs all. `--small` takes tiny sizes, to see
that the steps work.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from baltoro.bench.record import commit
from baltoro.kernels.cores import available_cores
from results import BENCHMARKS, RECORDS, TABLE, newest, table

HERE = Path(__file__).parent

STEPS = (
    ("moe", "moe.py", "--rounds", "5"),
    ("decode", "decode.py", "--rounds", "5"),
    ("prefill", "prefill.py"),
    ("serve", "serve.py", "--rounds", "3", "--threads", "{cores}"),
    ("http", "http_layer.py", "--rounds", "16"),
    ("cache", "alone.py", "cache", "--rounds", "3", "--threads", "{cores}"),
    ("threads", "threads.py", "--rounds", "5"),
    ("fairness", "fairness.py", "--rounds", "1", "--threads", "{cores}"),
    ("formats", "formats.py", "--rounds", "3", "--threads", "1", "--threads", "{cores}"),
    ("slice", "alone.py", "slice", "--rounds", "3", "--threads", "{cores}", "--bandwidth", "460"),
    (
        "slice from disk",
        *("alone.py", "slice", "--rounds", "3", "--threads", "{cores}", "--memory", "10GiB"),
    ),
    ("train", "train_speed.py", "--rounds", "5"),
    ("rollouts", "rollouts.py", "--rounds", "5"),
    ("long", "alone.py", "long", "--rounds", "3", "--threads", "{cores}"),
)
LIMIT_SECONDS = 1800  # for one step


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", nargs="*", help=f"of: {', '.join(step[0] for step in STEPS)}")
    parser.add_argument("--skip", action="append", default=[], help="a step; can be repeated")
    parser.add_argument("--again", action="store_true", help="run what is done, too")
    parser.add_argument("--small", action="store_true", help="tiny sizes, into no results")
    given = parser.parse_args()
    done_file = BENCHMARKS / "done.txt"
    done = done_file.read_text().splitlines() if done_file.exists() else []
    failed = []
    for name, script, *options in STEPS:
        mark = f"{commit()} {name}"
        if name in given.skip or (given.steps and name not in given.steps):
            continue
        if mark in done and not (given.again or given.small):
            print(f"== {name}: done at this commit")
            continue
        if run(name, script, options, given.small):
            failed.append(name)
        elif not given.small:
            with done_file.open("a") as file:
                file.write(mark + "\n")
        if not given.small and RECORDS.exists():
            TABLE.write_text(table(newest(RECORDS)))
    if failed:
        print(f"== failed: {', '.join(failed)}")
    return bool(failed)


def run(name: str, script: str, options: list[str], small: bool) -> int:
    """The exit status of one step."""
    cores = str(available_cores())
    command = [sys.executable, str(HERE / script), *(o.format(cores=cores) for o in options)]
    if small:
        command += ["--small", "--records", os.devnull]
    print(f"== {name}", flush=True)
    start = time.monotonic()
    try:
        status = subprocess.run(command, timeout=LIMIT_SECONDS, check=False).returncode
    except subprocess.TimeoutExpired:
        status = 124
    print(f"== {name}: {time.monotonic() - start:.0f} s, exit status {status}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
