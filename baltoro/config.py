"""Configuration: `ModelConfig` has the keys of `config.json`; runs are read from TOML.

Nothing here imports more than the standard library, so every room may use it.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class BaltoroError(ValueError):
    """A mistake of the user's. The command line shows the sentence without a traceback."""


@dataclass(frozen=True, kw_only=True)
class YarnConfig:
    """`rope_scaling` of `config.json`: YaRN (arXiv 2309.00071) as DeepSeek-V3 applies it."""

    type: str = "yarn"
    factor: float = 64.0  # how many times the original context is stretched
    original_max_position_embeddings: int = 4096
    beta_fast: float = 1.0  # rotations in the original context above which a pair is left alone
    beta_slow: float = 1.0  # rotations below which a pair is stretched by the whole factor
    mscale: float = 1.0
    mscale_all_dim: float = 1.0


@dataclass(frozen=True, kw_only=True)
class QuantizationConfig:
    """The part of compressed-tensors' `quantization_config` that K2's INT4 layout uses."""

    num_bits: int = 4
    group_size: int = 32  # weights along the input dimension that share one scale


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A K2-architecture model. Field names are the keys of the published `config.json`."""

    model_type: str = "kimi_k2"
    vocab_size: int = 163840
    hidden_size: int = 7168
    num_hidden_layers: int = 61
    first_k_dense_replace: int = 1  # layers before this one have a dense MLP
    intermediate_size: int = 18432  # width of the dense MLP
    # Routed and shared experts.
    moe_intermediate_size: int = 2048
    n_routed_experts: int = 384
    num_experts_per_tok: int = 8
    n_shared_experts: int = 1
    n_group: int = 1
    topk_group: int = 1
    scoring_func: str = "sigmoid"
    topk_method: str = "noaux_tc"
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 2.827
    # Multi-head latent attention.
    num_attention_heads: int = 64
    num_key_value_heads: int = 64
    q_lora_rank: int = 1536
    kv_lora_rank: int = 512
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    rope_theta: float = 50000.0
    rope_scaling: YarnConfig | None = field(default_factory=YarnConfig)
    max_position_embeddings: int = 262144
    # The rest.
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    bos_token_id: int | None = 163584
    eos_token_id: int | tuple[int, ...] = (163586, 163585)
    pad_token_id: int | None = 163839
    quantization_config: QuantizationConfig | None = None

    @property
    def qk_head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def latent_dim(self) -> int:
        """Numbers per token and layer in the latent cache."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        eos = self.eos_token_id
        return (eos,) if isinstance(eos, int) else eos

    def is_moe_layer(self, layer: int) -> bool:
        return layer >= self.first_k_dense_replace


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build the dataclass `cls` from a mapping, refusing unknown and missing keys.

    Raises `BaltoroError` that names the key, `where` it stands, and the nearest known key.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else f" Known keys: {', '.join(fields)}."
            raise BaltoroError(f"{where}: unknown key '{key}'.{hint}")
    no_default = (dataclasses.MISSING, dataclasses.MISSING)
    for name, f in fields.items():
        if name not in values and (f.default, f.default_factory) == no_default:
            raise BaltoroError(f"{where}: key '{name}' is missing.")
    return cls(**values)


def load_toml(cls: type[T], path: str | Path) -> T:
    """Read one run configuration from a TOML file."""
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise BaltoroError(f"there is no file {path}.") from None
    except tomllib.TOMLDecodeError as error:
        raise BaltoroError(f"{path} is not valid TOML: {error}.") from None
    return from_mapping(cls, values, str(path))


def to_json(config: Any) -> str:
    """A dataclass as indented JSON, for the resolved copy beside the results."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


PRESETS: dict[str, ModelConfig] = {
    "k2-thinking": ModelConfig(quantization_config=QuantizationConfig()),
}
