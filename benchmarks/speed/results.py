"""RESULTS.md, written from the records of the last run of each script.

A script appends its records to a JSON lines file as they come; the newest of a case counts. So a
run can be interrupted and its questions asked one by one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from baltoro.bench.questions import Options
from baltoro.bench.record import Record, machine
from bars import held

BENCHMARKS = Path(__file__).parents[1]
RECORDS = BENCHMARKS / "results.jsonl"
TABLE = BENCHMARKS / "RESULTS.md"


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What every script takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, action="append", help="can be repeated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="tiny sizes: does the script work?")
    parser.add_argument("--records", type=Path, default=RECORDS, help="where to append the records")
    return parser


def run_script(records: Callable[[Options], Iterable[Record]], description: str | None) -> None:
    """What a script does when it is called: asks its questions and keeps the answers."""
    given = arguments(description).parse_args()
    options = Options(threads=given.threads or (), rounds=given.rounds, small=given.small)
    keep(records(options), given.records)


def keep(records: Iterable[Record], path: Path) -> None:
    """Print each record as it comes, and append it."""
    for record in records:
        print(record.sentence(), flush=True)
        with path.open("a") as file:
            file.write(record.to_json() + "\n")


def newest(path: Path) -> list[dict[str, Any]]:
    """The last record of every case, in the order in which cases first came."""
    records: dict[tuple[str, str], dict[str, Any]] = {}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        records[record["question"], record["case"]] = record
    return list(records.values())


def table(records: list[dict[str, Any]]) -> str:
    lines = [
        "# Results",
        "",
        "Written by `make bench`. Each line was measured in one run in which ours, the limit and "
        "the peers took turns; figures are medians, ratios are medians of the rounds' ratios. The "
        "limit is what reading memory allows, measured in the same run; a peer's ratio is ours "
        "over theirs.",
        "",
        "## Bars",
        "",
        *held(records),
        "",
        "## Figures",
        "",
        "| question | case | result | of the limit | beside peers | commit |",
        "|---|---|---|---|---|---|",
    ]
    for r in records:
        limit = "" if r["ratio_to_roofline"] is None else f"{r['ratio_to_roofline']:.2f}"
        peers = "; ".join(
            f"{name}: missing, {peer['missing']}"
            if "missing" in peer
            else f"{peer['ratio']:.2f} x {name} ({peer['result']:,.4g})"
            for name, peer in r["peers"].items()
        )
        lines.append(
            f"| {r['question']} | {r['case']} | {r['result']:,.4g} {r['unit']} | {limit} | {peers} "
            f"| {r['commit']} |"
        )
    lines += ["", "## Machines", ""]
    machines = {json.dumps(r["machine"] | {"load": 0}): r["machine"] for r in records}
    for found in machines.values():
        loads = [r["machine"]["load"] for r in records if r["machine"]["cpu"] == found["cpu"]]
        lines.append(
            f"- {found['cpu']}, {found['cores']} cores, {found['memory_gb']:.0f} GB of memory; "
            f"load when the figures were taken: {min(loads):.1f} to {max(loads):.1f}."
        )
    lines += ["", "## Details", ""]
    for r in records:
        if r["details"]:
            lines.append(f"- {r['question']}, {r['case']}: `{json.dumps(r['details'])}`")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if RECORDS.exists():
        TABLE.write_text(table(newest(RECORDS)))
        print(f"{TABLE} has {len(newest(RECORDS))} figures of {machine()['cpu']}")
