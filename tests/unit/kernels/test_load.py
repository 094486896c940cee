"""Which kernels compute, and what a step model is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from kernel_checkpoints import TINY, random_checkpoint

from baltoro.config import BaltoroError
from baltoro.kernels import load
from baltoro.kernels.control_groups import cgroup_cores, cgroup_memory
from baltoro.kernels.cores import available_cores
from baltoro.kernels.load import choose_kernels, load_step_model


@pytest.fixture(autouse=True)
def no_override(monkeypatch):
    monkeypatch.delenv("BALTORO_KERNELS", raising=False)


def test_the_fastest_kernels_are_the_default():
    choice = choose_kernels()
    assert choice.name == choice.available[0]
    assert choice.available[-1] == "reference"


def test_the_environment_overrides_the_choice(monkeypatch):
    monkeypatch.setenv("BALTORO_KERNELS", "reference")
    assert choose_kernels().name == "reference"
    monkeypatch.setenv("BALTORO_KERNELS", "auto")
    assert choose_kernels().name == choose_kernels().available[0]


def test_unknown_kernels_are_refused_with_those_there_are(monkeypatch):
    monkeypatch.setenv("BALTORO_KERNELS", "avx1024")
    with pytest.raises(BaltoroError, match=r"avx1024.*BALTORO_KERNELS.*reference"):
        choose_kernels()


def test_without_the_native_engine_numpy_runs_and_says_so(monkeypatch):
    monkeypatch.setattr(load, "_native", None)
    monkeypatch.setattr(load, "_why_not_native", "no module")
    with pytest.warns(RuntimeWarning, match="numpy.*not built"):
        model = load_step_model(TINY, random_checkpoint(TINY), num_blocks=1)
    assert model.kernels == "reference"


@pytest.mark.parametrize(
    ("option", "value"), [("threads", 0), ("activations", "int4"), ("num_blocks", 0)]
)
def test_impossible_options_are_refused(option, value):
    options = {"num_blocks": 1, option: value}
    with pytest.raises(BaltoroError):
        load_step_model(TINY, {}, **options)


@pytest.mark.parametrize("kernels", [None, "reference"])
def test_a_cache_that_does_not_fit_into_memory_is_refused_with_its_size(kernels):
    tensors = random_checkpoint(TINY)
    with pytest.raises(BaltoroError, match=r"latent cache of 3\d\d,\d{3},\d{3} MB"):
        load_step_model(TINY, tensors, num_blocks=1 << 34, kernels=kernels)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limits of a process")
def test_threads_that_the_system_does_not_give_are_refused():
    done = subprocess.run(
        [sys.executable, "-c", NO_ROOM_FOR_THREADS],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "refused, and 2 threads work\n"), done.stderr


NO_ROOM_FOR_THREADS = """
import resource
from kernel_checkpoints import TINY, random_checkpoint
from baltoro.config import BaltoroError
from baltoro.kernels.load import load_step_model

tensors = random_checkpoint(TINY)
used = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmSize")) << 10
resource.setrlimit(resource.RLIMIT_AS, (used + (512 << 20), -1))
try:
    load_step_model(TINY, tensors, num_blocks=1, threads=2000)
except BaltoroError as error:
    assert "2000 threads" in str(error)
    load_step_model(TINY, tensors, num_blocks=1, threads=2)
    print("refused, and 2 threads work")
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux's affinity calls")
def test_threads_default_to_the_cores_of_the_process():
    pytest.importorskip("baltoro._native")
    assert 1 <= available_cores() <= len(os.sched_getaffinity(0))
    model = load_step_model(TINY, random_checkpoint(TINY), num_blocks=1)
    assert model.threads == available_cores()


def control_groups(folder: Path, process: str | None, files: dict[str, str]) -> tuple[Path, Path]:
    """What Linux shows of the groups around a process: its own file, and the mounted folders."""
    if process is not None:
        (folder / "process").write_text(process)
    for name, text in files.items():
        path = folder / "mounted" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return folder / "process", folder / "mounted"


@pytest.mark.parametrize(
    ("process", "files", "cores"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
        ("0::/far/away\n", {"cpu.max": "200000 50000"}, 4),
        ("0::/\n", {"cpu.max": "max 100000"}, np.inf),
        (
            "3:cpu,cpuacct:/a\n2:memory:/a\n",
            {
                "cpu,cpuacct/a/cpu.cfs_quota_us": "50000",
                "cpu,cpuacct/a/cpu.cfs_period_us": "100000",
            },
            0.5,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, np.inf),
        ("1:cpuset:/a\n", {"cpuset/a/cpu.max": "1 1"}, np.inf),
        (None, {}, np.inf),
    ],
)
def test_the_quota_of_a_control_group_counts_in_cores(
    tmp_path: Path, process: str | None, files: dict[str, str], cores: float
):
    assert cgroup_cores(*control_groups(tmp_path, process, files)) == cores


@pytest.mark.parametrize(
    ("process", "files", "size"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "2147483648"}, 2**31),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "1024"}, 1024),
        ("0::/\n", {"memory.max": "max"}, np.inf),
        (
            "3:cpu,cpuacct:/a\n2:memory:/a\n",
            {
                "memory/a/memory.limit_in_bytes": "4096",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            4096,
        ),
        ("1:cpu:/\n", {"cpu/memory.max": "1"}, np.inf),
        (None, {}, np.inf),
    ],
)
def test_the_memory_of_a_control_group_counts_in_bytes(
    tmp_path: Path, process: str | None, files: dict[str, str], size: float
):
    assert cgroup_memory(*control_groups(tmp_path, process, files)) == size


def test_weights_are_not_copied():
    checkpoint = random_checkpoint(TINY)
    model = load_step_model(TINY, checkpoint, num_blocks=1, threads=1)
    one = np.zeros(1, dtype=np.int32)

    def logits() -> np.ndarray:
        return model.step(one, one, one, one[None], one)

    before = logits()
    checkpoint["lm_head.weight"][7] = 0
    after = logits()
    assert before[0, 7] != 0
    assert after[0, 7] == 0
