"""`quantize`: a bf16, f32, f16 or FP8 checkpoint becomes K2's INT4.

Memory holds a few pieces of matrices at a time, however large the checkpoint. What is on disk for
good is written down as it goes, so that a call that was interrupted is gone on with by the next.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from baltoro.checkpoint.convert import pack_weight
from baltoro.checkpoint.layout import BFLOAT16, FLOAT32, FP8, TensorSpec, expected_tensors
from baltoro.checkpoint.reader import INDEX, TensorMap, check_names, check_shape, map_tensors
from baltoro.checkpoint.shards import DTYPES, ShardWriter
from baltoro.checkpoint.writer import (
    SHARD_BYTES,
    generation_json,
    plan_shards,
    resumable_folder,
    write_index,
)
from baltoro.config import BaltoroError, ModelConfig, QuantizationConfig, read_json
from baltoro.kernels.cores import available_cores

_SCALE = "_scale_inv"  # DeepSeek-V3's name for the factor of each block of FP8 weights
_READ_DTYPES = (BFLOAT16, FLOAT32, DTYPES["F16"], FP8)
# Every e4m3 number by its byte: a look-up lets other threads run, ml_dtypes' cast does not.
_E4M3 = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)

PIECE_BYTES = 16 << 20  # of the source that a thread works on at a time
BATCH_BYTES = 1 << 30  # of the source between two moments from which a later call can go on
MAPPED_BYTES = 256 << 20  # of the source that may stay mapped into memory
_JOURNAL = ".done"
_METHOD = "1"  # another one when the same source would give other bytes

Progress = Callable[[int, int], None]  # bytes of the source done, and in all


def quantize(
    source: str | Path,
    target: str | Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
    replace: bool = False,
    threads: int | None = None,
) -> ModelConfig:
    """Write the checkpoint `source` (bf16, f32, f16, or FP8 in blocks) as K2's INT4 at `target`.

    Layers that only serve to draft further tokens are left out; files that are no weights are
    copied. `target` appears when it is complete. After an interruption the same call goes on with
    what is done, which lies in a hidden folder beside it. Returns the configuration written.

    Raises `BaltoroError` as `open_checkpoint` does, if the source is INT4 already, and if the disk
    has no room. With `replace` it raises for a folder that is no checkpoint, or that the source is
    or lies in.
    """
    if replace:
        _check_replaceable(Path(target), Path(source))
    opened = open_source(Path(source))
    identity = _identity(opened, shard_bytes)
    with resumable_folder(Path(target), identity, replace) as partial:
        conversion = _Conversion(opened, partial, shard_bytes)
        conversion.run(threads or available_cores(), progress)
        conversion.finish()
    return conversion.config


@dataclass(frozen=True)
class Source:
    """A checkpoint to be quantized, its names, shapes and types checked."""

    folder: Path
    config: ModelConfig  # of the unquantized weights, to be written as bf16
    block: int | None  # rows and columns that share a factor, where weights are FP8
    tensors: TensorMap

    def rows(self, name: str, start: int, stop: int) -> NDArray:
        """Rows of a tensor in bf16 or f32. `start` begins a block."""
        array = self.tensors[name][start:stop]
        if array.dtype == FP8:
            block = self.block or 1
            scale = self.tensors[name + _SCALE][start // block : -(-stop // block)]
            return dequantize_blocks(array, scale, block)
        return array if array.dtype in (BFLOAT16, FLOAT32) else array.astype(np.float32)


def open_source(folder: Path) -> Source:
    """Map a checkpoint of unquantized or FP8 weights and check it; no weight is read."""
    config, block = _source_config(folder)
    tensors = map_tensors(folder).without_drafts(config)
    config = dataclasses.replace(config, num_nextn_predict_layers=0)
    _check_source(tensors, expected_tensors(config), block, folder)
    return Source(folder, config, block, tensors)


@dataclass(frozen=True)
class _Piece:
    """Rows of one tensor, from `start` to before `stop`."""

    name: str
    start: int
    stop: int
    size_bytes: int


class _Conversion:
    """The work in one folder: tensors in the order of the model, pieces of each in any."""

    def __init__(self, source: Source, folder: Path, shard_bytes: int):
        self.source = source
        self.folder = folder
        self.config = dataclasses.replace(source.config, quantization_config=QuantizationConfig())
        specs = expected_tensors(self.config)
        self.plan = plan_shards(specs, shard_bytes)
        self.journal = _Journal(folder / _JOURNAL)
        self._check_room(specs)
        self.writers = {file: ShardWriter(folder / file, part) for file, part in self.plan.items()}
        self.writer_of = {name: self.writers[f] for f, part in self.plan.items() for name in part}
        self._mapped = 0  # bytes of the source read since pages were last given back
        self._lock = threading.Lock()

    def run(self, threads: int, progress: Progress | None) -> None:
        """Convert all that the journal does not name yet."""
        sizes = {
            name: self.source.tensors.spec(name)[1].nbytes
            for name in expected_tensors(self.source.config)
        }
        total = sum(sizes.values())
        done = sum(size for name, size in sizes.items() if name in self.journal.done)
        todo = {name: size for name, size in sizes.items() if name not in self.journal.done}
        pool = ThreadPoolExecutor(threads)
        try:
            for batch in _batches(todo):
                pieces = [piece for name in batch for piece in self._pieces(name)]
                for size in pool.map(self._convert, pieces):
                    done += size
                    if progress is not None:
                        progress(done, total)
                for writer in self.writers.values():
                    writer.sync()
                self.journal.add(batch)
        finally:
            pool.shutdown(cancel_futures=True)
            for writer in self.writers.values():
                writer.close()

    def finish(self) -> None:
        """All that is beside the weights."""
        write_index(self.folder, self.plan)
        (self.folder / "config.json").write_text(self.config.to_json())
        (self.folder / "generation_config.json").write_text(generation_json(self.config))
        for file in _companions(self.source.folder):
            shutil.copy(file, self.folder / file.name)
        self.journal.remove()

    def _pieces(self, name: str) -> Iterator[_Piece]:
        spec = self.source.tensors.spec(name)[1]
        rows = spec.shape[0] if spec.shape else 1
        row_bytes = max(1, spec.nbytes // max(1, rows))
        step = max(1, PIECE_BYTES // row_bytes)
        if self.source.block:
            step = -(-step // self.source.block) * self.source.block
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            yield _Piece(name, start, stop, (stop - start) * row_bytes)

    def _convert(self, piece: _Piece) -> int:
        """Read, convert and write some rows; returns the bytes of the source that they had."""
        name = piece.name
        array = self.source.rows(name, piece.start, piece.stop)
        if f"{name}_packed" not in self.writer_of:
            self.writer_of[name].write(name, array, piece.start)
        else:
            self._write_packed(piece, array)
        self._give_back(piece.size_bytes)
        return piece.size_bytes

    def _write_packed(self, piece: _Piece, array: NDArray) -> None:
        try:
            parts = pack_weight(array)
        except ValueError as error:
            raise BaltoroError(f"tensor {piece.name}: {error}") from None
        shape = self.source.tensors.spec(piece.name)[1].shape
        parts["weight_shape"] = np.array(shape, dtype=np.int32)  # of the whole matrix
        for tail, part in parts.items():
            name = piece.name.removesuffix("weight") + tail
            first_row = 0 if tail == "weight_shape" else piece.start
            self.writer_of[name].write(name, part, first_row)

    def _give_back(self, size_bytes: int) -> None:
        """Pages of the source count as memory of the process until they are given back."""
        with self._lock:
            self._mapped += size_bytes
            if self._mapped < MAPPED_BYTES:
                return
            self._mapped = 0
        self.source.tensors.forget_pages()

    def _check_room(self, specs: dict[str, TensorSpec]) -> None:
        """Raises `BaltoroError` where the disk cannot hold what is still to be written."""
        there = sum(  # blocks of 512 bytes: a file has its size before it has its data
            path.stat().st_blocks * 512 for path in self.folder.glob("*.safetensors")
        )
        needed = sum(spec.nbytes for spec in specs.values()) - there
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise BaltoroError(
                f"{self.folder.parent} has {free / 1e9:,.1f} GB free, but {needed / 1e9:,.1f} GB "
                "are needed. Make room, or choose another disk."
            )


class _Journal:
    """The names of the tensors that are on disk for good, one a line."""

    def __init__(self, path: Path):
        self._path = path
        text = path.read_text() if path.exists() else ""
        whole, _, _ = text.rpartition("\n")  # what follows the last line's end was cut off
        self.done = set(whole.split("\n")) - {""}
        path.write_text(f"{whole}\n" if whole else "")

    def add(self, names: Sequence[str]) -> None:
        with self._path.open("a") as file:
            file.writelines(f"{name}\n" for name in names)
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        self._path.unlink()


def _batches(sizes: dict[str, int]) -> Iterator[list[str]]:
    """Names in order, in groups of about BATCH_BYTES."""
    batch: list[str] = []
    size = 0
    for name, nbytes in sizes.items():
        batch.append(name)
        size += nbytes
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _identity(source: Source, shard_bytes: int) -> str:
    """What must be the same for two calls to do the same work."""
    digest = hashlib.sha256(f"{_METHOD} {shard_bytes} {source.block}".encode())
    digest.update(source.config.to_json().encode())
    for path in sorted(source.tensors.files):
        state = path.stat()
        digest.update(f"{path.resolve()} {state.st_size} {state.st_mtime_ns}".encode())
    return digest.hexdigest()


def _check_replaceable(target: Path, source: Path) -> None:
    """A slip of the pen must not remove a home folder, or what is being read."""
    if source.resolve().is_relative_to(target.resolve()):
        raise BaltoroError(f"{target} holds the source, {source}. Choose another target.")
    in_use = target.exists() and (not target.is_dir() or any(target.iterdir()))
    if in_use and not (target / "config.json").is_file():
        raise BaltoroError(
            f"{target} is no checkpoint, so it is not replaced. Choose another name or remove it."
        )


def _source_config(source: Path) -> tuple[ModelConfig, int | None]:
    """The configuration of unquantized weights, always to be written as bf16, and FP8's block."""
    where = source / "config.json"
    values = read_json(where)
    found = values.pop("quantization_config", None)
    inner = values.get("text_config")
    inner = inner if isinstance(inner, dict) else values
    quantization = inner.pop("quantization_config", None) or found
    if any(inner.get(key) == "float16" for key in ("torch_dtype", "dtype")):
        inner |= {"torch_dtype": "bfloat16", "dtype": "bfloat16"}
    config = ModelConfig.from_json(values, where=str(where))
    config = dataclasses.replace(config, torch_dtype="bfloat16")
    if not quantization:
        return config, None
    told: dict[str, Any] = quantization if isinstance(quantization, dict) else {}
    if told.get("quant_method") == "compressed-tensors":
        raise BaltoroError(f"{where}: the weights are INT4 already. Use {source} as it is.")
    block = told.get("weight_block_size")
    size = block[0] if isinstance(block, list) and block else None
    is_square = isinstance(size, int) and size > 0 and block == [size, size]
    if told.get("quant_method") != "fp8" or not is_square:
        raise BaltoroError(
            f"{where}: quantization_config is {json.dumps(quantization)}; read are unquantized "
            "weights and FP8 (e4m3) with one scale for each square block."
        )
    return config, size


