"""What a reinforcement learning run is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from baltoro.config import BaltoroError, check_least
from baltoro.rl.loss import GRPO, MirrorDescent, Objective, Rejection
from baltoro.train.schedule import check_positive


@dataclass(frozen=True, kw_only=True)
class RlConfig:
    """One run, read from TOML."""

    model: str  # name of a preset
    tokenizer: str  # folder of tiktoken.model and tokenizer_config.json
    init: str  # run folder, checkpoint folder or bundled model whose weights it starts from
    out: str  # folder of the run
    tasks: list[dict[str, Any]]  # fields of TaskSettings
    schedule: dict[str, Any]  # fields of Schedule

    groups: int = 8  # problems per step
    group_size: int = 8  # attempts at each
    concurrency: int = 16  # attempts under way at the same time
    temperature: float = 1.0  # of the first step; it falls in a straight line
    final_temperature: float = 1.0  # of the last

    objective: Literal["mirror_descent", "grpo", "rejection"] = "mirror_descent"
    tau: float = 0.1  # of mirror descent: how much a sample's log-ratio weighs beside its reward
    clip: float = 0.2  # of grpo: how far from 1 a ratio counts
    updates: int = 1  # optimizer steps on the same rollouts
    ptx_weight: float = 0.0  # of the loss on demonstrations, which keeps other skills alive
    ptx_tokens: int = 4096  # of demonstrations per step
    ptx_mixture: dict[str, float] = field(default_factory=dict)  # name of a task -> weight

    router_replay: bool = True  # train with the experts that the engine chose
    quantize: bool = True  # train with INT4 experts, as the engine computes
    activations: Literal["int8", "f32"] = "int8"  # of the engine
    yarn: dict[str, Any] = field(default_factory=dict)  # fields of YarnConfig that change
    max_context: int = 2048  # tokens of prompt and replies together
    endpoint: str = ""  # take rollouts from there instead of the engine in this process
    endpoint_model: str = ""
    eval_temperature: float = 1.0
    eval_problems: int = 32  # unseen ones of each task, each time the run looks at them

    def __post_init__(self) -> None:
        check_least(self, 1, "groups concurrency updates max_context eval_problems")
        check_least(self, 0, "eval_temperature")
        check_positive(self, "temperature final_temperature tau")
        if self.group_size < 2:
            raise BaltoroError(
                f"group_size is {self.group_size}; an attempt is judged beside others of its "
                "group, so at least 2 are needed."
            )
        if self.ptx_weight and not self.ptx_mixture:
            raise BaltoroError("ptx_weight is set, but ptx_mixture names no tasks to learn from.")

    def make_objective(self) -> Objective:
        if self.objective == "rejection":
            return Rejection()
        return MirrorDescent(self.tau) if self.objective == "mirror_descent" else GRPO(self.clip)

    def temperature_at(self, step: int, steps: int) -> float:
        """Of a step counted from 0."""
        share = step / max(steps - 1, 1)
        return self.temperature + (self.final_temperature - self.temperature) * share
