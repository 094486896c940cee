"""QK-clip of plain attention, in a model of our own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from baltoro.config import BaltoroError
from baltoro.train.qk_clip import QKClip


class PlainAttention(nn.Module):
    """Two heads of four, by torch's product or written out."""

    def __init__(self, *, written_out: bool) -> None:
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(8, 8), nn.Linear(8, 8)
        self.written_out = written_out

    def forward(self, x):
        q, k = (p(x).unflatten(-1, (2, 4)).transpose(1, 2) for p in (self.q_proj, self.k_proj))
        if self.written_out:
            return (q @ k.mT / 2).softmax(dim=-1) @ k
        return F.scaled_dot_product_attention(q, k, k)


def test_passes_that_add_up_to_one_step_are_clipped_by_the_largest_logit_of_all():
    torch.manual_seed(0)
    attention = PlainAttention(written_out=False)
    clip, parts = QKClip(attention), torch.randn(3, 1, 5, 8)
    alone = []
    for part in parts:
        with clip:
            attention(part)
        alone.append(clip.step()[""])
    with clip:
        for part in parts:
            attention(part)
    assert torch.equal(clip.step()[""], torch.stack(alone).amax(dim=0))


def test_attention_that_passes_torch_s_product_by_is_refused():
    attention = PlainAttention(written_out=True)
    clip = QKClip(attention)
    with clip:
        attention(torch.randn(1, 5, 8))
    with pytest.raises(BaltoroError, match='attn_implementation="sdpa"'):
        clip.step()
