"""Lookups for the tokens that a model copies worst.

After training on any number of keys, nearly all mistakes in copying one lie on a few dozen tokens,
whose rows of embedding and head were left where they are confused with others. More of every key
gives each of them a little; this gives them what they need.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping

import torch

from baltoro.chat.tokenizer import Tokenizer
from baltoro.model.transformer import Transformer
from baltoro.tasks.lookups import Chain
from baltoro.tasks.mixture import pose_all
from baltoro.train.data import Sample, make_batches, sample_of
from baltoro.train.documents import Document, letter_tokens, rare_keys

LENGTH = 8  # keys of one measured chain
PASSES = 2  # times that each token is measured, beside others each time
MOST = 2.0  # a token's loss counts up to here: the worst are not to crowd out the bad


def weak_keys(losses: Mapping[str, float]) -> Document:
    """Documents as `rare_keys` makes, each token as often as its loss is large."""
    weights = [min(loss, MOST) for loss in losses.values()]
    return lambda rng, tokenizer: rare_keys(rng, tokenizer, weights)


def learn_only_rows(model: Transformer, rows: Collection[int]) -> None:
    """Let nothing be learned but these tokens' rows of embedding and head.

    AdamW moves a row by about the rate whether its gradient is large or mere noise. At a rate that
    brings a lost row home, all others would drift from where they are exact.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    kept = torch.zeros(model.config.vocab_size, 1)
    kept[list(rows)] = 1
    for matrix in (model.model.embed_tokens.weight, model.lm_head.weight):
        matrix.requires_grad_(True).register_hook(lambda gradient: gradient * kept.to(gradient))


def worst(losses: Mapping[str, float], count: int, tokenizer: Tokenizer) -> list[int]:
    """The ids of the tokens with the largest losses."""
    pieces = sorted(losses, key=lambda piece: -losses[piece])[:count]
    return [tokenizer.ranks[piece.encode()] for piece in pieces]


@torch.no_grad()
def copying_losses(
    model: Transformer, tokenizer: Tokenizer, share: float = 1.0
) -> dict[str, float]:
    """The mean loss of each token of letters where it is a key that has to be copied.

    With a `share` below 1 only so many are measured, drawn at random; the loss of others is 0.
    """
    pieces = measured = letter_tokens(tokenizer)
    if share < 1:
        measured = random.Random("weak keys").sample(pieces, math.ceil(share * len(pieces)))
    total, count = torch.zeros(2, len(tokenizer.ranks))
    samples = [sample for seed in range(PASSES) for sample in chains_of(measured, seed, tokenizer)]
    model.eval()
    for batch in make_batches(samples, 8192):
        learned = batch.learned & (batch.targets < len(total))  # no special tokens
        hidden, head = model.hidden_and_head(batch.inputs, batch.lengths)
        log_probs = (hidden[learned] @ head.T).log_softmax(dim=-1)
        targets = batch.targets[learned]
        total.index_add_(0, targets, -log_probs.gather(-1, targets[:, None])[:, 0])
        count.index_add_(0, targets, torch.ones(len(targets)))
    mean = (total / count.clamp(min=1)).tolist()
    known = dict.fromkeys(pieces, 0.0)
    return known | {piece: mean[tokenizer.ranks[piece.encode()]] for piece in measured}


def chains_of(pieces: list[str], seed: int, tokenizer: Tokenizer) -> list[Sample]:
    """Chains of lookups in which every piece is a key by itself once."""
    rng = random.Random(f"weak keys/{seed}")
    shuffled = rng.sample(pieces, len(pieces))
    samples: list[Sample] = []
    for start in range(0, len(shuffled), LENGTH):
        keys = shuffled[start : start + LENGTH]
        chain = Chain(len(keys), len(keys), key=lambda rng, keys=keys: rng.choice(keys))
        samples.append(sample_of(tokenizer, pose_all(rng, [chain], "train")))
    return samples
