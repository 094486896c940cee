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
