"""Finds a checkpoint: one that comes with the package by its name, any other by its folder."""

from __future__ import annotations

from pathlib import Path

from baltoro.config import BaltoroError

# Not importlib.resources: an editable install spreads the package over two folders there.
BUNDLED = Path(__file__).parents[1] / "weights"


def find_checkpoint(model: str | Path) -> Path:
    """The folder of a bundled model, or the folder that was named.

    Raises BaltoroError that lists what exists.
    """
    bundled = bundled_models()
    if str(model) in bundled:
        return bundled[str(model)]
    folder = Path(model).expanduser()
    if (folder / "config.json").is_file():
        return folder
    found = f"{folder} has no config.json" if folder.exists() else f"there is no model '{model}'"
    names = ", ".join(bundled) or "none is built in yet; make one with recipes/tiny.sh"
    raise BaltoroError(
        f"{found}. Give the name of a bundled model ({names}), the folder of a checkpoint, "
        "or the address of an endpoint (http://...)."
    )


def bundled_models() -> dict[str, Path]:
    """Name -> folder of the checkpoints that come with the package."""
    return {path.parent.name: path.parent for path in sorted(BUNDLED.glob("*/config.json"))}
