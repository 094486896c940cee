"""The golden cases, by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parents[2] / "golden"


def golden_cases(name: str) -> list[Any]:
    cases = json.loads((GOLDEN / name).read_text(encoding="utf-8"))["cases"]
    return [pytest.param(case, id=case["name"]) for case in cases]
