"""Opening checkpoint folders, whole and damaged."""

from __future__ import annotations

import dataclasses
import json
import os

import ml_dtypes
import numpy as np
import pytest
import safetensors
from safetensors.numpy import save_file

from baltoro.checkpoint.convert import export_int4
from baltoro.checkpoint.layout import TensorSpec, expected_tensors
from baltoro.checkpoint.reader import open_checkpoint
from baltoro.checkpoint.shards import Shard, ShardWriter
from baltoro.checkpoint.writer import write_checkpoint
from baltoro.config import PRESETS, BaltoroError, QuantizationConfig

BF16 = np.dtype(ml_dtypes.bfloat16)
GATE = "model.layers.1.mlp.gate.weight"


@pytest.fixture
def single(tmp_path, config, weights):
    """A bf16 checkpoint in one file."""
    write_checkpoint(tmp_path / "single", config, weights.items())
    return tmp_path / "single"


@pytest.fixture
def sharded(tmp_path, config, weights):
    """A packed checkpoint in several files."""
    export_int4(tmp_path / "sharded", config, weights.items(), shard_bytes=10_000)
    return tmp_path / "sharded"


def refusal(folder) -> str:
    with pytest.raises(BaltoroError) as error:
        open_checkpoint(folder)
    return str(error.value)


def test_tensors_are_those_that_were_written(single, config, weights):
    checkpoint = open_checkpoint(single)
    assert checkpoint.config == config
    assert set(checkpoint.tensors) == set(weights)
    for name, array in checkpoint.tensors.items():
        wanted = np.float32 if name.endswith("correction_bias") else BF16
        assert array.dtype == wanted
        np.testing.assert_array_equal(array, weights[name].astype(wanted))


def test_tensors_lie_in_the_mapped_files(sharded):
    tensors = open_checkpoint(sharded).tensors
    for name in tensors:
        array = tensors[name]
        assert not array.flags.writeable
        assert not array.flags.owndata
        assert array.flags.aligned
        again = tensors[name]
        assert again.ctypes.data == array.ctypes.data


def test_the_safetensors_library_reads_the_same(sharded):
    tensors = open_checkpoint(sharded).tensors
    seen = set()
    for path in sharded.glob("*.safetensors"):
        with safetensors.safe_open(path, "np") as theirs:
            for name in theirs.keys():  # noqa: SIM118 (it is no mapping)
                np.testing.assert_array_equal(theirs.get_tensor(name), tensors[name])
                seen.add(name)
    assert seen == set(tensors)


def test_a_file_of_the_safetensors_library_is_read(single, weights):
    config = json.loads((single / "config.json").read_text()) | {"torch_dtype": "float32"}
    (single / "config.json").write_text(json.dumps(config))
    save_file(weights, single / "model.safetensors")
    for name, array in open_checkpoint(single).tensors.items():
        np.testing.assert_array_equal(array, weights[name])


def test_a_multimodal_successors_language_model_is_opened(single, config, weights, edit_header):
    def wrap(header):
        for name in [n for n in header if n != "__metadata__"]:
            header["language_model." + name] = header.pop(name)
        embedding = header["language_model.model.embed_tokens.weight"]
        header["vision_tower.patch_embed.weight"] = dict(embedding)

    edit_header(single / "model.safetensors", wrap)
    inner = json.loads((single / "config.json").read_text())
    (single / "config.json").write_text(
        json.dumps({"model_type": "kimi_k25", "text_config": inner})
    )
    checkpoint = open_checkpoint(single)
    assert checkpoint.config == config
    assert set(checkpoint.tensors) == set(weights)


def test_a_truncated_shard_is_named_with_the_tensor_that_is_cut(sharded):
    path = sorted(sharded.glob("*.safetensors"))[1]
    os.truncate(path, path.stat().st_size - 1)
    sentence = refusal(sharded)
    assert f"{path} is truncated: tensor model." in sentence
    assert f"the file has {path.stat().st_size:,}. Download the file again." in sentence


