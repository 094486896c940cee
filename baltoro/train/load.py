"""Weights to start from: a run's last state, or a checkpoint folder in bf16 or INT4."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from baltoro.checkpoint.bundled import BUNDLED
from baltoro.checkpoint.convert import unpack_weight
from baltoro.checkpoint.reader import Checkpoint, open_checkpoint
from baltoro.config import BaltoroError, ModelConfig, YarnConfig, from_mapping, preset
from baltoro.model.transformer import Transformer
from baltoro.train.export import state_dict_from
from baltoro.train.folder import RunFolder


def load_model(init: str, model: str, yarn: Mapping[str, Any] | None = None) -> Transformer:
    """The model of preset `model` with the weights of `init`, its context stretched by `yarn`.

    `init` is a run's folder with its last state, a checkpoint's folder, or the name of a bundled
    model. Its own context is kept where `yarn` changes nothing. INT4 experts become the numbers
    that they stand for, so rounding them again gives back the same codes. Raises `BaltoroError` if
    there is no such thing or it is of another shape.
    """
    folder = next((f for f in (Path(init), BUNDLED / init) if f.is_dir()), None)
    if folder is None:
        raise BaltoroError(
            f"init names '{init}', but there is no such folder. Finish the run that writes it, or "
            "name another one."
        )
    config = preset(model)
    if state := RunFolder(folder).read():
        found = config_of_run(folder, state, config)
        check_config(config, found, folder, model)
        weights = state["model"]
    elif (folder / "config.json").exists():
        checkpoint = open_checkpoint(folder)
        found = checkpoint.config
        check_config(config, found, folder, model)
        weights = state_dict_from(found, dict(plain_tensors(checkpoint)))
    else:
        raise BaltoroError(
            f"{folder} has neither a run's state nor config.json. Name a run that was finished, or "
            "a checkpoint's folder."
        )
    config = dataclasses.replace(
        config,
        rope_scaling=found.rope_scaling,
        max_position_embeddings=found.max_position_embeddings,
    )
    result = Transformer(stretched(config, yarn) if yarn else config)
    check_weights(result, weights, folder, model)
    result.load_state_dict(weights)
    return result


def config_of_run(folder: Path, state: Mapping[str, Any], config: ModelConfig) -> ModelConfig:
    """What the model of a saved state is; `config` is its preset's."""
    if "config" in state:
        return ModelConfig.from_json(json.loads(state["config"]), f"{folder}: the saved config")
    # States that hold no config are of runs that say in run.json how they stretched their preset's.
    kept = folder / "run.json"
    yarn = json.loads(kept.read_text()).get("yarn") if kept.exists() else None
    return stretched(config, yarn) if yarn else config


def stretched(config: ModelConfig, yarn: Mapping[str, Any]) -> ModelConfig:
    """The same weights for a longer context: `yarn` holds the fields of YarnConfig that change.

    Rotary embedding has no weights, so a stage of training is all that a new factor needs.
    """
    known = dataclasses.asdict(config.rope_scaling) if config.rope_scaling else {}
    scaling = from_mapping(YarnConfig, known | dict(yarn), "[yarn]")
    longest = int(scaling.factor * scaling.original_max_position_embeddings)
    return dataclasses.replace(config, rope_scaling=scaling, max_position_embeddings=longest)


def plain_tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, NDArray]]:
    """The checkpoint's tensors, packed experts as the float32 matrices that they stand for."""
    tensors = checkpoint.tensors
    for name in tensors:
        if name.endswith((".weight_scale", ".weight_shape")):
            continue
        if not name.endswith(".weight_packed"):
            yield name, tensors[name]
            continue
        stem = name.removesuffix("_packed")
        parts = (tensors[stem + tail] for tail in ("_packed", "_scale", "_shape"))
        yield stem, unpack_weight(*parts)


def check_config(config: ModelConfig, other: ModelConfig, folder: Path, name: str) -> None:
    for key in ("vocab_size", "hidden_size", "num_hidden_layers", "n_routed_experts"):
        found, needed = getattr(other, key), getattr(config, key)
        if found != needed:
            raise BaltoroError(
                f"{folder}: {key} is {found}, but the preset '{name}' has {needed}. "
                "Name the preset that it was made with."
            )


def check_weights(
    model: Transformer, weights: Mapping[str, Tensor], folder: Path, name: str
) -> None:
    needed = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in weights.items()}
    for key in sorted(needed.keys() | found.keys()):
        if needed.get(key) != found.get(key):
            raise BaltoroError(
                f"{folder}: the shape of {key} is {found.get(key)}, but the preset '{name}' has "
                f"{needed.get(key)}. Name the preset that it was made with."
            )
