"""Logits of mlx-lm, which reads a checkpoint folder as it is."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm.utils import load_model
from numpy.typing import NDArray


def mlx_logits(folder: Path, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    """Logits (tokens, vocab_size) of one sequence, on the CPU."""
    with mx.stream(mx.cpu):
        model, _ = load_model(folder)
        return np.array(model(mx.array(tokens)[None])[0].astype(mx.float32))
