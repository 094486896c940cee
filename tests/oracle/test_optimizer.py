"""MuonClip beside torch's own Muon and AdamW, which share no code with it."""

import pytest
import torch

from baltoro.train.muonclip import MuonClip


def walk(optimizer: torch.optim.Optimizer, p: torch.nn.Parameter, gradients: torch.Tensor):
    for gradient in gradients:
        p.grad = gradient.clone()
        optimizer.step()
    return p.detach()


@pytest.mark.parametrize("shape", [(48, 32), (32, 48), (32, 32)])
def test_muon_steps_match_torch_muon_with_matched_rms(shape):
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), torch.randn(6, *shape)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    settings = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.95}
    moved = walk(MuonClip([ours], **settings), ours, gradients)
    torch_muon = torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **settings)
    expected = walk(torch_muon, theirs, gradients)
    # torch iterates in bf16, we in f32 on this device: 2^-8 of the path length is its rounding.
    path = 6 * 0.02 * 0.2 * max(shape) ** 0.5
    assert (moved - expected).abs().max() < path / 2**6
    assert (moved - expected).abs().mean() < path / 2**9


def test_adamw_steps_match_torch_adamw():
    torch.manual_seed(0)
    start, gradients = torch.randn(40), torch.randn(8, 40)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    settings = {"lr": 0.01, "weight_decay": 0.1, "betas": (0.9, 0.95), "eps": 1e-8}
    group = {"params": [ours], "muon": False}
    moved = walk(MuonClip([group], **settings), ours, gradients)
    expected = walk(torch.optim.AdamW([theirs], **settings), theirs, gradients)
    torch.testing.assert_close(moved, expected)
