"""Logits against mlx-lm, an implementation that shares no code with transformers."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from mlx_lm.utils import load_model
from torch_model import torch_logits

TOLERANCE = 1e-4


def mlx_logits(folder, tokens):
    model, _ = load_model(folder)
    return np.array(model(mx.array(tokens)[None])[0].astype(mx.float32))


def test_torch_model_has_the_logits_of_mlx(logit_case):
    expected = mlx_logits(logit_case.exact.folder, logit_case.tokens)
    found = torch_logits(logit_case.exact, logit_case.tokens)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
