"""The loss in chunks."""

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
