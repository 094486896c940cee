"""Rollouts as tensors.

Shape legend:  T tokens of all segments    M learned tokens    S samples of the step
               L layers with experts    k num_experts_per_tok
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from baltoro.rl.trajectory import UNKNOWN, Experts, Segment, Trajectory
from baltoro.train.data import pack


@dataclass(frozen=True)
class RolloutBatch:
    """Whole samples: the objective needs all tokens of one at once. Their segments lie one behind
    the other, and none sees another."""

    inputs: Tensor  # (1, T) int64
    lengths: list[int]  # of the segments
    learned: Tensor  # (1, T) bool, where the next token was chosen by the policy
    targets: Tensor  # (M) int64, the next tokens there
    old: Tensor  # (M) float32, their log-probs when they were sampled
    sample: Tensor  # (M) int64, the sample that each belongs to, counted within the batch
    samples: list[int]  # the batch's samples, as places in the step's list
    experts: Tensor | None  # (1, T, L, k) int64, UNKNOWN where the model chooses for itself


def make_rollout_batches(
    samples: Sequence[Trajectory],
    experts: Sequence[Sequence[Experts | None]],
    max_tokens: int,
) -> list[RolloutBatch]:
    """Batches of at most `max_tokens` tokens (one sample may exceed it), by length.

    `experts` has an entry for each segment of each sample.
    """

    def length(place: int) -> int:
        return sum(len(s.ids) - 1 for s in samples[place].segments)

    batches: list[RolloutBatch] = []
    rest = sorted(range(len(samples)), key=length, reverse=True)
    while rest:
        taken, total = [], 0
        for place in rest:
            total += length(place)
            if taken and total > max_tokens:
                break
            taken.append(place)
        batches.append(make_batch(samples, experts, taken))
        rest = rest[len(taken) :]
    return batches


def make_batch(
    samples: Sequence[Trajectory],
    experts: Sequence[Sequence[Experts | None]],
    places: list[int],
) -> RolloutBatch:
    segments: list[Segment] = []
    owners, chosen = list[int](), list[Experts | None]()
    for owner, place in enumerate(places):
        segments += samples[place].segments
        owners += [owner] * len(samples[place].segments)
        chosen += experts[place]
    batch = pack([(s.ids, [int(x) for x in s.learned]) for s in segments])
    old = torch.tensor([p for s in segments for p in s.sampled_logprobs[1:]], dtype=torch.float32)
    sample = torch.tensor(owners).repeat_interleave(torch.tensor(batch.lengths))
    return RolloutBatch(
        inputs=batch.inputs,
        lengths=batch.lengths,
        learned=batch.learned,
        targets=batch.targets[batch.learned],
        old=old[batch.learned[0]],
        sample=sample[batch.learned[0]],
        samples=places,
        experts=pack_experts(chosen, batch.lengths),
    )


def pack_experts(chosen: Sequence[Experts | None], lengths: Sequence[int]) -> Tensor | None:
    """(1, T, L, k) of the segments' choices; the last token of each is no input."""
    known = [c for c in chosen if c is not None]
    if not known:
        return None
    parts = [
        np.full((length, *known[0].shape[1:]), UNKNOWN) if choices is None else choices[:-1]
        for choices, length in zip(chosen, lengths, strict=True)
    ]
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))[None]
