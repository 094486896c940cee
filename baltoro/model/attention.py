"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1), in its two forms.

Shape legend, used in comments and as einsum letters throughout this file:
  B batch    T query tokens    S cached + new tokens    D hidden_size    H num_attention_heads
  N qk_nope_head_dim    R qk_rope_head_dim    V v_head_dim    C kv_lora_rank
"""

from __future__ import annotations

from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, einsum, nn

from baltoro.config import ModelConfig
from baltoro.model.norm import RMSNorm
from baltoro.model.packed_attention import attend_packed, can_attend
from baltoro.model.rope import rotate, softmax_scale

LATENT_NORM_EPS = 1e-6  # the published model's latent norms do not use rms_norm_eps


class LatentCache:
    """What attention remembers of one layer: the latent (B, S, C) and rotary key (B, S, R)."""

    def __init__(self) -> None:
        self.latent: Tensor | None = None
        self.k_rope: Tensor | None = None

    def __len__(self) -> int:
        return 0 if self.latent is None else self.latent.shape[1]

    def append(self, latent: Tensor, k_rope: Tensor) -> tuple[Tensor, Tensor]:
        if self.latent is not None and self.k_rope is not None:
            latent = torch.cat((self.latent, latent), dim=1)
            k_rope = torch.cat((self.k_rope, k_rope), dim=1)
        self.latent, self.k_rope = latent, k_rope
        return latent, k_rope


class MultiHeadLatentAttention(nn.Module):
    """Attention whose keys and values are expanded from one small latent per token.

    The cache holds `kv_lora_rank + qk_rope_head_dim` numbers per token, shared by all heads.
    Weight names follow the published checkpoint.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.scale = softmax_scale(config)
        D, H, C = config.hidden_size, config.num_attention_heads, config.kv_lora_rank
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(D, H * config.qk_head_dim, bias=False)
        else:
            self.q_a_proj = nn.Linear(D, config.q_lora_rank, bias=False)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, LATENT_NORM_EPS)
            self.q_b_proj = nn.Linear(config.q_lora_rank, H * config.qk_head_dim, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(D, config.latent_dim, bias=False)
        self.kv_a_layernorm = RMSNorm(C, LATENT_NORM_EPS)
        kv_b_width = config.qk_nope_head_dim + config.v_head_dim
        self.kv_b_proj = nn.Linear(C, H * kv_b_width, bias=False)
        self.o_proj = nn.Linear(H * config.v_head_dim, D, bias=False)
        # Largest pre-softmax logit of each head since it was last read; None records nothing.
        self.max_logits: Tensor | None = None

    def forward(
        self,
        x: Tensor,
        rope: Tensor,
        cache: LatentCache | None = None,
        lengths: list[int] | None = None,
    ) -> Tensor:
        """Of B sequences; with `lengths`, of those that lie one behind the other in x (1, T)."""
        q = self.project_queries(x)  # (B, T, H, N + R), not rotated
        latent, k_rope = self.latents(x, rope)  # (B, T, C), (B, T, R)
        if cache is not None:
            latent, k_rope = cache.append(latent, k_rope)  # (B, S, C), (B, S, R)
        kv = self.expand(latent)  # (B, S, H, N + V)
        if cache is None and can_attend(q, kv, k_rope):
            out = self.attend_packed(q, kv, k_rope, rope, lengths)  # (B, T, H, V)
        elif not lengths:
            out = self.attend(q, kv, k_rope, rope)
        else:
            turns = rope.expand(len(x), -1, -1)
            parts = (by_length(part, lengths) for part in (q, kv, k_rope, turns))
            outs = (self.attend(*part).flatten(0, 1) for part in zip(*parts, strict=True))
            out = torch.cat(list(outs))[None]
        return self.o_proj(out.flatten(2))  # (B, T, D)

    def attend_packed(
        self, q: Tensor, kv: Tensor, k_rope: Tensor, rope: Tensor, lengths: list[int] | None
    ) -> Tensor:
        """The heads' weighted values (B, T, H, V); takes note of the largest logits."""
        B, T = q.shape[:2]
        q, kv, k_rope = (part.flatten(0, 1) for part in (q, kv, k_rope))
        lengths = lengths or [T] * B
        out, largest = attend_packed(q, kv, k_rope, rope.repeat(B, 1), lengths, self.scale)
        self.note(largest)
        return out.unflatten(0, (B, T))

    def attend(self, q: Tensor, kv: Tensor, k_rope: Tensor, rope: Tensor) -> Tensor:
        """The same by torch's attention; the queries are the last of the keys' positions."""
        H, N = self.config.num_attention_heads, self.config.qk_nope_head_dim
        q = torch.cat((q[..., :N], rotate(q[..., N:], rope[..., None, :])), dim=-1)
        # The rotary key is shared by every head.
        k = torch.cat((kv[..., :N], k_rope[:, :, None].expand(-1, -1, H, -1)), dim=-1)
        q, k, v = (x.transpose(1, 2) for x in (q, k, kv[..., N:]))  # (B, H, T or S, ...)
        if self.max_logits is not None:
            self.note(max_logits(q, k, self.scale))
        return causal_attention(q, k, v, self.scale).transpose(1, 2)

    def note(self, largest: Tensor) -> None:
        """Keep the largest logits (H,) that were seen, if somebody reads them."""
        if self.max_logits is not None:
            self.max_logits = torch.maximum(self.max_logits, largest)

    @property
    def last_query_proj(self) -> nn.Linear:
        """What makes the heads' queries: its rows belong to one head after the other."""
        return self.q_proj if self.config.q_lora_rank is None else self.q_b_proj

    def project_queries(self, x: Tensor) -> Tensor:
        """The heads' queries (B, T, H, N + R), not yet rotated."""
        if self.config.q_lora_rank is not None:
            x = self.q_a_layernorm(self.q_a_proj(x))
        return self.last_query_proj(x).unflatten(-1, (self.config.num_attention_heads, -1))

    def latents(self, x: Tensor, rope: Tensor) -> tuple[Tensor, Tensor]:
        latent, k_rope = self.kv_a_proj_with_mqa(x).split(
            (self.config.kv_lora_rank, self.config.qk_rope_head_dim), dim=-1
        )
        return self.kv_a_layernorm(latent), rotate(k_rope, rope)

    def expand(self, latent: Tensor) -> Tensor:
        """Each head's part of the keys and its values, (B, S, H, N + V)."""
        return self.kv_b_proj(latent).unflatten(-1, (self.config.num_attention_heads, -1))


class AbsorbedLatentAttention(MultiHeadLatentAttention):
    """The same attention computed in the latent space, as an inference engine does.

    The key and value halves of kv_b_proj move to the query and to the output, so that nothing
    per head is ever made for a cached token.
    """

    def forward(
        self,
        x: Tensor,
        rope: Tensor,
        cache: LatentCache | None = None,
        lengths: list[int] | None = None,
    ) -> Tensor:
        N, R = self.config.qk_nope_head_dim, self.config.qk_rope_head_dim
        q_nope, q_rope = self.project_queries(x).split((N, R), dim=-1)
        q_rope = rotate(q_rope, rope[:, None])  # (B, T, H, R)
        latent, k_rope = self.latents(x, rope)  # (B, T, C), (B, T, R)
        if cache is not None:
            latent, k_rope = cache.append(latent, k_rope)  # (B, S, C), (B, S, R)
        kv_b = self.kv_b_proj.weight.unflatten(0, (self.config.num_attention_heads, -1))
        w_k, w_v = kv_b.split((self.config.qk_nope_head_dim, self.config.v_head_dim), dim=1)

        q_latent = einsum("bthn,hnc->bthc", q_nope, w_k)
        scores = einsum("bthc,bsc->bhts", q_latent, latent)
        scores = scores + einsum("bthr,bsr->bhts", q_rope, k_rope)
        scores = scores * self.scale + causal_bias(scores, lengths)  # (B, H, T, S)
        weights = scores.softmax(dim=-1, dtype=torch.float32).type_as(latent)
        out_latent = einsum("bhts,bsc->bthc", weights, latent)
        out = einsum("bthc,hvc->bthv", out_latent, w_v)
        return self.o_proj(out.flatten(2))  # (B, T, D)


def by_length(x: Tensor, lengths: list[int]) -> list[Tensor]:
    """The sequences of a packed x (1, T, ...); neighbours of equal length together (B, T, ...)."""
    runs = [(length, len(list(run))) for length, run in groupby(lengths)]
    parts = x[0].split([length * count for length, count in runs])
    return [p.unflatten(0, (n, length)) for p, (length, n) in zip(parts, runs, strict=True)]


def causal_bias(scores: Tensor, lengths: list[int] | None = None) -> Tensor:
    """Minus infinity where a query would see a later token, or one of another sequence: (T, S),
    the queries being the last."""
    T, S = scores.shape[-2:]
    bias = scores.new_full((T, S), float("-inf"))
    if lengths is None:
        return bias.triu(diagonal=S - T + 1)
    same = torch.block_diag(*(torch.ones(n, n, device=bias.device) for n in lengths)).tril()
    return bias.masked_fill(same.bool(), 0.0)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(q k^T scale) v under the causal mask: (B, H, T, V)."""
    if q.shape[2] == k.shape[2]:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    bias = causal_bias(q.new_empty(q.shape[2], k.shape[2]))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


@torch.no_grad()
def max_logits(q: Tensor, k: Tensor, scale: float, block: int = 128) -> Tensor:
    """Exact largest causal logit of each head over batch and positions: (H,).

    Goes over blocks of queries, so that the (T, S) matrix of scores is never held whole.
    """
    T, S = q.shape[2], k.shape[2]
    best = q.new_full((q.shape[1],), float("-inf"))
    for start in range(0, T if len(q) else 0, block):
        stop = min(start + block, T)
        seen = S - T + stop  # keys that the block's last query sees
        scores = q[:, :, start:stop] @ k[:, :, :seen].transpose(-1, -2)
        # Only the square at the end holds pairs in which the key is later than the query.
        scores[..., seen - (stop - start) :] += causal_bias(
            scores.new_empty(stop - start, stop - start)
        )
        best = torch.maximum(best, scores.amax(dim=(0, 2, 3)))
    return best * scale
