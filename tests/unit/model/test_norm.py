import pytest
import torch

from baltoro.model.norm import BLOCK, RMSNorm


@pytest.mark.parametrize("shape", [(5,), (2, 3), (1, BLOCK + 7), (0, 4)])
def test_the_norm_has_the_values_and_gradients_of_torch_s(shape):
    torch.manual_seed(0)
    ours, theirs = RMSNorm(24, 1e-3), torch.nn.RMSNorm(24, 1e-3)
    with torch.no_grad():
        ours.weight.normal_()
    theirs.load_state_dict(ours.state_dict())
    whole = torch.randn(*shape, 40, requires_grad=True)
    grad = torch.randn(*shape, 24)
    found = []
    for norm in (ours, theirs):
        y = norm(whole[..., 3:27])  # rows that are parts of longer ones
        found.append((y, *torch.autograd.grad(y, (whole, norm.weight), grad)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_finite_differences(monkeypatch):
    from baltoro.model.norm import _BlockedRMSNorm

    torch.manual_seed(0)
    x, w = torch.randn(7, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    x.requires_grad_()
    w.requires_grad_()
    monkeypatch.setattr("baltoro.model.norm.BLOCK", 3)
    assert torch.autograd.gradcheck(lambda x, w: _BlockedRMSNorm.apply(x, w, 1e-3), (x, w))
