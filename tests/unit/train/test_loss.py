"""The loss in chunks."""

import pytest
import torch
import torch.nn.functional as F

from baltoro.train.loss import CHUNK, summed_cross_entropy


def test_chunked_loss_and_its_gradients_match_the_plain_cross_entropy():
    torch.manual_seed(0)
    for rows in (1, CHUNK, 2 * CHUNK + 17):
        hidden = torch.randn(rows, 24, requires_grad=True)
        head = torch.randn(60, 24, requires_grad=True)
        targets = torch.randint(0, 60, (rows,))
        expected = F.cross_entropy(hidden @ head.T, targets, reduction="sum")
        want = torch.autograd.grad(expected * 0.3, (hidden, head))
        loss = summed_cross_entropy(hidden, head, targets)
        got = torch.autograd.grad(loss * 0.3, (hidden, head))
        torch.testing.assert_close(loss, expected)
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_in_bf16_neither_loss_nor_head_gradient_loses_what_many_chunks_add_up_to():
    torch.manual_seed(0)
    hidden, head = torch.randn(64 * CHUNK, 16).bfloat16(), (torch.randn(64, 16) * 0.3).bfloat16()
    targets = torch.randint(0, 64, (len(hidden),))
    wide = head.float().requires_grad_()
    expected = F.cross_entropy(hidden.float() @ wide.T, targets, reduction="sum")
    (want,) = torch.autograd.grad(expected, wide)
    head.requires_grad_()
    loss = summed_cross_entropy(hidden, head, targets)
    (got,) = torch.autograd.grad(loss, head)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-3)
    assert got.dtype == torch.bfloat16
    assert (got.float() - want).norm() < 4e-3 * want.norm()
