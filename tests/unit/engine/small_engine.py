"""A random K2-shaped model with a byte-level tokenizer, small enough to build in each test."""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from baltoro.config import ModelConfig, QuantizationConfig, YarnConfig
from baltoro.kernels.load import load_step_model
from baltoro.kernels.step import StepModel
from baltoro.quant.int4 import pack, quantize

BLOCK_TOKENS = 8

CONFIG = ModelConfig(
    vocab_size=512,
    hidden_size=64,
    num_hidden_layers=3,
    first_k_dense_replace=1,
    intermediate_size=96,
    moe_intermediate_size=32,
    n_routed_experts=8,
    num_experts_per_tok=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    q_lora_rank=32,
    kv_lora_rank=32,
    qk_nope_head_dim=16,
    qk_rope_head_dim=8,
    v_head_dim=16,
    rope_scaling=YarnConfig(factor=8.0, original_max_position_embeddings=64),
    max_position_embeddings=512,
    bos_token_id=256,
    eos_token_id=(258, 257),
    pad_token_id=511,
    quantization_config=QuantizationConfig(),
)


def random_tensors(config: ModelConfig, seed: int = 0) -> dict[str, NDArray]:
    """Weights under the checkpoint's names; large enough that logits differ clearly."""
    rng = np.random.default_rng(seed)
    c = config

    def bf16(*shape: int, scale: float = 0.0) -> NDArray:
        values = rng.standard_normal(shape) * (scale or 1.5 / np.sqrt(shape[-1]))
        return values.astype(ml_dtypes.bfloat16)

    def norm(size: int) -> NDArray:
        return rng.uniform(0.5, 1.5, size).astype(ml_dtypes.bfloat16)

    tensors = {
        "model.embed_tokens.weight": bf16(c.vocab_size, c.hidden_size, scale=1.0),
        "lm_head.weight": bf16(c.vocab_size, c.hidden_size, scale=0.4),
        "model.norm.weight": norm(c.hidden_size),
    }

    def add_mlp(name: str, width: int) -> None:
        tensors[f"{name}.gate_proj.weight"] = bf16(width, c.hidden_size)
        tensors[f"{name}.up_proj.weight"] = bf16(width, c.hidden_size)
        tensors[f"{name}.down_proj.weight"] = bf16(c.hidden_size, width)

    def add_int4(name: str, rows: int, cols: int) -> None:
        codes, scale = quantize(bf16(rows, cols))
        tensors[f"{name}.weight_packed"] = pack(codes)
        tensors[f"{name}.weight_scale"] = scale
        tensors[f"{name}.weight_shape"] = np.array([rows, cols], dtype=np.int32)

    for i in range(c.num_hidden_layers):
        layer, heads = f"model.layers.{i}", c.num_attention_heads
        attention = f"{layer}.self_attn"
        tensors |= {
            f"{layer}.input_layernorm.weight": norm(c.hidden_size),
            f"{layer}.post_attention_layernorm.weight": norm(c.hidden_size),
            f"{attention}.q_a_proj.weight": bf16(c.q_lora_rank, c.hidden_size),
            f"{attention}.q_a_layernorm.weight": norm(c.q_lora_rank),
            f"{attention}.q_b_proj.weight": bf16(heads * c.qk_head_dim, c.q_lora_rank),
            f"{attention}.kv_a_proj_with_mqa.weight": bf16(c.latent_dim, c.hidden_size),
            f"{attention}.kv_a_layernorm.weight": norm(c.kv_lora_rank),
            f"{attention}.kv_b_proj.weight": bf16(
                heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank
            ),
            f"{attention}.o_proj.weight": bf16(c.hidden_size, heads * c.v_head_dim),
        }
        if not c.is_moe_layer(i):
            add_mlp(f"{layer}.mlp", c.intermediate_size)
            continue
        tensors[f"{layer}.mlp.gate.weight"] = bf16(c.n_routed_experts, c.hidden_size)
        bias = rng.uniform(-0.1, 0.1, c.n_routed_experts).astype(np.float32)
        tensors[f"{layer}.mlp.gate.e_score_correction_bias"] = bias
        add_mlp(f"{layer}.mlp.shared_experts", c.moe_intermediate_size)
        for e in range(c.n_routed_experts):
            expert = f"{layer}.mlp.experts.{e}"
            add_int4(f"{expert}.gate_proj", c.moe_intermediate_size, c.hidden_size)
            add_int4(f"{expert}.up_proj", c.moe_intermediate_size, c.hidden_size)
            add_int4(f"{expert}.down_proj", c.hidden_size, c.moe_intermediate_size)
    return tensors


def make_step_model(
    tensors: Mapping[str, NDArray], num_blocks: int = 64, threads: int = 1
) -> StepModel:
    return load_step_model(
        CONFIG, tensors, num_blocks=num_blocks, block_tokens=BLOCK_TOKENS, threads=threads
    )
