"""A step of the native engine: right, and the same bits whatever else happens."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from kernel_checkpoints import TINY, random_checkpoint, variant
from numpy.typing import NDArray

from baltoro.config import BaltoroError, ModelConfig, YarnConfig
from baltoro.kernels.load import load_step_model
from baltoro.kernels.reference import ReferenceModel
from baltoro.kernels.step import Activations, StepModel

_native = pytest.importorskip(
    "baltoro._native", reason="the native engine is not built: `pip install -e .`"
)

CHECKPOINT = random_checkpoint(TINY)
NUM_BLOCKS, BLOCK_TOKENS = 24, 16
kernel_sets = pytest.mark.parametrize("kernels", _native.available_kernels())
both_activations = pytest.mark.parametrize("activations", ["f32", "int8"])


def native(
    activations: Activations = "int8", threads: int = 1, kernels: str = "auto", **options: int
) -> StepModel:
    sizes = {"num_blocks": NUM_BLOCKS, "block_tokens": BLOCK_TOKENS} | options
    return load_step_model(
        TINY, CHECKPOINT, activations=activations, threads=threads, kernels=kernels, **sizes
    )


def token_ids(count: int, seed: int = 0, config: ModelConfig = TINY) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, config.vocab_size, count).astype(np.int32)


def ints(*values: int) -> NDArray[np.int32]:
    return np.array(values, dtype=np.int32)


def run_alone(
    model: StepModel, tokens: NDArray[np.int32], cuts: tuple[int, ...] = (), first_block: int = 0
) -> NDArray[np.float32]:
    """Logits of every token of one sequence, prefilled in pieces cut at `cuts`."""
    blocks = np.arange(first_block, first_block + -(-len(tokens) // model.block_tokens))
    logits = []
    for start, end in zip((0, *cuts), (*cuts, len(tokens)), strict=True):
        n = end - start
        logits.append(
            model.step(
                tokens[start:end],
                np.arange(start, end, dtype=np.int32),
                np.zeros(n, dtype=np.int32),
                blocks[None].astype(np.int32),
                np.arange(n, dtype=np.int32),
            )
        )
    return np.concatenate(logits)


def same_bits(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    return np.array_equal(a.view(np.uint32), b.view(np.uint32))


VARIANTS = {
    "tiny": TINY,
    "no yarn, queries of full rank": variant(rope_scaling=None, q_lora_rank=None),
    "yarn with a wide ramp": variant(
        rope_scaling=YarnConfig(
            original_max_position_embeddings=16, beta_fast=32.0, mscale=0.8, mscale_all_dim=0.9
        )
    ),
    "bf16 experts": variant(quantization_config=None),
    "two shared experts": variant(n_shared_experts=2),
    "no shared expert": variant(n_shared_experts=0),
    "no dense layer, shares not normalized": variant(first_k_dense_replace=0, norm_topk_prob=False),
    "K2's head sizes": variant(
        kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_equal_the_reference_with_f32_activations(name):
    config = VARIANTS[name]
    checkpoint = random_checkpoint(config, seed=5)
    sizes = {"num_blocks": 8, "block_tokens": BLOCK_TOKENS}
    reference = ReferenceModel(config, checkpoint, activations="f32", **sizes)
    model = load_step_model(config, checkpoint, activations="f32", threads=1, **sizes)
    tokens = token_ids(50, config=config)  # beyond the original context of 16
    expected = run_alone(reference, tokens, cuts=(20,))
    found = run_alone(model, tokens, cuts=(20,))
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_int8_logits_equal_the_reference_that_rounds_the_same():
    reference = ReferenceModel(TINY, CHECKPOINT, num_blocks=4, block_tokens=BLOCK_TOKENS)
    tokens = token_ids(12)
    expected, found = run_alone(reference, tokens), run_alone(native(), tokens)
    # A cache entry on the edge between two bf16 numbers may fall to either side.
    np.testing.assert_allclose(found, expected, atol=0.02)


@kernel_sets
@both_activations
def test_every_kernel_set_gives_the_same_bits(kernels, activations):
    tokens = token_ids(21)
    scalar = run_alone(native(activations, kernels="scalar"), tokens)
    assert same_bits(run_alone(native(activations, kernels=kernels), tokens), scalar)


@both_activations
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_and_chunks_do_not_change_a_bit(activations, threads):
    tokens = token_ids(70)
    expected = run_alone(native(activations), tokens)
    model = native(activations, threads)
    for cuts in [(), (1,), (16, 32), (5, 6, 7, 40, 69), tuple(range(1, 70))]:
        assert same_bits(run_alone(model, tokens, cuts), expected), cuts


@both_activations
def test_blocks_do_not_change_a_bit(activations):
    tokens = token_ids(40)
    expected = run_alone(native(activations), tokens)
    assert same_bits(run_alone(native(activations), tokens, first_block=11), expected)
    other_size = native(activations, num_blocks=99, block_tokens=7)
    assert same_bits(run_alone(other_size, tokens, cuts=(9,)), expected)


@both_activations
@pytest.mark.parametrize("threads", [1, 2])
def test_company_in_the_batch_does_not_change_a_bit(activations, threads):
    """Eight sequences of different lengths, prefilled at different times, then decoded at once."""
    prompts = [token_ids(8 + 3 * i, seed=i) for i in range(8)]
    expected = [run_alone(native(activations), prompt)[-4:] for prompt in prompts]
    model = native(activations, threads)
    tables = np.arange(8 * 3, dtype=np.int32)[::-1].reshape(8, 3).copy()
    found: list[list[NDArray]] = [[] for _ in prompts]
    done = [0] * 8
    step = 0
    while any(done[i] < len(prompts[i]) for i in range(8)):
        rows: list[tuple[int, int]] = []  # (sequence, position)
        for i, prompt in enumerate(prompts):
            # Sequence i starts at step i and takes the prompt in pieces; the last four singly.
            last = len(prompt) - 4
            size = min(5, last - done[i]) if done[i] < last else 1
            if step >= i and done[i] < len(prompt):
                rows += [(i, done[i] + j) for j in range(size)]
                done[i] += size
        wanted = [r for r, (i, position) in enumerate(rows) if position >= len(prompts[i]) - 4]
        logits = model.step(
            ints(*(prompts[i][position] for i, position in rows)),
            ints(*(position for _, position in rows)),
            ints(*(i for i, _ in rows)),
            tables,
            ints(*wanted),
        )
        for row, values in zip(wanted, logits, strict=True):
            found[rows[row][0]].append(values)
        step += 1
    for i in range(8):
        assert same_bits(np.stack(found[i]), expected[i]), i


def test_a_restored_block_gives_the_same_bits():
    tokens = token_ids(40)
    model = native()
    expected = run_alone(model, tokens)
    saved = [model.read_block(block) for block in range(2)]
    other = native()
    for block, data in zip((7, 3), saved, strict=True):
        other.write_block(block, data)
    found = other.step(
        tokens[32:],
        np.arange(32, 40, dtype=np.int32),
        np.zeros(8, dtype=np.int32),
        ints(7, 3, 12)[None],
        np.arange(8, dtype=np.int32),
    )
    assert same_bits(found, expected[32:])


def test_expert_choices_are_the_reference_s():
    choices = {}
    for model in (ReferenceModel(TINY, CHECKPOINT, num_blocks=2, activations="f32"), native("f32")):
        chosen = np.full((20, 2, TINY.num_experts_per_tok), -1, dtype=np.int32)
        table = np.arange(2, dtype=np.int32)[None]
        positions = np.arange(20, dtype=np.int32)
        model.step(token_ids(20), positions, np.zeros(20, np.int32), table, ints(), chosen)
        choices[model.kernels] = chosen
    first, second = choices.values()
    np.testing.assert_array_equal(first, second)


def test_sequences_may_share_blocks_that_they_only_read():
    prompt, model = token_ids(16), native()
    tails = [token_ids(3, seed=i) for i in (1, 2)]
    expected = [run_alone(native(), np.concatenate([prompt, tail]))[16:] for tail in tails]
    run_alone(model, prompt)
    found = model.step(
        np.concatenate(tails),
        ints(16, 17, 18, 16, 17, 18),
        ints(0, 0, 0, 1, 1, 1),
        ints(0, 4, 0, 5).reshape(2, 2),
        np.arange(6, dtype=np.int32),
    )
    assert same_bits(found, np.concatenate(expected))


def test_a_router_row_that_is_not_a_number_is_chosen_last():
    tensors = random_checkpoint(TINY)
    gate = tensors["model.layers.1.mlp.gate.weight"].copy()
    gate[0] = np.nan
    tensors["model.layers.1.mlp.gate.weight"] = gate
    chosen = np.zeros((3, 2, 3), dtype=np.int32)
    for kernels in ("auto", "reference"):
        model = load_step_model(
            TINY, tensors, num_blocks=1, block_tokens=BLOCK_TOKENS, kernels=kernels
        )
        model.step(**GOOD, expert_choices=chosen)
        assert (chosen[:, 0] != 0).all()


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limits of a process")
@pytest.mark.skipif(
    "libasan" in os.environ.get("LD_PRELOAD", ""), reason="the sanitizer itself needs memory"
)
def test_a_step_without_memory_is_an_error_and_the_next_step_works():
    code = [sys.executable, "-c", STEP_WITHOUT_MEMORY]
    done = subprocess.run(code, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "refused, then the same bits\n"), done.stderr


STEP_WITHOUT_MEMORY = """
import resource
import numpy as np
from kernel_checkpoints import TINY, random_checkpoint
from baltoro.kernels.load import load_step_model

