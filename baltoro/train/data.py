"""Batches that are a function of seed and step, so that a resumed run sees what it would have.

Shape legend:  M tokens of all samples of a batch
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from baltoro.chat.template import render_training
from baltoro.chat.tokenizer import Tokenizer
from baltoro.tasks.mixture import Conversation

Sample = tuple[list[int], list[int]]  # token ids, and 1 where the token is learned


def sample_of(tokenizer: Tokenizer, talk: Conversation) -> Sample:
    """A conversation's last problem as its demonstration is learned."""
    return render_training(tokenizer, talk.messages(), talk.tools, learned_from=talk.learned_from)


@dataclass(frozen=True)
class Batch:
    """Samples one behind the other in a single row, without padding; none sees another."""

    inputs: Tensor  # (1, M) int64
    targets: Tensor  # (1, M) int64, the next token
    learned: Tensor  # (1, M) bool, where the target counts
    lengths: list[int]  # of the samples, M in all

    def every(self, step: int, start: int) -> Batch:
        """Every `step`-th sample from number `start` on, which may be none."""

        def kept(x: Tensor) -> Tensor:
            return torch.cat([x[:, :0], *x.split(self.lengths, dim=1)[start::step]], dim=1)

        lengths = self.lengths[start::step]
        return Batch(kept(self.inputs), kept(self.targets), kept(self.learned), lengths)

    def to(self, device: torch.device) -> Batch:
        inputs, targets, learned = (x.to(device) for x in (self.inputs, self.targets, self.learned))
        return Batch(inputs, targets, learned, self.lengths)


def draw_samples(
    seed: int,
    step: int,
    num_tokens: int,
    make: Callable[[random.Random], Sample],
    num_learned: int = 0,
) -> list[Sample]:
    """Samples with at least `num_tokens` tokens and `num_learned` learned ones in all, the same
    for the same seed and step."""
    rng = random.Random(f"{seed}/{step}")
    samples, tokens, learned = list[Sample](), 0, 0
    while tokens < num_tokens or learned < num_learned:
        sample = make(rng)
        samples.append(sample)
        tokens += len(sample[0])
        learned += sum(sample[1])
    return samples


def make_batches(samples: list[Sample], max_tokens: int) -> list[Batch]:
    """Batches of at most `max_tokens` tokens (one sample may exceed it), by length."""
    batches: list[Batch] = []
    taken, total = list[Sample](), 0
    for sample in sorted(samples, key=lambda sample: len(sample[0]), reverse=True):
        length = len(sample[0]) - 1
        if taken and total + length > max_tokens:
            batches.append(pack(taken))
            taken, total = [], 0
        taken.append(sample)
        total += length
    return [*batches, pack(taken)] if taken else batches


def pack(samples: list[Sample]) -> Batch:
    inputs = [token for ids, _ in samples for token in ids[:-1]]
    targets = [token for ids, _ in samples for token in ids[1:]]
    learned = [bool(counts) for _, mask in samples for counts in mask[1:]]
    return Batch(
        torch.tensor([inputs], dtype=torch.int64),
        torch.tensor([targets], dtype=torch.int64),
        torch.tensor([learned], dtype=torch.bool),
        [len(ids) - 1 for ids, _ in samples],
    )
