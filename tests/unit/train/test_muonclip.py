"""Muon's orthogonalization, its groups of parameters, and QK-Clip."""

import pytest
import torch

from baltoro.config import preset
from baltoro.model.attention import MultiHeadLatentAttention
from baltoro.model.rope import rope_table
from baltoro.model.transformer import Transformer
from baltoro.train.muonclip import MuonClip, orthogonalize, parameter_groups, qk_clip

CONFIG = preset("tiny")


def test_orthogonalized_matrices_keep_their_singular_vectors_and_lose_their_scale():
    torch.manual_seed(0)
    for shape in ((5, 40, 24), (24, 40), (32, 32)):
        matrices = torch.randn(shape)
        u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
        inner = u.mT @ orthogonalize(matrices) @ vh.mT  # diagonal in the same singular basis
        values = inner.diagonal(dim1=-2, dim2=-1)
        # The published coefficients trade accuracy for speed: values land near 1, not on it.
        assert (values > 0.3).all()
        assert (values < 1.3).all()
        off = inner - torch.diag_embed(values)
        assert off.abs().max() < 1e-4


def test_a_stack_of_experts_is_orthogonalized_one_by_one():
    torch.manual_seed(0)
    stack = torch.randn(3, 16, 24)
    alone = torch.stack([orthogonalize(matrix) for matrix in stack])
    torch.testing.assert_close(orthogonalize(stack), alone)


def test_a_vector_in_a_muon_group_is_refused_with_its_shape():
    with pytest.raises(ValueError, match=r"found a parameter of shape \(7,\)"):
        MuonClip([torch.nn.Parameter(torch.zeros(7))])
    optimizer = MuonClip([torch.nn.Parameter(torch.zeros(7, 7))])
    with pytest.raises(ValueError, match=r"found a parameter of shape \(7,\)"):
        optimizer.add_param_group({"params": torch.nn.Parameter(torch.zeros(7))})
    assert len(optimizer.param_groups) == 1


def test_every_parameter_is_in_exactly_one_group():
    model = Transformer(CONFIG)
    groups = parameter_groups(model)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    muon = {id(p) for p in groups[0]["params"]}
    assert id(model.lm_head.weight) not in muon
    assert id(model.model.embed_tokens.weight) not in muon
    assert id(model.model.layers[1].mlp.experts.gate_proj) in muon


def attention_with_large_logits() -> tuple[MultiHeadLatentAttention, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    attention = MultiHeadLatentAttention(CONFIG)
    with torch.no_grad():
        attention.q_b_proj.weight *= 30
    attention.max_logits = torch.full((CONFIG.num_attention_heads,), float("-inf"))
    return attention, torch.randn(2, 20, 128), rope_table(CONFIG, torch.arange(20))


def test_clipping_brings_each_large_head_to_the_threshold_and_leaves_the_others():
    attention, x, rope = attention_with_large_logits()
    attention(x, rope)
    before = attention.max_logits.clone()
    threshold = float(before.median())
    seen = qk_clip(attention, threshold)
    torch.testing.assert_close(seen, before)
    attention(x, rope)
    torch.testing.assert_close(attention.max_logits, before.clamp(max=threshold))


def test_clipping_touches_neither_values_nor_the_shared_rotary_key():
    attention, x, rope = attention_with_large_logits()
    attention(x, rope)
    kv_a = attention.kv_a_proj_with_mqa.weight.clone()
    kv_b = attention.kv_b_proj.weight.clone().unflatten(0, (4, -1))
    q_b = attention.q_b_proj.weight.clone().unflatten(0, (4, -1))
    gamma = (1.0 / attention.max_logits)[:, None, None]
    qk_clip(attention, threshold=1.0)
    N = CONFIG.qk_nope_head_dim
    torch.testing.assert_close(attention.kv_a_proj_with_mqa.weight, kv_a)
    new_kv = attention.kv_b_proj.weight.unflatten(0, (4, -1))
    torch.testing.assert_close(new_kv[:, N:], kv_b[:, N:])
    torch.testing.assert_close(new_kv[:, :N], kv_b[:, :N] * gamma.sqrt())
    new_q = attention.q_b_proj.weight.unflatten(0, (4, -1))
    torch.testing.assert_close(new_q[:, :N], q_b[:, :N] * gamma.sqrt())
    torch.testing.assert_close(new_q[:, N:], q_b[:, N:] * gamma)
