"""The number of cores that this process may use."""

from __future__ import annotations

import math
import os


def _numbers(file: str) -> list[str]:
    with open(file) as opened:
        return opened.read().split()


def _group_quota(group: str) -> float:
    """Cores that one control group may use; infinity if there is no limit."""
    try:
        quota, period = _numbers(f"{group}/cpu.max")
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass
    try:  # version 1
        (quota_us,) = map(int, _numbers(f"{group}/cpu.cfs_quota_us"))
        (period_us,) = map(int, _numbers(f"{group}/cpu.cfs_period_us"))
        return quota_us / period_us if quota_us > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def _own_groups(membership: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Yield the folder of a hierarchy with the path of this process's group, then its parents.

    Without a cgroup namespace (systemd's CPUQuota, Slurm), the group is below the root, and its
    parents may have limits too.
    """
    groups = [("", ""), ("cpu", "")]
    try:
        with open(membership) as opened:
            lines = opened.read().splitlines()
    except (OSError, ValueError):
        return groups
    for line in lines:  # "0::/a/b", or "4:cpu,cpuacct:/a/b" in version 1
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        parts = [part for part in path.split("/") if part]
        if ".." not in parts:  # a group outside this namespace, which can't be read
            folder = "cpu" if controllers else ""
            groups += [(folder, "/".join(parts[: i + 1])) for i in range(len(parts))]
    return groups


def _cgroup_quota(
    root: str | os.PathLike[str] = "/sys/fs/cgroup",
    membership: str | os.PathLike[str] = "/proc/self/cgroup",
) -> float:
    """Cores that the control groups of this process allow; infinity if there is no limit."""
    return min(
        _group_quota(os.path.join(root, folder, path)) for folder, path in _own_groups(membership)
    )


def usable_cores() -> int:
    """Cores of the machine that affinity and control groups let this process use."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this platform
        cores = os.cpu_count() or 1
    quota = _cgroup_quota()
    return cores if quota >= cores else max(1, math.ceil(quota))
