"""How many cores this process may use."""

from __future__ import annotations

import math
import os


def _numbers(file: str) -> list[str]:
    with open(file) as opened:
        return opened.read().split()


def _cgroup_quota(root: str | os.PathLike[str] = "/sys/fs/cgroup") -> float:
    """Cores that the control group of this process may keep busy; infinity if there is no limit."""
    try:
        quota, period = _numbers(f"{root}/cpu.max")
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:  # version 1
        (quota_us,) = map(int, _numbers(f"{root}/cpu/cpu.cfs_quota_us"))
        (period_us,) = map(int, _numbers(f"{root}/cpu/cpu.cfs_period_us"))
        return quota_us / period_us if quota_us > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def usable_cores() -> int:
    """Cores of the machine, as far as affinity and control group let this process use them."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this platform
        cores = os.cpu_count() or 1
    quota = _cgroup_quota()
    return cores if quota >= cores else max(1, math.ceil(quota))
