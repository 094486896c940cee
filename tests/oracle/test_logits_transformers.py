"""Logits against transformers' DeepseekV3ForCausalLM."""

from __future__ import annotations

import numpy as np
import torch
from torch_model import torch_logits
from transformers import DeepseekV3ForCausalLM

TOLERANCE = 1e-4


@torch.no_grad()
def transformers_logits(folder, tokens):
    model, info = DeepseekV3ForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, attn_implementation="eager"
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[problem], f"{problem}: {info[problem]}"
    torch.nn.Module.float(model)  # the model's own is refused for packed weights
    return model.eval()(torch.from_numpy(tokens.astype(np.int64))[None]).logits[0].numpy()


def test_torch_model_has_the_logits_of_transformers(logit_case):
    expected = transformers_logits(logit_case.deepseek_folder, logit_case.tokens)
    found = torch_logits(logit_case.exact, logit_case.tokens)
    assert expected.std() > 0.5
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
