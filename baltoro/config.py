"""Configuration: `ModelConfig` has the keys of `config.json`; runs are read from TOML.

Nothing here imports more than the standard library, so every room may use it.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import sys
import tomllib
import types
import typing
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class BaltoroError(ValueError):
    """A mistake of the user's. The command line shows the sentence without a traceback."""


class ConfigWarning(UserWarning):
    """A key of a configuration that changes nothing."""


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
    n_group: int = 1  # the experts stand in groups of equal size,
    topk_group: int = 1  # and a token's experts come from this many of them
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 2.827
    # Multi-head latent attention.
    num_attention_heads: int = 64
    num_key_value_heads: int = 64
    q_lora_rank: int | None = 1536  # None: queries come from the hidden state in one step
    kv_lora_rank: int = 512
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    rope_theta: float = 50000.0
    rope_scaling: YarnConfig | None = field(default_factory=YarnConfig)
    max_position_embeddings: int = 262144
    num_nextn_predict_layers: int = 0  # on disk behind the others, for drafts; left unread
    # The rest.
    rms_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    bos_token_id: int | None = 163584
    eos_token_id: int | tuple[int, ...] = (163586, 163585)
    pad_token_id: int | None = 163839
    torch_dtype: str = "bfloat16"  # of the weights on disk that are not packed; or "float32"
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

    @classmethod
    def from_json(
        cls, source: str | Path | Mapping[str, Any], where: str = "config.json"
    ) -> ModelConfig:
        """Read a published `config.json`: a checkpoint folder, a file, or the parsed mapping.

        The old spelling (`rope_theta`, `rope_scaling`, `torch_dtype`) and that of transformers 5
        (`rope_parameters`, `dtype`) are both read. Stop tokens that only `generation_config.json`
        of the folder names are added. Keys that change nothing give one `ConfigWarning`.

        Raises `BaltoroError` for a key that is missing or of the wrong type, and for a value that
        changes the computation in a way that is not supported.
        """
        if isinstance(source, Mapping):
            return _ConfigReader(source, where).read()
        path = Path(source)
        path = path / "config.json" if path.is_dir() else path
        config = _ConfigReader(read_json(path), str(path)).read()
        return _with_generation_stops(config, path.with_name("generation_config.json"))

    def to_json(self) -> str:
        """The published `config.json`, in the spelling that the published checkpoint has."""
        values = dataclasses.asdict(self) | _PUBLISHED_CONSTANTS
        values["architectures"] = [_ARCHITECTURES[self.model_type]]
        first, *others = self.eos_token_ids
        values["eos_token_id"] = [first, *others] if others else first
        if self.quantization_config is None:
            del values["quantization_config"]
        else:
            values["quantization_config"] = published_quantization(self.quantization_config)
        return json.dumps(dict(sorted(values.items())), indent=2) + "\n"


# The class that each supported `model_type` names in published files. All are one architecture.
_ARCHITECTURES = {
    "kimi_k2": "DeepseekV3ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "glm4_moe_lite": "Glm4MoeLiteForCausalLM",
}

# Keys of the published file that are no fields: they say nothing about the computation, or it is
# done in one way only. With the values that the file has.
_PUBLISHED_CONSTANTS: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "aux_loss_alpha": 0.001,
    "ep_size": 1,
    "hidden_act": "silu",
    "moe_layer_freq": 1,
    "pretraining_tp": 1,
    "scoring_func": "sigmoid",
    "seq_aux": True,
    "tie_word_embeddings": False,
    "topk_method": "noaux_tc",
    "use_cache": True,
}

# The one supported value of each key that changes the computation; `None` counts as absent.
_SUPPORTED: dict[str, Any] = {
    "attention_bias": False,
    "hidden_act": "silu",
    "moe_layer_freq": 1,
    "norm_topk_prob": True,
    "partial_rotary_factor": 1.0,
    "rope_interleave": True,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_method": "noaux_tc",
}

# Keys that may be absent; without every other field there is no telling what the weights are.
_OPTIONAL = frozenset(_SUPPORTED) | {
    "n_group",
    "topk_group",
    "num_nextn_predict_layers",
    "initializer_range",
    "bos_token_id",
    "pad_token_id",
    "torch_dtype",
    "rope_theta",
    "rope_scaling",
    "quantization_config",
}

