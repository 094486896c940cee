"""Reading and writing the published config.json."""

from __future__ import annotations

import dataclasses
import json

import pytest

from baltoro.config import PRESETS, BaltoroError, ConfigWarning, ModelConfig, YarnConfig

K2 = PRESETS["k2-thinking"]


def published(**changes) -> dict:
    """K2 Thinking's config.json with some keys changed; None as value removes the key."""
    values = json.loads(K2.to_json()) | changes
    return {key: value for key, value in values.items() if value is not None}


def rope_scaling(**changes) -> dict:
    values = published()["rope_scaling"] | changes
    return {key: value for key, value in values.items() if value is not None}


def quantization(**changes) -> dict:
    return published()["quantization_config"] | changes


def quantized_weights(**changes) -> dict:
    config = quantization()
    config["config_groups"]["group_0"]["weights"] |= changes
    return config


def test_every_published_field_is_read_and_written_again():
    values = published()
    assert ModelConfig.from_json(values) == K2
    assert json.loads(ModelConfig.from_json(values).to_json()) == values


def test_written_config_has_the_published_spelling():
    values = published()
    assert values["architectures"] == ["DeepseekV3ForCausalLM"]
    assert values["model_type"] == "kimi_k2"
    assert values["torch_dtype"] == "bfloat16"
    assert values["rope_theta"] == 50000
    assert values["rope_scaling"] == {
        "type": "yarn",
        "factor": 64,
        "original_max_position_embeddings": 4096,
        "beta_fast": 1,
        "beta_slow": 1,
        "mscale": 1,
        "mscale_all_dim": 1,
    }
    assert values["quantization_config"]["ignore"] == [
        "lm_head",
        "re:.*self_attn.*",
        "re:.*shared_experts.*",
        "re:.*mlp\\.(gate|up|gate_up|down)_proj.*",
    ]


def test_both_model_types_are_read():
    read = ModelConfig.from_json(published(model_type="deepseek_v3"))
    assert read == dataclasses.replace(K2, model_type="deepseek_v3")


def test_the_spelling_of_transformers_5_means_the_same():
    scaling = rope_scaling(type=None, rope_type="yarn", rope_theta=50000.0)
    values = published(
        rope_scaling=None,
        rope_theta=None,
        rope_parameters=scaling,
        torch_dtype=None,
        dtype="bfloat16",
        transformers_version="5.23.0",
        head_dim=64,
        qk_head_dim=192,
    )
    assert ModelConfig.from_json(values) == K2


def test_no_scaling_is_read_from_either_spelling():
    old = ModelConfig.from_json(published(rope_scaling=None))
    new = published(rope_scaling=None, rope_theta=None)
    new["rope_parameters"] = {"rope_type": "default", "rope_theta": 50000.0}
    assert old.rope_scaling is None
    assert ModelConfig.from_json(new) == old
    assert ModelConfig.from_json(json.loads(old.to_json())) == old


def test_a_successors_ramp_is_read_as_it_stands():
    read = ModelConfig.from_json(published(rope_scaling=rope_scaling(beta_fast=32.0)))
    assert read.rope_scaling == YarnConfig(beta_fast=32.0)


def test_a_multimodal_successors_language_model_is_read():
    inner = published(quantization_config=None)
    wrapper = {
        "model_type": "kimi_k25",
        "text_config": inner,
        "quantization_config": quantization(),
        "vision_config": {},
    }
    assert ModelConfig.from_json(wrapper) == K2


def test_layers_may_be_listed_by_their_kind():
    listed = published(first_k_dense_replace=None, mlp_layer_types=["dense"] * 3 + ["sparse"] * 58)
    assert ModelConfig.from_json(listed).first_k_dense_replace == 3


def test_a_relative_is_written_with_the_class_that_its_readers_know():
    read = ModelConfig.from_json(published(model_type="glm4_moe_lite", num_nextn_predict_layers=1))
    written = json.loads(read.to_json())
    assert written["architectures"] == ["Glm4MoeLiteForCausalLM"]
    assert written["num_nextn_predict_layers"] == 1


@pytest.mark.parametrize(("stop", "ids"), [(163586, (163586,)), ([7, 9], (7, 9))])
def test_end_of_reply_is_one_token_or_several(stop, ids):
    read = ModelConfig.from_json(published(eos_token_id=stop))
    assert read.eos_token_ids == ids
    assert json.loads(read.to_json())["eos_token_id"] == stop


