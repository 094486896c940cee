"""How a run goes: learning rate, sizes, guards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from baltoro.config import BaltoroError, check_least


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Warm-up, stable, decay. Values that hold for a whole run."""

    steps: int
    lr: float = 4e-3
    warmup_steps: int = 50
    vocabulary_lr_scale: float = 1.0  # of embedding and head, see docs/training.md
    decay_from: int | None = None  # step from which the rate falls; None: it never does
    final_lr: float = 0.0  # where it has fallen to at the last step
    tokens_per_step: int = 8192  # at least
    # Learned tokens at least: one long list with a short answer is not a step by itself, which
    # would weigh as much as any other.
    learned_per_step: int = 0
    tokens_per_batch: int = 8192  # tokens in a forward pass of all ranks; gradients add up
    weight_decay: float = 0.1
    max_gradient_norm: float = 1.0
    qk_clip_threshold: float = 100.0
    router_bias_rate: float = 0.001
    quantize_from: int | None = None  # step from which the experts compute in INT4
    precision: Literal["f32", "bf16"] = "f32"  # of the forward pass; the weights stay in f32
    skip_above: float | None = None  # leave a step out whose gradient is this many times the usual
    eval_every: int = 250
    save_every: int = 250
    threads: int = 2
    expert_parallel: int = 1  # ranks among which a layer's experts are divided; divides all ranks
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(self, 1, "steps tokens_per_step tokens_per_batch eval_every save_every threads")
        check_least(self, 0, "lr warmup_steps final_lr weight_decay learned_per_step")
        check_positive(self, "max_gradient_norm qk_clip_threshold")

    def lr_at(self, step: int) -> float:
        """Learning rate of a step counted from 0."""
        warm = min(1.0, (step + 1) / max(self.warmup_steps, 1))
        start = self.steps if self.decay_from is None else self.decay_from
        fallen = max(0.0, (step + 1 - start) / max(self.steps - start, 1))
        return warm * (self.lr + (self.final_lr - self.lr) * min(fallen, 1.0))


def check_positive(config: Any, names: str) -> None:
    """Raises `BaltoroError` for the first of the fields whose value is not above 0."""
    for name in names.split():
        if not getattr(config, name) > 0:
            raise BaltoroError(f"{name} is {getattr(config, name)}, but must be more than 0.")
