"""The whole model. Names of modules and parameters are the published checkpoint's, except that
routed experts are stacked into one tensor each (`train/export.py` takes them apart).

Shape legend:  B batch    T tokens    D hidden_size    V vocab_size
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from baltoro.config import ModelConfig
from baltoro.model.attention import LatentCache, MultiHeadLatentAttention
from baltoro.model.moe import MixtureOfExperts, RoutedExperts, Router, SwiGLU
from baltoro.model.norm import RMSNorm
from baltoro.model.rope import rope_table


class Block(nn.Module):
    """A layer: attention, then a dense or a mixture-of-experts network, each added to its input."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        D, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = RMSNorm(D, eps)
        self.self_attn = MultiHeadLatentAttention(config)
        self.post_attention_layernorm = RMSNorm(D, eps)
        if config.is_moe_layer(layer):
            self.mlp: nn.Module = MixtureOfExperts(config)
        else:
            self.mlp = SwiGLU(D, config.intermediate_size)

    def forward(
        self,
        x: Tensor,
        rope: Tensor,
        cache: LatentCache | None = None,
        lengths: list[int] | None = None,
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rope, cache, lengths)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Everything below the output head; `model.` in checkpoint names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        ids: Tensor,
        caches: list[LatentCache] | None = None,
        lengths: list[int] | None = None,
    ) -> Tensor:
        """Hidden states (B, T, D) of ids (B, T): B sequences that go on where `caches` end, or
        with `lengths` one row (1, T) of sequences that have these lengths and nothing in common.
        """
        start = len(caches[0]) if caches else 0
        spans = [(start, start + n) for n in lengths or [ids.shape[1]]]
        positions = torch.cat([torch.arange(*span, device=ids.device) for span in spans])
        rope = rope_table(self.config, positions)
        x = self.embed_tokens(ids)
        for i, block in enumerate(self.layers):
            x = block(x, rope, caches[i] if caches else None, lengths)
        return self.norm(x)  # (B, T, D)


class Transformer(nn.Module):
    """A K2-architecture language model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Normal weights of standard deviation `initializer_range`, norms at one."""
        for module in self.modules():
            for weight in module.parameters(recurse=False):
                if isinstance(module, nn.RMSNorm):
                    weight.fill_(1.0)
                else:
                    weight.normal_(0.0, self.config.initializer_range)

    def forward(self, ids: Tensor, caches: list[LatentCache] | None = None) -> Tensor:
        """Next-token logits (B, T, V) for ids (B, T); `caches` holds one per layer."""
        return self.lm_head(self.model(ids, caches))

    def hidden_and_head(
        self, ids: Tensor, lengths: list[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Last hidden states (B, T, D) and the head (V, D), for who never holds all logits."""
        return self.model(ids, lengths=lengths), self.lm_head.weight

    def new_caches(self) -> list[LatentCache]:
        return [LatentCache() for _ in range(self.config.num_hidden_layers)]

    def routers(self) -> list[Router]:
        return [m for m in self.modules() if isinstance(m, Router)]

    def routed_experts(self) -> list[RoutedExperts]:
        return [m for m in self.modules() if isinstance(m, RoutedExperts)]

    def attentions(self) -> list[MultiHeadLatentAttention]:
        return [m for m in self.modules() if isinstance(m, MultiHeadLatentAttention)]
