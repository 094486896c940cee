"""The folder of a run: `run.json`, `metrics.jsonl`, `latest.pt` or `step-N/`, pictures."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from baltoro.config import ModelConfig, to_json
from baltoro.train.plots import plot_metrics


class RunFolder:
    """Written so that a run killed at any moment can be resumed from what is there."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.metrics = folder / "metrics.jsonl"
        self.samples = folder / "samples.jsonl"
        self.latest = folder / "latest.pt"
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, config: Any, *, fresh: bool) -> None:
        """Keep the configuration beside the results; a fresh run forgets the logs and states of
        another, so that one killed before its first state is never resumed from theirs."""
        if fresh:
            self.metrics.unlink(missing_ok=True)
            self.samples.unlink(missing_ok=True)
            self.latest.unlink(missing_ok=True)
            self.forget_all_but(self.latest)
        write_atomically(self.folder / "run.json", to_json(config))

    def log(self, row: dict[str, Any]) -> None:
        append_row(self.metrics, row)

    def save(self, step: int, state: dict[str, Any], config: ModelConfig) -> None:
        """Keep what the next steps follow from, `step` being done, and what the model is."""
        temporary = self.latest.with_name(self.latest.name + ".tmp")
        torch.save(whole_state(step, state, config), temporary)
        os.replace(temporary, self.latest)
        self.forget_all_but(self.latest)

    def load(self) -> dict[str, Any] | None:
        """What `save` kept, the logs cut back to it; None, and empty logs, if nothing was."""
        state = self.read()
        self.cut_logs(0 if state is None else state["step"])
        return state

    def read(self) -> dict[str, Any] | None:
        """What was saved last, by one process or by several ranks; None if nothing was."""
        newest = self.newest()
        if newest is None or newest == self.latest:
            return torch.load(newest, weights_only=True) if newest else None
        with tempfile.TemporaryDirectory(dir=self.folder) as temporary:
            joined = Path(temporary) / self.latest.name
            dcp_to_torch_save(newest, joined)
            return torch.load(joined, weights_only=True)

    def newest(self) -> Path | None:
        """`latest.pt` or the folder that several ranks wrote, whichever was written last."""
        found = [p for p in (self.latest, *self.step_folders()) if p.exists()]
        return max(found, key=lambda p: p.stat().st_mtime_ns, default=None)

    def step_folder(self, step: int) -> Path:
        return self.folder / f"step-{step}"

    def step_folders(self) -> list[Path]:
        return [p for p in self.folder.glob("step-*") if p.suffix != ".tmp"]

    def forget_all_but(self, kept: Path) -> None:
        """Remove the states that `kept` took the place of."""
        for path in self.step_folders():
            if path != kept:
                shutil.rmtree(path)
        if kept != self.latest:
            self.latest.unlink(missing_ok=True)

    def cut_logs(self, step: int) -> None:
        for log in (self.metrics, self.samples):
            drop_rows_from(log, step)

    def plot(self) -> None:
        plot_metrics(self.folder)


def whole_state(step: int, state: dict[str, Any], config: ModelConfig) -> dict[str, Any]:
    """All that a saved state holds."""
    return {"step": step, "config": config.to_json()} | state


def append_row(path: Path, row: dict[str, Any]) -> None:
    with open(path, "a") as log:
        log.write(json.dumps(row, ensure_ascii=False) + "\n")


def drop_rows_from(path: Path, step: int) -> None:
    """Forget what was logged after the state that a run resumes from."""
    if path.exists():
        rows = [line for line in path.read_text().splitlines() if row_step(line) < step]
        write_atomically(path, "".join(row + "\n" for row in rows))


def row_step(line: str) -> float:
    """The step of a row; one that was cut off by a kill belongs to none that is kept."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return float("inf")


def write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