def test_stop_tokens_of_the_generation_config_are_added(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(published(eos_token_id=163586)))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [163586, 163585]}')
    assert ModelConfig.from_json(tmp_path).eos_token_ids == (163586, 163585)


@pytest.mark.parametrize(
    ("key", "value", "only"),
    [
        ("attention_bias", True, "false"),
        ("hidden_act", "gelu", '"silu"'),
        ("moe_layer_freq", 2, "1"),
        ("norm_topk_prob", False, "true"),
        ("partial_rotary_factor", 0.5, "1.0"),
        ("rope_interleave", False, "true"),
        ("scoring_func", "softmax", '"sigmoid"'),
        ("tie_word_embeddings", True, "false"),
        ("topk_method", "greedy", '"noaux_tc"'),
    ],
)
def test_a_value_that_changes_the_computation_is_refused_by_name(key, value, only):
    with pytest.raises(BaltoroError) as error:
        ModelConfig.from_json(published(**{key: value}), where="folder/config.json")
    assert str(error.value) == (
        f"folder/config.json: {key} is {json.dumps(value)}, which changes the computation; "
        f"only {only} is supported."
    )


@pytest.mark.parametrize(
    "key", ["attention_bias", "hidden_act", "scoring_func", "tie_word_embeddings", "topk_method"]
)
def test_what_is_computed_in_one_way_only_can_not_be_set_to_another(key):
    with pytest.raises(TypeError, match=key):
        dataclasses.replace(K2, **{key: "other"})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "llama"}, 'model_type is "llama"; supported are "kimi_k2"'),
        ({"torch_dtype": "float16"}, 'torch_dtype is "float16"; supported are "bfloat16"'),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"rope_theta": None}, "rope_theta is missing"),
        ({"eos_token_id": None}, "eos_token_id is missing"),
        ({"eos_token_id": []}, "eos_token_id is an empty list"),
        ({"hidden_size": 7168.5}, "hidden_size is 7168.5, but must be a whole number"),
        ({"hidden_size": True}, "hidden_size is true, but must be a whole number"),
        ({"vocab_size": -1}, "vocab_size is -1, but must be a whole number"),
        ({"rms_norm_eps": "1e-5"}, 'rms_norm_eps is "1e-5", but must be a positive number'),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0, but must be at least 1"),
        (
            {"num_hidden_layers": 10**9},
            "num_hidden_layers is 1000000000 and n_routed_experts 384, together 384,000,000,000",
        ),
        ({"n_routed_experts": 10**9}, "together 61,000,000,000 experts; at most 100,000"),
        ({"num_nextn_predict_layers": 10**9}, "num_nextn_predict_layers is 1000000000, more than"),
        ({"q_lora_rank": 0}, "q_lora_rank is 0, but must be at least 1"),
        ({"qk_rope_head_dim": 63}, "qk_rope_head_dim is 63, but numbers are rotated in pairs"),
        ({"num_key_value_heads": 8}, "num_key_value_heads is 8, but latent attention has as many"),
        ({"first_k_dense_replace": 62}, "first_k_dense_replace is 62, more than num_hidden_layers"),
        ({"num_experts_per_tok": 385}, "num_experts_per_tok is 385, more than n_routed_experts"),
        ({"eos_token_id": [5, 163840]}, "special token 163840 is outside of vocab_size, 163840"),
        ({"n_group": 7}, "n_group is 7, but 384 experts cannot be divided by it"),
        ({"n_group": 2, "topk_group": 3}, "topk_group is 3, more than n_group, 2"),
        ({"n_group": 384}, "n_group is 384, which leaves 1 expert in each group"),
        ({"n_group": 96, "topk_group": 1}, "num_experts_per_tok is 8, more than the 4 experts of"),
        (
            {"first_k_dense_replace": None, "mlp_layer_types": ["dense", "sparse", "dense"]},
            'mlp_layer_types is ["dense", "sparse", "dense"]; supported are',
        ),
        ({"quantization_config": {"quant_method": "fp8"}}, "FP8, which is not computed here; run"),
        ({"moe_intermediate_size": 2040}, "2040, but quantized experts need a multiple of"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, 'rope_scaling has the type ["linear"]'),
        ({"rope_scaling": rope_scaling(type=None)}, "rope_scaling has the type []"),
        ({"rope_scaling": rope_scaling(beta_fast=None)}, "rope_scaling.beta_fast is missing"),
        ({"rope_scaling": rope_scaling(truncate=False)}, "rope_scaling.truncate is false"),
        ({"rope_scaling": rope_scaling(attention_factor=2.0)}, "attention_factor is 2.0"),
        ({"rope_scaling": rope_scaling(beta_medium=2.0)}, "unknown key 'beta_medium'"),
        ({"rope_scaling": rope_scaling(beta_fast=0.5)}, "beta_fast is 0.5, less than beta_slow, 1"),
        ({"rope_scaling": rope_scaling(factor="64")}, 'rope_scaling.factor is "64"'),
        ({"model_type": ["kimi_k2"]}, 'model_type is ["kimi_k2"]; supported are'),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is NaN, but must be a positive number"),
        ({"rope_scaling": rope_scaling(type=["yarn"])}, 'rope_scaling has the type [["yarn"]]'),
        (
            {"first_k_dense_replace": None, "mlp_layer_types": "dense"},
            'mlp_layer_types is "dense"; supported are',
        ),
        ({"quantization_config": quantization(ignore=["re:(lm_head"])}, '"(lm_head", which is no'),
        ({"rope_scaling": "yarn"}, 'rope_scaling is "yarn", but must be an object or null'),
        ({"rope_parameters": [1]}, "rope_parameters is [1], but must be an object or null"),
        ({"quantization_config": "int4"}, 'quantization_config is "int4", but must be an object'),
        ({"quantization_config": quantization(config_groups=[1])}, "config_groups is [1], but"),
        (
            {"quantization_config": quantization(config_groups={"a": 4})},
            "config_groups.a is 4, but must be an object",
        ),
        ({"quantization_config": quantization(ignore="lm_head")}, "ignore is"),
        ({"text_config": "k2"}, 'text_config is "k2", but must be an object or null'),
        ({"quantization_config": quantization(quant_method="gptq")}, 'quant_method is "gptq"'),
        ({"quantization_config": quantization(format="naive")}, 'format is "naive"; only K2'),
        ({"quantization_config": quantization(config_groups={})}, "config_groups is 0"),
        ({"quantization_config": quantization(kv_cache_scheme={})}, "kv_cache_scheme is {}"),
        ({"quantization_config": quantization(transform_config={"a": 1})}, "transform_config is"),
        ({"quantization_config": quantized_weights(num_bits=8)}, "weights.num_bits is 8"),
        ({"quantization_config": quantized_weights(group_size=128)}, "weights.group_size is 128"),
        ({"quantization_config": quantized_weights(symmetric=False)}, "weights.symmetric is false"),
        ({"quantization_config": quantized_weights(actorder="group")}, 'actorder is "group"'),
        (
            {"quantization_config": quantization(ignore=["lm_head"])},
            "ignore does not cover model.layers.1.mlp.gate_proj",
        ),
        (
            {"quantization_config": quantization(ignore=["lm_head", "re:.*"])},
            "ignore covers model.layers.1.mlp.experts.0.gate_proj",
        ),
    ],
)
def test_what_cannot_be_read_gets_a_sentence_with_file_and_key(changes, sentence):
    with pytest.raises(BaltoroError) as error:
        ModelConfig.from_json(published(**changes), where="folder/config.json")
    assert str(error.value).startswith("folder/config.json: ")
    assert sentence in str(error.value)


def test_keys_without_effect_are_warned_about_in_one_sentence():
    values = published(flux_capacitor=1, attention_dropout=0.1, vision=None)
    with pytest.warns(ConfigWarning) as warned:
        assert ModelConfig.from_json(values) == K2
    assert [str(w.message) for w in warned] == [
        "config.json: not used and without effect here: 'flux_capacitor', 'attention_dropout'."
    ]


def test_known_keys_without_effect_are_passed_over_in_silence():
    values = published(auto_map={"AutoConfig": "configuration_deepseek.DeepseekV3Config"})
    assert ModelConfig.from_json(values) == K2


def test_a_file_that_is_absent_or_no_json_is_named(tmp_path):
    with pytest.raises(BaltoroError, match=r"there is no file .*config\.json"):
        ModelConfig.from_json(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BaltoroError, match=r"config\.json is not valid JSON"):
        ModelConfig.from_json(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(BaltoroError, match=r"holds list, but must hold a JSON object"):
        ModelConfig.from_json(tmp_path)
