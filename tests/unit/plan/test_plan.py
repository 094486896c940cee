"""`baltoro plan` beside published figures that it did not see."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import pytest
from rich.console import Console

from baltoro.checkpoint.inspect import describe, inspect
from baltoro.checkpoint.layout import expected_tensors
from baltoro.config import BaltoroError, ModelConfig, YarnConfig
from baltoro.plan.assumptions import Assumptions, Range, Serving, Training, load_assumptions
from baltoro.plan.communication import Traffic, expert_traffic, weight_traffic
from baltoro.plan.memory import fullest, kept_by_layer, rank_bytes, stage_sizes, stages, state_bytes
from baltoro.plan.report import make_plan, render
from baltoro.plan.serving import serving_rows
from baltoro.plan.training import (
    attention_flops,
    cost,
    device_hours,
    implied_utilization,
    sensitivities,
    training_flops_per_token,
)

DEEPSEEK_V3 = ModelConfig(  # its config.json
    model_type="deepseek_v3",
    vocab_size=129280,
    first_k_dense_replace=3,
    n_routed_experts=256,
    n_group=8,
    topk_group=4,
    routed_scaling_factor=2.5,
    num_attention_heads=128,
    num_key_value_heads=128,
    rope_theta=10000.0,
    rope_scaling=YarnConfig(factor=40.0, beta_fast=32.0),
    max_position_embeddings=163840,
    rms_norm_eps=1e-6,
    bos_token_id=0,
    eos_token_id=1,
)


@pytest.fixture(scope="module")
def k2():
    return inspect("k2-thinking")


@pytest.fixture(scope="module")
def plan():
    return make_plan("k2-thinking")


def value(figures, name: str) -> float:
    return next(figure.value for figure in figures if figure.name == name)


def test_the_model_of_a_plan_is_that_of_inspect(plan, k2):
    assert [figure.value for figure in plan.model] == [
        k2.parameters,
        k2.active_parameters,
        k2.size_bytes,
        k2.cache_bytes_per_token,
        k2.decode_bytes,
    ]
    assert f"{value(plan.model, 'parameters') / 1e9:,.2f}" == "1,026.41"
    assert f"{value(plan.model, 'active per token') / 1e9:.2f}" == "32.86"
    assert f"{value(plan.model, 'size') / 1e9:.1f}" == "594.2"
    assert value(plan.model, "cache per token") == 70_272


def test_counts_of_k2_thinking_are_those_of_its_published_layout(k2):
    """Layer by layer, each number as it stands in the description of the checkpoint."""
    tensors = expected_tensors(k2.config)

    sizes: Counter[str] = Counter()
    for name, tensor in tensors.items():
        packed = name.endswith(("weight_packed", "weight_scale"))
        sizes[name.rsplit("_")[-1] if packed else str(tensor.dtype)] += tensor.nbytes
    in_gb = [f"{sizes[kind] / 1e9:.2f}" for kind in ("packed", "scale", "bfloat16")]
    assert in_gb == ["507.34", "63.42", "23.44"]

    layer = [t for name, t in tensors.items() if ".layers.1.self_attn." in name]
    assert f"{sum(t.parameters for t in layer) / 1e6:.3f}" == "101.124"
    experts = k2.parts["routed experts"].parameters
    assert experts / 60 / 384 == 3 * 7168 * 2048
    assert f"{experts / 1e9:,.3f} {experts / k2.parameters:.2%}" == "1,014.686 98.86%"
    embedding, head = (k2.parts[name].parameters for name in ("embedding", "output head"))
    active = [k2.active_parameters - left for left in (embedding + head, embedding, 0)]
    assert [f"{number / 1e9:.2f}" for number in active] == ["30.51", "31.69", "32.86"]
    assert f"{k2.size_bytes / 2**30:.1f}" == "553.4"
    assert f"{8 * k2.size_bytes / k2.parameters:.2f}" == "4.63"
    assert f"{k2.cache_bytes_per_token * 262_144 / 2**30:.1f}" == "17.2"


def test_deepseeks_published_hours_give_the_assumed_utilization():
    report = describe("deepseek-v3", DEEPSEEK_V3)
    assert f"{report.parameters / 1e9:.0f}" == "671"
    run = dataclasses.replace(Training(), tokens=14.8e12)
    found = implied_utilization(report, run, hours=2_664_000)
    assert found == pytest.approx(Training().utilization, abs=0.005)


def test_the_reported_cost_of_k2_lies_within_the_ranges(plan):
    assert value(plan.training, "cost") == pytest.approx(4.6e6, rel=0.5)
    cheapest = min(min(s.cost_at_low, s.cost_at_high) for s in plan.sensitivities)
    dearest = max(max(s.cost_at_low, s.cost_at_high) for s in plan.sensitivities)
    assert cheapest < plan.reported_dollars < dearest


def test_hours_at_the_implied_utilization_are_the_hours(k2):
    run = Training(utilization=implied_utilization(k2, Training(), hours=1e6))
    assert device_hours(k2, run) == pytest.approx(1e6)
    assert cost(k2, run) == pytest.approx(2e6)


def test_operations_are_those_counted_product_by_product(k2):
    """Six for each weight that meets the token, counted layer by layer by hand."""
    D, F, heads = 7168, 2048, 64
    attention = D * 1536 + 1536 * heads * 192 + D * 576 + 512 * heads * 256 + heads * 128 * D
    dense, moe = 3 * D * 18432, 9 * 3 * D * F + 384 * D
    weights = 61 * attention + dense + 60 * moe + D * 163840
    pairs = 61 * heads * (192 + 128) * 4096 / 2
    expected = 6 * weights + 6 * pairs
    # Norms and correction biases count as parameters, and are the whole difference.
    assert training_flops_per_token(k2, 4096) == pytest.approx(expected, rel=1e-4)
    assert 3 * attention_flops(k2.config, 4096) == 6 * pairs


def test_sensitivities_are_sorted_and_hold_the_rest_still(k2):
    ranges = {
        "tokens": Range(low=15.5e12, high=31e12, reason="twice"),
        "utilization": Range(low=0.13, high=0.39, reason="a third"),
    }
    first, second = sensitivities(k2, Training(), ranges)
    assert (first.assumption, second.assumption) == ("utilization", "tokens")
    assert first.factor == pytest.approx(3)
    assert second.factor == pytest.approx(2)
    assert second.cost_at_low == pytest.approx(cost(k2, Training()))


def test_state_of_a_k2_rank_is_the_published_thirty_gigabytes(k2):
    """K2's report: about 6 TB of weights and gradients on 256 devices, some 30 GB of each."""
    run = Training()
    held = [state_bytes(stage, run) for stage in stages(k2.config, run)]
    on_256 = 16 * sum(h["weights"] + h["gradients"] for h in held)
    # Attention, shared experts and embeddings stand on each of the 16 expert-parallel ranks.
    assert on_256 == pytest.approx(6e12, rel=0.25)
    assert max(sum(h.values()) for h in held) == pytest.approx(30e9, rel=0.15)


