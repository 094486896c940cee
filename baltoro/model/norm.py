"""RMSNorm (arXiv 1910.07467) whose two passes each read memory once on a CPU.

Shape legend:  M rows    D dimension
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

BLOCK = 1024  # rows at a time; what is computed of them should fit in the cache


class RMSNorm(nn.RMSNorm):
    """torch's own, which has a fused kernel for GPUs alone, and on CPUs in float32 a faster one."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype != torch.float32:
            return super().forward(x)
        return _BlockedRMSNorm.apply(x, self.weight, self.eps)  # type: ignore[no-any-return]


class _BlockedRMSNorm(torch.autograd.Function):
    """y = x r w with r = 1 / sqrt(mean(x^2) + eps), for rows x of any leading shape."""

    @staticmethod
    def forward(ctx, x: Tensor, w: Tensor, eps: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # (M, D)
        y, r = rows.new_empty(rows.shape), rows.new_empty(len(rows), 1)
        for x_, y_, r_ in zip(*(t.split(BLOCK) for t in (rows, y, r)), strict=True):
            torch.linalg.vector_norm(x_, dim=-1, keepdim=True, out=r_)
            r_.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
            torch.mul(x_, r_, out=y_).mul_(w)
        ctx.save_for_backward(x, w, r)
        return y.view(x.shape)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        """With n = x r: dw = sum(grad n), dx = r (grad w - n mean(grad w n))."""
        x, w, r = ctx.saved_tensors
        rows, grads = (t.reshape(-1, t.shape[-1]) for t in (x, grad))
        dx, dw = rows.new_empty(rows.shape), torch.zeros_like(w)
        for x_, g_, r_, dx_ in zip(*(t.split(BLOCK) for t in (rows, grads, r, dx)), strict=True):
            n = x_ * r_
            product = g_ * n
            dw += product.sum(dim=0)
            mean = torch.mv(product, w).div_(x.shape[-1])[:, None]
            torch.mul(g_, w, out=dx_).addcmul_(n, mean, value=-1).mul_(r_)
        return dx.view(x.shape), dw, None
