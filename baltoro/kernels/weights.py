"""A checkpoint's tensors by name, bound to the places where a step uses them.

Binding checks every name, shape and type once, so that the implementations need not. Nothing is
copied: matrices stay where the file mapping has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from baltoro.config import BaltoroError, ModelConfig
from baltoro.quant.int4 import GROUP_SIZE

BFloat16 = ml_dtypes.bfloat16
_FLOATS = (np.dtype(BFloat16), np.dtype(np.float32))


@dataclass(frozen=True)
class Linear:
    """A matrix (out, in) in bf16 or f32."""

    weight: NDArray

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape  # type: ignore[return-value]


@dataclass(frozen=True)
class PackedLinear:
    """An INT4 matrix: codes int32 (out, in / 8) and scales bf16 (out, in / 32)."""

    packed: NDArray
    scale: NDArray

    @property
    def shape(self) -> tuple[int, int]:
        return self.packed.shape[0], self.packed.shape[1] * 8


Matrix = Linear | PackedLinear


@dataclass(frozen=True)
class MLP:
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    gate_proj: Matrix
    up_proj: Matrix
    down_proj: Matrix


@dataclass(frozen=True)
class Router:
    """Scores the routed experts for a token."""

    gate: Matrix  # (number of experts, D)
    e_score_correction_bias: NDArray[np.float32]


@dataclass(frozen=True)
class Attention:
    """Multi-head latent attention, as the checkpoint names its parts."""

    q_a_proj: Matrix | None  # None with q_a_layernorm where q_lora_rank is null
    q_a_layernorm: NDArray[np.float32] | None
    q_proj: Matrix  # q_b_proj, or q_proj where q_lora_rank is null
    kv_a_proj_with_mqa: Matrix
    kv_a_layernorm: NDArray[np.float32]
    kv_b_proj: Linear
    o_proj: Matrix


@dataclass(frozen=True)
class Layer:
    """Attention, then a dense MLP or experts."""

    input_layernorm: NDArray[np.float32]
    attention: Attention
    post_attention_layernorm: NDArray[np.float32]
    mlp: MLP | None  # the dense MLP, or the shared experts if there are any
    router: Router | None  # None in a dense layer
    experts: tuple[MLP, ...]


@dataclass(frozen=True)
class Weights:
    """All that a step reads."""

    embed_tokens: Linear
    layers: tuple[Layer, ...]
    norm: NDArray[np.float32]
    lm_head: Matrix


def bind(config: ModelConfig, tensors: Mapping[str, NDArray]) -> Weights:
    """Find every tensor of the model.

    Raises BaltoroError naming the tensor that is missing or unfit.
    """
    return _Binder(config, tensors).weights()


class _Binder:
    def __init__(self, config: ModelConfig, tensors: Mapping[str, NDArray]):
        self.config = config
        self.tensors = tensors

    def weights(self) -> Weights:
        config = self.config
        vocabulary = (config.vocab_size, config.hidden_size)
        return Weights(
            embed_tokens=self.linear("model.embed_tokens", *vocabulary),
            layers=tuple(self.layer(i) for i in range(config.num_hidden_layers)),
            norm=self.vector("model.norm.weight", config.hidden_size),
            lm_head=self.matrix("lm_head", *vocabulary),
        )

    def layer(self, index: int) -> Layer:
        config, prefix = self.config, f"model.layers.{index}"
        router, experts = None, ()
        if config.is_moe_layer(index):
            router = self.router(f"{prefix}.mlp.gate")
            width = config.moe_intermediate_size
            experts = tuple(
                self.mlp(f"{prefix}.mlp.experts.{e}", width) for e in range(config.n_routed_experts)
            )
            width *= config.n_shared_experts
            mlp = self.mlp(f"{prefix}.mlp.shared_experts", width) if width else None
        else:
            mlp = self.mlp(f"{prefix}.mlp", config.intermediate_size)
        return Layer(
            input_layernorm=self.vector(f"{prefix}.input_layernorm.weight", config.hidden_size),
            attention=self.attention(f"{prefix}.self_attn"),
            post_attention_layernorm=self.vector(
                f"{prefix}.post_attention_layernorm.weight", config.hidden_size
            ),
            mlp=mlp,
            router=router,
            experts=experts,
        )

    def attention(self, prefix: str) -> Attention:
        config = self.config
        heads, hidden, latent = (
            config.num_attention_heads,
            config.hidden_size,
            config.kv_lora_rank,
        )
        queries = heads * config.qk_head_dim
        rank = config.q_lora_rank
        if rank is None:
            q_a_proj, q_a_layernorm = None, None
            q_proj = self.matrix(f"{prefix}.q_proj", queries, hidden)
        else:
            q_a_proj = self.matrix(f"{prefix}.q_a_proj", rank, hidden)
            q_a_layernorm = self.vector(f"{prefix}.q_a_layernorm.weight", rank)
            q_proj = self.matrix(f"{prefix}.q_b_proj", queries, rank)
        keys_and_values = heads * (config.qk_nope_head_dim + config.v_head_dim)
        return Attention(
            q_a_proj=q_a_proj,
            q_a_layernorm=q_a_layernorm,
            q_proj=q_proj,
            kv_a_proj_with_mqa=self.matrix(
                f"{prefix}.kv_a_proj_with_mqa", config.latent_dim, hidden
            ),
            kv_a_layernorm=self.vector(f"{prefix}.kv_a_layernorm.weight", latent),
            kv_b_proj=self.linear(f"{prefix}.kv_b_proj", keys_and_values, latent),
            o_proj=self.matrix(f"{prefix}.o_proj", hidden, heads * config.v_head_dim),
        )

    def router(self, prefix: str) -> Router:
        config = self.config
        return Router(
            gate=self.linear(prefix, config.n_routed_experts, config.hidden_size),
            e_score_correction_bias=self.vector(
                f"{prefix}.e_score_correction_bias", config.n_routed_experts
            ),
        )

    def mlp(self, prefix: str, width: int) -> MLP:
        hidden = self.config.hidden_size
        return MLP(
            gate_proj=self.matrix(f"{prefix}.gate_proj", width, hidden),
            up_proj=self.matrix(f"{prefix}.up_proj", width, hidden),
            down_proj=self.matrix(f"{prefix}.down_proj", hidden, width),
        )

    def matrix(self, name: str, rows: int, cols: int) -> Matrix:
        """The matrix of a linear layer in whichever format the checkpoint has it."""
        if f"{name}.weight_packed" not in self.tensors:
            return self.linear(name, rows, cols)
        if cols % GROUP_SIZE:
            raise BaltoroError(
                f"tensor {name}.weight_packed has {cols} input features; INT4 needs a multiple of "
                f"{GROUP_SIZE}. Store this layer in bf16 as {name}.weight."
            )
        return PackedLinear(
            packed=self.tensor(f"{name}.weight_packed", (rows, cols // 8), (np.dtype(np.int32),)),
            scale=self.tensor(
                f"{name}.weight_scale", (rows, cols // GROUP_SIZE), (np.dtype(BFloat16),)
            ),
        )

    def linear(self, name: str, rows: int, cols: int) -> Linear:
        return Linear(self.tensor(f"{name}.weight", (rows, cols), _FLOATS))

    def vector(self, name: str, size: int) -> NDArray[np.float32]:
        # Vectors are few and small: a copy in f32 spares every kernel the conversion.
        return self.tensor(name, (size,), _FLOATS).astype(np.float32)

    def tensor(self, name: str, shape: tuple[int, ...], dtypes: tuple[np.dtype, ...]) -> NDArray:
        found = self.tensors.get(name)
        if found is None:
            raise BaltoroError(
                f"tensor {name} {shape} is missing from the checkpoint. Fetch the whole "
                "checkpoint again, or correct config.json if it asks for too much."
            )
        if found.shape != shape:
            raise BaltoroError(
                f"tensor {name} has shape {found.shape}; config.json makes it {shape}. "
                "The config and the weights are not of the same model."
            )
        if found.dtype not in dtypes:
            wanted = " or ".join(str(dtype) for dtype in dtypes)
            raise BaltoroError(
                f"tensor {name} has type {found.dtype}; the engine reads {wanted}. "
                "Convert the checkpoint with `baltoro quantize`."
            )
        return np.ascontiguousarray(found)
