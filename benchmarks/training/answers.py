"""What a script of `make evidence` leaves: data, a picture, and a row of the table.

    python benchmarks/training/answers.py

writes docs/evidence/README.md from the data that is there.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import matplotlib

matplotlib.use("Agg")
import typer
from matplotlib.figure import Figure

from baltoro.bench.record import commit, machine

EVIDENCE = Path(__file__).parents[2] / "docs" / "evidence"

Out = Annotated[Path, typer.Option(help="Folder of the evidence.")]

# The 97.5 % quantile of Student's t by the number of values; the last serves for more, too.
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}


def mean_and_margin(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and how far its 95 % interval reaches to either side (Student's t)."""
    n = len(values)
    if n < 2:
        return statistics.mean(values), math.inf
    quantile = STUDENT[min(n, max(STUDENT))]
    return statistics.mean(values), quantile * statistics.stdev(values) / math.sqrt(n)


def save(
    out: Path,
    name: str,
    *,
    claim: str,
    bar: str,
    result: str,
    command: str,
    rows: Sequence[dict[str, Any]],
    figure: Figure | None = None,
) -> None:
    """Write `name`.json and `name`.png into `out`, and print the result."""
    out.mkdir(parents=True, exist_ok=True)
    answer = {
        "claim": claim,
        "bar": bar,
        "result": result,
        "command": command,
        "commit": commit(),
        "machine": machine(),
        "rows": list(rows),
    }
    (out / f"{name}.json").write_text(json.dumps(answer, indent=1, ensure_ascii=False) + "\n")
    if figure is not None:
        figure.savefig(out / f"{name}.png", dpi=110)
    print(f"{name}: {result}", flush=True)


def rows_of(out: Path, name: str) -> list[dict[str, Any]]:
    """What was saved before; nothing if nothing was."""
    file = out / f"{name}.json"
    return json.loads(file.read_text())["rows"] if file.exists() else []


def table(out: Path) -> str:
    """Markdown: one row for each answer."""
    lines = [
        "# Evidence: training and what it gave",
        "",
        "Written by `make evidence`. Each row has its data (`.json`, with machine and commit) and "
        "mostly a picture (`.png`) beside this file. Results that miss their bar stay.",
        "",
        "| claim | bar | result | command | data |",
        "|---|---|---|---|---|",
    ]
    for path in sorted(out.glob("*.json")):
        answer = json.loads(path.read_text())
        files = f"[data]({path.name})"
        if path.with_suffix(".png").exists():
            files += f", [picture]({path.stem}.png)"
        cells = (answer["claim"], answer["bar"], answer["result"], f"`{answer['command']}`", files)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(out: Out = EVIDENCE) -> None:
    """Write the table of what is there."""
    (out / "README.md").write_text(table(out))


if __name__ == "__main__":
    typer.run(main)
