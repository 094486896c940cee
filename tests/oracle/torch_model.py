"""The package's torch model with the weights of an unquantized checkpoint."""

from __future__ import annotations

import numpy as np
import torch

from baltoro.checkpoint.reader import Checkpoint
from baltoro.model.transformer import Transformer


def load_torch_model(checkpoint: Checkpoint) -> Transformer:
    """Every parameter and buffer comes from the checkpoint, every tensor of it is used."""
    config, tensors = checkpoint.config, dict(checkpoint.tensors)
    state = {}
    for layer in range(config.first_k_dense_replace, config.num_hidden_layers):
        prefix = f"model.layers.{layer}.mlp.experts."
        for projection in ("gate_proj", "up_proj", "down_proj"):
            names = [f"{prefix}{e}.{projection}.weight" for e in range(config.n_routed_experts)]
            state[prefix + projection] = np.stack([tensors.pop(name) for name in names])
    state |= tensors
    model = Transformer(config)
    model.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in state.items()})
    return model.eval()


@torch.no_grad()
def torch_logits(checkpoint: Checkpoint, tokens: np.ndarray) -> np.ndarray:
    """Logits float32 (tokens, vocab_size) of one sequence."""
    model = load_torch_model(checkpoint)
    return model(torch.from_numpy(tokens.astype(np.int64))[None])[0].numpy()