@pytest.mark.parametrize(
    ("layers", "pipeline", "sizes"),
    [(61, 16, [3, 3, *[4] * 13, 3]), (6, 3, [2] * 3), (5, 2, [3, 2])],
)
def test_the_last_stage_has_fewer_layers_than_others(layers, pipeline, sizes):
    assert stage_sizes(layers, pipeline) == sizes


@pytest.mark.parametrize(("pipeline", "expert"), [(1, 1), (16, 16), (5, 8)])
def test_stages_hold_every_parameter_once(k2, pipeline, expert):
    run = Training(pipeline=pipeline, expert=expert, devices=pipeline * expert)
    parts = stages(k2.config, run)
    held = sum(s.experts * expert + s.matrices + s.vectors for s in parts)
    assert held == pytest.approx(k2.parameters)
    assert [layer for s in parts for layer in s.layers] == list(range(61))


def test_each_stage_of_zero_divides_one_thing_more(k2):
    """Table 1 of the paper: with N copies, 2 + 2 + 12 bytes become 16 / N, step by step."""
    for zero_stage, divided in ((0, ()), (1, "o"), (2, "og"), (3, "ogw")):
        run = Training(pipeline=1, expert=1, devices=64, zero_stage=zero_stage)
        (stage,) = stages(k2.config, run)
        held = state_bytes(stage, run)
        whole = {"weights": 2 * stage.parameters, "gradients": 4 * stage.parameters}
        whole["optimizer"] = 8 * stage.parameters + 4 * stage.vectors
        for name, size in whole.items():
            assert held[name] == pytest.approx(size / (64 if name[0] in divided else 1))


def test_recomputing_more_keeps_less(k2):
    for layer in (0, 1):
        kept = [
            sum(kept_by_layer(k2.config, layer, policy).values())
            for policy in ("nothing", "selective", "layers")
        ]
        assert kept == sorted(kept, reverse=True)
        assert kept[-1] == 2 * 7168


def test_the_fullest_rank_is_the_fullest(k2):
    run = Training()
    most = max(sum(rank_bytes(k2.config, s, run).values()) for s in stages(k2.config, run))
    assert sum(rank_bytes(k2.config, fullest(k2.config, run), run).values()) == most


def test_one_rank_alone_sends_nothing(k2):
    run = Training(pipeline=1, expert=1, devices=1)
    (stage,) = stages(k2.config, run)
    assert expert_traffic(k2.config, stage, run) == Traffic(0, 0)
    assert weight_traffic(stage, run) == Traffic(0, 0)


