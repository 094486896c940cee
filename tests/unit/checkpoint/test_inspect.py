"""The numbers of `baltoro inspect`."""

from __future__ import annotations

import pytest
from rich.console import Console

from baltoro.checkpoint.convert import export_int4
from baltoro.checkpoint.inspect import (
    describe,
    fits_in_memory,
    inspect,
    machine_bytes,
    measure_bandwidth,
    render,
)
from baltoro.checkpoint.reader import open_checkpoint
from baltoro.config import PRESETS, BaltoroError


def printed(report) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(render(report))
    return capture.get()


def test_k2_thinking_preset_has_the_published_numbers():
    report = inspect("k2-thinking")
    assert f"{report.parameters / 1e9:,.1f}" == "1,026.4"
    assert f"{report.active_parameters / 1e9:.2f}" == "32.86"
    assert f"{report.size_bytes / 1e9:.1f}" == "594.2"
    assert report.cache_bytes_per_token == 70_272
    parts = report.parts
    assert f"{parts['attention'].parameters / 61 / 1e6:.2f}" == "101.12"
    assert f"{parts['routed experts'].parameters / 1e9:,.3f}" == "1,014.686"
    assert report.tokens_per_second() is None


def test_k2_thinking_report_prints_the_published_numbers():
    text = printed(inspect("k2-thinking"))
    assert "1,026.4B parameters, 32.9B active per token (8 of 384 experts)" in text
    assert "594.2 GB on disk" in text
    assert "70,272 bytes of cache per token" in text


def test_numbers_of_a_folder_are_those_of_its_files(tmp_path, config, weights):
    export_int4(tmp_path / "out", config, weights.items())
    report = inspect(tmp_path / "out")
    assert report.parameters == sum(array.size for array in weights.values())
    tensors = open_checkpoint(tmp_path / "out").tensors
    assert report.size_bytes == sum(array.nbytes for array in tensors.values())


def test_decoding_reads_all_but_the_idle_experts_and_the_embedding(tmp_path, config, weights):
    export_int4(tmp_path / "out", config, weights.items())
    tensors = open_checkpoint(tmp_path / "out").tensors
    read = sum(
        array.nbytes
        for name, array in tensors.items()
        if ".experts.2." not in name and name != "model.embed_tokens.weight"
    )
    one_row = config.hidden_size * 2
    assert inspect(tmp_path / "out").decode_bytes == read + one_row


def test_rate_is_bandwidth_over_the_bytes_of_weights_and_cache(config):
    report = describe("small", config, bandwidth=1e9)
    cache = 2 * (16 + 4) * 2  # layers, latent and rotary key, bytes of bf16
    assert report.cache_bytes_per_token == cache
    assert report.tokens_per_second(1000) == 1e9 / (report.decode_bytes + 1000 * cache)
    assert "1.0 GB/s read from memory here" in printed(report)


def test_bandwidth_is_measured_on_this_machine():
    assert measure_bandwidth(size_bytes=1 << 22, repeats=1) > 0


def test_a_target_that_is_nothing_is_answered_with_the_presets():
    with pytest.raises(BaltoroError) as error:
        inspect("k2-thinkin")
    assert str(error.value) == (
        "'k2-thinkin' is neither a checkpoint folder nor a preset. "
        f"The presets are: {', '.join(PRESETS)}."
    )


def test_a_container_has_no_more_memory_than_its_control_group(monkeypatch, config):
    report = describe("small", config)
    assert fits_in_memory(report)
    for limit, fits in ((report.size_bytes - 1, False), (report.size_bytes, True)):
        monkeypatch.setattr("baltoro.checkpoint.inspect.cgroup_memory", lambda limit=limit: limit)
        assert machine_bytes() == limit
        assert fits_in_memory(report) == fits
