"""What a model may take of the memory: weights, latent cache, working space, room for experts.

Where the routed experts do not fit, the rest stays in memory and the experts are read from disk
into what is left.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from baltoro.checkpoint.inspect import describe, int8_bytes, machine_bytes, size_text
from baltoro.config import BaltoroError, ModelConfig
from baltoro.kernels.cores import available_cores
from baltoro.kernels.step import Activations

BLOCK_TOKENS = 64
DEFAULT_CACHE_BYTES = 1 << 30  # unless one whole context needs more
CONTEXTS_IN_CACHE = 8  # more than this is not taken by default, however small the model
MACHINE_SHARE = 4  # the default cache takes at most this part (1 / 4) of the machine's memory

CACHE_SHARE = 8  # the cache's part (1 / 8) of what is left where experts are read from disk
LEAST_LAYERS = 2  # experts that one token chooses in so many layers must fit
TENSOR_BYTES = 1000  # that the bookkeeping of one tensor takes
SLACK_BYTES = 64 << 20  # for what the process takes later on
SLOT_ROUNDING = 6 * 8192  # an expert's six tensors lie in whole pages

# A step of a prompt reads each expert's weights once, and the more tokens it has, the less that is
# of the work; so many for each expert are enough, if a step stays within these bounds.
EXPERT_TOKENS = 32
LEAST_STEP, LARGEST_STEP = 256, 2048
STEP_SHARE = 16  # a step's buffers take at most this part (1 / 16) of a given memory

QUANTIZED_SHARE = 0.32  # bytes of an input as INT8 with its scales, over those of an f32
SPAN_TOKENS, HEAD_TILE = 4096, 16  # kSpan, and kHeadTile or more, of csrc

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class MemoryPlan:
    """How a model is loaded."""

    cache_tokens: int  # that the latent cache holds
    arena_bytes: int | None = None  # for experts read from disk; None: all weights in memory


def plan_memory(
    config: ModelConfig,
    activations: Activations,
    *,
    max_context: int | None,
    memory: int | None,
    cache_memory: int | None,
    step_tokens: int,
    dense_bits: int = 16,
    threads: int | None = None,
) -> MemoryPlan:
    """Share out `memory`, bytes for the whole process; None takes all weights into memory.

    Raises BaltoroError if `memory` is too little, and as `cache_tokens` does.
    """
    if memory is None:
        return MemoryPlan(cache_tokens(config, activations, max_context, cache_memory))
    parts = describe("", config).parts
    experts = parts["routed experts"].size_bytes
    resident = sum(part.size_bytes for part in parts.values()) - experts
    if dense_bits == 8:
        resident += int8_bytes(resident)
    working = step_bytes(config, step_tokens)
    working += span_bytes(config, max_context, threads or available_cores())
    needed = resident + process_bytes(config) + working
    left = memory - needed
    least_cache = (max_context or BLOCK_TOKENS) * cache_token_bytes(config, activations)
    if left >= experts + (cache_memory or least_cache):
        most = left - experts
        default = min(most, default_cache_bytes(config, activations, max_context))
        tokens = cache_tokens(config, activations, max_context, cache_memory or default)
        return MemoryPlan(tokens)
    cache = cache_memory or max(least_cache, min(DEFAULT_CACHE_BYTES, left // CACHE_SHARE))
    tokens = cache_tokens(config, activations, max_context, cache)
    arena = left - tokens * cache_token_bytes(config, activations)
    least = LEAST_LAYERS * config.num_experts_per_tok * slot_bytes(config, experts)
    if arena < least:
        raise BaltoroError(
            f"{size_text(memory)} of memory are too little for this model even with its experts "
            f"on disk. The rest of its weights takes {size_text(resident)}, and with cache and "
            f"working space {size_text(memory - arena + least)} is the least that will do. Give "
            "more with memory, or ask for a smaller max_context."
        )
    return MemoryPlan(tokens, arena)


def default_step_tokens(config: ModelConfig, memory: int | None) -> int:
    """Tokens of one step, a multiple of LEAST_STEP."""
    wanted = EXPERT_TOKENS * config.n_routed_experts // config.num_experts_per_tok
    tokens = max(LEAST_STEP, min(wanted, LARGEST_STEP) // LEAST_STEP * LEAST_STEP)
    while memory is not None and tokens > LEAST_STEP:
        if step_bytes(config, tokens) <= memory // STEP_SHARE:
            break
        tokens -= LEAST_STEP
    return tokens


def process_bytes(config: ModelConfig) -> int:
    """What the process holds now and will hold besides weights, cache and a step's buffers."""
    tensors = 10 * config.num_hidden_layers + 6 * config.num_hidden_layers * config.n_routed_experts
    return resident_bytes() + SLACK_BYTES + TENSOR_BYTES * tensors