@pytest.mark.parametrize("size", [0, 5, 100])
def test_a_shard_without_its_header_is_named(sharded, size):
    path = sorted(sharded.glob("*.safetensors"))[0]
    os.truncate(path, size)
    assert f"{path} is truncated" in refusal(sharded)


def test_a_shard_that_is_absent_is_named(sharded):
    path = sorted(sharded.glob("*.safetensors"))[1]
    path.unlink()
    assert f"there is no file {path}." in refusal(sharded)


@pytest.mark.parametrize(
    "content",
    [
        b"\x10" + b"\0" * 7 + b"not json at all.",
        b"\x02" + b"\0" * 7 + b"[]",
        b"\x0a" + b"\0" * 7 + b'{"a": "b"}',
        b"\x08" + b"\0" * 7 + b'{"a":{}}',
    ],
)
def test_a_file_of_another_kind_is_named(single, content):
    (single / "model.safetensors").write_bytes(content)
    assert refusal(single) == f"{single / 'model.safetensors'} is not a safetensors file."


def test_a_folder_without_weights_is_named(single):
    (single / "model.safetensors").unlink()
    assert f"{single} holds neither model.safetensors.index.json nor" in refusal(single)


def test_an_index_that_points_nowhere_is_named(sharded):
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.ghost.weight"] = "model-00001-of-00005.safetensors"
    path.write_text(json.dumps(index))
    assert "has no tensor model.ghost.weight, which model.safetensors.index" in refusal(sharded)
    for index in ({}, {"weight_map": {"lm_head.weight": 3}}):
        path.write_text(json.dumps(index))
        assert refusal(sharded) == f"{path} has no weight_map. Download the file again."


def test_a_tensor_in_two_shards_is_named(sharded, edit_header):
    first, second = sorted(sharded.glob("*.safetensors"))[:2]
    with safetensors.safe_open(first, "np") as shard:
        doubled = next(iter(shard.keys()))
    edit_header(second, lambda h: h.update({doubled: next(v for k, v in h.items() if k[0] != "_")}))
    assert f"tensor {doubled} is in {first.name} and {second.name}." in refusal(sharded)


def test_a_missing_tensor_is_named(single, edit_header):
    edit_header(single / "model.safetensors", lambda header: header.pop(GATE))
    assert f"{single}: tensor {GATE} is missing." in refusal(single)


def test_many_missing_tensors_are_counted(single, edit_header):
    def drop_layer(header):
        for name in [n for n in header if n.startswith("model.layers.1.self_attn")]:
            del header[name]

    edit_header(single / "model.safetensors", drop_layer)
    sentence = refusal(single)
    assert "model.layers.1.self_attn.q_a_proj.weight is missing, as are 6 others." in sentence


def test_an_extra_tensor_is_named_with_its_file(single, edit_header):
    path = single / "model.safetensors"
    edit_header(path, lambda header: header.update({"model.extra": header[GATE]}))
    assert f"{path}: tensor model.extra is unexpected." in refusal(single)


def test_a_wrong_shape_is_named_with_file_and_tensor(single, edit_header):
    path = single / "model.safetensors"
    edit_header(path, lambda header: header[GATE].update(shape=[32, 3]))
    sentence = f"{path}: tensor {GATE} has the shape [32, 3], but config.json asks for [3, 32]."
    assert refusal(single) == sentence


def test_a_wrong_type_is_named_with_file_and_tensor(single, edit_header):
    path = single / "model.safetensors"
    edit_header(path, lambda header: header[GATE].update(dtype="F16"))
    sentence = f"{path}: tensor {GATE} has the type float16, but config.json asks for bfloat16."
    assert refusal(single) == sentence


def test_an_unknown_type_is_named_with_file_and_tensor(single, edit_header):
    path = single / "model.safetensors"
    edit_header(path, lambda header: header[GATE].update(dtype="F4"))
    assert f"{path}: tensor {GATE} has the type F4, which is not read." in refusal(single)


