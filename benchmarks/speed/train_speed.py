"""Forward and backward on the CPU beside transformers' DeepseekV3, with the same weights.

    python benchmarks/speed/train_speed.py --threads 2

Both compute the loss of the same samples in float32, in turns: rows of random tokens that are all
learned, and what the recipe's `sft` stage learns in a step, where only the assistant's tokens are.
Ours has its samples one behind the other, theirs has rows of similar length that are padded. It can
take packed rows too, told by their `position_ids`, under a mask over the whole row: not compared
here. The result counts tokens in a second, padding not among them; the difference of the losses is
among the details.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baltoro.bench.record import Measure, Record, compare
from baltoro.chat.tokenizer import Tokenizer
from baltoro.config import from_mapping, load_toml
from baltoro.model.transformer import Transformer
from baltoro.train.data import Sample, draw_samples, make_batches
from baltoro.train.load import load_model
from baltoro.train.loss import summed_cross_entropy
from baltoro.train.sft import Phase, SftConfig, demonstration
from baltoro.train.updater import use_threads
from peers.deepseek import deepseek_v3
from results import arguments, keep

ROWS, LENGTH = 16, 512
RECIPE = Path("recipes/tiny/sft.toml")
EXPERTS = ("eager", "batched_mm", "grouped_mm")  # transformers' ways to compute them
NOT_LEARNED = -100
SHORTEST_ROW = 0.7  # of its batch's longest: padding costs the peer as much time as tokens do

Losses = Callable[[], Iterator[Tensor]]


def own_losses(model: Transformer, samples: list[Sample]) -> Losses:
    """The summed losses of batch after batch."""
    batches = make_batches(samples, ROWS * LENGTH)

    def losses() -> Iterator[Tensor]:
        for batch in batches:
            hidden, head = model.hidden_and_head(batch.inputs, batch.lengths)
            yield summed_cross_entropy(hidden[batch.learned], head, batch.targets[batch.learned])

    return losses


def peer_losses(model: nn.Module, samples: list[Sample]) -> Losses:
    batches = padded_batches(samples, ROWS * LENGTH)

    def losses() -> Iterator[Tensor]:
        for inputs, targets in batches:
            logits = model(inputs, use_cache=False).logits
            yield F.cross_entropy(
                logits.flatten(0, 1), targets.flatten(), ignore_index=NOT_LEARNED, reduction="sum"
            )

    return losses


def padded_batches(samples: list[Sample], max_tokens: int) -> list[tuple[Tensor, Tensor]]:
    """Inputs and targets (B, T) of samples of similar length, at most `max_tokens` each."""
    batches = []
    rest = sorted(samples, key=lambda sample: len(sample[0]), reverse=True)
    while rest:
        longest = len(rest[0][0])
        rows = rest[: max(1, max_tokens // longest)]
        rows = [row for row in rows if len(row[0]) >= SHORTEST_ROW * longest]
        rest = rest[len(rows) :]
        inputs = torch.zeros(len(rows), longest - 1, dtype=torch.int64)
        targets = torch.full_like(inputs, NOT_LEARNED)
        for row, (ids, mask) in enumerate(rows):
            inputs[row, : len(ids) - 1] = torch.tensor(ids[:-1])
            pairs = zip(ids[1:], mask[1:], strict=True)
            targets[row, : len(ids) - 1] = torch.tensor([i if m else NOT_LEARNED for i, m in pairs])
        batches.append((inputs, targets))
    return batches


def cases(small: bool) -> Iterator[tuple[str, list[Sample]]]:
    """What is learned from, in words."""
    rows, length = (2, 64) if small else (ROWS, LENGTH)
    ids = torch.randint(256, 4000, (rows, length + 1)).tolist()
    yield f"{rows} x {length} tokens", [(row, [1] * len(row)) for row in ids]
    config = load_toml(SftConfig, RECIPE)
    tokenizer = Tokenizer.load(config.tokenizer)
    phase = from_mapping(Phase, config.phases[-1], str(RECIPE))
    samples = draw_samples(0, 0, rows * length, lambda rng: demonstration(rng, tokenizer, phase))
    yield "a step of the sft stage", samples


def tokens_per_second(losses: Losses, tokens: int) -> Measure:
    def measure() -> float:
        started = time.perf_counter()
        for loss in losses():
            loss.backward()
        return tokens / (time.perf_counter() - started)

    return measure


@torch.no_grad()
def mean_loss(losses: Losses, samples: list[Sample]) -> float:
    """Of a learned token."""
    return sum(map(float, losses())) / sum(sum(mask[1:]) for _, mask in samples)


def records(threads: int, rounds: int, small: bool) -> Iterator[Record]:
    use_threads(threads)
    torch.manual_seed(0)
    model = load_model("tiny", "tiny").train()
    peers = dict[str, Callable[[list[Sample]], Losses] | str]()
    for experts in EXPERTS:
        peer = deepseek_v3(model, attn_implementation="sdpa", experts_implementation=experts)
        peers[f"transformers, {experts} experts"] = (
            peer if isinstance(peer, str) else partial(peer_losses, nn.Module.train(peer))
        )
    for words, samples in cases(small):
        tokens = sum(len(ids) - 1 for ids, _ in samples)
        ours = own_losses(model, samples)
        own_loss = mean_loss(ours, samples)
        found = {n: peer(samples) for n, peer in peers.items() if not isinstance(peer, str)}
        measures = {n: tokens_per_second(losses, tokens) for n, losses in found.items()}
        yield compare(
            "train",
            f"tiny, forward and backward of {words} in f32, {threads} threads",
            unit="tokens/s",
            threads=threads,
            ours=tokens_per_second(ours, tokens),
            peers={n: measures.get(n, "") or str(peers[n]) for n in peers},
            rounds=rounds,
            details={
                "difference_of_losses": {
                    n: abs(mean_loss(l, samples) - own_loss) for n, l in found.items()
                }
            },
        )


if __name__ == "__main__":
    given = arguments(__doc__).parse_args()
    for threads in given.threads or (1, 2):
        keep(records(threads, given.rounds, given.small), given.records)