BLOCKS = 1 << 16  # scores of so long a context fit into no heap that a thread already has
model = load_step_model(
    TINY, random_checkpoint(TINY), num_blocks=BLOCKS, block_tokens=64, threads=3
)

def step(position):
    tables = np.arange(BLOCKS, dtype=np.int32)[None]
    two = np.arange(2, dtype=np.int32)
    return model.step(two, position + two, 0 * two, tables, two)

first = step(0)
used = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmSize")) << 10
free = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20), free[1]))
for _ in range(3):
    try:
        step(64 * BLOCKS - 2)
    except MemoryError:
        continue
    raise SystemExit("there was memory")
resource.setrlimit(resource.RLIMIT_AS, free)
assert step(0).tobytes() == first.tobytes()
print("refused, then the same bits")
"""


def test_an_empty_step_returns_no_rows():
    empty = ints()
    logits = native().step(empty, empty, empty, np.zeros((0, 0), np.int32), empty)
    assert logits.shape == (0, TINY.vocab_size)


def test_steps_from_several_python_threads_take_turns():
    model = native(threads=2)
    prompts = [token_ids(30, seed=i) for i in range(4)]
    expected = [run_alone(native(), prompt) for prompt in prompts]
    found: dict[int, NDArray] = {}

    def work(i: int) -> None:
        found[i] = run_alone(model, prompts[i], cuts=(10, 11, 12), first_block=4 * i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same_bits(found[i], expected[i]) for i in range(4))


GOOD = {
    "tokens": ints(1, 2, 3),
    "positions": ints(0, 1, 2),
    "sequence_of_token": ints(0, 0, 0),
    "block_tables": ints(0, -1).reshape(1, 2),
    "logit_rows": ints(2),
}
MALFORMED = {
    "a token beyond the vocabulary": ({"tokens": ints(1, 2, TINY.vocab_size)}, "tokens"),
    "a negative token": ({"tokens": ints(1, -2, 3)}, "tokens"),
    "a token beyond 32 bits": ({"tokens": np.array([1, 2, 3 + 2**32])}, "tokens"),
    "tokens of two dimensions": ({"tokens": ints(1, 2, 3)[None]}, "tokens"),
    "tokens that are no integers": ({"tokens": np.array([1.0, 2.0, 3.0])}, "tokens"),
    "too few positions": ({"positions": ints(0, 1)}, "positions"),
    "a position beyond the table": ({"positions": ints(0, 1, 2 * BLOCK_TOKENS)}, "positions"),
    "positions out of order": ({"positions": ints(1, 0, 2)}, "positions"),
    "a position twice": ({"positions": ints(0, 1, 1)}, "positions"),
    "a sequence without table": ({"sequence_of_token": ints(0, 0, 1)}, "sequence_of_token"),
    "a table of one dimension": ({"block_tables": ints(0, 1)}, "block_tables"),
    "a block beyond the cache": (
        {"block_tables": ints(NUM_BLOCKS, -1).reshape(1, 2)},
        "block_tables",
    ),
    "a block that is not given": ({"positions": ints(0, 1, BLOCK_TOKENS)}, "block_tables"),
    "a row that is no token's": ({"logit_rows": ints(3)}, "logit_rows"),
    "choices of another shape": ({"expert_choices": np.zeros((3, 1, 3), np.int32)}, "expert"),
    "choices of another type": ({"expert_choices": np.zeros((3, 2, 3), np.int64)}, "expert"),
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_malformed_arguments_are_refused_by_name(kernels, name):
    changes, argument = MALFORMED[name]
    model = native(kernels=kernels)
    with pytest.raises(ValueError, match=argument):
        model.step(**(GOOD | changes))
    assert model.step(**GOOD).shape == (1, TINY.vocab_size)


@pytest.mark.parametrize("block", [-1, NUM_BLOCKS])
def test_blocks_out_of_range_are_refused(block):
    model = native()
    data = model.read_block(0)
    with pytest.raises(ValueError, match="there is no block"):
        model.read_block(block)
    with pytest.raises(ValueError, match="there is no block"):
        model.write_block(block, data)
    with pytest.raises(ValueError, match="not the bytes of a block"):
        model.write_block(0, data[:1])


def test_a_missing_tensor_is_named():
    name = "model.layers.1.mlp.experts.3.up_proj.weight_scale"
    checkpoint = {key: value for key, value in CHECKPOINT.items() if key != name}
    with pytest.raises(BaltoroError, match=name):
        load_step_model(TINY, checkpoint, num_blocks=1)


def test_a_tensor_of_another_shape_or_type_is_named():
    name = "model.layers.0.self_attn.o_proj.weight"
    narrow = CHECKPOINT | {name: CHECKPOINT[name][:, :-1]}
    with pytest.raises(BaltoroError, match=f"{name} has shape"):
        load_step_model(TINY, narrow, num_blocks=1)
    wide = CHECKPOINT | {name: CHECKPOINT[name].astype(np.float64)}
    with pytest.raises(BaltoroError, match=f"{name} has type float64"):
        load_step_model(TINY, wide, num_blocks=1)


# Whole groups everywhere, so that every bf16 matrix but the router has a copy.
GROUPED = variant(
    num_experts_per_tok=8,  # of 8: no choice that rounding could change
    hidden_size=96,
    intermediate_size=192,
    q_lora_rank=32,
    kv_lora_rank=64,
    qk_nope_head_dim=32,
    v_head_dim=32,
)


def rounded_to_int8(checkpoint: dict[str, NDArray]) -> dict[str, NDArray]:
    """The checkpoint as dense_bits=8 reads it: kv_b's keys have their groups along the head."""
    nope, value = GROUPED.qk_nope_head_dim, GROUPED.v_head_dim
    result = dict(checkpoint)
    for name, tensor in checkpoint.items():
        if tensor.ndim != 2 or tensor.dtype == np.int32 or "scale" in name or "gate." in name:
            continue
        if name.startswith("model.embed_tokens"):
            continue
        rows, cols = tensor.shape
        held = _native.Matrix("bf16", rows, cols, tensor.reshape(-1).view(np.uint8))
        if "kv_b_proj" not in name:
            result[name] = _native.int8_copy(held).dequantized()
            continue
        keys, values = (m.dequantized() for m in _native.int8_kv_copies(held, nope, value))
        heads = GROUPED.num_attention_heads
        keys = keys.reshape(heads, cols, nope).transpose(0, 2, 1)
        both = np.concatenate([keys, values.reshape(heads, value, cols)], axis=1)
        result[name] = np.ascontiguousarray(both.reshape(rows, cols))
    return result


