"""Causal attention of packed sequences in float32 on a CPU, both ways in the native core.

torch's own takes one sequence after the other, wants queries and keys put together first, and does
not say how large the logits were, which QK-clip has to know. See `csrc/packed_attention.h`.

Shape legend:  M tokens of all sequences    H num_attention_heads    N qk_nope_head_dim
               R qk_rope_head_dim    V v_head_dim
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

KERNELS = "auto"  # the fastest instruction set of this CPU that they are written for


@cache
def is_built() -> bool:
    """Whether this installation has it, for this CPU."""
    try:
        from baltoro import _native
    except ImportError:
        return False
    return _native.has_packed_attention(KERNELS)


def can_attend(*tensors: Tensor) -> bool:
    """Whether `attend_packed` takes tensors like these."""
    return all(x.device.type == "cpu" and x.dtype == torch.float32 for x in tensors) and is_built()


def attend_packed(
    q: Tensor, kv: Tensor, k_rope: Tensor, rope: Tensor, lengths: list[int], scale: float
) -> tuple[Tensor, Tensor]:
    """The heads' weighted values (M, H, V), and each head's largest scaled logit (H,).

    Args:
        q: queries before their rotation, (M, H, N + R)
        kv: each head's part of the keys, then its values, (M, H, N + V)
        k_rope: the rotated part of the keys, which all heads share, (M, R)
        rope: cos + i sin of each pair at each token's position, (M, R / 2) complex64
        lengths: of the sequences, M together
    """
    return _PackedAttention.apply(q, kv, k_rope, rope, lengths, scale)  # type: ignore[no-any-return]


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, kv, k_rope, rope, lengths, scale):  # type: ignore[no-untyped-def]
        from baltoro import _native

        turns = torch.view_as_real(rope).flatten(1)  # (M, R)
        q, kv, k_rope, turns = (x.detach().contiguous() for x in (q, kv, k_rope, turns))
        ctx.lengths, ctx.scale = np.asarray(lengths, np.int64), scale
        ctx.threads = torch.get_num_threads()
        found = _native.attend_packed(
            KERNELS,
            q.numpy(),
            kv.numpy(),
            k_rope.numpy(),
            turns.numpy(),
            ctx.lengths,
            scale,
            ctx.threads,
        )
        out, log_sums, largest = map(torch.from_numpy, found)
        ctx.save_for_backward(q, kv, k_rope, turns, out, log_sums)
        ctx.mark_non_differentiable(largest)
        return out, largest

    @staticmethod
    def backward(ctx, d_out, _):  # type: ignore[no-untyped-def]
        from baltoro import _native

        q, kv, k_rope, turns, out, log_sums = (x.detach().numpy() for x in ctx.saved_tensors)
        found = _native.attend_packed_back(
            KERNELS,
            q,
            kv,
            k_rope,
            turns,
            ctx.lengths,
            ctx.scale,
            d_out.contiguous().numpy(),
            out,
            log_sums,
            ctx.threads,
        )
        d_q, d_kv, d_k_rope = map(torch.from_numpy, found)
        return d_q, d_kv, d_k_rope.sum(dim=1), None, None, None
