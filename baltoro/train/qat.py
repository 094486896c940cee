"""Quantization-aware training: the routed experts compute with the weights they will be served.

The rounding is the torch twin of `baltoro.quant.int4.quantize`, equal to it bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from baltoro.model.transformer import Transformer
from baltoro.quant.int4 import GROUP_SIZE, MAX_CODE


def round_to_int4(weight: Tensor, group_size: int = GROUP_SIZE) -> Tensor:
    """The float32 values that INT4 storage gives back, same shape; groups lie along the last axis.

    Raises ValueError if the last dimension is not a multiple of `group_size`.
    """
    if weight.shape[-1] % group_size:
        raise ValueError(
            f"cannot group a weight of shape {tuple(weight.shape)}: the last dimension must be a "
            f"multiple of {group_size}."
        )
    groups = weight.bfloat16().float().unflatten(-1, (-1, group_size))
    scale = (groups.abs().amax(dim=-1, keepdim=True) / MAX_CODE).bfloat16().float()
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    codes = (groups / scale).round().clamp(-MAX_CODE, MAX_CODE) + 0.0  # codes have no minus zero
    return (codes * scale).flatten(-2)


class _StraightThrough(torch.autograd.Function):
    """`round_to_int4` forward, the identity backward."""

    @staticmethod
    def forward(ctx, weight: Tensor, group_size: int) -> Tensor:
        return round_to_int4(weight, group_size)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad, None


def fake_quantize(weight: Tensor, group_size: int = GROUP_SIZE) -> Tensor:
    """What INT4 makes of a weight, with the gradient passed straight through."""
    return _StraightThrough.apply(weight, group_size)  # type: ignore[no-any-return]


def set_fake_quantization(model: Transformer, enabled: bool) -> None:
    """Let the routed experts compute with rounded weights, or with their own again."""
    for experts in model.routed_experts():
        experts.weight_transform = fake_quantize if enabled else None
