"""A checkpoint for llama.cpp and ik_llama.cpp: INT4 experts as Q4_0, exactly, and the rest as Q8_0.

    BALTORO_PEERS=FOLDER python benchmarks/speed/peers/write_gguf.py CHECKPOINT FILE.gguf

`--tokenizer` writes the checkpoint's tokenizer, too. It has to cut text as `tiny`'s does, which
finds words, single digits and punctuation; benches prompt with ids and need none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parents[1]))

from baltoro.chat.json_tokenizer import bytes_of_letters
from baltoro.chat.tokenizer import Tokenizer
from baltoro.checkpoint.reader import Checkpoint, open_checkpoint
from baltoro.config import ModelConfig
from peers.find import find

GROUP = 32  # weights that share a scale, in both formats
SIGMOID = 2  # llama.cpp's number of the router's function
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # llama.cpp's numbers of kinds of tokens

# llama.cpp's names of a layer's matrices, by the checkpoint's.
ATTENTION = {
    "q_a_proj": "attn_q_a",
    "q_a_layernorm": "attn_q_a_norm",
    "q_b_proj": "attn_q_b",
    "kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "kv_a_layernorm": "attn_kv_a_norm",
    "o_proj": "attn_output",
}


def write(checkpoint: Checkpoint, target: Path, tokenizer: Tokenizer | None = None) -> Path:
    gguf = import_gguf()
    writer = gguf.GGUFWriter(str(target), "deepseek2")
    add_shape(writer, checkpoint.config, gguf)
    if tokenizer is None:
        add_no_tokenizer(writer, checkpoint.config)
    else:
        add_tokenizer(writer, tokenizer)
    for name, array in plain_tensors(checkpoint):
        if array.ndim == 1 or "ffn_gate_inp" in name:
            writer.add_tensor(name, array.astype(np.float32))
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            quantized = gguf.quants.quantize(array.astype(np.float32), kind)
            writer.add_tensor(name, quantized, raw_dtype=kind)
    for name, blocks in expert_tensors(checkpoint):
        writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def import_gguf() -> Any:
    """The package gguf, of this environment or of the peers'."""
    packages = find("venv/lib/python*/site-packages")
    if isinstance(packages, Path):
        sys.path.append(str(packages))
    import gguf  # pyright: ignore[reportMissingImports]
    import gguf.quants  # pyright: ignore[reportMissingImports]

    return gguf


def add_shape(writer: Any, c: ModelConfig, gguf: Any) -> None:
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(1)  # one latent serves all heads
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_vocab_size(c.vocab_size)
    writer.add_leading_dense_block_count(c.first_k_dense_replace)
    writer.add_q_lora_rank(c.q_lora_rank)
    writer.add_kv_lora_rank(c.kv_lora_rank)
    writer.add_key_length(c.latent_dim)
    writer.add_value_length(c.kv_lora_rank)
    writer.add_key_length_mla(c.qk_head_dim)
    writer.add_value_length_mla(c.v_head_dim)
    writer.add_expert_feed_forward_length(c.moe_intermediate_size)
    writer.add_expert_count(c.n_routed_experts)
    writer.add_expert_used_count(c.num_experts_per_tok)
    writer.add_expert_shared_count(c.n_shared_experts)
    writer.add_expert_weights_scale(c.routed_scaling_factor)
    writer.add_expert_weights_norm(c.norm_topk_prob)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType(SIGMOID))
    writer.add_rope_dimension_count(c.qk_rope_head_dim)
    writer.add_rope_freq_base(c.rope_theta)
    if c.rope_scaling is not None:
        yarn = c.rope_scaling
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(yarn.factor)
        writer.add_rope_scaling_orig_ctx_len(yarn.original_max_position_embeddings)
        writer.add_rope_scaling_yarn_beta_fast(yarn.beta_fast)
        writer.add_rope_scaling_yarn_beta_slow(yarn.beta_slow)
        writer.add_rope_scaling_yarn_log_mul(0.1 * yarn.mscale_all_dim)


