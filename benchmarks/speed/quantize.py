"""What `baltoro quantize` takes on a large checkpoint: memory, speed beside the disk's own, cores.

    python benchmarks/speed/quantize.py FOLDER --gigabytes 20 [--interrupt]

Makes a bf16 checkpoint of random weights in Moonlight's shape in FOLDER, once, and quantizes it in
a process of its own, cold: nothing of the source is in the page cache. Prints one JSON line:

    gb_per_s          of the source, by the clock
    disk_gb_per_s     the same if only reading the source and writing the target took time, from
                      plain reads and writes before and after; of_disk is the ratio
    cores_busy        CPU seconds per second, of `cores`
    peak_mib          the largest resident set, mapped pages of the source included

With --interrupt the work is done again, killed half way and gone on with; `same` says whether both
targets have the same bytes. FOLDER needs 1.6 times the gigabytes, with --interrupt 1.9 times.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from baltoro.bench.checkpoints import random_checkpoint
from baltoro.checkpoint.layout import expected_tensors
from baltoro.config import ModelConfig
from baltoro.kernels.cores import available_cores

# Moonlight-16B-A3B's layers; as many of them as make the size.
MOONLIGHT = ModelConfig(
    hidden_size=2048,
    intermediate_size=11264,
    moe_intermediate_size=1408,
    n_routed_experts=64,
    num_experts_per_tok=6,
    n_shared_experts=2,
    num_attention_heads=16,
    num_key_value_heads=16,
    q_lora_rank=None,
    routed_scaling_factor=2.446,
    rope_scaling=None,
    max_position_embeddings=8192,
)
CHUNK = 16 << 20
PROBE_BYTES = 4 << 30  # read and written at most to learn the disk's speed


@dataclass(frozen=True)
class Done:
    """One process that has ended."""

    seconds: float
    cpu_seconds: float
    peak_mib: float


def config_of(gigabytes: float) -> ModelConfig:
    """The least number of layers that has the size."""
    config = replace(MOONLIGHT, num_hidden_layers=2)
    while size_bytes(config) < gigabytes * 1e9:
        config = replace(config, num_hidden_layers=config.num_hidden_layers + 1)
    return config


def size_bytes(config: ModelConfig) -> int:
    return sum(spec.nbytes for spec in expected_tensors(config).values())


def quantize(source: Path, target: Path) -> Done:
    process = start(source, target)
    started = time.perf_counter()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"baltoro quantize ended with {os.waitstatus_to_exitcode(status)}")
    return Done(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def start(source: Path, target: Path) -> subprocess.Popen[bytes]:
    for file in weights(source):
        drop_from_cache(file)
    command = Path(sys.executable).with_name("baltoro")
    return subprocess.Popen([command, "quantize", source, target], stdout=subprocess.DEVNULL)


def gone_on_with(source: Path, target: Path, num_bytes: int) -> Done:
    """The second of two processes, the first of which is killed when it has written that much."""
    process = start(source, target)
    unfinished = target.with_name(f".{target.name}.partial")
    while process.poll() is None and size_on_disk(unfinished) < num_bytes:
        time.sleep(0.05)
    if process.poll() is not None:
        raise SystemExit("baltoro quantize had ended before it could be killed")
    process.kill()
    process.wait()
    return quantize(source, target)


def size_on_disk(folder: Path) -> int:
    files = folder.iterdir() if folder.is_dir() else ()
    return sum(file.stat().st_blocks * 512 for file in files)


def weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def drop_from_cache(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())  # only pages that are on disk can be dropped
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_speed(files: list[Path]) -> float:
    """Bytes per second of plain reading from the disk."""
    for file in files:
        drop_from_cache(file)
    left, seconds = PROBE_BYTES, 0.0
    for file in files:
        with file.open("rb", buffering=0) as opened:
            started = time.perf_counter()
            while left > 0 and (chunk := opened.read(CHUNK)):
                left -= len(chunk)
            seconds += time.perf_counter() - started
    return (PROBE_BYTES - left) / seconds


def write_speed(folder: Path, num_bytes: int) -> float:
    """Bytes per second of plain writing, until they are on the disk."""
    num_chunks = max(1, min(num_bytes, PROBE_BYTES) // CHUNK)
    chunk, path = os.urandom(CHUNK), folder / "probe.tmp"
    started = time.perf_counter()
    with path.open("wb", buffering=0) as opened:
        for _ in range(num_chunks):
            opened.write(chunk)
        os.fsync(opened.fileno())
    seconds = time.perf_counter() - started
    path.unlink()
    return num_chunks * CHUNK / seconds


def disk_seconds(folder: Path, source: Path, source_bytes: int, target_bytes: int) -> float:
    """What reading the source and writing the target would take by themselves."""
    reading = source_bytes / read_speed(weights(source))
    return reading + target_bytes / write_speed(folder, target_bytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=20.0)
    parser.add_argument("--interrupt", action="store_true", help="kill it half way, and go on")
    given = parser.parse_args()
    config = config_of(given.gigabytes)
    source = random_checkpoint(config, given.folder / f"bf16-{config.num_hidden_layers}-layers")
    target, again = given.folder / "int4", given.folder / "int4-again"
    for left_over in (target, again):
        shutil.rmtree(left_over, ignore_errors=True)

    source_bytes = sum(file.stat().st_size for file in weights(source))
    target_bytes = int(source_bytes * 0.3)  # for the first look at the disk
    before = disk_seconds(given.folder, source, source_bytes, target_bytes)
    done = quantize(source, target)
    target_bytes = sum(file.stat().st_size for file in weights(target))
    after = disk_seconds(given.folder, source, source_bytes, target_bytes)
    disk = (before + after) / 2
    result = {
        "source_gb": source_bytes / 1e9,
        "target_gb": target_bytes / 1e9,
        "seconds": done.seconds,
        "gb_per_s": source_bytes / 1e9 / done.seconds,
        "disk_gb_per_s": source_bytes / 1e9 / disk,
        "of_disk": disk / done.seconds,
        "cores": available_cores(),
        "cores_busy": done.cpu_seconds / done.seconds,
        "peak_mib": done.peak_mib,
    }
    if given.interrupt:
        rest = gone_on_with(source, again, target_bytes // 2)
        names = [file.name for file in target.iterdir()]
        _, differ, missing = filecmp.cmpfiles(target, again, names, shallow=False)
        result |= {"seconds_after_kill": rest.seconds, "same": not differ and not missing}
    print(json.dumps({k: round(v, 3) if type(v) is float else v for k, v in result.items()}))


if __name__ == "__main__":
    main()