# Known keys that are left unread without a word: training, bookkeeping, or implied by others.
_SILENT = frozenset(_PUBLISHED_CONSTANTS) | {
    "architectures",
    "_name_or_path",
    "auto_map",
    "dtype",
    "head_dim",
    "mlp_layer_types",
    "partial_rotary_factor",
    "qk_head_dim",
    "rope_interleave",
    "rope_parameters",
    "transformers_version",
}

_MOST_EXPERTS = 100_000  # of all layers, four times those of K2
_LAYER_TYPES = "mlp_layer_types"
_MAY_BE_ZERO = frozenset({"first_k_dense_replace", "num_nextn_predict_layers"})

_YARN_KEYS = tuple(f.name for f in dataclasses.fields(YarnConfig) if f.name != "type")


class _ConfigReader:
    """Turns the mapping of one `config.json` into a `ModelConfig`, or says what is wrong."""

    def __init__(self, values: Mapping[str, Any], where: str):
        if "text_config" in values:  # a multimodal successor: its language model is inside
            outer = {"quantization_config": values.get("quantization_config")}
            self.values, self.where = values, where
            values, where = outer | self.mapping("text_config"), f"{where}, text_config"
        self.values, self.where = values, where

    def fail(self, sentence: str) -> BaltoroError:
        return BaltoroError(f"{self.where}: {sentence}")

    def read(self) -> ModelConfig:
        self.check_model_type()
        self.check_supported()
        theta, yarn = self.rope()
        read: dict[str, Any] = {
            "rope_theta": theta,
            "rope_scaling": yarn,
            "torch_dtype": self.dtype(),
            "eos_token_id": self.eos(),
            "quantization_config": self.quantization(),
        }
        for f in dataclasses.fields(ModelConfig):
            if f.name not in read:
                read[f.name] = self.plain(f)
        config = ModelConfig(**read)
        self.check_relations(config)
        self.warn_of_idle_keys()
        return config

    def check_model_type(self) -> None:
        found = self.values.get("model_type")
        if found not in list(_ARCHITECTURES):
            raise self.fail(
                f"model_type is {json.dumps(found)}; supported are "
                f"{', '.join(map(json.dumps, _ARCHITECTURES))}. Another architecture cannot be run."
            )

    def check_supported(self) -> None:
        for key, only in _SUPPORTED.items():
            found = self.values.get(key)
            if found is not None and found != only:
                raise self.fail(
                    f"{key} is {json.dumps(found)}, which changes the computation; "
                    f"only {json.dumps(only)} is supported."
                )

    def plain(self, f: dataclasses.Field) -> Any:
        """The value of a field that is a plain number, string or truth value."""
        value = self.values.get(f.name)
        if value is None and f.name in ("bos_token_id", "pad_token_id"):
            return None
        if value is None and f.name == "q_lora_rank" and f.name in self.values:
            return None
        if value is None and f.name in _SUPPORTED:
            return _SUPPORTED[f.name]
        if value is None and f.name in _OPTIONAL:
            return f.default
        if value is None and f.name == "first_k_dense_replace" and self.values.get(_LAYER_TYPES):
            return self.leading_dense_layers()
        return self.typed(f.name, value, str(f.type).removesuffix(" | None"))

    def leading_dense_layers(self) -> int:
        """`first_k_dense_replace` from the list that transformers 5 writes in its place."""
        found = self.values.get(_LAYER_TYPES)
        kinds = found if isinstance(found, list) else []
        dense = next((i for i, kind in enumerate(kinds) if kind != "dense"), len(kinds))
        if not kinds or any(kind != "sparse" for kind in kinds[dense:]):
            raise self.fail(
                f'{_LAYER_TYPES} is {json.dumps(found)}; supported are "dense" layers and '
                'behind them "sparse" ones.'
            )
        return dense

    def typed(self, key: str, value: Any, kind: str) -> Any:
        if value is None:
            raise self.fail(f"{key} is missing; without it the weights cannot be read.")
        if kind == "int" and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            raise self.fail(f"{key} is {json.dumps(value)}, but must be a whole number.")
        if kind == "float":
            if not _is_number(value) or value <= 0:
                raise self.fail(f"{key} is {json.dumps(value)}, but must be a positive number.")
            return float(value)
        return value

    def dtype(self) -> str:
        found = self.values.get("torch_dtype") or self.values.get("dtype") or "bfloat16"
        if found not in ("bfloat16", "float32"):
            raise self.fail(
                f'torch_dtype is {json.dumps(found)}; supported are "bfloat16" and "float32".'
            )
        return found

    def eos(self) -> int | tuple[int, ...]:
        found = self.values.get("eos_token_id")
        ids = found if isinstance(found, list) else [found]
        if not ids:
            raise self.fail("eos_token_id is an empty list; give the token that ends a reply.")
        checked = tuple(self.typed("eos_token_id", i, "int") for i in ids)
        return checked if isinstance(found, list) else checked[0]

    def mapping(self, key: str) -> dict[str, Any]:
        """The object under a key; an empty one where there is none."""
        return _object(self.values.get(key), key, self.fail)

    def rope(self) -> tuple[float, YarnConfig | None]:
        """`rope_theta` and the scaling, from either spelling."""
        key = "rope_parameters" if self.values.get("rope_parameters") else "rope_scaling"
        scaling = self.mapping(key)
        theta = scaling.pop("rope_theta", self.values.get("rope_theta"))
        theta = self.typed("rope_theta", theta, "float")
        if scaling.pop("partial_rotary_factor", 1.0) != 1.0:
            raise self.fail(f"{key}.partial_rotary_factor must be 1.0; only that is supported.")
        names = [scaling.pop(name) for name in ("type", "rope_type") if scaling.get(name)]
        if not scaling and all(name == "default" for name in names):
            return theta, None
        if not names or any(name != "yarn" for name in names):
            raise self.fail(
                f"{key} has the type {json.dumps(names)}, which changes the computation; "
                'only "yarn", or no scaling, is supported.'
            )
        return theta, self.yarn(key, scaling)

    def yarn(self, key: str, scaling: dict[str, Any]) -> YarnConfig:
        for name, only in (("attention_factor", None), ("truncate", True)):
            found = scaling.pop(name, None)
            if found is not None and found != only:
                raise self.fail(
                    f"{key}.{name} is {json.dumps(found)}, which changes the computation; "
                    f"only {json.dumps(only)} is supported."
                )
        for name in scaling:
            if name not in _YARN_KEYS:
                raise self.fail(
                    f"{key} has the unknown key '{name}', which may change the computation; "
                    f"known are {', '.join(_YARN_KEYS)}."
                )
        for name in _YARN_KEYS:
            if name not in scaling:
                # Implementations differ in what they take for an absent one, and all run on.
                raise self.fail(f"{key}.{name} is missing; write the value of the training.")
        kinds = {f.name: str(f.type) for f in dataclasses.fields(YarnConfig)}
        yarn = YarnConfig(
            **{name: self.typed(f"{key}.{name}", scaling[name], kinds[name]) for name in _YARN_KEYS}
        )
        if yarn.beta_fast < yarn.beta_slow:
            raise self.fail(
                f"{key}.beta_fast is {yarn.beta_fast}, less than beta_slow, {yarn.beta_slow}; "
                "they seem to be exchanged."
            )
        return yarn

    def quantization(self) -> QuantizationConfig | None:
        found = self.mapping("quantization_config")
        if not found:
            return None
        low_rank = self.values.get("q_lora_rank") is not None
        _check_quantization(found, ("q_a", "q_b") if low_rank else ("q",), self.fail)
        return QuantizationConfig()

    def check_relations(self, config: ModelConfig) -> None:
        """What must hold between keys for the weights to have a meaning."""
        for f in dataclasses.fields(config):
            zero_is_fine = f.name in _MAY_BE_ZERO or f.name.endswith("token_id")
            if str(f.type).startswith("int") and not zero_is_fine and getattr(config, f.name) == 0:
                raise self.fail(f"{f.name} is 0, but must be at least 1.")
        experts = config.num_hidden_layers * config.n_routed_experts
        if experts > _MOST_EXPERTS:  # before anybody lists them
            raise self.fail(
                f"num_hidden_layers is {config.num_hidden_layers} and n_routed_experts "
                f"{config.n_routed_experts}, together {experts:,} experts; at most "
                f"{_MOST_EXPERTS:,} are supported."
            )
        if config.qk_rope_head_dim % 2:
            raise self.fail(
                f"qk_rope_head_dim is {config.qk_rope_head_dim}, but numbers are rotated in "
                "pairs: it must be even."
            )
        if config.num_key_value_heads != config.num_attention_heads:
            raise self.fail(
                f"num_key_value_heads is {config.num_key_value_heads}, but latent attention has "
                f"as many as num_attention_heads, {config.num_attention_heads}."
            )
        for key, most in (
            ("first_k_dense_replace", "num_hidden_layers"),
            ("num_experts_per_tok", "n_routed_experts"),
            ("num_nextn_predict_layers", "num_hidden_layers"),
        ):
            if getattr(config, key) > getattr(config, most):
                raise self.fail(
                    f"{key} is {getattr(config, key)}, more than {most}, {getattr(config, most)}."
                )
        tokens = (config.bos_token_id, config.pad_token_id, *config.eos_token_ids)
        for token in tokens:
            if token is not None and token >= config.vocab_size:
                raise self.fail(
                    f"the special token {token} is outside of vocab_size, {config.vocab_size}."
                )
        self.check_expert_groups(config)
        self.check_groups(config)

    def check_expert_groups(self, config: ModelConfig) -> None:
        size, rest = divmod(config.n_routed_experts, config.n_group)
        if rest:
            raise self.fail(
                f"n_group is {config.n_group}, but {config.n_routed_experts} experts cannot be "
                "divided by it."
            )
        if config.topk_group > config.n_group:
            raise self.fail(
                f"topk_group is {config.topk_group}, more than n_group, {config.n_group}."
            )
        if config.topk_group < config.n_group and size < 2:
            raise self.fail(
                f"n_group is {config.n_group}, which leaves {size} expert in each group; a group "
                "counts by its two best."
            )
        if config.num_experts_per_tok > config.topk_group * size:
            raise self.fail(
                f"num_experts_per_tok is {config.num_experts_per_tok}, more than the "
                f"{config.topk_group * size} experts of topk_group, {config.topk_group}."
            )

    def check_groups(self, config: ModelConfig) -> None:
        if config.quantization_config is None:
            return
        group = config.quantization_config.group_size
        for key in ("hidden_size", "moe_intermediate_size"):
            if getattr(config, key) % group:
                raise self.fail(
                    f"{key} is {getattr(config, key)}, but quantized experts need a multiple of "
                    f"the group size, {group}."
                )

    def warn_of_idle_keys(self) -> None:
        known = {f.name for f in dataclasses.fields(ModelConfig)} | _SILENT
        idle = [key for key in self.values if key not in known]
        if self.values.get("attention_dropout"):
            idle.append("attention_dropout")
        if idle:
            keys = ", ".join(f"'{key}'" for key in idle)
            warnings.warn(
                f"{self.where}: not used and without effect here: {keys}.",
                ConfigWarning,
                stacklevel=4,
            )


