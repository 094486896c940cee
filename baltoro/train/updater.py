"""From gradients to new weights: what pretraining, SFT and reinforcement learning share."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from baltoro.config import BaltoroError
from baltoro.kernels.cores import available_cores
from baltoro.model.transformer import Transformer
from baltoro.train.data import Batch, Sample, make_batches
from baltoro.train.loss import summed_cross_entropy
from baltoro.train.muonclip import MuonClip, parameter_groups, qk_clip
from baltoro.train.schedule import Schedule

USUAL = 64  # steps whose gradient norms say what is usual
ENOUGH = 16  # of them before anything is called unusual
GIVE_UP = 8  # steps left out in a row


def use_threads(threads: int) -> None:
    """More threads than cores wait for each other: a job pinned to one core runs on one thread."""
    torch.set_num_threads(min(threads, available_cores()))


class Diverged(BaltoroError, FloatingPointError):
    """Training left the finite numbers, or what is usual for too long."""


class Updater:
    """MuonClip over a model, with QK-clip, router balancing and guards.

    Between `begin` and `finish` gradients add up over any number of backward passes.
    """

    optimizer_type: type[MuonClip] = MuonClip

    def __init__(self, model: Transformer, schedule: Schedule):
        self.model = model
        self.schedule = schedule
        groups = parameter_groups(model)
        for group in groups:
            group["lr_scale"] = schedule.vocabulary_lr_scale if group["vocabulary"] else 1.0
        self.optimizer = self.optimizer_type(
            groups, lr=schedule.lr, weight_decay=schedule.weight_decay
        )
        self.norms: list[float] = []  # of the last steps that were taken
        self.skipped = 0  # steps in a row that were left out

    def begin(self) -> None:
        """Forget old gradients and watch the attention logits.

        Logits of other passes since the last step, as of an evaluation, are forgotten too: a step
        must follow from the weights and its batch alone.
        """
        self.model.train()
        for attention in self.model.attentions():
            heads = attention.config.num_attention_heads
            device = attention.o_proj.weight.device
            attention.max_logits = torch.full((heads,), float("-inf"), device=device)
        self.optimizer.zero_grad(set_to_none=True)

    def learn(self, samples: list[Sample], weight: float = 1.0) -> float:
        """Add the gradients of `weight` times the mean loss of a learned token; returns it."""
        batches = make_batches(samples, self.schedule.tokens_per_batch)
        num_learned = sum(int(batch.learned.sum()) for batch in batches)
        return sum(self.backward(batch, num_learned / weight) for batch in batches)

    def backward(self, batch: Batch, divisor: float) -> float:
        """Add the gradients of a batch's summed loss over `divisor`, which is returned."""
        hidden, head = self.forward(batch.inputs, batch.lengths)
        targets = batch.targets[batch.learned]
        loss = summed_cross_entropy(hidden[batch.learned], head, targets) / divisor
        loss.backward()
        return float(loss.detach())

    def forward(self, ids: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
        """Last hidden states (1, M, D) of the packed samples' ids (1, M), and the head (V, D), both
        in the precision.

        In bf16 the weights are cast for the pass and the gradients reach the f32 ones.
        """
        if self.schedule.precision == "f32":
            return self.model.hidden_and_head(ids, lengths)
        decoder, head = self.model.model, self.model.lm_head.weight
        cast = {name: p.bfloat16() for name, p in decoder.named_parameters()}
        return functional_call(decoder, cast, (ids, None, lengths)), head.bfloat16()

    def finish(self, step: int, loss: float, saved: Path | None) -> dict[str, Any]:
        """Take the step; returns what is worth logging.

        Raises Diverged, naming the last good state `saved`, if the loss or the gradient is not
        finite, and if one step after the other is left out as a spike.
        """
        schedule = self.schedule
        norm = self.clip_gradients(schedule.max_gradient_norm)
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise Diverged(
                f"step {step}: loss {loss}, gradient norm {norm}. {way_back(saved)} a lower lr."
            )
        spike = self.spike(norm)
        lr = schedule.lr_at(step)
        if not spike:
            for group in self.optimizer.param_groups:
                group["lr"] = lr * group["lr_scale"]
            self.optimizer.step()
            self.norms = [*self.norms, norm][-USUAL:]
        self.skipped = self.skipped + 1 if spike else 0
        if self.skipped == GIVE_UP:
            raise Diverged(
                f"step {step}: {GIVE_UP} steps in a row were left out; {spike}. {way_back(saved)} "
                "a lower lr or a higher skip_above."
            )
        seen = [qk_clip(a, schedule.qk_clip_threshold) for a in self.model.attentions()]
        row = {
            "step": step,
            "loss": loss,
            "lr": lr,
            "gradient_norm": norm,
            "max_logit": max(float(s.max()) for s in seen),
            "expert_load": self.balance_routers(),
        }
        return row | ({"skipped": spike} if spike else {})

    def clip_gradients(self, max_norm: float) -> float:
        """Scale all gradients down to a common norm of `max_norm`; returns what it was."""
        return float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm))

    def spike(self, norm: float) -> str:
        """What is unusual about a gradient norm; empty if nothing is."""
        factor = self.schedule.skip_above
        if factor is None or len(self.norms) < ENOUGH:
            return ""
        usual = statistics.median(self.norms)
        if norm <= factor * usual:
            return ""
        return (
            f"the gradient norm {norm:.3g} is {norm / usual:.1f} times the median of the last "
            f"{len(self.norms)} steps, {usual:.3g}"
        )

    def balance_routers(self) -> float:
        """Move the correction biases; returns the busiest expert's load over the mean load."""
        worst = 0.0
        for router in self.model.routers():
            worst = max(worst, float(router.load.max() / router.load.mean().clamp(min=1)))
            router.balance(self.schedule.router_bias_rate)
        return worst

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "norms": self.norms,
            "skipped": self.skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        optimizer = state["optimizer"]
        by_number = {int(i): values for i, values in optimizer["state"].items()}
        # Rates and decay are those that this run is configured with, not the saved ones.
        options = [
            {key: value for key, value in group.items() if key != "params"}
            for group in self.optimizer.param_groups
        ]
        self.optimizer.load_state_dict(optimizer | {"state": by_number})
        for group, own in zip(self.optimizer.param_groups, options, strict=True):
            group.update(own)
        self.norms, self.skipped = state.get("norms", []), state.get("skipped", 0)


def way_back(saved: Path | None) -> str:
    """Where a run that diverged can go on from; the sentence is left open."""
    if saved is None:
        return "Nothing was saved yet; begin again with"
    return f"The last good state is {saved}; resume with"
