"""Latent attention: absorbed, cached and causal."""

import torch

from baltoro.config import ModelConfig, YarnConfig
from baltoro.model import packed_attention
from baltoro.model.attention import (
    AbsorbedLatentAttention,
    LatentCache,
    MultiHeadLatentAttention,
    max_logits,
)
from baltoro.model.rope import rope_table

CONFIG = ModelConfig(
    hidden_size=64,
    num_attention_heads=4,
    num_key_value_heads=4,
    q_lora_rank=24,
    kv_lora_rank=16,
    qk_nope_head_dim=12,
    qk_rope_head_dim=8,
    v_head_dim=10,
    rope_scaling=YarnConfig(factor=4.0, original_max_position_embeddings=16),
)


def rope(start: int, stop: int) -> torch.Tensor:
    return rope_table(CONFIG, torch.arange(start, stop))


def pair() -> tuple[MultiHeadLatentAttention, AbsorbedLatentAttention]:
    torch.manual_seed(0)
    expanded, absorbed = MultiHeadLatentAttention(CONFIG), AbsorbedLatentAttention(CONFIG)
    absorbed.load_state_dict(expanded.state_dict())
    return expanded, absorbed


def test_absorbed_attention_matches_expanded_attention():
    expanded, absorbed = pair()
    x = torch.randn(2, 40, 64)
    torch.testing.assert_close(absorbed(x, rope(0, 40)), expanded(x, rope(0, 40)))


def test_decoding_one_token_at_a_time_matches_one_full_forward():
    x = torch.randn(2, 24, 64)
    for attention in pair():
        cache = LatentCache()
        steps = [attention(x[:, t : t + 1], rope(t, t + 1), cache) for t in range(24)]
        torch.testing.assert_close(torch.cat(steps, dim=1), attention(x, rope(0, 24)))


def test_a_prompt_in_two_pieces_matches_one_piece():
    x = torch.randn(1, 24, 64)
    for attention in pair():
        cache = LatentCache()
        pieces = [attention(x[:, :9], rope(0, 9), cache), attention(x[:, 9:], rope(9, 24), cache)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), attention(x, rope(0, 24)))


def test_future_tokens_do_not_change_earlier_outputs():
    x = torch.randn(1, 20, 64)
    changed = x.clone()
    changed[:, 12:] += 1.0
    for attention in pair():
        before, after = attention(x, rope(0, 20)), attention(changed, rope(0, 20))
        torch.testing.assert_close(before[:, :12], after[:, :12])
        assert not torch.allclose(before[:, 12:], after[:, 12:])


@torch.no_grad()
def test_packed_sequences_see_nothing_of_each_other():
    lengths = [12, 12, 1, 20, 5, 5]
    x = torch.randn(1, sum(lengths), 64)
    starts = torch.cat([rope(0, n) for n in lengths])
    for attention in pair():
        attention.max_logits = torch.full((4,), float("-inf"))
        alone = [attention(part, rope(0, part.shape[1])) for part in x.split(lengths, dim=1)]
        expected, largest = torch.cat(alone, dim=1), attention.max_logits
        attention.max_logits = torch.full((4,), float("-inf"))
        torch.testing.assert_close(attention(x, starts, lengths=lengths), expected)
        torch.testing.assert_close(attention.max_logits, largest)


def test_native_and_torchs_attention_say_the_same(monkeypatch):
    layer, _ = pair()
    x = torch.randn(1, 90, 64)
    lengths = [30, 30, 29, 1]
    starts = torch.cat([rope(0, n) for n in lengths])
    found = []
    for native in (True, False):
        monkeypatch.setattr(packed_attention, "is_built", lambda native=native: native)
        layer.zero_grad()
        layer.max_logits = torch.full((4,), float("-inf"))
        out = layer(x, starts, lengths=lengths)
        out.square().sum().backward()
        found.append((out, layer.max_logits, *(p.grad.clone() for p in layer.parameters())))
    for native, other in zip(*found, strict=True):
        torch.testing.assert_close(native, other)


def test_blockwise_max_logits_equal_those_of_the_whole_matrix():
    q, k = torch.randn(2, 3, 50, 8), torch.randn(2, 3, 50, 8)
    scores = (q @ k.transpose(-1, -2) * 0.3).masked_fill(
        torch.ones(50, 50, dtype=torch.bool).triu(1), float("-inf")
    )
    for block in (7, 50, 128):
        torch.testing.assert_close(max_logits(q, k, 0.3, block), scores.amax(dim=(0, 2, 3)))
