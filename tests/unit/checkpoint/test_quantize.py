"""`quantize`: unquantized and FP8 checkpoints in, K2's INT4 out."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from baltoro.checkpoint import quantize as module
from baltoro.checkpoint.convert import export_int4
from baltoro.checkpoint.layout import expected_tensors
from baltoro.checkpoint.quantize import dequantize_blocks, quantize
from baltoro.checkpoint.reader import open_checkpoint
from baltoro.checkpoint.writer import write_checkpoint
from baltoro.config import BaltoroError

BF16, FP8 = ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn


def assert_same_tensors(folder, other):
    ours, theirs = open_checkpoint(folder).tensors, open_checkpoint(other).tensors
    assert set(ours) == set(theirs)
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def rewrite_config(folder, **changes):
    values = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(values))


def test_only_another_checkpoint_is_ever_replaced(tmp_path, config, weights):
    source = tmp_path / "source"
    write_checkpoint(source, config, weights.items())
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("precious")
    with pytest.raises(BaltoroError, match="is no checkpoint"):
        quantize(source, tmp_path / "home", replace=True)
    for target in (source, tmp_path):
        with pytest.raises(BaltoroError, match="Choose another"):
            quantize(source, target, replace=True)
    assert (tmp_path / "home" / "letter.txt").read_text() == "precious"
    assert open_checkpoint(source).config == config
    for _ in range(2):
        quantize(source, tmp_path / "target", replace=True)
    assert (tmp_path / "target" / "config.json").is_file()


@pytest.mark.parametrize("torch_dtype", ["bfloat16", "float32"])
def test_quantizing_a_folder_gives_what_exporting_its_tensors_gives(
    tmp_path, config, weights, torch_dtype
):
    source = dataclasses.replace(config, torch_dtype=torch_dtype)
    write_checkpoint(tmp_path / "source", source, weights.items(), shard_bytes=20_000)
    written = quantize(tmp_path / "source", tmp_path / "target")
    assert written == export_int4(tmp_path / "exported", config, weights.items())
    assert_same_tensors(tmp_path / "target", tmp_path / "exported")


def test_half_precision_is_read(tmp_path, config, weights):
    halves = {name: array.astype(np.float16) for name, array in weights.items()}
    write_checkpoint(tmp_path / "source", config, weights.items())
    rewrite_config(tmp_path / "source", torch_dtype="float16")
    save_file(halves, tmp_path / "source" / "model.safetensors")
    quantize(tmp_path / "source", tmp_path / "target")
    exact = [(name, array.astype(np.float32)) for name, array in halves.items()]
    export_int4(tmp_path / "exported", config, exact)
    assert_same_tensors(tmp_path / "target", tmp_path / "exported")


def test_everything_beside_the_weights_is_copied(tmp_path, config, weights):
    write_checkpoint(tmp_path / "source", config, weights.items())
    (tmp_path / "source" / "tiktoken.model").write_text("ranks")
    quantize(tmp_path / "source", tmp_path / "target")
    assert sorted(path.name for path in (tmp_path / "target").iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tiktoken.model",
    ]


def test_progress_counts_up_to_all_bytes_of_the_source(tmp_path, config, weights):
    write_checkpoint(tmp_path / "source", config, weights.items())
    calls = []
    quantize(tmp_path / "source", tmp_path / "target", progress=lambda *call: calls.append(call))
    total = sum(array.nbytes for array in open_checkpoint(tmp_path / "source").tensors.values())
    done = [call[0] for call in calls]
    assert {call[1] for call in calls} == {total}
    assert done == sorted(done)
    assert done[-1] == total


def test_int4_is_not_quantized_again(tmp_path, config, weights):
    export_int4(tmp_path / "source", config, weights.items())
    with pytest.raises(BaltoroError, match="the weights are INT4 already"):
        quantize(tmp_path / "source", tmp_path / "target")


@pytest.mark.parametrize(
    "scheme", ["fp8", {"quant_method": "fp8", "weight_block_size": 128}, {"quant_method": "awq"}]
)
def test_another_quantization_is_named(tmp_path, config, weights, scheme):
    write_checkpoint(tmp_path / "source", config, weights.items())
    path = tmp_path / "source" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": scheme}))
    with pytest.raises(BaltoroError, match="read are unquantized weights and FP8"):
        quantize(tmp_path / "source", tmp_path / "target")


def test_damage_of_the_source_is_named(tmp_path, config, weights, edit_header):
    write_checkpoint(tmp_path / "source", config, weights.items())
    path = tmp_path / "source" / "model.safetensors"
    name = "model.norm.weight"
    edit_header(path, lambda header: header[name].update(shape=[4, 8]))
    with pytest.raises(BaltoroError) as error:
        quantize(tmp_path / "source", tmp_path / "target")
    assert f"{path}: tensor {name} has the shape [4, 8]" in str(error.value)
    edit_header(path, lambda header: header[name].update(shape=[32], dtype="I16"))
    with pytest.raises(BaltoroError) as error:
        quantize(tmp_path / "source", tmp_path / "target")
    assert f"{path}: tensor {name} has the type int16; needed is bf16, f32 or f16." in str(
        error.value
    )


@pytest.mark.parametrize("piece_bytes", [1, 700, 1 << 24])
@pytest.mark.parametrize("threads", [1, 3])
def test_pieces_and_threads_give_the_same_files(
    tmp_path, config, weights, monkeypatch, piece_bytes, threads
):
    write_checkpoint(tmp_path / "source", config, weights.items())
    quantize(tmp_path / "source", tmp_path / "whole", threads=1)
    monkeypatch.setattr(module, "PIECE_BYTES", piece_bytes)
    monkeypatch.setattr(module, "MAPPED_BYTES", 1000)
    quantize(tmp_path / "source", tmp_path / "pieces", threads=threads)
    assert_same_files(tmp_path / "pieces", tmp_path / "whole")


def assert_same_files(folder: Path, other: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    for name in names:
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name


# Quantizes with a journal entry for nearly every tensor; dies without a word after some progress.
DYING = """
import os, sys
from baltoro.checkpoint import quantize as module
module.BATCH_BYTES = 1
def progress(done, total):
    if done > float(sys.argv[3]) * total:
        os._exit(9)
