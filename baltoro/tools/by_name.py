"""The tools that can be asked for by name, as in `baltoro agent --tools python`."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from baltoro.config import BaltoroError
from baltoro.tools.python import PythonTool
from baltoro.tools.tool import Tool

TOOLS: dict[str, Callable[[], Tool]] = {"python": PythonTool}


def tools_by_name(names: str) -> list[Tool]:
    """Make the tools of a comma-separated list; an empty one has none.

    Raises `BaltoroError` for a name that is not known, and when a tool can not run here.
    """
    return [_make(name) for part in names.split(",") if (name := part.strip())]


def _make(name: str) -> Tool:
    if name not in TOOLS:
        near = difflib.get_close_matches(name, TOOLS, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise BaltoroError(f"there is no tool '{name}'.{hint} The tools are: {', '.join(TOOLS)}.")
    return TOOLS[name]()
