"""The package's torch model with the weights of an unquantized checkpoint."""

from __future__ import annotations

import numpy as np
import torch

from baltoro.checkpoint.reader import Checkpoint
from baltoro.model.transformer import Transformer
from baltoro.train.export import state_dict_from


def load_torch_model(checkpoint: Checkpoint) -> Transformer:
    """Every parameter and buffer comes from the checkpoint, every tensor of it is used."""
    model = Transformer(checkpoint.config)
    model.load_state_dict(state_dict_from(checkpoint.config, dict(checkpoint.tensors)))
    return model.eval()


@torch.no_grad()
def torch_logits(checkpoint: Checkpoint, tokens: np.ndarray) -> np.ndarray:
    """Logits float32 (tokens, vocab_size) of one sequence."""
    model = load_torch_model(checkpoint)
    return model(torch.from_numpy(tokens.astype(np.int64))[None])[0].numpy()
