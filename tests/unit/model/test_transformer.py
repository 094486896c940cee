"""The whole model: caches and gradients."""

import torch

from baltoro.config import preset
from baltoro.model.transformer import Transformer


def test_decoding_with_caches_matches_one_full_forward():
    torch.manual_seed(0)
    model = Transformer(preset("tiny")).eval()
    ids = torch.randint(0, 4352, (2, 30))
    with torch.no_grad():
        whole = model(ids)
        caches = model.new_caches()
        pieces = [
            model(ids[:, :20], caches),
            *(model(ids[:, t, None], caches) for t in range(20, 30)),
        ]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    model = Transformer(preset("tiny"))
    model(torch.randint(0, 4352, (4, 64))).square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_packed_sequences_have_the_gradients_of_each_alone():
    torch.manual_seed(0)
    model = Transformer(preset("tiny"))
    lengths = [30, 30, 7, 1]
    ids = torch.randint(0, 4352, (1, sum(lengths)))
    parts = [model.hidden_and_head(part)[0] for part in ids.split(lengths, dim=1)]
    alone, loads = torch.cat(parts, dim=1), [router.load.clone() for router in model.routers()]
    for router in model.routers():
        router.load.zero_()
    packed, _ = model.hidden_and_head(ids, lengths)
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-5)
    for router, load in zip(model.routers(), loads, strict=True):
        assert torch.equal(router.load, load)
    weights, grad = list(model.model.parameters()), torch.randn_like(packed)
    want = torch.autograd.grad(alone, weights, grad)
    got = torch.autograd.grad(packed, weights, grad)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))