@pytest.mark.parametrize("threads", [1, 3])
def test_int8_copies_of_dense_matrices_give_the_rounded_model(threads):
    checkpoint = random_checkpoint(GROUPED, seed=3)
    sizes = {"num_blocks": 8, "block_tokens": BLOCK_TOKENS}
    reference = ReferenceModel(GROUPED, rounded_to_int8(checkpoint), activations="f32", **sizes)
    model = load_step_model(GROUPED, checkpoint, threads=threads, dense_bits=8, **sizes)
    tokens = token_ids(40, config=GROUPED)
    expected, found = run_alone(reference, tokens), run_alone(model, tokens)
    # What is left is the rounding of activations to INT8 and of the cache to bf16.
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < 0.03
    assert same_bits(run_alone(model, tokens, cuts=(7, 8, 9, 30)), found)


@pytest.mark.parametrize("options", [{"dense_bits": 4}, {"dense_bits": 8, "activations": "f32"}])
def test_impossible_copies_are_refused(options):
    with pytest.raises(BaltoroError, match="dense"):
        load_step_model(TINY, CHECKPOINT, num_blocks=1, **options)


LONGEST = 262_144
LONG = variant(
    max_position_embeddings=LONGEST,
    rope_scaling=YarnConfig(factor=64.0, original_max_position_embeddings=4096),
)


