"""The number of cores that the kernels use: affinity, and quotas of control groups."""

from __future__ import annotations

import os

import numpy as np
import pytest

from npdl._ext import cores


@pytest.mark.parametrize(
    "files, quota",
    [
        ({}, np.inf),
        ({"cpu.max": "max 100000\n"}, np.inf),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu.max": ""}, np.inf),
        ({"cpu.max": "what is this"}, np.inf),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, np.inf),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "0\n"}, np.inf),
        ({"cpu/cpu.cfs_quota_us": "300000\n"}, np.inf),
    ],
)
def test_quota_of_a_control_group(tmp_path, files, quota):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores._cgroup_quota(tmp_path) == quota


V2, V1 = "0::/system.slice/job.service\n", "5:memory:/m\n4:cpu,cpuacct:/slurm/job\n0::/\n"
NESTED = [
    ({"system.slice/job.service/cpu.max": "50000 100000"}, V2, 0.5),
    ({"system.slice/cpu.max": "200000 100000"}, V2, 2),
    (
        {"cpu.max": "900000 100000", "system.slice/cpu.max": "300000 100000"}
        | {"system.slice/job.service/cpu.max": "max 100000"},
        V2,
        3,
    ),
    ({"other.slice/cpu.max": "50000 100000"}, V2, np.inf),
    ({"cpu.max": "100000 100000"}, "0::/../outside\n", 1),
    ({"cpu.max": "100000 0"}, V2, np.inf),
    (
        {"cpu/slurm/job/cpu.cfs_quota_us": "300000", "cpu/slurm/job/cpu.cfs_period_us": "100000"},
        V1,
        3,
    ),
    ({"cpu/m/cpu.cfs_quota_us": "300000", "cpu/m/cpu.cfs_period_us": "100000"}, V1, np.inf),
    ({"cpu.max": "250000 100000"}, "no such line", 2.5),
    ({"cpu.max": "250000 100000"}, None, 2.5),
]


@pytest.mark.parametrize("files, membership, quota", NESTED)
def test_quota_of_nested_control_groups(tmp_path, files, membership, quota):
    """Without a namespace, the group of a process is somewhere below the root."""
    for name, text in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text)
    if membership is not None:
        (tmp_path / "cgroup").write_text(membership)
    assert cores._cgroup_quota(tmp_path / "root", tmp_path / "cgroup") == quota


@pytest.mark.parametrize(
    "affinity, quota, usable",
    [(8, np.inf, 8), (8, 1.5, 2), (8, 0.2, 1), (8, 8.0, 8), (2, 64.0, 2), (8, 3.0, 3), (1, 0.5, 1)],
)
def test_usable_cores_are_the_lesser_of_affinity_and_quota(monkeypatch, affinity, quota, usable):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    monkeypatch.setattr(cores, "_cgroup_quota", lambda: quota)
    assert cores.usable_cores() == usable


def test_usable_cores_without_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(cores, "_cgroup_quota", lambda: np.inf)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cores.usable_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores.usable_cores() == 1


def test_usable_cores_of_this_machine():
    assert 1 <= cores.usable_cores() <= (os.cpu_count() or 1)