def _check_source(
    tensors: TensorMap, expected: dict[str, TensorSpec], block: int | None, source: Path
) -> None:
    """Names and shapes as for any checkpoint; types are those that can be read."""
    scaled = {name for name in expected if block and name + _SCALE in tensors}
    scales = {name + _SCALE: tensors.spec(name + _SCALE)[1] for name in scaled}
    check_names(tensors, expected | scales, source)
    for name, wanted in expected.items():
        path, found = tensors.spec(name)
        check_shape(path, name, found, wanted)
        if found.dtype not in _READ_DTYPES or (found.dtype == FP8) != (name in scaled):
            needed = "FP8, because it has a scale" if name in scaled else "bf16, f32 or f16"
            raise BaltoroError(
                f"{path}: tensor {name} has the type {found.dtype}; needed is {needed}."
            )
    for name in scaled:
        _check_scale(tensors, name, block or 1)


def _check_scale(tensors: TensorMap, name: str, block: int) -> None:
    _, weight = tensors.spec(name)
    path, scale = tensors.spec(name + _SCALE)
    grid = tuple(-(-n // block) for n in weight.shape)
    if scale.shape != grid:
        raise BaltoroError(
            f"{path}: tensor {name}{_SCALE} has the shape {list(scale.shape)}, but blocks of "
            f"{block} need {list(grid)}."
        )


def dequantize_blocks(weight: NDArray, scale: NDArray, block: int) -> NDArray:
    """FP8 (out, in) times the scale of each `block` x `block` square: float32 (out, in).

    The last row and column of blocks may be cut off by the edge of the matrix.
    """
    rows, cols = weight.shape
    out = _E4M3.take(weight.view(np.uint8))
    wide = np.repeat(scale.astype(np.float32), block, axis=1)[:, :cols]
    for i, factors in enumerate(wide):
        out[i * block : min((i + 1) * block, rows)] *= factors
    return out


def _companions(source: Path) -> list[Path]:
    """The tokenizer and whatever else lies beside the weights."""
    own = {"config.json", INDEX}
    return sorted(
        path
        for path in source.iterdir()
        if path.is_file() and path.name not in own and path.suffix != ".safetensors"
    )
