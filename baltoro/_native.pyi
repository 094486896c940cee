"""Types of the native engine (`csrc/bindings.cpp`). Arrays must be C-contiguous."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

def available_kernels() -> list[str]: ...

class Config:
    vocab_size: int
    hidden_size: int
    num_attention_heads: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    num_experts_per_tok: int
    norm_topk_prob: bool
    routed_scaling_factor: float
    rms_norm_eps: float
    softmax_scale: float
    rotary_multiplier: float
    rotary_frequencies: Sequence[float]
    int8_activations: bool
    num_blocks: int
    block_tokens: int
    threads: int
    cores: Sequence[int]
    def __init__(self) -> None: ...

class Matrix:
    def __init__(
        self,
        format: str,
        rows: int,
        cols: int,
        data: NDArray[np.uint8],
        scales: NDArray[np.uint8] | None = None,
    ) -> None: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    def dequantized(self) -> NDArray[np.float32]: ...

class Layer:
    input_layernorm: Sequence[float]
    post_attention_layernorm: Sequence[float]
    def __init__(self) -> None: ...
    def set_attention(
        self,
        q_a_proj: Matrix | None,
        q_a_layernorm: Sequence[float],
        q_proj: Matrix,
        kv_a_proj_with_mqa: Matrix,
        kv_a_layernorm: Sequence[float],
        kv_b_proj: Matrix,
        o_proj: Matrix,
        k_absorb: Matrix | None = None,
        v_expand: Matrix | None = None,
    ) -> None: ...
    def set_mlp(self, mlp: Sequence[Matrix], /) -> None: ...
    def set_router(
        self, gate: Matrix, bias: Sequence[float], experts: Sequence[Sequence[Matrix]]
    ) -> None: ...

class Model:
    kernels: str
    def __init__(
        self,
        config: Config,
        kernels: str,
        embed_tokens: Matrix,
        layers: Sequence[Layer],
        norm: Sequence[float],
        lm_head: Matrix,
    ) -> None: ...
    def step(
        self,
        tokens: NDArray[np.int32],
        positions: NDArray[np.int32],
        sequence_of_token: NDArray[np.int32],
        block_tables: NDArray[np.int32],
        logit_rows: NDArray[np.int32],
        expert_choices: NDArray[np.int32] | None = None,
    ) -> NDArray[np.float32]: ...
    def run_mlp(self, layer: int, x: NDArray[np.float32]) -> NDArray[np.float32]: ...
    def stream_experts(
        self, files: Sequence[tuple[str, NDArray[np.uint8]]], arena_bytes: int, io_threads: int
    ) -> None: ...
    def stream_counts(self) -> tuple[int, int, int, float]: ...
    def stream_slots(self) -> int: ...
    def expert_uses(self) -> list[int]: ...
    def pin_experts(self, experts: Sequence[int]) -> None: ...
    def read_block(self, block: int) -> NDArray[np.uint8]: ...
    def write_block(self, block: int, data: NDArray[np.uint8]) -> None: ...

class DrawRow:
    def __init__(
        self,
        temperature: float,
        top_p: float,
        top_k: int,
        min_p: float,
        top_logprobs: int,
        seed: int,
        position: int,
        forced: int | None = None,
        mask: NDArray[np.bool_] | None = None,
        changed: NDArray[np.int32] | None = None,
        changed_scores: NDArray[np.float64] | None = None,
    ) -> None: ...

def draw(
    kernels: str, logits: NDArray[np.float32], rows: Sequence[DrawRow]
) -> list[tuple[int, int, float, float, list[tuple[int, float]]]]: ...
def uniform(seed: int, position: int) -> float: ...
def has_packed_attention(kernels: str) -> bool: ...
def attend_packed(
    kernels: str,
    q: NDArray[np.float32],
    kv: NDArray[np.float32],
    k_rope: NDArray[np.float32],
    turns: NDArray[np.float32],
    lengths: NDArray[np.int64],
    scale: float,
    threads: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """out (M, H, V), log_sums (M, H) and the largest logits (H,); see `csrc/packed_attention.h`."""

def attend_packed_back(
    kernels: str,
    q: NDArray[np.float32],
    kv: NDArray[np.float32],
    k_rope: NDArray[np.float32],
    turns: NDArray[np.float32],
    lengths: NDArray[np.int64],
    scale: float,
    d_out: NDArray[np.float32],
    out: NDArray[np.float32],
    log_sums: NDArray[np.float32],
    threads: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """The gradients of q and kv, and of k_rope for each head (M, H, R)."""

def int8_copy(matrix: Matrix, threads: int = 1) -> Matrix: ...
def int8_kv_copies(
    kv_b_proj: Matrix, nope: int, value: int, threads: int = 1
) -> tuple[Matrix, Matrix]: ...
def matmul(
    kernels: str, matrix: Matrix, x: NDArray[np.float32], int8: bool = False
) -> NDArray[np.float32]: ...
def add_rows(kernels: str, matrix: Matrix, p: NDArray[np.float32]) -> NDArray[np.float32]: ...
def quantize(
    kernels: str, x: NDArray[np.float32]
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.uint8]]: ...
def rms_norm(
    kernels: str, x: NDArray[np.float32], weight: NDArray[np.float32], eps: float
) -> NDArray[np.float32]: ...
def exp_scores(
    kernels: str, scores: NDArray[np.float32], scale: float
) -> tuple[NDArray[np.float32], float, float]: ...
def silu_mul(
    kernels: str, gate: NDArray[np.float32], up: NDArray[np.float32]
) -> NDArray[np.float32]: ...
def exp(kernels: str, x: NDArray[np.float32]) -> NDArray[np.float32]: ...
def sigmoid(kernels: str, x: NDArray[np.float32]) -> NDArray[np.float32]: ...

class ReadProbe:
    def __init__(self, bytes: int, threads: int) -> None: ...
    def seconds(self, ahead: int = 0) -> float: ...

def interleave_memory(nodes: Sequence[int]) -> None: ...
