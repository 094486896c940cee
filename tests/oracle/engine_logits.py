"""Logits of the engine's step, straight from a packed checkpoint."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from baltoro.checkpoint.reader import Checkpoint
from baltoro.kernels.load import load_step_model


def engine_logits(checkpoint: Checkpoint, tokens: NDArray[np.int32], kernels: str) -> NDArray:
    """Logits float32 (tokens, vocab_size) of one sequence: a prefill in two chunks, then decode.

    Activations and the latent cache are f32.
    """
    model = load_step_model(
        checkpoint.config,
        checkpoint.tensors,
        num_blocks=8,
        block_tokens=16,
        activations="f32",
        threads=1,
        kernels=kernels,
    )
    table = np.arange(8, dtype=np.int32)[::-1].copy()[None]
    positions = np.arange(len(tokens), dtype=np.int32)
    cuts = [0, len(tokens) // 3, len(tokens) - 5, *range(len(tokens) - 4, len(tokens) + 1)]
    pieces = []
    for start, stop in itertools.pairwise(cuts):
        rows = np.arange(stop - start, dtype=np.int32)
        pieces.append(
            model.step(tokens[start:stop], positions[start:stop], np.zeros_like(rows), table, rows)
        )
    return np.concatenate(pieces)
