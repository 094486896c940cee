"""Logits against mlx-lm, an implementation that shares no code with transformers."""

from __future__ import annotations

import numpy as np
from mlx_logits import mlx_logits
from torch_model import torch_logits
from transformers_logits import transformers_logits

TOLERANCE = 1e-4


def test_torch_model_has_the_logits_of_mlx(logit_case):
    expected = mlx_logits(logit_case.exact.folder, logit_case.tokens)
    found = torch_logits(logit_case.exact, logit_case.tokens)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_mlx_and_transformers_agree_on_the_checkpoints(logit_case):
    found = mlx_logits(logit_case.exact.folder, logit_case.tokens)
    expected = transformers_logits(logit_case.deepseek_folder, logit_case.tokens)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
