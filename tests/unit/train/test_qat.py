import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from baltoro.config import preset
from baltoro.model.transformer import Transformer
from baltoro.quant import int4
from baltoro.train.qat import fake_quantize, round_to_int4, set_fake_quantization


@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-30, 1e-3, 1.0, 1e4]))
def test_the_torch_twin_equals_the_numpy_quantizer_bit_for_bit(seed, size):
    rng = np.random.default_rng(seed)
    weight = (rng.standard_normal((6, 96)) * size).astype(np.float32)
    weight[0] = 0.0
    weight[1, :32] = rng.integers(-14, 15, 32) / 2 * size  # codes on and near ties
    expected = int4.dequantize(*int4.quantize(weight))
    assert np.array_equal(round_to_int4(torch.from_numpy(weight)).numpy(), expected)


def test_gradients_pass_the_rounding_unchanged():
    weight = torch.randn(4, 64, requires_grad=True)
    upstream = torch.randn(4, 64)
    fake_quantize(weight).backward(upstream)
    torch.testing.assert_close(weight.grad, upstream)


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
