"""Mirror descent, GRPO and rejection as formulas, and on a bandit."""

import pytest
import torch

from baltoro.rl.advantage import centred, normalised
from baltoro.rl.loss import CHUNK, GRPO, MirrorDescent, Rejection, token_log_probs


def random_case(seed=0):
    """Six samples of uneven length: log-probs now and then, owners, rewards of two groups."""
    torch.manual_seed(seed)
    sample = torch.tensor([0, 0, 0, 1, 2, 2, 3, 4, 4, 4, 4, 5])
    now = torch.randn(12, dtype=torch.float64, requires_grad=True)
    old = now.detach() + 0.3 * torch.randn(12, dtype=torch.float64)
    rewards = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, -0.5]], dtype=torch.float64)
    return now, old, sample, rewards


def test_the_gradient_of_mirror_descent_is_the_formula_s():
    now, old, sample, rewards = random_case()
    objective = MirrorDescent(tau=0.3)
    advantages = objective.advantages(rewards).flatten()
    objective.losses(now, old, sample, advantages).mean().backward()
    expected = torch.zeros(12, dtype=torch.float64)
    for t in range(12):
        i = int(sample[t])
        group = rewards[i // 3]
        log_ratio = sum(float(now.detach()[u] - old[u]) for u in range(12) if int(sample[u]) == i)
        inner = float(rewards.flatten()[i] - group.mean()) - 0.3 * log_ratio
        expected[t] = -2 * 0.3 * inner / 6
    torch.testing.assert_close(now.grad, expected)


def test_on_its_own_samples_mirror_descent_is_the_policy_gradient_times_two_tau():
    now, _, sample, rewards = random_case()
    objective = MirrorDescent(tau=0.05)
    advantages = objective.advantages(rewards).flatten()
    objective.losses(now, now.detach(), sample, advantages).sum().backward()
    torch.testing.assert_close(now.grad, -2 * 0.05 * advantages[sample])


def test_grpo_pushes_each_token_by_its_advantage_and_stops_at_the_clip():
    now, old, sample, rewards = random_case()
    objective = GRPO(clip=0.2)
    advantages = objective.advantages(rewards).flatten()
    objective.losses(now, old, sample, advantages).sum().backward()
    lengths = torch.bincount(sample).double()
    ratio = (now.detach() - old).exp()
    advantage = advantages[sample]
    clipped = ((ratio > 1.2) & (advantage > 0)) | ((ratio < 0.8) & (advantage < 0))
    assert clipped.any()
    expected = torch.where(clipped, 0.0, -ratio * advantage / lengths[sample])
    torch.testing.assert_close(now.grad, expected)


def test_advantages_are_relative_to_the_group():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0.5, -0.5]])
    assert centred(rewards).tolist() == [[0.5, -0.5, -0.5, 0.5], [0.25, 0.25, 0.25, -0.75]]
    torch.testing.assert_close(normalised(rewards).std(dim=1, correction=0), torch.ones(2))


def test_mirror_descent_finds_the_optimum_of_a_bandit():
    """Three arms, each sampled once; the best distribution is found by a search over a grid."""
    rewards, old, tau = torch.tensor([[1.0, 0.2, 0.0]]), torch.tensor([0.2, 0.5, 0.3]).log(), 0.5
    objective = MirrorDescent(tau)
    advantages = objective.advantages(rewards)[0]
    arms = torch.arange(3)

    grid = torch.linspace(0.01, 0.98, 400)
    first, second = torch.meshgrid(grid, grid, indexing="ij")
    third = (1 - first - second).clamp(min=1e-9)
    points = torch.stack([first, second, third], dim=-1)
    values = (advantages - tau * (points.log() - old)).square().sum(dim=-1)
    values[first + second >= 1] = float("inf")
    best = points.flatten(0, 1)[values.argmin()]

    logits = old.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.02)
    for _ in range(1500):
        optimizer.zero_grad()
        objective.losses(logits.log_softmax(0), old, arms, advantages).sum().backward()
        optimizer.step()
    torch.testing.assert_close(logits.detach().softmax(0), best, atol=5e-3, rtol=0)


def test_rejection_sampling_learns_right_attempts_as_demonstrations_and_no_others():
    now, old, sample, rewards = random_case()
    objective = Rejection()
    advantages = objective.advantages(rewards).flatten()
    objective.losses(now, old, sample, advantages).sum().backward()
    right = torch.tensor([1.0, 0, 0, 1, 1, 0], dtype=torch.float64)
    lengths = torch.bincount(sample).double()
    torch.testing.assert_close(now.grad, -(right / lengths)[sample])


@pytest.mark.parametrize("objective", [MirrorDescent(0.1), GRPO(0.2), Rejection()])
def test_a_bandit_learns_its_best_arm_from_samples(objective):
    torch.manual_seed(0)
    payoff = torch.tensor([0.1, 0.2, 0.8, 0.3])  # probability of reward 1
    logits = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(150):
        old = logits.detach().log_softmax(0)
        arms = torch.multinomial(old.exp(), 16, replacement=True)
        rewards = torch.bernoulli(payoff[arms])[None]
        if rewards.std() == 0:
            continue
        advantages = objective.advantages(rewards)[0]
        now = logits.log_softmax(0)[arms]
        optimizer.zero_grad()
        objective.losses(now, old[arms], torch.arange(16), advantages).mean().backward()
        optimizer.step()
    assert int(logits.argmax()) == 2
    assert logits.softmax(0)[2] > 0.9


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_in_chunks_match_log_softmax_and_so_do_their_gradients(temperature):
    torch.manual_seed(0)
    hidden = torch.randn(2 * CHUNK + 5, 8, requires_grad=True)
    head = torch.randn(30, 8, requires_grad=True)
    targets = torch.randint(0, 30, (len(hidden),))
    weights = torch.randn(len(hidden))
    plain = ((hidden @ head.T) / temperature).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    want = torch.autograd.grad((plain * weights).sum(), (hidden, head))
    chunked = token_log_probs(hidden, head, targets, temperature)
    got = torch.autograd.grad((chunked * weights).sum(), (hidden, head))
    torch.testing.assert_close(chunked, plain)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
