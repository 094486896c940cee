"""How memory is shared out, and that a process stays within what it was given."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_engine import CONFIG, random_tensors

from baltoro.chat.chat_model import Sampling
from baltoro.checkpoint.layout import expected_tensors
from baltoro.checkpoint.writer import write_checkpoint
from baltoro.config import PRESETS, BaltoroError, ModelConfig, QuantizationConfig
from baltoro.engine.hot_experts import HotExperts
from baltoro.engine.memory import (
    MemoryPlan,
    default_step_tokens,
    plan_memory,
    span_bytes,
    step_bytes,
)
from baltoro.engine.open_model import open_engine
from baltoro.engine.options import EngineOptions

K2 = replace(PRESETS["k2-thinking"], quantization_config=QuantizationConfig())
GB = 10**9


def plan(
    config: ModelConfig, memory: int | None, max_context: int | None = None, step_tokens: int = 256
) -> MemoryPlan:
    return plan_memory(
        config,
        "int8",
        max_context=max_context,
        memory=memory,
        cache_memory=None,
        step_tokens=step_tokens,
    )


def test_without_a_limit_all_weights_are_in_memory():
    assert plan(K2, None, max_context=4096).arena_bytes is None


def test_a_machine_that_holds_all_keeps_all_in_memory():
    assert plan(K2, 640 * GB, max_context=4096).arena_bytes is None


def test_with_less_the_experts_get_what_is_left():
    small, large = plan(K2, 64 * GB, 32768), plan(K2, 128 * GB, 32768)
    assert small.arena_bytes is not None
    assert large.arena_bytes is not None
    assert 24 * GB < small.arena_bytes < 64 * GB - 23 * GB  # 23.4 GB are not routed experts
    assert large.arena_bytes - small.arena_bytes > 60 * GB
    assert small.cache_tokens >= 32768


def test_a_step_of_a_prompt_has_tokens_enough_for_each_expert():
    k2 = PRESETS["k2-thinking"]
    assert default_step_tokens(k2, None) == 1536  # 32 for each of 384 experts, 8 at a time
    assert default_step_tokens(PRESETS["tiny"], None) == 256
    assert default_step_tokens(k2, 16 * step_bytes(k2, 512)) == 512
    assert default_step_tokens(k2, 1) == 256


def test_too_little_is_refused_with_the_least_that_will_do():
    with pytest.raises(BaltoroError, match=r"23\.\d GB, and with .* is the least") as refused:
        plan(K2, 20 * GB, 4096)
    least = float(str(refused.value).split(" GB is the least")[0].rsplit(" ", 1)[1])
    assert plan(K2, int((least + 0.1) * GB), 4096).arena_bytes is not None


# 192 experts in each of two layers, 0.7 GB in all; the rest is small.
WIDE = replace(
    CONFIG,
    hidden_size=1024,
    moe_intermediate_size=1024,
    n_routed_experts=192,
    num_experts_per_tok=4,
)

ANSWER = """
import asyncio, sys
from pathlib import Path
from baltoro.chat.chat_model import Sampling
from baltoro.engine.memory import resident_bytes
from baltoro.engine.open_model import open_engine
from baltoro.engine.options import EngineOptions
from baltoro.engine.scheduler import SchedulerLimits
from baltoro.server.metrics import Metrics

async def main():
    limits = SchedulerLimits(step_tokens=64, max_running=8)
    memory = resident_bytes() + int(sys.argv[2])  # this process holds less than that of the tests
    print(memory)
    options = EngineOptions(threads=2, memory=memory, hot_experts=Path(sys.argv[3]))
    with open_engine(sys.argv[1], options, limits=limits) as engine:
        sampling = Sampling(max_tokens=20, seed=3)
        print(*[event.id async for event in engine.generate(range(200), sampling)])
        counts = engine.stats().experts
        print(counts.misses, counts.bytes_read)
        metrics = Metrics()
        metrics.watch_engine(engine)
        print(next(x for x in metrics.text().decode().splitlines() if "expert_misses " in x[:25]))

asyncio.run(main())
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def write_wide(folder: Path) -> int:
    """Returns how many bytes the experts have."""
    rng = np.random.default_rng(0)
    small = random_tensors(replace(CONFIG, hidden_size=1024, n_routed_experts=192))
    specs = expected_tensors(WIDE)

    def tensors():
        for name, spec in specs.items():
            if name.endswith("weight_packed"):
                yield name, rng.integers(-(2**31), 2**31, spec.shape, np.int64).astype(np.int32)
            elif name.endswith("weight_scale"):
                yield name, rng.uniform(0.002, 0.004, spec.shape).astype(spec.dtype)
            elif name.endswith("weight_shape"):
                packed = specs[name.replace("shape", "packed")].shape
                yield name, np.array([packed[0], packed[1] * 8], dtype=np.int32)
            elif "shared_experts" in name:
                yield name, (rng.standard_normal(spec.shape) / 32).astype(spec.dtype)
            else:
                yield name, small[name]

    write_checkpoint(folder, WIDE, tensors())
    return sum(spec.nbytes for name, spec in specs.items() if ".mlp.experts." in name)


def test_the_hottest_experts_of_earlier_runs_stay_in_memory(tmp_path: Path):
    path = tmp_path / "hot.json"
    first = HotExperts(path, 5)
    assert first.most_used_first() == []
    first.save([3, 0, 9, 0, 1])
    HotExperts(path, 5).save([0, 0, 1, 20, 0])
    assert HotExperts(path, 5).most_used_first() == [3, 2, 0, 4]
    with pytest.raises(BaltoroError, match="does not hold the uses of 6 experts"):
        HotExperts(path, 6)


async def answer(folder: Path) -> list[int]:
    with open_engine(folder, EngineOptions(threads=2)) as engine:
        events = engine.generate(range(200), Sampling(max_tokens=20, seed=3))
        return [event.id async for event in events]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system has no /proc")
def test_a_model_larger_than_its_memory_answers_the_same_within_it(tmp_path: Path):
    experts = write_wide(tmp_path / "wide")
    command = [sys.executable, "-c", ANSWER, str(tmp_path / "wide"), str(experts // 2)]
    command.append(str(tmp_path / "hot.json"))
    expected = asyncio.run(answer(tmp_path / "wide"))
    misses: list[int] = []
    for _ in range(2):  # the second time, half of the arena is pinned from the first's counts
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        memory, tokens, counts, metric, peak = done.stdout.splitlines()
        assert [int(token) for token in tokens.split()] == expected
        assert int(peak) * 1024 <= int(memory)
        missed, bytes_read = map(int, counts.split())
        assert bytes_read > experts // 2  # more than it could hold
        assert metric == f"baltoro:expert_misses {float(missed)}"
        misses.append(missed)
    assert misses[1] < misses[0]
    assert misses[0] > WIDE.n_routed_experts


def test_a_step_counts_what_a_long_context_keeps_of_its_spans_for_every_thread():
    few, many = (span_bytes(K2, 262_144, threads) for threads in (2, 64))
    assert many == 32 * few
    # 65 spans, 16 heads, a latent and a line of floats, for four items of each thread
    assert few == 8 * 65 * 16 * (512 + 16) * 4
