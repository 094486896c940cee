"""Logits of the engine, from the packed files, against transformers and mlx-lm."""

from __future__ import annotations

import numpy as np
import pytest
from engine_logits import engine_logits
from mlx_logits import mlx_logits
from transformers_logits import transformers_logits

from baltoro.kernels.load import choose_kernels

TOLERANCE = 1e-4


@pytest.mark.parametrize("kernels", choose_kernels().available)
def test_engine_has_the_logits_of_transformers(logit_case, kernels):
    expected = transformers_logits(logit_case.deepseek_folder, logit_case.tokens)
    found = engine_logits(logit_case.int4, logit_case.tokens, kernels)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kernels", choose_kernels().available)
def test_engine_has_the_logits_of_mlx(logit_case, kernels):
    expected = mlx_logits(logit_case.exact.folder, logit_case.tokens)
    found = engine_logits(logit_case.int4, logit_case.tokens, kernels)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
