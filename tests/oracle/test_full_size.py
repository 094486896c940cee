"""The published model at its full size, without its weights: names, shapes, counts."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from baltoro.checkpoint.layout import expected_tensors
from baltoro.config import PRESETS
from baltoro.model.transformer import Transformer

K2 = PRESETS["k2-thinking"]


@pytest.fixture(scope="module")
def unpacked() -> dict[str, tuple[int, ...]]:
    """Names and shapes in a checkpoint, experts not packed."""
    plain = dataclasses.replace(K2, quantization_config=None)
    return {name: spec.shape for name, spec in expected_tensors(plain).items()}


def fused(shapes: dict[str, tuple[int, ...]], fuse_gate_and_up: bool) -> dict[str, tuple[int, ...]]:
    """The same with each layer's experts stacked, as the models hold them in memory."""
    out = {}
    for name, shape in shapes.items():
        if ".mlp.experts." not in name:
            out[name] = shape
            continue
        prefix, expert, projection, _ = name.rsplit(".", 3)
        assert int(expert) < K2.n_routed_experts
        if fuse_gate_and_up and projection == "gate_proj":
            projection, shape = "gate_up_proj", (2 * shape[0], shape[1])
        if not (fuse_gate_and_up and projection == "up_proj"):
            out[f"{prefix}.{projection}"] = (K2.n_routed_experts, *shape)
    return out


def state_shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_torch_model_has_every_tensor_of_the_published_checkpoint(unpacked):
    with torch.device("meta"):
        model = Transformer(K2)
    assert state_shapes(model) == fused(unpacked, fuse_gate_and_up=False)


def test_transformers_model_has_every_tensor_of_the_published_checkpoint(unpacked, tmp_path):
    renamed = dataclasses.replace(K2, model_type="deepseek_v3", quantization_config=None)
    (tmp_path / "config.json").write_text(renamed.to_json())
    config = DeepseekV3Config.from_pretrained(tmp_path)
    with torch.device("meta"):
        model = DeepseekV3ForCausalLM(config)
    assert state_shapes(model) == fused(unpacked, fuse_gate_and_up=True)


def test_torch_model_counts_the_published_parameters():
    with torch.device("meta"):
        model = Transformer(K2)
    total = sum(tensor.numel() for tensor in model.state_dict().values())
    assert total == sum(spec.parameters for spec in expected_tensors(K2).values())
    assert f"{total / 1e9:,.2f}" == "1,026.41"