def step_bytes(config: ModelConfig, n: int) -> int:
    """Buffers of a step of n tokens, from above."""
    c = config
    heads, choices = c.num_attention_heads, c.num_experts_per_tok + c.n_shared_experts
    width = max(c.intermediate_size, c.moe_intermediate_size * choices)
    inputs = 2 * c.hidden_size + width + heads * (c.latent_dim + c.v_head_dim)
    per_token = (
        8 * c.hidden_size  # residual stream, norms, what is added
        + choices * c.hidden_size  # what each choice adds
        + 4 * width
        + heads * (c.qk_head_dim + 2 * c.latent_dim + 2 * c.v_head_dim)
        + 4 * c.n_routed_experts
        + 2 * c.vocab_size  # logits, where every token wants them
        + inputs * QUANTIZED_SHARE  # in INT8 besides
        # Of a tile of rows, for every token and choice; all threads' tiles are an eighth of a
        # matrix (`rows_per_item` in csrc/model.cpp).
        + (choices + 1) * (c.hidden_size + 2 * width) / 8
    )
    return math.ceil(1.25 * 4 * per_token * n)


def span_bytes(config: ModelConfig, max_context: int | None, threads: int) -> int:
    """What attention keeps of a long context's spans until they are added up: fewer than four
    items for each thread, each of all spans (`attend_all` in csrc/attention.cpp)."""
    spans = (max_context or config.max_position_embeddings) // SPAN_TOKENS + 1
    return 4 * threads * spans * HEAD_TILE * (config.kv_lora_rank + 16) * 4


def slot_bytes(config: ModelConfig, experts: int) -> int:
    """Room that one expert takes; `experts` are the bytes of all."""
    return experts // max(1, count_experts(config)) + SLOT_ROUNDING


def count_experts(config: ModelConfig) -> int:
    """Routed experts of all layers together."""
    layers = sum(config.is_moe_layer(i) for i in range(config.num_hidden_layers))
    return layers * config.n_routed_experts


def resident_bytes() -> int:
    """Memory that this process holds now; a guess where the system does not tell."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 256 << 20
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cache_token_bytes(config: ModelConfig, activations: Activations) -> int:
    """Latent cache of one token, all layers together."""
    return config.num_hidden_layers * config.latent_dim * (4 if activations == "f32" else 2)


def default_cache_bytes(
    config: ModelConfig, activations: Activations, max_context: int | None
) -> int:
    """Room for several whole contexts within a modest size."""
    token_bytes = cache_token_bytes(config, activations)
    context = max_context or config.max_position_embeddings
    size = min(machine_bytes() // MACHINE_SHARE, max(DEFAULT_CACHE_BYTES, context * token_bytes))
    return max(size, (max_context or 0) * token_bytes, BLOCK_TOKENS * token_bytes)


def cache_tokens(
    config: ModelConfig, activations: Activations, max_context: int | None, memory: int | None
) -> int:
    """How many tokens the latent cache is made for; `memory` is its size in bytes.

    By default room for several whole contexts within a modest size, and never so much that the
    weights have no memory left. Raises BaltoroError if the model has no such `max_context`, if
    it does not fit into `memory`, or if `memory` holds less than one block.
    """
    longest = config.max_position_embeddings
    if max_context is not None and not 1 < max_context <= longest:
        raise BaltoroError(
            f"max_context is {max_context}; it must be between 2 and {longest}, "
            "the model's max_position_embeddings."
        )
    token_bytes = cache_token_bytes(config, activations)
    context = max_context or longest
    if memory is None:
        memory = default_cache_bytes(config, activations, max_context)
    tokens = min(memory // token_bytes, CONTEXTS_IN_CACHE * context)
    needed = max_context or BLOCK_TOKENS
    if tokens < min(needed, context):
        raise BaltoroError(
            f"a latent cache of {memory} bytes holds {tokens} tokens at {token_bytes} bytes "
            f"each, but {needed} are needed. Give it at least {needed * token_bytes} bytes with "
            "cache_memory, or ask for a smaller max_context."
        )
    return tokens


def parse_size(size: int | str) -> int:
    """Bytes of a size such as 1000000, "512MiB" or "4G"; units are powers of 1024."""
    match = _SIZE.fullmatch(str(size))
    if not match:
        raise BaltoroError(f"'{size}' is no size in memory; write it like 512MiB or 4GiB.")
    return int(float(match[1]) * _UNITS[match[2].lower()])