def test_experts_of_one_node_stay_in_the_node(k2):
    run = Training(expert=8)
    stage = fullest(k2.config, run)
    assert expert_traffic(k2.config, stage, run).between_nodes == 0
    wide = expert_traffic(k2.config, stage, Training(expert=16))
    # Of 15 other ranks 7 are near; each gets a sixteenth of what is sent.
    assert wide.between_nodes / wide.in_node == pytest.approx(8 / 7)


def test_decoding_reads_what_the_released_layout_has_for_the_experts_chosen(k2):
    rows = {row.batch: row for row in serving_rows(k2, Serving())}
    assert rows[1].weight_bytes == k2.decode_bytes
    # The table of bytes at each batch in GB, INT4 and FP8, computed apart from this code.
    for batch, experts, int4, fp8, bf16_ratio in (
        (1, 8, 33.0, 32.9, 1.92),
        (4, 31, 67, 94, 2.75),
        (16, 110, 184, 302, 3.26),
        (64, 284, 444, 763, 3.43),
        (256, 382, 589, 1022, 3.46),
    ):
        row = rows[batch]
        assert round(row.experts) == experts
        assert row.weight_bytes / 1e9 == pytest.approx(int4, rel=0.005)
        assert row.weight_bytes * row.fp8_ratio / 1e9 == pytest.approx(fp8, rel=0.005)
        assert f"{row.bf16_ratio:.2f}" == f"{bf16_ratio}"


def test_speed_is_bandwidth_over_bytes_until_arithmetic_is_slower(k2):
    alone, crowd = serving_rows(k2, Serving(context=1, batches=(1, 100_000)))
    bandwidth = 8 * 4.8e12
    assert alone.bound == "memory"
    assert alone.tokens_per_second == pytest.approx(bandwidth / alone.bytes_per_token)
    assert crowd.bound == "arithmetic"
    assert crowd.tokens_per_second < bandwidth / crowd.bytes_per_token


def test_every_figure_has_a_formula(plan):
    for figure in (*plan.model, *plan.training, *plan.memory, *plan.communication):
        assert figure.formula, figure.name


def test_json_holds_all_of_the_plan(plan):
    values = json.loads(plan.to_json())
    assert values["assumptions"]["training"]["tokens"] == 15.5e12
    assert values["sensitivities"][0]["factor"] >= values["sensitivities"][-1]["factor"]
    assert values["model"][0]["value"] == inspect("k2-thinking").parameters
    assert len(values["serving"]) == 5


def test_a_terminal_shows_all_parts(plan):
    console = Console(width=200)
    with console.capture() as capture:
        console.print(render(plan))
    for piece in (
        "1,026.41 B",
        "32.86 B",
        "594.2 GB",
        "70,272 B",
        "moves it most",
        "fullest rank",
        "tokens/s",
        "ZeRO",
    ):
        assert piece in capture.get()


def test_a_file_of_assumptions_changes_what_it_names(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(
        "[training]\ntokens = 1e12\n[serving]\nbatches = [2]\n"
        '[ranges.tokens]\nlow = 1e12\nhigh = 2e12\nreason = "data"\n'
    )
    found = load_assumptions(path)
    assert found.training == Training(tokens=1e12)
    assert found.serving == Serving(batches=(2,))
    assert found.ranges["tokens"].high == 2e12
    assert "utilization" in found.ranges


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[training]\ntoken = 1e12\n", "Did you mean 'tokens'?"),
        ("[training]\naccelerator = 'H801'\n", "Known are A100, H800, H100, H200."),
        ("[training]\nutilization = 1.5\n", "it is a share, at most 1."),
        ("[training]\ndevices = 100\n", "must be a multiple of pipeline * expert, 16 * 16."),
        ("[training]\ntokens = 0\n", "tokens is 0, but must be above 0."),
        ("[training]\nmicro_batch = 1.5\n", "micro_batch is 1.5, but must be a whole number."),
        ("[training]\nrecompute = 'some'\n", "must be 'nothing' or 'selective' or 'layers'."),
        ("[training]\ntokens = nan\n", "tokens is nan, but must be a number."),
        (
            "[serving]\nbatches = 4\n",
            "batches is 4, but must be a list, each of it a whole number.",
        ),
        ("ranges.tokens = 3\n", "ranges.tokens is 3, but must be a table."),
        ("[training]\nzero_stage = 4\n", "known are 0, 1, 2 and 3."),
        ("[ranges.devices]\nlow = 1\nhigh = 2\nreason = ''\n", "one of tokens, context"),
        ("training = 3\n", "'training' must be a table, like [training]."),
    ],
)
def test_an_assumption_that_cannot_be_is_answered_with_what_can(tmp_path, text, sentence):
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(BaltoroError) as error:
        load_assumptions(path)
    assert sentence in str(error.value)


def test_a_plan_starts_from_the_defaults():
    assert make_plan("tiny").assumptions == Assumptions()