def _with_generation_stops(config: ModelConfig, path: Path) -> ModelConfig:
    """Add the stop tokens that only `generation_config.json` names; the file is optional."""
    if not path.exists():
        return config
    found = read_json(path).get("eos_token_id")
    listed = found if isinstance(found, list) else [found]
    extra = [i for i in listed if isinstance(i, int) and i not in config.eos_token_ids]
    if not extra:
        return config
    return dataclasses.replace(config, eos_token_id=(*config.eos_token_ids, *extra))


# What compressed-tensors calls K2's INT4: the routed experts' matrices and nothing else.
_QUANTIZED_WEIGHTS: dict[str, Any] = {
    "actorder": None,
    "block_structure": None,
    "dynamic": False,
    "group_size": 32,
    "num_bits": 4,
    "observer": "minmax",
    "observer_kwargs": {},
    "strategy": "group",
    "symmetric": True,
    "type": "int",
}
_QUANTIZED_IGNORE = (
    "lm_head",
    "re:.*self_attn.*",
    "re:.*shared_experts.*",
    r"re:.*mlp\.(gate|up|gate_up|down)_proj.*",
)


def published_quantization(quantization: QuantizationConfig) -> dict[str, Any]:
    """`quantization_config` as the published checkpoint has it."""
    weights = _QUANTIZED_WEIGHTS | dataclasses.asdict(quantization)
    group = {
        "input_activations": None,
        "output_activations": None,
        "targets": ["Linear"],
        "weights": weights,
    }
    return {
        "config_groups": {"group_0": group},
        "format": "pack-quantized",
        "ignore": list(_QUANTIZED_IGNORE),
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    }


