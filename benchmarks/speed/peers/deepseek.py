"""transformers' DeepseekV3 with the weights of one of our models."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any, cast

import torch

from baltoro.checkpoint.writer import write_checkpoint
from baltoro.model.transformer import Transformer
from baltoro.train.export import named_arrays


@torch.no_grad()
def deepseek_v3(model: Transformer, **options: Any) -> Any:
    """In float32, or a text that says why there is none. `model` is rounded to bf16 in place, so
    that both have the same weights."""
    for weight in model.parameters():
        weight.copy_(weight.bfloat16())
    # The library finds the experts of a checkpoint by the name of its own model alone.
    config = dataclasses.replace(model.config, model_type="deepseek_v3", quantization_config=None)
    try:
        from transformers import DeepseekV3ForCausalLM

        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(Path(folder), config, named_arrays(model), replace=True)
            loaded, info = cast(Any, DeepseekV3ForCausalLM).from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True, **options
            )
    except (ImportError, ValueError) as missing:
        return str(missing).splitlines()[0]
    wrong = {kind: names for kind, names in info.items() if names}
    if wrong:  # the library only warns, and goes on with random weights
        raise RuntimeError(f"transformers did not take all weights: {wrong}")
    return loaded