def add_no_tokenizer(writer: Any, c: ModelConfig) -> None:
    """Tokens that no text has."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([f"<{i}>" for i in range(c.vocab_size)])
    writer.add_token_types([NORMAL] * c.vocab_size)
    writer.add_token_merges(["a b"])
    if c.bos_token_id is not None:
        writer.add_bos_token_id(c.bos_token_id)
    writer.add_eos_token_id(c.eos_token_ids[0])
    writer.add_add_bos_token(False)


def add_tokenizer(writer: Any, tokenizer: Tokenizer) -> None:
    """llama.cpp cuts as Qwen2 does. Such pieces are whole pieces of `tiny`'s, put together, and no
    merge crosses them, so the ids are the same."""
    characters = {byte: letter for letter, byte in bytes_of_letters().items()}

    def spelled(token: bytes) -> str:
        return "".join(characters[byte] for byte in token)

    ordinary = sorted(tokenizer.ranks, key=tokenizer.ranks.__getitem__)
    names = [tokenizer.special_names[id] for id in range(len(ordinary), tokenizer.vocab_size)]
    kinds = [USER_DEFINED if "think" in name else CONTROL for name in names]
    pairs = (halves(token, tokenizer.ranks) for token in ordinary if len(token) > 1)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*map(spelled, ordinary), *names])
    writer.add_token_types([NORMAL] * len(ordinary) + kinds)
    writer.add_token_merges([f"{spelled(left)} {spelled(right)}" for left, right in pairs])
    writer.add_bos_token_id(tokenizer.special.bos)
    writer.add_eos_token_id(tokenizer.special.im_end)
    writer.add_add_bos_token(False)


def halves(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens that the merge of this one joins: what it falls into without itself."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(a + b, len(ranks)) for a, b in pairwise(parts)]
        least = joined.index(min(joined))
        parts[least : least + 2] = [parts[least] + parts[least + 1]]
    return parts[0], parts[1]


def plain_tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, NDArray]]:
    """Everything but the routed experts, by llama.cpp's names."""
    c, t = checkpoint.config, checkpoint.tensors
    yield "token_embd.weight", t["model.embed_tokens.weight"]
    yield "output_norm.weight", t["model.norm.weight"]
    yield "output.weight", t["lm_head.weight"]
    for layer in range(c.num_hidden_layers):
        ours, theirs = f"model.layers.{layer}", f"blk.{layer}"
        yield f"{theirs}.attn_norm.weight", t[f"{ours}.input_layernorm.weight"]
        yield f"{theirs}.ffn_norm.weight", t[f"{ours}.post_attention_layernorm.weight"]
        for name, their_name in ATTENTION.items():
            yield f"{theirs}.{their_name}.weight", t[f"{ours}.self_attn.{name}.weight"]
        both = t[f"{ours}.self_attn.kv_b_proj.weight"].reshape(
            c.num_attention_heads, c.qk_nope_head_dim + c.v_head_dim, c.kv_lora_rank
        )
        keys, values = both[:, : c.qk_nope_head_dim], both[:, c.qk_nope_head_dim :]
        yield f"{theirs}.attn_k_b.weight", np.ascontiguousarray(keys.swapaxes(1, 2))
        yield f"{theirs}.attn_v_b.weight", np.ascontiguousarray(values)
        mlp, tail = (
            (f"{ours}.mlp.shared_experts", "_shexp")
            if c.is_moe_layer(layer)
            else (f"{ours}.mlp", "")
        )
        for projection in ("gate", "up", "down"):
            yield f"{theirs}.ffn_{projection}{tail}.weight", t[f"{mlp}.{projection}_proj.weight"]
        if c.is_moe_layer(layer):
            yield f"{theirs}.ffn_gate_inp.weight", t[f"{ours}.mlp.gate.weight"]
            yield f"{theirs}.exp_probs_b.bias", t[f"{ours}.mlp.gate.e_score_correction_bias"]


def expert_tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """All experts of a layer in one tensor of Q4_0 blocks (experts, rows, bytes)."""
    c, t = checkpoint.config, checkpoint.tensors
    for layer in range(c.num_hidden_layers):
        if not c.is_moe_layer(layer):
            continue
        for projection in ("gate", "up", "down"):
            prefix = f"model.layers.{layer}.mlp.experts"
            experts = [
                q4_0(
                    t[f"{prefix}.{e}.{projection}_proj.weight_packed"],
                    t[f"{prefix}.{e}.{projection}_proj.weight_scale"],
                )
                for e in range(c.n_routed_experts)
            ]
            yield f"blk.{layer}.ffn_{projection}_exps.weight", np.stack(experts)


def q4_0(packed: NDArray[np.int32], scales: NDArray) -> NDArray[np.uint8]:
    """INT4 rows as Q4_0: in a block of 32 the first half are the low nibbles, the second the high
    ones; both formats store a weight plus 8."""
    rows = packed.shape[0]
    pairs = packed.view(np.uint8)  # weight 2 i in the low nibble of byte i
    four = np.uint8(4)
    nibbles = np.stack([pairs & np.uint8(15), pairs >> four], axis=-1).reshape(rows, -1, GROUP)
    codes = nibbles[..., : GROUP // 2] | nibbles[..., GROUP // 2 :] << four
    halves = scales.astype(np.float32).astype(np.float16)
    if not np.array_equal(halves.astype(np.float32), scales.astype(np.float32)):
        raise SystemExit("a scale does not fit 16-bit floating point; Q4_0 cannot hold this model")
    blocks = np.concatenate([halves.view(np.uint8).reshape(rows, -1, 2), codes], axis=-1)
    return blocks.reshape(rows, -1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--tokenizer", action="store_true")
    given = parser.parse_args()
    tokenizer = Tokenizer.load(given.checkpoint) if given.tokenizer else None
    print(write(open_checkpoint(given.checkpoint), given.target, tokenizer))
