"""The bundled model, loaded by independent implementations: the same next tokens as here.

The engine writes a reply greedily from the packed files, with f32 activations; the others then
read prompt and reply at once and say what they would have written at every position.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from mlx_logits import mlx_logits
from numpy.typing import NDArray
from random_checkpoints import exact_tensors
from torch_model import torch_logits
from transformers_logits import transformers_logits

from baltoro.chat.template import render
from baltoro.chat.tokenizer import Tokenizer
from baltoro.checkpoint.reader import Checkpoint, open_checkpoint
from baltoro.checkpoint.writer import write_checkpoint
from baltoro.kernels.load import load_step_model

TINY = Path(__file__).parents[2] / "baltoro" / "weights" / "tiny"
NUM_GENERATED = 200
TOLERANCE = 1e-3  # exact weights in f32; logits are some ten times those of the random models

pytestmark = pytest.mark.skipif(
    not (TINY / "config.json").exists(),
    reason="the bundled model is not there yet; recipes/tiny.sh makes it",
)

PYTHON = {
    "type": "function",
    "function": {
        "name": "python",
        "description": "Run Python code and return what it prints.",
        "parameters": {
            "type": "object",
            "properties": {"code": {"type": "string"}},
            "required": ["code"],
        },
    },
}


@pytest.fixture(scope="module", params=["comparison", "tool call"])
def written(request) -> tuple[NDArray[np.int32], int, NDArray]:
    """Prompt and greedy reply, where the reply begins, and the engine's logits for it."""
    tokenizer = Tokenizer.load(TINY)
    question, tools = {
        "comparison": ("Which is bigger: 9.11 or 9.9?", []),
        "tool call": ("What is 4182 * 977?", [PYTHON]),
    }[request.param]
    prompt = render(tokenizer, [{"role": "user", "content": question}], tools)
    tokens, logits = greedy_reply(open_checkpoint(TINY), prompt)
    return tokens, len(prompt), logits


@pytest.fixture(scope="module")
def exact(tmp_path_factory) -> Checkpoint:
    """The bundled weights in float32, experts being code * scale unrounded."""
    root = tmp_path_factory.mktemp("tiny")
    int4 = open_checkpoint(TINY)
    plain = dataclasses.replace(int4.config, torch_dtype="float32", quantization_config=None)
    write_checkpoint(root / "exact", plain, exact_tensors(int4))
    renamed = dataclasses.replace(plain, model_type="deepseek_v3")
    write_checkpoint(root / "deepseek_v3", renamed, exact_tensors(int4))
    return open_checkpoint(root / "exact")


def greedy_reply(checkpoint: Checkpoint, prompt: list[int]) -> tuple[NDArray[np.int32], NDArray]:
    """`NUM_GENERATED` most likely tokens after the prompt, ends of replies not heeded."""
    blocks = -(-(len(prompt) + NUM_GENERATED) // 64)
    model = load_step_model(
        checkpoint.config, checkpoint.tensors, num_blocks=blocks, activations="f32"
    )
    table = np.arange(blocks, dtype=np.int32)[None]
    tokens, logits, new = list(prompt), [], np.array(prompt, dtype=np.int32)
    while len(tokens) < len(prompt) + NUM_GENERATED:
        positions = np.arange(len(tokens) - len(new), len(tokens), dtype=np.int32)
        last = np.array([len(new) - 1], dtype=np.int32)
        logits.append(model.step(new, positions, np.zeros_like(new), table, last)[0])
        new = logits[-1].argmax(keepdims=True).astype(np.int32)
        tokens.append(int(new[0]))
    return np.array(tokens, dtype=np.int32), np.stack(logits)


def assert_same_next_tokens(written, logits: NDArray, tolerance: float) -> None:
    """The most likely token is the written one, at every position of the reply."""
    tokens, start, ours = written
    theirs = logits[start - 1 : -1]
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(theirs.argmax(axis=-1), tokens[start:])


def assert_same_where_clear(written, logits: NDArray, margin: float) -> None:
    """As above up to the reply's end, but for the few places where two tokens are nearly equal."""
    tokens, start, ours = written
    stops = open_checkpoint(TINY).config.eos_token_ids
    ends = np.isin(tokens[start:], stops).nonzero()[0]
    length = ends[0] + 1 if len(ends) else NUM_GENERATED
    second, first = np.partition(ours[:length], -2, axis=-1)[:, -2:].T
    clear = first - second > margin
    assert clear.mean() > 0.9
    theirs = logits[start - 1 : start - 1 + length].argmax(axis=-1)
    np.testing.assert_array_equal(theirs[clear], tokens[start : start + length][clear])


def test_torch_model_writes_what_the_engine_writes(written, exact):
    assert_same_next_tokens(written, torch_logits(exact, written[0]), TOLERANCE)


def test_transformers_writes_what_the_engine_writes(written, exact):
    folder = exact.folder.with_name("deepseek_v3")
    assert_same_next_tokens(written, transformers_logits(folder, written[0]), TOLERANCE)


def test_mlx_writes_what_the_engine_writes(written, exact):
    assert_same_next_tokens(written, mlx_logits(exact.folder, written[0]), TOLERANCE)


def test_transformers_loads_the_packed_files(written, tmp_path):
    folder = shutil.copytree(TINY, tmp_path / "deepseek_v3")
    renamed = dataclasses.replace(open_checkpoint(TINY).config, model_type="deepseek_v3")
    (folder / "config.json").write_text(renamed.to_json())
    # transformers rounds the experts' weights to bf16.
    assert_same_where_clear(written, transformers_logits(folder, written[0]), margin=0.25)


def test_mlx_loads_the_packed_files(written):
    # mlx-lm computes in bf16 then.
    assert_same_where_clear(written, mlx_logits(TINY, written[0]), margin=0.5)