def _object(found: Any, key: str, fail: Any) -> dict[str, Any]:
    """A JSON object, empty for null; anything else is refused."""
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise fail(f"{key} is {json.dumps(found)}, but must be an object or null.")
    return dict(found)


def _check_quantization(found: Mapping[str, Any], queries: Iterable[str], fail: Any) -> None:
    """Refuse every `quantization_config` but K2's, naming the first key that differs."""

    def check(key: str, value: Any, *supported: Any) -> None:
        if value not in supported:
            raise fail(
                f"quantization_config.{key} is {json.dumps(value)}; only K2's INT4 layout is "
                f"supported, which has {json.dumps(supported[0])}."
            )

    if found.get("quant_method") == "fp8":
        raise fail("the weights are FP8, which is not computed here; run baltoro quantize first.")
    check("quant_method", found.get("quant_method"), "compressed-tensors")
    check("format", found.get("format"), "pack-quantized")
    check("quantization_status", found.get("quantization_status", "compressed"), "compressed")
    check("kv_cache_scheme", found.get("kv_cache_scheme"), None)
    for key in ("sparsity_config", "transform_config"):
        check(key, found.get(key) or None, None)
    groups = _object(found.get("config_groups"), "quantization_config.config_groups", fail)
    check("config_groups", len(groups), 1)
    name = next(iter(groups))
    group = _object(groups[name], f"quantization_config.config_groups.{name}", fail)
    check(f"config_groups.{name}.targets", group.get("targets"), ["Linear"], ["MoE"])
    for side in ("input_activations", "output_activations"):
        check(f"config_groups.{name}.{side}", group.get(side), None)
    place = f"quantization_config.config_groups.{name}.weights"
    weights = _object(group.get("weights"), place, fail)
    for key in ("num_bits", "type", "symmetric", "strategy", "group_size"):
        check(f"config_groups.{name}.weights.{key}", weights.get(key), _QUANTIZED_WEIGHTS[key])
    for key in ("actorder", "block_structure"):
        check(f"config_groups.{name}.weights.{key}", weights.get(key), None)
    check(f"config_groups.{name}.weights.dynamic", weights.get("dynamic", False), False)
    ignore = found.get("ignore") or []
    if not isinstance(ignore, list) or not all(isinstance(p, str) for p in ignore):
        raise fail(f"quantization_config.ignore is {json.dumps(ignore)}, but must list names.")
    try:
        _check_ignore(ignore, queries, fail)
    except re.error as error:
        raise fail(
            f"quantization_config.ignore has {json.dumps(error.pattern)}, which is no regular "
            f"expression: {error}."
        ) from None


