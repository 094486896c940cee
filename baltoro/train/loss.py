"""Next-token loss on the learned positions alone, without ever holding all logits at once.

Shape legend:  M learned positions    D hidden_size    V vocab_size
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 256  # positions whose logits are held at a time; they should fit in the cache


class ChunkedCrossEntropy(torch.autograd.Function):
    """Summed cross entropy of hidden (M, D) under the head (V, D) against targets (M,).

    The gradients are computed along with the loss, chunk by chunk, so memory is that of one chunk.
    What adds up over the chunks does so in float32, whatever the precision of hidden and head.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        loss = hidden.new_zeros((), dtype=torch.float32)
        d_hidden = torch.empty_like(hidden)
        d_head = torch.zeros_like(head, dtype=torch.float32)
        for start in range(0, len(hidden), CHUNK):
            rows = slice(start, start + CHUNK)
            log_probs = (hidden[rows] @ head.T).float().log_softmax(dim=-1)
            loss -= log_probs.gather(-1, targets[rows, None]).sum()
            d_logits = log_probs.exp_()
            d_logits.scatter_add_(
                -1, targets[rows, None], d_logits.new_full((len(d_logits), 1), -1.0)
            )
            d_logits = d_logits.type_as(hidden)
            d_hidden[rows] = d_logits @ head
            d_head.addmm_(d_logits.T.float(), hidden[rows].float())
        ctx.save_for_backward(d_hidden, d_head.type_as(head))
        return loss

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        d_hidden, d_head = ctx.saved_tensors
        return d_hidden * grad, d_head * grad, None


def summed_cross_entropy(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    return ChunkedCrossEntropy.apply(hidden, head, targets)  # type: ignore[no-any-return]
