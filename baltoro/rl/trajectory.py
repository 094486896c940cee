"""What a rollout leaves for the trainer: token ids with their log-probs and expert choices.

Nothing is tokenized again. The replies of one attempt are joined into one sequence as long as each
prompt begins with all that came before it, and stand apart where it does not (an empty reply that
was dropped, hidden history).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from baltoro.chat.chat_model import TokenTrace
from baltoro.config import BaltoroError

# Shape legend: T tokens of a segment, L layers with experts, k num_experts_per_tok

UNKNOWN = -1  # an expert choice that was not reported
NARROWED = 1e-3  # log-probs further apart than this say that a rule had a part in the choice

Experts = NDArray[np.int16]


@dataclass
class Segment:
    """A run of tokens that one forward pass of the trainer goes through."""

    ids: list[int]  # (T)
    learned: list[bool]  # (T) where the policy chose the token
    logprobs: list[float]  # (T) of chosen tokens under the model's own distribution
    sampled_logprobs: list[float]  # (T) and under the one that they were drawn from
    experts: list[list[list[int]] | None]  # (T)(L)(k): the choices of the token's own pass

    def extend(self, trace: TokenTrace, temperature: float) -> None:
        """Append what `trace` adds to the tokens that are here already.

        Tokens that a rule forced (a budget, a grammar) were not chosen by the policy; at
        temperature 1 that shows also of those whose choice it only narrowed.
        """
        new = trace.prompt_ids[len(self.ids) :]
        self._append(new, [False] * len(new), [0.0] * len(new), [0.0] * len(new))
        sampled = sampled_logprobs_of(trace, temperature)
        chosen = [
            abs(drawn - raw) <= NARROWED or (temperature != 1.0 and drawn != 0.0)
            for drawn, raw in zip(sampled, trace.logprobs, strict=True)
        ]
        first = len(self.ids)
        self._append(trace.generated_ids, chosen, trace.logprobs, sampled)
        for i, choices in enumerate(trace.expert_choices or []):
            self.experts[first + i - 1] = choices  # the pass before a token gave its logits

    def _append(
        self,
        ids: Sequence[int],
        learned: Sequence[bool],
        logprobs: Sequence[float],
        sampled: Sequence[float],
    ) -> None:
        self.ids += ids
        self.learned += learned
        self.logprobs += logprobs
        self.sampled_logprobs += sampled
        self.experts += [None] * len(ids)

    def known_experts(self, num_layers: int, num_choices: int) -> Experts:
        """The choices (T, L, k), `UNKNOWN` where none were reported."""
        known = np.full((len(self.ids), num_layers, num_choices), UNKNOWN, dtype=np.int16)
        for position, choices in enumerate(self.experts):
            if choices is not None:
                known[position] = choices
        return known


@dataclass
class Trajectory:
    """One attempt at a problem, and what it earned."""

    task: str
    segments: list[Segment]
    right: bool
    reward: float
    generated: int  # tokens
    stop_reason: str
    calls: int  # of tools
    question: str
    answer: str | None
    weights_version: str = ""
    messages: list[dict] = field(default_factory=list)


def sampled_logprobs_of(trace: TokenTrace, temperature: float) -> list[float]:
    """Log-probs of the generated tokens under the distribution that they were drawn from."""
    sampled, tokens = trace.sampled_logprobs, len(trace.generated_ids)
    if not sampled and temperature == 1.0:
        return trace.logprobs  # an endpoint that reports one kind: at temperature 1 both are one
    if len(sampled) != tokens:
        raise BaltoroError(
            f"a reply at temperature {temperature:g} came with {len(sampled)} sampled_logprobs for "
            f"{tokens} tokens. Each is needed, because a log-prob at temperature 1 is another: set "
            "temperature = 1.0 and final_temperature = 1.0, or take the engine in this process, or "
            "an endpoint that sends a sampled_logprob with every token."
        )
    return sampled


def join(traces: Sequence[TokenTrace], temperature: float = 1.0) -> list[Segment]:
    """The replies of one attempt, in order, in as few segments as their prompts allow."""
    segments: list[Segment] = []
    for trace in traces:
        last = segments[-1] if segments else None
        if last is None or trace.prompt_ids[: len(last.ids)] != last.ids:
            last = Segment([], [], [], [], [])
            segments.append(last)
        last.extend(trace, temperature)
    return segments
