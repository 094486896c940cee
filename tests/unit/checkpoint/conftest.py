"""A small random checkpoint in each form, written by the package's own writer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from baltoro.checkpoint.layout import expected_tensors
from baltoro.config import ModelConfig, YarnConfig

SMALL = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    num_hidden_layers=2,
    intermediate_size=48,
    moe_intermediate_size=32,
    n_routed_experts=3,
    num_experts_per_tok=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    q_lora_rank=24,
    kv_lora_rank=16,
    qk_nope_head_dim=8,
    qk_rope_head_dim=4,
    v_head_dim=6,
    rope_scaling=YarnConfig(original_max_position_embeddings=16),
    max_position_embeddings=128,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=2,
)


@pytest.fixture
def config() -> ModelConfig:
    return SMALL


@pytest.fixture
def weights(config) -> dict[str, np.ndarray]:
    """Every tensor of the unquantized model in float32, by published name."""
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(0, 0.5, spec.shape).astype(np.float32)
        for name, spec in expected_tensors(config).items()
    }


@pytest.fixture
def edit_header():
    """Rewrites the JSON header of a safetensors file, leaving the data as it is."""

    def edit(path: Path, change) -> None:
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])

    return edit
