"""Training with weights rounded to INT4."""

import torch

from baltoro.config import preset
from baltoro.model.transformer import Transformer
from baltoro.train.qat import round_to_int4, set_fake_quantization


def test_only_routed_experts_are_rounded():
    torch.manual_seed(0)
    model = Transformer(preset("tiny")).eval()
    ids = torch.randint(0, 4352, (1, 16))
    before = model(ids)
    set_fake_quantization(model, True)
    rounded = model(ids)
    set_fake_quantization(model, False)
    with torch.no_grad():
        for experts in model.routed_experts():
            for p in experts.parameters():
                p.copy_(round_to_int4(p))
    assert not torch.equal(before, rounded)
    assert torch.equal(model(ids), rounded)
