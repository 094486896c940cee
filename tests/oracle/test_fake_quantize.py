"""The trainer's fake quantizer against the numpy function that defines the format."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from baltoro.quant import int4
from baltoro.train.qat import fake_quantize


@given(st.integers(0, 2**32 - 1), st.floats(-40, 30), st.booleans())
def test_fake_quantized_weights_are_those_of_the_format_bit_for_bit(seed, exponent, some_zero):
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, 10.0**exponent, (3, 4, 32)).astype(np.float32)
    if some_zero:
        weight[:, ::2] = 0
    found = fake_quantize(torch.from_numpy(weight.reshape(3, 128))).numpy()
    expected = int4.dequantize(*int4.quantize(weight.reshape(3, 128)))
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ties_and_zeros_are_rounded_as_in_the_format(dtype):
    weight = torch.zeros(2, 32)
    weight[0, :6] = torch.tensor([7.0, 0.5, 1.5, 2.5, -2.5, -0.5])
    found = fake_quantize(weight.to(dtype)).float()
    assert found[0, :6].tolist() == [7, 0, 2, 2, -2, 0]
    assert found[1].tolist() == [0] * 32


def test_gradient_passes_straight_through_rounding_and_clipping():
    weight = torch.randn(2, 64, requires_grad=True)
    gradient = torch.randn(2, 64)
    fake_quantize(weight).backward(gradient)
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, gradient, rtol=0, atol=0)