def decode_last(model: StepModel, length: int, first_blocks: list[NDArray]) -> NDArray[np.float32]:
    """Logits of the last of `length` positions; the others repeat what two blocks hold."""
    for block, data in enumerate(first_blocks):
        model.write_block(block, data)
    last = (length - 1) // model.block_tokens
    table = np.arange(last + 1, dtype=np.int32)[None] % 2
    table[0, last] = 2
    return model.step(ints(7), ints(length - 1), ints(0), table, ints(0))


@pytest.mark.parametrize("length", [4095, 4097, LONGEST])
def test_a_token_after_a_long_context_equals_the_reference(length):
    checkpoint = random_checkpoint(LONG, seed=4)
    sizes = {"num_blocks": 3, "block_tokens": 64}
    reference = ReferenceModel(LONG, checkpoint, activations="f32", **sizes)
    run_alone(reference, token_ids(128, config=LONG), cuts=(64,))
    blocks = [reference.read_block(block) for block in (0, 1)]
    expected = decode_last(reference, length, blocks)
    assert np.isfinite(expected).all()
    found = []
    for threads in (1, 3):
        options = {"activations": "f32", "threads": threads, **sizes}
        model = load_step_model(LONG, checkpoint, **options)
        found.append(decode_last(model, length, blocks))
    assert same_bits(found[0], found[1])
    assert np.abs(found[0] - expected).max() < 1e-4 * np.abs(expected).max()


def test_spans_of_a_context_do_not_depend_on_company():
    """A token alone, whose spans are shared out, and beside others, whose spans are not."""
    checkpoint = random_checkpoint(LONG, seed=4)
    sizes = {"num_blocks": 40, "block_tokens": 64}
    model = load_step_model(LONG, checkpoint, threads=3, **sizes)
    run_alone(model, token_ids(128, config=LONG))
    table = np.arange(160, dtype=np.int32)[None].repeat(13, axis=0) % 2
    table[:, -1] = np.arange(2, 15)
    last = np.full(13, 160 * 64 - 1, dtype=np.int32)
    together = model.step(last % 300, last, np.arange(13, dtype=np.int32), table, ints(0, 12))
    alone = model.step(last[:1] % 300, last[:1], ints(0), table[:1], ints(0))
    assert same_bits(together, alone.repeat(2, axis=0))
