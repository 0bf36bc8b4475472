"""The cores that this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS = "/sys/fs/cgroup"


def cores() -> int:
    """How many cores this process may use, by its affinity and the quota of its container; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, _quota() or allowed))


def _quota() -> int | None:
    """The container's limit, rounded up to whole cores; None if there is none."""
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):  # of cgroups 2 and 1
        try:
            quota, period = " ".join(Path(CGROUPS, name).read_text() for name in files).split()
            return math.ceil(int(quota) / int(period)) if int(quota) > 0 else None
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return None
