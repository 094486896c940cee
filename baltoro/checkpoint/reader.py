"""Opens a checkpoint folder: its configuration, and its tensors as mapped, read-only arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from baltoro.checkpoint.layout import TensorSpec, expected_tensors
from baltoro.checkpoint.shards import Shard
from baltoro.config import BaltoroError, ModelConfig, read_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

# A multimodal successor stores its language model under the first and has these parts besides.
_LANGUAGE_MODEL = "language_model."
_OTHER_PARTS = ("vision_tower.", "mm_projector.")


class TensorMap(Mapping[str, NDArray]):
    """Tensors by published name. An array is made when it is asked for and copies nothing."""

    def __init__(self, places: Mapping[str, tuple[Shard, str]]):
        self._places = places

    def __getitem__(self, name: str) -> NDArray:
        shard, stored_name = self._places[name]
        return shard[stored_name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places  # without making the array

    def __len__(self) -> int:
        return len(self._places)

    def without_drafts(self, config: ModelConfig) -> TensorMap:
        """All but the layers behind the last, which predict further tokens and are not computed."""
        first = config.num_hidden_layers
        layers = range(first, first + config.num_nextn_predict_layers)
        prefixes = tuple(f"model.layers.{layer}." for layer in layers)
        return TensorMap({k: v for k, v in self._places.items() if not k.startswith(prefixes)})

    @property
    def files(self) -> dict[Path, NDArray[np.uint8]]:
        """The mapping of every file that holds one of the tensors."""
        return {shard.path: shard.data for shard, _ in self._places.values()}

    def touch_pages(self) -> None:
        """Read all shards into memory, as far as there is room."""
        for shard in {shard for shard, _ in self._places.values()}:
            shard.touch_pages()

    def forget_pages(self) -> None:
        """Give back the memory of pages that were touched; they are read again when needed."""
        for shard in {shard for shard, _ in self._places.values()}:
            shard.forget_pages()

    def spec(self, name: str) -> tuple[Path, TensorSpec]:
        """File, shape and type of a tensor, without touching its data."""
        shard, stored_name = self._places[name]
        stored = shard.tensors[stored_name]
        return shard.path, TensorSpec(stored.shape, stored.dtype, 0)


@dataclass(frozen=True)
class Checkpoint:
    """A folder with `config.json` and safetensors files whose tensors are all as they should be."""

    folder: Path
    config: ModelConfig
    tensors: TensorMap


def open_checkpoint(folder: str | Path) -> Checkpoint:
    """Map a checkpoint's files and check every name, shape and type; no weight is read.

    Raises `BaltoroError`, naming file and tensor, for a truncated or missing file, a missing or
    extra tensor, a wrong shape or type, and for a configuration that is not supported.
    """
    folder = Path(folder)
    config = ModelConfig.from_json(folder)
    tensors = map_tensors(folder).without_drafts(config)
    check_tensors(tensors, expected_tensors(config), folder)
    return Checkpoint(folder, config, tensors)


def map_tensors(folder: Path) -> TensorMap:
    """All tensors of a folder, whatever they are: sharded with an index, or a single file."""
    if (folder / INDEX).exists():
        weight_map = read_json(folder / INDEX).get("weight_map")
        if (
            not isinstance(weight_map, dict)
            or not weight_map
            or not all(isinstance(file, str) for file in weight_map.values())
        ):
            raise BaltoroError(f"{folder / INDEX} has no weight_map. Download the file again.")
        files = sorted(set(weight_map.values()))
    elif (folder / SINGLE).exists():
        weight_map, files = None, [SINGLE]
    else:
        raise BaltoroError(f"{folder} holds neither {INDEX} nor {SINGLE}. It is no checkpoint.")
    shards = {file: Shard(folder / file) for file in files}
    places: dict[str, tuple[Shard, str]] = {}
    for shard in shards.values():
        for stored_name in shard.tensors:
            if stored_name.startswith(_OTHER_PARTS):
                continue
            name = stored_name.removeprefix(_LANGUAGE_MODEL)
            if name in places:
                other = places[name][0].path.name
                raise BaltoroError(f"{folder}: tensor {name} is in {other} and {shard.path.name}.")
            places[name] = (shard, stored_name)
    _check_index(weight_map or {}, places, folder)
    return TensorMap(places)


def _check_index(
    weight_map: Mapping[str, str], places: Mapping[str, tuple[Shard, str]], folder: Path
) -> None:
    for stored_name, file in weight_map.items():
        if stored_name.startswith(_OTHER_PARTS):
            continue
        place = places.get(stored_name.removeprefix(_LANGUAGE_MODEL))
        if place is None or place[0].path.name != file:
            raise BaltoroError(
                f"{folder / file} has no tensor {stored_name}, which {INDEX} says it has. "
                "Download both files again."
            )


def check_tensors(tensors: TensorMap, expected: Mapping[str, TensorSpec], folder: Path) -> None:
    """Compare what the files hold with what the configuration asks for."""
    check_names(tensors, expected, folder)
    for name, wanted in expected.items():
        path, found = tensors.spec(name)
        check_shape(path, name, found, wanted)
        if found.dtype != wanted.dtype:
            raise BaltoroError(
                f"{path}: tensor {name} has the type {found.dtype}, but config.json asks for "
                f"{wanted.dtype}."
            )


def check_names(tensors: TensorMap, expected: Mapping[str, TensorSpec], folder: Path) -> None:
    """Every expected tensor is there, and no other."""
    missing = [name for name in expected if name not in tensors]
    if missing:
        raise BaltoroError(
            f"{folder}: tensor {missing[0]} is missing{_and_others(missing)}. "
            "The configuration asks for it; download the missing files."
        )
    extra = [name for name in tensors if name not in expected]
    if extra:
        path, _ = tensors.spec(extra[0])
        raise BaltoroError(
            f"{path}: tensor {extra[0]} is unexpected{_and_others(extra)}. "
            "config.json describes a model without it; the two do not belong together."
        )


def check_shape(path: Path, name: str, found: TensorSpec, wanted: TensorSpec) -> None:
    if found.shape != wanted.shape:
        raise BaltoroError(
            f"{path}: tensor {name} has the shape {list(found.shape)}, but config.json asks for "
            f"{list(wanted.shape)}."
        )


def _and_others(names: list[str]) -> str:
    return f", as are {len(names) - 1:,} others" if len(names) > 1 else ""
