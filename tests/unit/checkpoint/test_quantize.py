"""`quantize`: unquantized and FP8 checkpoints in, K2's INT4 out."""

from __future__ import annotations

import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from baltoro.checkpoint.convert import dequantize_blocks, export_int4, quantize
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
