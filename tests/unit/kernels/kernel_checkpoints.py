"""Random tiny checkpoints in memory, K2-shaped, with nothing left at a value that hides faults."""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from baltoro.config import ModelConfig, QuantizationConfig, YarnConfig
from baltoro.quant.int4 import pack, quantize

BFloat16 = ml_dtypes.bfloat16

TINY = ModelConfig(
    vocab_size=320,
    hidden_size=96,
    num_hidden_layers=3,
    first_k_dense_replace=1,
    intermediate_size=200,
    moe_intermediate_size=64,
    n_routed_experts=8,
    num_experts_per_tok=3,
    n_shared_experts=1,
    num_attention_heads=5,
    num_key_value_heads=5,
    q_lora_rank=40,
    kv_lora_rank=36,
    qk_nope_head_dim=24,
    qk_rope_head_dim=16,
    v_head_dim=20,
    rope_theta=50000.0,
    rope_scaling=YarnConfig(
        factor=64.0, original_max_position_embeddings=16, beta_fast=1.0, beta_slow=1.0
    ),
    max_position_embeddings=1024,
    quantization_config=QuantizationConfig(),
)


def variant(**changes: object) -> ModelConfig:
    return dataclasses.replace(TINY, **changes)  # type: ignore[arg-type]


def random_checkpoint(config: ModelConfig, seed: int = 0) -> dict[str, NDArray]:
    """Tensors by their published names; routed experts are INT4 if the config says so."""
    return _Builder(config, seed).checkpoint()


class _Builder:
    def __init__(self, config: ModelConfig, seed: int):
        self.config = config
        self.random = np.random.default_rng(seed)
        self.tensors: dict[str, NDArray] = {}

    def checkpoint(self) -> dict[str, NDArray]:
        config = self.config
        self.matrix("model.embed_tokens", config.vocab_size, config.hidden_size, scale=1.0)
        for index in range(config.num_hidden_layers):
            self.layer(index)
        self.norm("model.norm", config.hidden_size)
        self.matrix("lm_head", config.vocab_size, config.hidden_size)
        return self.tensors

    def layer(self, index: int) -> None:
        config, prefix = self.config, f"model.layers.{index}"
        self.norm(f"{prefix}.input_layernorm", config.hidden_size)
        self.norm(f"{prefix}.post_attention_layernorm", config.hidden_size)
        self.attention(f"{prefix}.self_attn")
        if not config.is_moe_layer(index):
            self.mlp(f"{prefix}.mlp", config.intermediate_size)
            return
        self.matrix(f"{prefix}.mlp.gate", config.n_routed_experts, config.hidden_size)
        bias = self.random.normal(0, 0.1, config.n_routed_experts).astype(np.float32)
        self.tensors[f"{prefix}.mlp.gate.e_score_correction_bias"] = bias
        width = config.moe_intermediate_size
        quantized = config.quantization_config is not None
        for expert in range(config.n_routed_experts):
            self.mlp(f"{prefix}.mlp.experts.{expert}", width, quantized)
        if config.n_shared_experts:
            self.mlp(f"{prefix}.mlp.shared_experts", width * config.n_shared_experts)

    def attention(self, prefix: str) -> None:
        config, heads = self.config, self.config.num_attention_heads
        queries = heads * config.qk_head_dim
        if config.q_lora_rank is None:
            self.matrix(f"{prefix}.q_proj", queries, config.hidden_size)
        else:
            self.matrix(f"{prefix}.q_a_proj", config.q_lora_rank, config.hidden_size)
            self.norm(f"{prefix}.q_a_layernorm", config.q_lora_rank)
            self.matrix(f"{prefix}.q_b_proj", queries, config.q_lora_rank)
        self.matrix(f"{prefix}.kv_a_proj_with_mqa", config.latent_dim, config.hidden_size)
        self.norm(f"{prefix}.kv_a_layernorm", config.kv_lora_rank)
        rows = heads * (config.qk_nope_head_dim + config.v_head_dim)
        self.matrix(f"{prefix}.kv_b_proj", rows, config.kv_lora_rank)
        self.matrix(f"{prefix}.o_proj", config.hidden_size, heads * config.v_head_dim)

    def mlp(self, prefix: str, width: int, quantized: bool = False) -> None:
        hidden = self.config.hidden_size
        self.matrix(f"{prefix}.gate_proj", width, hidden, quantized=quantized)
        self.matrix(f"{prefix}.up_proj", width, hidden, quantized=quantized)
        self.matrix(f"{prefix}.down_proj", hidden, width, quantized=quantized)

    def norm(self, name: str, size: int) -> None:
        values = self.random.normal(1.0, 0.2, size)
        self.tensors[f"{name}.weight"] = values.astype(BFloat16)

    def matrix(
        self,
        name: str,
        rows: int,
        cols: int,
        *,
        scale: float | None = None,
        quantized: bool = False,
    ) -> None:
        scale = cols**-0.5 if scale is None else scale
        weight = (self.random.standard_normal((rows, cols)) * scale).astype(BFloat16)
        if not quantized:
            self.tensors[f"{name}.weight"] = weight
            return
        codes, scales = quantize(weight)
        codes[:, 0] = -8  # never written by our quantizer, yet legal
        self.tensors[f"{name}.weight_packed"] = pack(codes)
        self.tensors[f"{name}.weight_scale"] = scales
        self.tensors[f"{name}.weight_shape"] = np.array([rows, cols], dtype=np.int32)
