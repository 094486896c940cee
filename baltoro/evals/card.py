"""The table of the model card, from what `baltoro eval skills --json` wrote.

python -m baltoro.evals.card runs/tiny
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def table(folder: Path) -> str:
    """Markdown: one row per skill, INT4 beside its bf16 parent, with 95 % intervals."""
    int4, bf16 = (read_rows(folder / f"skills-{name}.json") for name in ("int4", "bf16"))
    lines = [
        "| skill | n | INT4 right | 95 % interval | bf16 right | 95 % interval | tokens |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in int4.items():
        cells = [name, str(row["n"]), *share(row), *share(bf16[name]), f"{row['mean_tokens']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    return {row["skill"]: row for row in json.loads(path.read_text())}


def share(row: dict[str, Any]) -> tuple[str, str]:
    return f"{row['share']:.1%}", f"{row['low']:.1%} to {row['high']:.1%}"


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
