"""Tokens that are copied badly are found, rehearsed and learned alone."""

import random

import pytest
import torch

from baltoro.chat.tokenizer import Tokenizer
from baltoro.train.documents import letter_tokens
from baltoro.train.load import load_model
from baltoro.train.muonclip import MuonClip, parameter_groups
from baltoro.train.weak_keys import copying_losses, learn_only_rows, weak_keys, worst

FORGOTTEN = "omega"  # a token of its own


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load("baltoro/weights/tiny")


@pytest.fixture(scope="module")
def forgetful(tokenizer):
    """The bundled model after it lost one token's place in the head."""
    model = load_model("tiny", "tiny")
    with torch.no_grad():
        model.lm_head.weight[tokenizer.ranks[FORGOTTEN.encode()]] *= -1
    return model


@pytest.fixture(scope="module")
def losses(forgetful, tokenizer):
    return copying_losses(forgetful, tokenizer)


def test_a_forgotten_token_is_found_to_be_the_worst_copied(losses, tokenizer):
    assert losses.keys() == set(letter_tokens(tokenizer))
    assert max(losses, key=lambda piece: losses[piece]) == FORGOTTEN
    assert all(loss >= 0 for loss in losses.values())


def test_a_share_of_the_tokens_can_be_measured_for_all(forgetful, tokenizer):
    losses = copying_losses(forgetful, tokenizer, share=0.01)
    assert list(losses) == letter_tokens(tokenizer)
    assert 0 < sum(loss > 0 for loss in losses.values()) <= 0.01 * len(losses) + 1


def test_weak_keys_are_rehearsed_as_often_as_they_are_badly_copied(losses, tokenizer):
    make = weak_keys({piece: float(piece == FORGOTTEN) for piece in losses})
    samples = [make(random.Random(seed), tokenizer)[0] for seed in range(20)]
    assert all(tokenizer.ranks[FORGOTTEN.encode()] in ids for ids in samples)
    assert samples[0] == make(random.Random(0), tokenizer)[0]


def test_only_the_worst_rows_are_learned(forgetful, losses, tokenizer):
    rows = worst(losses, 3, tokenizer)
    assert rows[0] == tokenizer.ranks[FORGOTTEN.encode()]
    before = {name: p.detach().clone() for name, p in forgetful.named_parameters()}
    learn_only_rows(forgetful, rows)
    optimizer = MuonClip(parameter_groups(forgetful), lr=0.01, weight_decay=0.0)
    forgetful(torch.tensor([[*rows, 5, 6]])).square().mean().backward()
    optimizer.step()
    moved = {
        name: (p != before[name]).any(dim=-1).nonzero().flatten().tolist()
        for name, p in forgetful.named_parameters()
        if not torch.equal(p, before[name])
    }
    assert moved == {"model.embed_tokens.weight": sorted(rows), "lm_head.weight": sorted(rows)}
