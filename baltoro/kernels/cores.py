"""How many cores this process may use: its affinity, and what its control group allows."""

from __future__ import annotations

import os

from baltoro.kernels.control_groups import cgroup_cores


def available_cores() -> int:
    """At least 1. Of a quota like 2.5 cores the half is left alone: threads that share it would
    all be stopped when it is used up."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return max(1, int(min(cores, cgroup_cores())))