def test_bytes_that_do_not_fit_the_shape_are_named(single, edit_header):
    path = single / "model.safetensors"
    edit_header(path, lambda header: header[GATE].update(shape=[3, 31]))
    assert f"{path}: tensor {GATE} has 192 bytes, but its shape [3, 31] needs 186." in refusal(
        single
    )


def test_unpacked_experts_under_a_config_of_packed_ones_are_refused(single, config, edit_header):
    int4 = json.loads((single / "config.json").read_text())
    int4["quantization_config"] = json.loads(
        dataclasses.replace(config, quantization_config=QuantizationConfig()).to_json()
    )["quantization_config"]
    (single / "config.json").write_text(json.dumps(int4))
    assert "experts.0.gate_proj.weight_packed is missing, as are 26 others" in refusal(single)


def test_expected_tensors_of_the_published_model_have_the_published_shapes():
    specs = expected_tensors(PRESETS["k2-thinking"])
    expert = "model.layers.60.mlp.experts.383."
    published = {
        "model.embed_tokens.weight": ((163840, 7168), BF16),
        "lm_head.weight": ((163840, 7168), BF16),
        "model.norm.weight": ((7168,), BF16),
        "model.layers.0.mlp.gate_proj.weight": ((18432, 7168), BF16),
        "model.layers.0.mlp.down_proj.weight": ((7168, 18432), BF16),
        "model.layers.60.self_attn.q_a_proj.weight": ((1536, 7168), BF16),
        "model.layers.60.self_attn.q_a_layernorm.weight": ((1536,), BF16),
        "model.layers.60.self_attn.q_b_proj.weight": ((12288, 1536), BF16),
        "model.layers.60.self_attn.kv_a_proj_with_mqa.weight": ((576, 7168), BF16),
        "model.layers.60.self_attn.kv_a_layernorm.weight": ((512,), BF16),
        "model.layers.60.self_attn.kv_b_proj.weight": ((16384, 512), BF16),
        "model.layers.60.self_attn.o_proj.weight": ((7168, 8192), BF16),
        "model.layers.60.mlp.gate.weight": ((384, 7168), BF16),
        "model.layers.60.mlp.gate.e_score_correction_bias": ((384,), np.dtype(np.float32)),
        "model.layers.60.mlp.shared_experts.up_proj.weight": ((2048, 7168), BF16),
        f"{expert}gate_proj.weight_packed": ((2048, 896), np.dtype(np.int32)),
        f"{expert}gate_proj.weight_scale": ((2048, 224), BF16),
        f"{expert}gate_proj.weight_shape": ((2,), np.dtype(np.int32)),
        f"{expert}down_proj.weight_packed": ((7168, 256), np.dtype(np.int32)),
        f"{expert}down_proj.weight_scale": ((7168, 64), BF16),
        f"{expert}down_proj.weight_shape": ((2,), np.dtype(np.int32)),
    }
    for name, (shape, dtype) in published.items():
        assert (specs[name].shape, specs[name].dtype) == (shape, dtype), name
    assert "model.layers.0.mlp.gate.weight" not in specs
    assert "model.layers.1.mlp.gate_proj.weight" not in specs


def test_every_expert_of_every_layer_of_the_published_model_is_expected():
    specs = expected_tensors(PRESETS["k2-thinking"])
    per_layer, outside, dense, moe = 9, 3, 3, 2 + 3
    assert len(specs) == outside + 61 * per_layer + dense + 60 * (moe + 384 * 3 * 3)


def test_a_sparse_file_of_full_size_tensors_is_mapped_without_reading_it(tmp_path):
    specs = {"big": TensorSpec((163840, 7168), BF16, 0)}
    ShardWriter(tmp_path / "big.safetensors", specs).close()
    array = Shard(tmp_path / "big.safetensors")["big"]
    assert array.shape == (163840, 7168)
    assert array[-1, -1] == 0