module.quantize(sys.argv[1], sys.argv[2], shard_bytes=20_000, progress=progress)
"""


class TestInterruption:
    @pytest.fixture
    def source(self, tmp_path, config, weights) -> Path:
        write_checkpoint(tmp_path / "source", config, weights.items())
        return tmp_path / "source"

    def die(self, source: Path, share: float) -> Path:
        """Quantize until the process is gone; returns the folder that it leaves."""
        target = source.with_name("target")
        command = [sys.executable, "-c", DYING, str(source), str(target), str(share)]
        assert subprocess.run(command).returncode == 9
        assert not target.exists()
        return source.with_name(".target.partial")

    def resume(self, source: Path, **options) -> list[int]:
        """Bytes done at each step of a call that goes on."""
        steps = []
        target = source.with_name("target")
        quantize(
            source,
            target,
            shard_bytes=20_000,
            progress=lambda done, _: steps.append(done),
            **options,
        )
        return steps

    def test_the_next_call_goes_on_and_ends_with_the_same_files(self, source):
        quantize(source, source.with_name("whole"), shard_bytes=20_000)
        for share in (0.2, 0.6):
            partial = self.die(source, share)
        total = sum(array.nbytes for array in open_checkpoint(source).tensors.values())
        steps = self.resume(source)
        assert steps[0] > 0.5 * total
        assert steps[-1] == total
        assert not partial.exists()
        assert_same_files(source.with_name("target"), source.with_name("whole"))

    def test_a_line_of_the_journal_that_was_cut_off_does_not_count(self, source):
        journal = self.die(source, 0.6) / ".done"
        *_, last = lines = journal.read_text().splitlines(keepends=True)
        journal.write_text("".join(lines[:-1]) + last[: len(last) // 2])
        quantize(source, source.with_name("whole"), shard_bytes=20_000)
        self.resume(source)
        assert_same_files(source.with_name("target"), source.with_name("whole"))

    def test_another_source_starts_anew(self, source):
        self.die(source, 0.6)
        path = source / "model.safetensors"
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
        assert self.resume(source)[0] < 10_000

    def test_two_processes_do_not_write_the_same_folder(self, source):
        def second(done: int, total: int) -> None:
            with pytest.raises(BaltoroError, match="another process is writing"):
                quantize(source, source.with_name("target"))

        quantize(source, source.with_name("target"), progress=second)
        assert open_checkpoint(source.with_name("target"))

    def test_a_weight_that_is_no_number_is_named_and_nothing_is_left(
        self, tmp_path, config, weights
    ):
        name = "model.layers.1.mlp.experts.0.up_proj.weight"
        weights[name][3, 5] = np.nan
        write_checkpoint(tmp_path / "source", config, weights.items())
        with pytest.raises(BaltoroError, match=f"tensor {name}: cannot quantize"):
            quantize(tmp_path / "source", tmp_path / "target")
        assert [path.name for path in tmp_path.iterdir()] == ["source"]

    def test_a_full_disk_is_a_sentence(self, source, monkeypatch):
        usage = module.shutil.disk_usage(source)._replace(free=1000)
        monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
        with pytest.raises(BaltoroError, match=r"GB free, but .* are needed"):
            quantize(source, source.with_name("target"))


MEASURED = """
import resource, sys
from baltoro.checkpoint import quantize as module
module.PIECE_BYTES, module.MAPPED_BYTES, module.BATCH_BYTES = 1 << 20, 8 << 20, 32 << 20
opened = module.open_source(module.Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
module.quantize(sys.argv[1], sys.argv[2], threads=2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_checkpoint(tmp_path, config):
    wide = dataclasses.replace(
        config, vocab_size=65536, hidden_size=512, moe_intermediate_size=512, intermediate_size=512
    )
    rng = np.random.default_rng(0)
    some = rng.normal(size=65536 * 512).astype(BF16)
    tensors = (
        (name, some[: spec.parameters].reshape(spec.shape))
        for name, spec in expected_tensors(wide).items()
    )
    write_checkpoint(tmp_path / "source", wide, tensors)
    source_bytes = (tmp_path / "source" / "model.safetensors").stat().st_size
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "source"), str(tmp_path / "target")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert source_bytes > 128 << 20
    assert int(done.stdout) * 1024 < 64 << 20


class TestFP8:
    """DeepSeek-V3's FP8: e4m3 weights, one f32 scale for each square block."""

    BLOCK = 16  # the small model's matrices are smaller than one published block of 128

    @pytest.fixture
    def stored(self, weights) -> dict[str, np.ndarray]:
        stored = {}
        for name, array in weights.items():
            if "_proj" not in name:
                stored[name] = array.astype(np.float32)
                continue
            grid = [-(-n // self.BLOCK) for n in array.shape]
            stored[name] = array.astype(FP8)
            stored[f"{name}_scale_inv"] = (
                np.random.default_rng(1).uniform(0.5, 2.0, grid).astype(np.float32)
            )
        return stored

    @pytest.fixture
    def source(self, tmp_path, config, weights, stored):
        write_checkpoint(tmp_path / "source", config, weights.items())
        save_file(stored, tmp_path / "source" / "model.safetensors")
        fp8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [self.BLOCK, self.BLOCK]}
        rewrite_config(tmp_path / "source", quantization_config=fp8)
        return tmp_path / "source"

    def test_weights_are_multiplied_by_the_scale_of_their_block(self):
        weight = np.ones((3, 5), dtype=FP8)
        scale = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32)
        assert dequantize_blocks(weight, scale, 2).tolist() == [
            [1, 1, 2, 2, 3],
            [1, 1, 2, 2, 3],
            [4, 4, 5, 5, 6],
        ]

    def test_quantizing_fp8_gives_what_exporting_its_values_gives(
        self, tmp_path, config, source, stored
    ):
        quantize(source, tmp_path / "target")
        values = [
            (
                name,
                dequantize_blocks(array, stored[f"{name}_scale_inv"], self.BLOCK)
                if array.dtype == FP8
                else array,
            )
            for name, array in stored.items()
            if not name.endswith("_scale_inv")
        ]
        export_int4(tmp_path / "exported", config, values)
        assert_same_tensors(tmp_path / "target", tmp_path / "exported")

    def test_a_scale_of_the_wrong_shape_is_named(self, tmp_path, source, stored):
        name = "model.layers.0.self_attn.o_proj.weight_scale_inv"
        stored[name] = stored[name].T.copy()
        save_file(stored, source / "model.safetensors")
        with pytest.raises(BaltoroError, match=f"tensor {name} has the shape .1, 2., but blocks"):
            quantize(source, tmp_path / "target")

    def test_fp8_without_its_scale_is_named(self, tmp_path, source, stored):
        name = "model.layers.0.self_attn.o_proj.weight"
        del stored[f"{name}_scale_inv"]
        save_file(stored, source / "model.safetensors")
        with pytest.raises(BaltoroError, match=f"tensor {name} has the type float8_e4m3fn"):
            quantize(source, tmp_path / "target")

    def test_another_quantization_is_refused_by_name(self, tmp_path, source):
        rewrite_config(source, quantization_config={"quant_method": "awq"})
        with pytest.raises(BaltoroError, match=r'"quant_method": "awq".*read are unquantized'):
            quantize(source, tmp_path / "target")
