"""Routing, its bias, and the experts."""

import dataclasses

import torch

from baltoro.config import preset
from baltoro.model.moe import LoopedExperts, MixtureOfExperts, RoutedExperts, Router

CONFIG = dataclasses.replace(
    preset("tiny"), hidden_size=64, moe_intermediate_size=32, num_experts_per_tok=3
)


def fill(module: torch.nn.Module) -> None:
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.1)


def test_grouped_experts_match_the_loop_in_value_and_gradient():
    torch.manual_seed(0)
    grouped, looped = RoutedExperts(CONFIG), LoopedExperts(CONFIG)
    fill(grouped)
    looped.load_state_dict(grouped.state_dict())
    x = torch.randn(37, 64)
    chosen = torch.stack([torch.randperm(7)[:3] for _ in range(37)])  # expert 7 gets nothing
    weights = torch.rand(37, 3)
    outputs = [experts(x, chosen, weights) for experts in (grouped, looped)]
    torch.testing.assert_close(outputs[0], outputs[1])
    for output in outputs:
        output.square().sum().backward()
    for a, b in zip(grouped.parameters(), looped.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)


def test_the_bias_picks_experts_and_the_unbiased_score_weighs_them():
    torch.manual_seed(0)
    router = Router(CONFIG)
    fill(router)
    x = torch.randn(11, 64)
    router.e_score_correction_bias[5] = 10.0
    chosen, weights = router(x)
    assert (chosen == 5).any(dim=-1).all()
    scores = (x @ router.weight.T).sigmoid().gather(-1, chosen)
    expected = scores / scores.sum(-1, keepdim=True) * CONFIG.routed_scaling_factor
    torch.testing.assert_close(weights, expected)


def test_balancing_raises_the_bias_of_idle_experts_and_lowers_that_of_busy_ones():
    router = Router(CONFIG)
    router.load.copy_(torch.tensor([9.0, 0, 4, 4, 4, 4, 4, 4]))
    router.balance(0.01)
    assert router.e_score_correction_bias[0] < 0 < router.e_score_correction_bias[1]
    assert router.load.sum() == 0


def test_the_shared_expert_sees_every_token():
    torch.manual_seed(0)
    moe = MixtureOfExperts(CONFIG)
    fill(moe)
    x = torch.randn(2, 5, 64)
    routed = moe.experts(x.flatten(0, 1), *moe.gate(x.flatten(0, 1))).view_as(x)
    torch.testing.assert_close(moe(x), routed + moe.shared_experts(x))
