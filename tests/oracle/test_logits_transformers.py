"""Logits and weights against transformers' DeepseekV3ForCausalLM."""

from __future__ import annotations

import dataclasses
import shutil

import ml_dtypes
import numpy as np
import torch
from torch_model import load_torch_model, torch_logits
from transformers_logits import load_transformers_model, transformers_logits

from baltoro.checkpoint.convert import unpack_weight
from baltoro.checkpoint.layout import expert_shapes
from baltoro.config import YarnConfig
from baltoro.model import attention
from baltoro.model.moe import Router

TOLERANCE = 1e-4


def test_torch_model_has_the_logits_of_transformers(logit_case):
    expected = transformers_logits(logit_case.deepseek_folder, logit_case.tokens)
    found = torch_logits(logit_case.exact, logit_case.tokens)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_transformers_reads_the_packed_files_as_the_same_weights(logit_case, tmp_path):
    config, tensors = logit_case.int4.config, logit_case.int4.tensors
    folder = shutil.copytree(logit_case.int4.folder, tmp_path / "packed")
    renamed = dataclasses.replace(config, model_type="deepseek_v3")
    (folder / "config.json").write_text(renamed.to_json())
    theirs = load_transformers_model(folder).state_dict()
    for layer in range(config.first_k_dense_replace, config.num_hidden_layers):
        experts = f"model.layers.{layer}.mlp.experts"
        gate_up, down = theirs[f"{experts}.gate_up_proj"], theirs[f"{experts}.down_proj"]
        gate, up = gate_up.chunk(2, dim=1)
        stacks = {"gate_proj": gate, "up_proj": up, "down_proj": down}
        for expert in range(config.n_routed_experts):
            for projection in expert_shapes(config):
                stem = f"{experts}.{expert}.{projection}.weight"
                parts = (tensors[f"{stem}_{p}"] for p in ("packed", "scale", "shape"))
                # transformers rounds code * scale to the type of the scale.
                ours = unpack_weight(*parts).astype(ml_dtypes.bfloat16).astype(np.float32)
                np.testing.assert_array_equal(ours, stacks[projection][expert].numpy(), stem)


class TestSensitivity:
    """The comparisons above see what is easily got wrong, because each moves the logits."""

    def test_logits_depend_on_the_ramp(self, logit_case):
        yarn = logit_case.exact.config.rope_scaling
        other = {1.0: 32.0, 32.0: 1.0}[yarn.beta_fast]
        changed = self.with_yarn(logit_case.exact, dataclasses.replace(yarn, beta_fast=other))
        assert self.difference(logit_case, changed) > 100 * TOLERANCE

    def test_logits_depend_on_the_latent_norms_own_eps(self, logit_case, monkeypatch):
        ours = torch_logits(logit_case.exact, logit_case.tokens)
        monkeypatch.setattr(attention, "LATENT_NORM_EPS", logit_case.exact.config.rms_norm_eps)
        mixed_up = torch_logits(logit_case.exact, logit_case.tokens)
        assert np.abs(ours - mixed_up).max() > 10 * TOLERANCE

    def test_logits_depend_on_the_original_context(self, logit_case):
        checkpoint = logit_case.exact
        yarn = dataclasses.replace(
            checkpoint.config.rope_scaling, original_max_position_embeddings=4096
        )
        assert self.difference(logit_case, self.with_yarn(checkpoint, yarn)) > 100 * TOLERANCE

    @torch.no_grad()
    def test_correction_bias_changes_choices_and_margins_are_wide(self, logit_case):
        model = load_torch_model(logit_case.exact)
        chosen_otherwise, margins = 0, []

        def look(router: Router, args: tuple, _output) -> None:
            nonlocal chosen_otherwise
            scores = torch.nn.functional.linear(args[0], router.weight).sigmoid()
            k = router.config.num_experts_per_tok
            biased = (scores + router.e_score_correction_bias).sort(descending=True)
            margins.append((biased.values[:, k - 1] - biased.values[:, k]).min().item())
            unbiased = scores.topk(k).indices.sort().values
            differs = biased.indices[:, :k].sort().values != unbiased
            chosen_otherwise += differs.any(dim=-1).sum().item()

        for router in model.routers():
            router.register_forward_hook(look)
        model(torch.from_numpy(logit_case.tokens.astype(np.int64))[None])
        assert chosen_otherwise > len(logit_case.tokens) / 4
        # Rounding moves scores by about 1e-6; a smaller margin could flip a choice.
        assert min(margins) > 1e-5

    def test_tokens_go_beyond_the_original_context(self, logit_case):
        yarn = logit_case.exact.config.rope_scaling
        assert len(logit_case.tokens) > 2 * yarn.original_max_position_embeddings

    def with_yarn(self, checkpoint, yarn: YarnConfig):
        config = dataclasses.replace(checkpoint.config, rope_scaling=yarn)
        return dataclasses.replace(checkpoint, config=config)

    def difference(self, logit_case, changed) -> float:
        ours = torch_logits(logit_case.exact, logit_case.tokens)
        return float(np.abs(ours - torch_logits(changed, logit_case.tokens)).max())
