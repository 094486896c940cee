"""What the control groups of Linux leave a process, as in a container: cores and memory.

`process` and `mounted` are where Linux shows the groups, of version 1 and of version 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PROCESS = Path("/proc/self/cgroup")
MOUNTED = Path("/sys/fs/cgroup")


def cgroup_cores(process: Path = PROCESS, mounted: Path = MOUNTED) -> float:
    """The smallest quota of the groups around this process, in cores; infinity without one."""
    return min(_quotas(process, mounted), default=float("inf"))


def cgroup_memory(process: Path = PROCESS, mounted: Path = MOUNTED) -> float:
    """The smallest limit of the groups around this process, in bytes; infinity without one."""
    limits = [
        word
        for folder in _folders("memory", process, mounted)
        for name in ("memory.max", "memory.limit_in_bytes")
        for word in _words(folder / name)
    ]
    return min((int(word) for word in limits if word.isdecimal()), default=float("inf"))


def _quotas(process: Path, mounted: Path) -> Iterator[float]:
    for folder in _folders("cpu", process, mounted):
        limits = _words(folder / "cpu.max")
        quota = _words(folder / "cpu.cfs_quota_us")
        if quota:
            limits = [*quota, *_words(folder / "cpu.cfs_period_us")]
        # "max" and -1 stand for no limit.
        if len(limits) == 2 and limits[0].isdecimal() and limits[1].isdecimal() and int(limits[1]):
            yield int(limits[0]) / int(limits[1])


def _folders(controller: str, process: Path, mounted: Path) -> Iterator[Path]:
    """The group of the process and all around it, in either version's place."""
    try:
        lines = process.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root = mounted
        elif controller in controllers.split(","):
            root = mounted / controllers
        else:
            continue
        group = root / path.lstrip("/")
        while True:
            yield group
            if group == root or root not in group.parents:
                break
            group = group.parent


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
