"""The loop that pretraining and SFT share: batches in, MuonClip steps, checkpoints out.

A run is a function of its configuration: batches depend on seed and step alone, so a run that was
killed and resumed ends with the same weights as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from baltoro.model.transformer import Transformer
from baltoro.train.data import Sample, draw_samples, pack
from baltoro.train.folder import RunFolder
from baltoro.train.qat import set_fake_quantization
from baltoro.train.schedule import Schedule
from baltoro.train.updater import Updater, use_threads


@dataclass
class Trainer:
    """One run in one folder: `latest.pt`, `metrics.jsonl`, `metrics.png`, `run.json`."""

    model: Transformer
    schedule: Schedule
    make_sample: Callable[[int], Callable[..., Sample]]  # step -> maker of one sample
    folder: Path
    evaluate: Callable[[Transformer], dict[str, Any]] | None = None
    step: int = 0
    updater: Updater = field(init=False)
    results: RunFolder = field(init=False)
    shows_progress: bool = field(init=False, default=True)

    def __post_init__(self) -> None:
        use_threads(self.schedule.threads)
        self.updater = Updater(self.model, self.schedule)
        self.results = RunFolder(self.folder)

    def run(self, config: Any, resume: bool = False) -> Transformer:
        """Train to the last step. `config` is kept beside the results."""
        self.results.start(config, fresh=not resume)
        if resume:
            self.load_latest()
        with progress_bar(self.shows_progress) as bar:
            task = bar.add_task(
                self.folder.name,
                total=self.schedule.steps,
                completed=self.step,
                loss=0.0,
                speed=0.0,
            )
            while self.step < self.schedule.steps:
                row = self.train_step()
                self.step += 1
                self.record(row)
                bar.update(task, completed=self.step, loss=row["loss"], speed=row["tokens_per_s"])
        return self.model

    def train_step(self) -> dict[str, Any]:
        """One optimizer step; returns what is worth logging."""
        schedule, started = self.schedule, time.perf_counter()
        quantized = schedule.quantize_from is not None and self.step >= schedule.quantize_from
        set_fake_quantization(self.model, quantized)
        make = self.make_sample(self.step)
        samples = draw_samples(
            schedule.seed, self.step, schedule.tokens_per_step, make, schedule.learned_per_step
        )

        self.updater.begin()
        loss = self.updater.learn(samples)
        optimizer_started = time.perf_counter()
        row = self.updater.finish(self.step, loss, self.results.newest())
        now = time.perf_counter()
        num_tokens = sum(len(ids) for ids, _ in samples)
        return row | {
            "quantized": quantized,
            "tokens": num_tokens,
            "tokens_per_s": num_tokens / (now - started),
            "optimizer_share": (now - optimizer_started) / (now - started),
        }

    def record(self, row: dict[str, Any]) -> None:
        """Log a finished step; evaluate, plot and save when it is time to."""
        last = self.step == self.schedule.steps
        if self.evaluate and (last or self.step % self.schedule.eval_every == 0):
            row["eval"] = self.evaluate(self.model)
        self.results.log(row)
        if last or "eval" in row:
            self.results.plot()
        if last or self.step % self.schedule.save_every == 0:
            self.save_latest()

    def save_latest(self) -> None:
        self.results.save(self.step, self.updater.state_dict(), self.model.config)

    def load_latest(self) -> None:
        state = self.results.load()
        if state is not None:
            self.step = state["step"]
            self.updater.load_state_dict(state)


def progress_bar(shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("loss {task.fields[loss]:.4f}  {task.fields[speed]:.0f} tok/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        disable=not shown,
    )


@torch.no_grad()
def teacher_forced(model: Transformer, samples: list[Sample]) -> dict[str, float]:
    """How the model does on solutions it did not write.

    `exact`: share of samples whose every learned token is the most likely one, which is what
    greedy decoding needs; `likely`: mean probability of a whole solution, which is how often
    sampling at temperature 1 follows it.
    """
    model.eval()
    exact, likely = 0, 0.0
    device = next(model.parameters()).device
    for sample in samples:
        batch = pack([sample]).to(device)
        hidden, head = model.hidden_and_head(batch.inputs)
        log_probs = F.linear(hidden[batch.learned], head).log_softmax(dim=-1)
        expected = batch.targets[batch.learned]
        exact += int((log_probs.argmax(dim=-1) == expected).all())
        chosen: Tensor = log_probs.gather(-1, expected[:, None])
        likely += float(chosen.sum().exp())
    return {"exact": exact / len(samples), "likely": likely / len(samples)}
