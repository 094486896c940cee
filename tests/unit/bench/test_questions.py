"""Every question of `baltoro bench`, at a thousandth of its size."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from baltoro.bench.checkpoints import random_checkpoint
from baltoro.bench.expect import one_layer
from baltoro.bench.questions import QUESTIONS, Options, ask
from baltoro.bench.record import alternate, compare, median_ratio
from baltoro.bench.shapes import K2, SLICE, SMALL, TINY_SLICE, RandomWeights
from baltoro.checkpoint.inspect import describe
from baltoro.checkpoint.reader import open_checkpoint
from baltoro.config import BaltoroError

pytest.importorskip("baltoro._native", reason="the native engine is not built")

KEYS = {
    "question",
    "commit",
    "machine",
    "threads",
    "result",
    "unit",
    "roofline",
    "ratio_to_roofline",
    "peers",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_is_answered_in_json_lines(question: str, folder: Path):
    options = Options(threads=(1,), rounds=1, small=True, folder=folder)
    if question == "slice":
        options = replace(options, bandwidths=(400.0,))
    records = [json.loads(record.to_json()) for record in ask(question, options)]
    assert records
    for record in records:
        assert record.keys() >= KEYS
        assert record["question"] == question
        assert record["result"] > 0
        assert record["threads"] == 1
        if question != "cache" and "first token" not in record["case"]:
            assert record["roofline"] > 0
            assert record["ratio_to_roofline"] > 0


@pytest.mark.parametrize(
    ("question", "options", "named"),
    [
        ("moe", {"memory": "4GiB"}, "--memory"),
        ("moe", {"dense_bits": 8}, "--dense-bits"),
        ("decode", {"experts": 96}, "--experts"),
        ("serve", {"bandwidths": (400.0,)}, "--bandwidth"),
    ],
)
def test_an_option_that_a_question_does_not_take_is_refused(
    question: str, options: dict, named: str, folder: Path
):
    tiny = Options(threads=(1,), rounds=1, small=True, folder=folder, **options)
    with pytest.raises(BaltoroError, match=f"'{question}' takes no {named}"):
        next(ask(question, tiny))


def bench_slice(folder: Path, memory: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: what this one holds already would count as the model's."""
    command = [sys.executable, "-c", "from baltoro.cli import main; main()", "bench", "slice"]
    command += ["--json", "--small", "--rounds", "1", "--threads", "1", "--folder", str(folder)]
    return subprocess.run([*command, "--memory", memory], capture_output=True, text=True)


def test_a_slice_larger_than_memory_tells_what_came_from_disk(folder: Path):
    in_memory = json.loads(bench_slice(folder, "1GiB").stdout)
    assert in_memory["details"]["disk"] == "all weights are mapped"
    least = bench_slice(folder, "10MiB")
    assert least.returncode == 2
    assert "is the least that will do" in least.stderr
    said = least.stderr.split(" MB is the least")[0].rsplit(" ", 1)[1]
    size = int(float(said) * 1e6) + 20_000_000  # no two processes need quite the same
    details = json.loads(bench_slice(folder, str(size)).stdout)["details"]
    assert 0 <= details["disk"]["hit_rate"] < 1
    assert details["disk"]["bytes_read"] > 0
    assert details["resident_bytes"] <= size


def test_an_unknown_question_is_answered_with_those_there_are():
    with pytest.raises(BaltoroError, match="The questions are: moe, decode"):
        next(ask("speed", Options()))


def test_figures_are_medians_of_the_ratios_of_each_round():
    ours, limit, other = iter([4.0, 9.0, 2.0]), iter([8.0, 10.0, 2.5]), iter([2.0, 3.0, 2.0])
    record = compare(
        "moe",
        "",
        unit="GB/s",
        threads=1,
        ours=lambda: next(ours),
        roofline=lambda: next(limit),
        peers={"other": lambda: next(other), "absent": "it is not installed"},
        rounds=3,
    )
    assert record.result == 4.0
    assert record.ratio_to_roofline == 0.8  # of 0.5, 0.9, 0.8
    assert record.peers["other"].ratio == 2.0  # of 2, 3, 1
    assert json.loads(record.to_json())["peers"]["absent"] == {"missing": "it is not installed"}
    assert median_ratio([1.0, 9.0], [1.0, 3.0]) == 2.0


def test_no_measure_always_follows_the_same_other():
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return 1.0

    alternate({name: partial(measure, name) for name in "abcd"}, rounds=5)
    for start in range(0, len(order), 4):
        assert sorted(order[start : start + 4]) == list("abcd")
    for name in "abcd":
        assert len({before for before, after in pairwise(order) if after == name}) > 1


def test_the_shapes_are_those_they_are_named_after():
    assert describe("", SMALL).parameters == pytest.approx(208e6, rel=0.01)
    assert describe("", SLICE).size_bytes == pytest.approx(21e9, rel=0.05)
    assert SLICE.n_routed_experts == K2.n_routed_experts == 384
    assert SLICE.moe_intermediate_size == 2048


def test_a_layer_to_expect_by_has_the_models_sizes():
    layer = one_layer(K2)
    assert (layer.hidden_size, layer.moe_intermediate_size) == (7168, 2048)
    assert (layer.n_routed_experts, layer.num_experts_per_tok) == (32, 8)
    assert one_layer(replace(K2, n_group=12, topk_group=4)).n_routed_experts == 24
    assert one_layer(replace(K2, n_routed_experts=16)).n_routed_experts == 16


def test_a_random_checkpoint_goes_on_where_it_was_interrupted(tmp_path: Path):
    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        random_checkpoint(TINY_SLICE, tmp_path / "slice", file_bytes=2_000_000, progress=stop)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "slice").iterdir()}
    assert written
    random_checkpoint(TINY_SLICE, tmp_path / "slice", file_bytes=2_000_000)
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())
    checkpoint = open_checkpoint(tmp_path / "slice")
    weights = RandomWeights(TINY_SLICE)
    for name in list(weights)[::17]:
        assert np.array_equal(
            checkpoint.tensors[name].reshape(-1).view(np.uint8),
            weights[name].reshape(-1).view(np.uint8),
        )
    with pytest.raises(BaltoroError, match="another shape"):
        random_checkpoint(SMALL, tmp_path / "slice")


def test_dense_weights_in_8_bits_are_asked_for_in_every_question_of_a_whole_model(folder: Path):
    options = Options(threads=(1,), rounds=1, small=True, folder=folder, dense_bits=8)
    cases = [record.case for name in ("decode", "long", "slice") for record in ask(name, options)]
    assert len(cases) == 3
    assert all("dense weights in 8 bits" in case for case in cases)
