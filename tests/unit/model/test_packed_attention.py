"""The native attention of training, beside the same mathematics in float64."""

import pytest
import torch
from torch import Tensor

from baltoro.model import packed_attention
from baltoro.model.packed_attention import attend_packed

if not packed_attention.is_built():
    pytest.skip("the native core was not built, or not for this CPU", allow_module_level=True)

from baltoro import _native

KERNELS = [name for name in _native.available_kernels() if _native.has_packed_attention(name)]
# Blocks hold 48 tokens: sequences around that, much longer, of one token and of none.
LENGTHS = [5, 48, 0, 49, 97, 1, 200]
# H, N, R, V: those of `tiny`; K2's; some that fill no vector.
SHAPES = [(4, 32, 16, 48), (2, 128, 64, 128), (3, 20, 6, 25)]


@pytest.fixture(params=KERNELS, autouse=True)
def _kernels(request, monkeypatch):
    monkeypatch.setattr(packed_attention, "KERNELS", request.param)


def inputs(shape: tuple[int, int, int, int], lengths: list[int]) -> tuple[list[Tensor], Tensor]:
    """q, kv and k_rope in float32, and the turns."""
    H, N, R, V = shape
    M = sum(lengths)
    rng = torch.Generator().manual_seed(0)
    sizes = [(M, H, N + R), (M, H, N + V), (M, R)]
    parts = [1.5 * torch.randn(size, generator=rng) for size in sizes]
    angles = 6.3 * torch.rand(M, R // 2, generator=rng)
    return parts, torch.polar(torch.full_like(angles, 1.1), angles)


def definition(q: Tensor, kv: Tensor, k_rope: Tensor, rope: Tensor, lengths: list[int], scale):
    """softmax(q k^T scale) v of each sequence, its matrix of logits written out."""
    H, R = q.shape[1], k_rope.shape[1]
    N = q.shape[2] - R
    pairs = torch.view_as_complex(q[..., N:].unflatten(-1, (-1, 2))) * rope[:, None]
    q = torch.cat((q[..., :N], torch.view_as_real(pairs).flatten(-2)), dim=-1)
    k = torch.cat((kv[..., :N], k_rope[:, None].expand(-1, H, -1)), dim=-1)
    outs, largest = [], []
    for part in zip(*(x.split(lengths) for x in (q, k, kv[..., N:])), strict=True):
        q_, k_, v_ = (x.transpose(0, 1) for x in part)
        logits = q_ @ k_.transpose(1, 2) * scale
        logits = logits.masked_fill(torch.ones_like(logits[0]).triu(1).bool(), -torch.inf)
        outs.append((logits.softmax(dim=-1) @ v_).transpose(0, 1))
        largest += [logits.amax(dim=(1, 2))] if len(part[0]) else []
    return torch.cat(outs), torch.stack(largest).amax(dim=0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_gradients_and_largest_logits_are_those_of_the_definition(shape):
    parts, rope = inputs(shape, LENGTHS)
    ours = [x.clone().requires_grad_() for x in parts]
    exact = [x.double().requires_grad_() for x in parts]
    out, largest = attend_packed(*ours, rope, LENGTHS, 0.1)
    expected, expected_largest = definition(*exact, rope.to(torch.complex128), LENGTHS, 0.1)
    gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    out.backward(gradient)
    expected.backward(gradient.double())
    # Some rounding steps of float32, of the largest number in each.
    for found, wanted in [
        (out, expected),
        (largest, expected_largest),
        *((x.grad, y.grad) for x, y in zip(ours, exact, strict=True)),
    ]:
        atol = 4e-6 * wanted.abs().max().item()
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=atol)


def test_one_thread_or_two_and_whatever_else_is_packed_give_the_same_bits():
    parts, rope = inputs(SHAPES[0], LENGTHS)

    def run(parts: list[Tensor], rope: Tensor, lengths: list[int], threads: int) -> list[Tensor]:
        own = [x.clone().requires_grad_() for x in parts]
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            out, _ = attend_packed(*own, rope, lengths, 0.1)
            out.sum().backward()
        finally:
            torch.set_num_threads(before)
        return [out.detach(), *(x.grad for x in own if x.grad is not None)]

    one = run(parts, rope, LENGTHS, 1)
    for a, b in zip(one, run(parts, rope, LENGTHS, 2), strict=True):
        assert torch.equal(a, b)
    last = [x[-LENGTHS[-1] :] for x in (*parts, rope)]
    for a, b in zip(one, run(last[:3], last[3], LENGTHS[-1:], 1), strict=True):
        assert torch.equal(a[-LENGTHS[-1] :], b)


def test_what_is_not_a_number_stays_none():
    parts, rope = inputs(SHAPES[0], [60])
    parts[1][50, 0, 0] = torch.nan  # a key of the first head, seen from there on
    out, _ = attend_packed(*parts, rope, [60], 0.1)
    assert out[50:, 0].isnan().all()
    assert not out[:50].isnan().any()
    assert not out[:, 1:].isnan().any()


def test_parts_that_do_not_fit_together_are_refused():
    parts, rope = inputs(SHAPES[0], [60])
    with pytest.raises(ValueError, match="do not fit together"):
        attend_packed(*parts, rope, [59], 0.1)
