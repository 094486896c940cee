"""Experts read from disk while the model runs: the same bits as in memory, whatever fits."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from kernel_checkpoints import TINY, random_checkpoint, variant
from numpy.typing import NDArray

from baltoro.checkpoint.reader import Checkpoint, open_checkpoint
from baltoro.checkpoint.writer import write_checkpoint
from baltoro.config import BaltoroError, ModelConfig
from baltoro.kernels.load import load_step_model
from baltoro.kernels.native import NativeModel
from baltoro.kernels.streaming import Streaming

EXPERTS = TINY.n_routed_experts * 2  # in two MoE layers
SLOT_BYTES = 6 * 8192  # six pieces of less than a page, each of which may lie in two pages


def stored(folder: Path, config: ModelConfig = TINY, shard_bytes: int = 100_000) -> Checkpoint:
    """A random checkpoint on disk, in several files."""
    tensors = random_checkpoint(config)
    config = dataclasses.replace(config, bos_token_id=1, eos_token_id=2, pad_token_id=3)
    write_checkpoint(folder / "model", config, tensors.items(), shard_bytes=shard_bytes)
    return open_checkpoint(folder / "model")


def loaded(
    checkpoint: Checkpoint,
    arena_bytes: int | None = None,
    *,
    threads: int = 1,
    pinned: tuple[int, ...] = (),
) -> NativeModel:
    streaming = None
    if arena_bytes is not None:
        streaming = Streaming(
            files=checkpoint.tensors.files, arena_bytes=arena_bytes, io_threads=3, pinned=pinned
        )
    model = load_step_model(
        checkpoint.config,
        checkpoint.tensors,
        num_blocks=8,
        block_tokens=16,
        threads=threads,
        streaming=streaming,
    )
    assert isinstance(model, NativeModel)
    return model


def logits_of(model: NativeModel, n: int = 60, chunk: int = 20) -> NDArray[np.float32]:
    """Logits of every token of a prompt, then of some tokens that come one at a time."""
    tokens = np.random.default_rng(1).integers(0, model.config.vocab_size, n).astype(np.int32)
    table = np.arange(8, dtype=np.int32)[None]
    ends = [*range(chunk, n - 10, chunk), *range(n - 10, n + 1)]
    rows = []
    for start, end in zip([0, *ends], ends, strict=False):
        positions = np.arange(start, end, dtype=np.int32)
        rows.append(
            model.step(
                tokens[start:end],
                positions,
                np.zeros_like(positions),
                table,
                np.arange(end - start, dtype=np.int32),
            )
        )
    return np.concatenate(rows)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return stored(tmp_path_factory.mktemp("streamed"))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("slots", [2, 3, 5, EXPERTS])
def test_streamed_logits_equal_those_from_memory_bit_for_bit(
    checkpoint: Checkpoint, slots: int, threads: int
) -> None:
    expected = logits_of(loaded(checkpoint))
    model = loaded(checkpoint, slots * SLOT_BYTES, threads=threads)
    counts = model.stream_counts()
    assert counts is not None
    assert counts.slots == slots
    for _ in range(3):  # the first time from disk, then from disk and memory
        assert np.array_equal(logits_of(model).view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize(
    "config",
    [
        variant(quantization_config=None),
        variant(n_shared_experts=2),
        variant(torch_dtype="float32"),
    ],
    ids=["bf16 experts", "two shared experts", "f32"],
)
def test_streaming_does_not_care_for_the_format(tmp_path: Path, config: ModelConfig) -> None:
    checkpoint = stored(tmp_path, config)
    streamed = logits_of(loaded(checkpoint, 500_000))
    assert np.array_equal(streamed, logits_of(loaded(checkpoint)))


def test_what_fits_is_read_once(checkpoint: Checkpoint) -> None:
    model = loaded(checkpoint, EXPERTS * SLOT_BYTES)
    logits_of(model)
    first = model.stream_counts()
    logits_of(model)
    second = model.stream_counts()
    assert first is not None
    assert second is not None
    one = sum(
        checkpoint.tensors[f"model.layers.1.mlp.experts.0.{projection}_proj.{part}"].nbytes
        for projection in ("gate", "up", "down")
        for part in ("weight_packed", "weight_scale")
    )
    assert first.misses == np.count_nonzero(model.expert_uses())
    assert first.bytes_read == first.misses * one
    assert second.misses == first.misses
    assert second.hits > first.hits


def test_a_pinned_expert_is_never_read_again(checkpoint: Checkpoint) -> None:
    model = loaded(checkpoint, 4 * SLOT_BYTES, pinned=(3, EXPERTS - 1, 5))
    for _ in range(2):
        logits_of(model)
    uses = model.expert_uses()
    counts = model.stream_counts()
    assert counts is not None
    # Half of the slots: the third one asked for is not pinned.
    assert counts.hits >= uses[3] + uses[EXPERTS - 1]
    assert counts.hits + counts.misses == sum(uses)
    assert np.array_equal(logits_of(model), logits_of(loaded(checkpoint)))


def test_an_arena_for_less_than_two_experts_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(BaltoroError, match="fewer than two experts"):
        loaded(checkpoint, SLOT_BYTES)


def test_numpy_does_not_stream(checkpoint: Checkpoint) -> None:
    streaming = Streaming(files=checkpoint.tensors.files, arena_bytes=10 * SLOT_BYTES)
    with pytest.raises(BaltoroError, match="only the native engine"):
        load_step_model(
            checkpoint.config,
            checkpoint.tensors,
            num_blocks=8,
            kernels="reference",
            streaming=streaming,
        )


def test_a_file_that_was_cut_is_an_error_and_not_a_result(tmp_path: Path) -> None:
    checkpoint = stored(tmp_path, shard_bytes=1)  # each tensor in a file of its own
    model = loaded(checkpoint, 3 * SLOT_BYTES)
    logits_of(model)
    path, _ = checkpoint.tensors.spec("model.layers.2.mlp.experts.0.up_proj.weight_packed")
    size = path.stat().st_size
    data = path.read_bytes()
    os.truncate(path, size // 2)
    with pytest.raises(RuntimeError, match="shorter than it was"):
        logits_of(model)
    path.write_bytes(data)
    assert path.stat().st_size == size
    assert np.array_equal(logits_of(model), logits_of(loaded(checkpoint)))