def _check_ignore(ignore: list[str], queries: Iterable[str], fail: Any) -> None:
    """The patterns must leave exactly the routed experts to be quantized."""

    def is_ignored(module: str) -> bool:
        return any(
            re.match(p[3:], module) is not None if p.startswith("re:") else p == module
            for p in ignore
        )

    layer = "model.layers.1"
    plain = ["lm_head", f"{layer}.mlp.gate_proj", f"{layer}.mlp.up_proj", f"{layer}.mlp.down_proj"]
    plain += [f"{layer}.self_attn.{p}_proj" for p in (*queries, "kv_b", "o")]
    plain += [f"{layer}.self_attn.kv_a_proj_with_mqa"]
    plain += [f"{layer}.mlp.shared_experts.{p}_proj" for p in ("gate", "up", "down")]
    for module in plain:
        if not is_ignored(module):
            raise fail(
                f"quantization_config.ignore does not cover {module}, so it would be quantized; "
                "only routed experts may be."
            )
    for projection in ("gate", "up", "down"):
        module = f"{layer}.mlp.experts.0.{projection}_proj"
        if is_ignored(module):
            raise fail(
                f"quantization_config.ignore covers {module}, but the routed experts are what "
                "is quantized."
            )


def read_json(path: str | Path) -> dict[str, Any]:
    """One JSON object from a file. Raises `BaltoroError` if it is absent or is not one."""
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BaltoroError(f"there is no file {path}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BaltoroError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(values, dict):
        raise BaltoroError(f"{path} holds {type(values).__name__}, but must hold a JSON object.")
    return values


def read_toml(path: str | Path) -> dict[str, Any]:
    """A TOML file's values. Raises `BaltoroError` if it is absent or is none."""
    path = Path(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BaltoroError(f"there is no file {path}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BaltoroError(f"{path} is not valid TOML: {error}.") from None


def from_mapping(cls: type[T], values: Any, where: str) -> T:
    """Build the dataclass `cls` from a mapping, refusing unknown and missing keys and wrong types.

    Raises `BaltoroError` that names the key, `where` it stands, and what it must be.
    """
    if not isinstance(values, Mapping):
        raise BaltoroError(f"{where} is {values!r}, but must be a table.")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    kinds = typing.get_type_hints(cls)
    for key, value in values.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else f" Known keys: {', '.join(fields)}."
            raise BaltoroError(f"{where}: unknown key '{key}'.{hint}")
        if not _is_a(value, kinds[key]):
            raise BaltoroError(f"{where}: {key} is {value!r}, but must be {_named(kinds[key])}.")
    no_default = (dataclasses.MISSING, dataclasses.MISSING)
    for name, f in fields.items():
        if name not in values and (f.default, f.default_factory) == no_default:
            raise BaltoroError(f"{where}: key '{name}' is missing.")
    tuples = {k: tuple(v) for k, v in values.items() if typing.get_origin(kinds[k]) is tuple}
    return cls(**{**values, **tuples})


def check_least(config: Any, least: float, names: str) -> None:
    """Raises `BaltoroError` for the first of the fields whose value is below `least`."""
    for name in names.split():
        if getattr(config, name) < least:
            raise BaltoroError(f"{name} is {getattr(config, name)}, but must be at least {least}.")


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= sys.float_info.max  # neither NaN nor infinite


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value from a file is what a field is annotated with; a whole number is a number."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return True
    if kind in (int, float):
        return _is_number(value) and isinstance(value, kind | int)
    if origin is Literal:
        return value in inner
    if origin in (types.UnionType, typing.Union):
        return any(_is_a(value, each) for each in inner)
    if origin in (list, tuple):  # TOML has lists only
        return isinstance(value, list | tuple) and all(_is_a(each, inner[0]) for each in value)
    if origin is not None:
        return isinstance(value, origin) and all(_is_a(each, inner[1]) for each in value.values())
    return isinstance(value, kind)


def _named(kind: Any) -> str:
    """A type in the words of a file's author."""
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_named(each) for each in inner if each is not types.NoneType)
    if origin in (list, tuple):
        return f"a list, each of it {_named(inner[0])}"
    if origin is not None and inner[1] is not Any:
        return f"a table, each value {_named(inner[1])}"
    return names.get(kind, "a table")


def load_toml(cls: type[T], path: str | Path) -> T:
    """Read one run configuration from a TOML file."""
    return from_mapping(cls, read_toml(path), str(path))


def to_json(config: Any) -> str:
    """A dataclass as indented JSON, for the resolved copy beside the results."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def preset(name: str) -> ModelConfig:
    """A configuration by name. Raises `BaltoroError` that lists the names there are."""
    if name not in PRESETS:
        raise BaltoroError(f"there is no preset '{name}'. The presets are: {', '.join(PRESETS)}.")
    return PRESETS[name]


def _own_tokenizer(num_ranks: int) -> dict[str, Any]:
    """Fields that follow from a tokenizer with K2's special tokens after `num_ranks` ranks."""
    return {
        "vocab_size": num_ranks + 256,
        "bos_token_id": num_ranks,
        "eos_token_id": (num_ranks + 2, num_ranks + 1),  # <|im_end|>, [EOS]
        "pad_token_id": num_ranks + 255,
    }


PRESETS: dict[str, ModelConfig] = {
    "tiny": ModelConfig(
        **_own_tokenizer(4096),
        hidden_size=128,
        num_hidden_layers=4,
        intermediate_size=384,
        moe_intermediate_size=128,
        n_routed_experts=8,
        num_experts_per_tok=2,
        routed_scaling_factor=1.5,
        num_attention_heads=4,
        num_key_value_heads=4,
        q_lora_rank=96,
        kv_lora_rank=64,
        qk_nope_head_dim=32,
        qk_rope_head_dim=16,
        v_head_dim=48,
        rope_scaling=YarnConfig(factor=4.0, original_max_position_embeddings=2048),
        max_position_embeddings=8192,
        initializer_range=0.05,
    ),
    "small": ModelConfig(
        **_own_tokenizer(4096),
        hidden_size=512,
        num_hidden_layers=8,
        intermediate_size=1536,
        moe_intermediate_size=256,
        n_routed_experts=64,
        num_experts_per_tok=6,
        routed_scaling_factor=2.5,
        num_attention_heads=8,
        num_key_value_heads=8,
        q_lora_rank=256,
        kv_lora_rank=128,
        qk_nope_head_dim=64,
        qk_rope_head_dim=32,
        v_head_dim=64,
        rope_scaling=YarnConfig(factor=4.0, original_max_position_embeddings=2048),
        max_position_embeddings=8192,
    ),
    "k2-thinking": ModelConfig(quantization_config=QuantizationConfig()),
}
