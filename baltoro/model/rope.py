"""Rotary position embedding, stretched by YaRN (arXiv 2309.00071) the way DeepSeek-V3 applies it.

Shape legend:  S positions    R qk_rope_head_dim    P = R / 2 rotated pairs
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from baltoro.config import ModelConfig, YarnConfig


def inverse_frequencies(config: ModelConfig) -> Tensor:
    """Radians per position of each rotated pair: (P,) float32."""
    dim = config.qk_rope_head_dim
    freqs = 1.0 / config.rope_theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    yarn = config.rope_scaling
    if yarn is None:
        return freqs
    keep = 1.0 - stretch_ramp(yarn, dim, config.rope_theta)
    return freqs / yarn.factor * (1.0 - keep) + freqs * keep


def stretch_ramp(yarn: YarnConfig, dim: int, theta: float) -> Tensor:
    """How much of the stretch each pair gets: (P,), 0 for fast pairs, 1 for slow ones."""

    def pair_with_rotations(rotations: float) -> float:
        turns = yarn.original_max_position_embeddings / (rotations * 2 * math.pi)
        return dim * math.log(turns) / (2 * math.log(theta))

    low = max(math.floor(pair_with_rotations(yarn.beta_fast)), 0)
    high = min(math.ceil(pair_with_rotations(yarn.beta_slow)), dim - 1)
    width = max(high - low, 0.001)  # equal bounds would divide by zero
    pairs = torch.arange(dim // 2, dtype=torch.float32)
    return ((pairs - low) / width).clamp(0, 1)


def _mscale(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def table_scale(config: ModelConfig) -> float:
    """Multiplier of the cos/sin tables; 1.0 for K2, whose two mscales are equal."""
    yarn = config.rope_scaling
    if yarn is None:
        return 1.0
    return _mscale(yarn.factor, yarn.mscale) / _mscale(yarn.factor, yarn.mscale_all_dim)


def softmax_scale(config: ModelConfig) -> float:
    """1 / sqrt(qk_head_dim), times mscale squared when the context is stretched."""
    scale = config.qk_head_dim**-0.5
    yarn = config.rope_scaling
    if yarn is not None and yarn.mscale_all_dim:
        scale *= _mscale(yarn.factor, yarn.mscale_all_dim) ** 2
    return scale


def rope_table(config: ModelConfig, positions: Tensor) -> Tensor:
    """cos + i sin of every pair at the given positions (S,): (S, P) complex64."""
    angles = positions.to(torch.float32)[:, None] * inverse_frequencies(config).to(positions.device)
    return torch.polar(torch.full_like(angles, table_scale(config)), angles)


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Rotate the neighbouring pairs of the last dimension; `rope` broadcasts against the pairs."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rope).flatten(-2).type_as(x)
