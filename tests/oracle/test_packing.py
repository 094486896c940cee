"""The INT4 format against compressed-tensors, bit for bit."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import (
    pack_to_int32,
    unpack_from_int32,
)
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from baltoro.quant import int4

K2_WEIGHTS = QuantizationArgs(
    num_bits=4, type="int", symmetric=True, strategy="group", group_size=32
)

any_codes = arrays.arrays(
    np.int8,
    st.tuples(st.integers(1, 5), st.integers(1, 75)),
    elements=st.integers(-8, 7),
)


@st.composite
def weights(draw) -> np.ndarray:
    """Matrices of whole groups, from tiny to large values, some groups all zero."""
    rows, groups = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    magnitude = 10.0 ** draw(st.integers(-20, 20))
    weight = rng.normal(0, magnitude, (rows, groups, 32)) * rng.integers(0, 2, (rows, groups, 1))
    return weight.reshape(rows, -1).astype(np.float32)


def as_torch(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32))


@given(any_codes)
def test_packed_words_are_those_of_compressed_tensors_at_every_width(codes):
    packed = int4.pack(codes)
    assert packed.dtype == np.int32
    np.testing.assert_array_equal(packed, pack_to_int32(torch.from_numpy(codes), 4).numpy())


@given(any_codes)
def test_unpacking_words_of_compressed_tensors_gives_back_their_codes(codes):
    words = pack_to_int32(torch.from_numpy(codes), 4)
    found = int4.unpack(words.numpy(), codes.shape[1])
    np.testing.assert_array_equal(found, codes)
    theirs = unpack_from_int32(words, 4, torch.Size(codes.shape)).numpy()
    np.testing.assert_array_equal(found, theirs)


@pytest.mark.parametrize(
    ("codes", "word"),
    [
        ([-8, -7, -6, -5, -4, -3, -2, -1], 0x76543210),
        ([0, 1, 2, 3, 4, 5, 6, 7], 0xFEDCBA98),
        ([-1, -1, -1], 0x00000777),
    ],
)
def test_first_code_is_in_the_lowest_nibble_with_offset_eight(codes, word):
    packed = int4.pack(np.array([codes], dtype=np.int8))
    assert packed.view(np.uint32).tolist() == [[word]]


@given(weights())
def test_codes_for_given_scales_are_those_of_compressed_tensors(weight):
    codes, scale = int4.quantize(weight)
    rounded = as_torch(weight.astype(ml_dtypes.bfloat16))
    scales = as_torch(scale)
    theirs = quantize(rounded, scales, torch.zeros_like(scales), K2_WEIGHTS).numpy()
    np.testing.assert_array_equal(codes, theirs)


@given(any_codes, st.integers(0, 2**32 - 1))
def test_dequantized_weights_are_those_of_compressed_tensors(codes, seed):
    codes = np.tile(codes, (1, 32))  # whole groups; every code occurs, -8 too
    rng = np.random.default_rng(seed)
    scale = rng.uniform(1e-4, 1e4, (codes.shape[0], codes.shape[1] // 32))
    scale = scale.astype(ml_dtypes.bfloat16)
    theirs = dequantize(
        torch.from_numpy(codes), as_torch(scale), None, K2_WEIGHTS, dtype=torch.float32
    )
    np.testing.assert_array_equal(int4.dequantize(codes, scale), theirs.numpy())
