"""The time of a training step on more cores than the machine has: a simulation.

A build of the pool with ``-DNPDL_TRACE`` (`trace.h`) cuts each kernel into the tasks that it would
have for so many threads, runs them one after the other, and writes down how long each takes. Then
the pool's rule is played through: each worker begins with a part of the tasks that is its own, and
then takes what is left of the others'.

The model leaves out what one core cannot show: cores that share caches and the bandwidth of the
memory, and clocks that sink when all cores work. So it is the most that the partition allows. The
bytes that a step moves at least tell where the memory is the limit.

``python -m benchmarks.cores WORKLOAD`` runs steps of one workload, for the trace.
"""

from __future__ import annotations

import heapq
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.envs import ROOT
from benchmarks.report import table

CORES = (1, 2, 4, 8, 16, 32, 64)
STEPS = 20
#: What opening and closing a job costs: once, and for each worker that must see it; s.
#: Two threads take 1.0 us; a line of the cache goes from core to core in about 0.1 us.
HAND_OVER, PER_WORKER = 0.8e-6, 0.1e-6


@dataclass
class CoresRow:
    """Simulate a workload on this number of cores; return the seconds per step."""

    workload: str
    cores: int
    jobs: int
    tasks: int
    serial: float
    work: float
    span: float
    n_bytes: int

    @property
    def step(self) -> float:
        """The time of a step."""
        return self.serial + self.span


def build() -> str:
    """A copy of the package whose pool traces its jobs; returns its folder."""
    folder = ROOT / "build" / "trace"
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("npdl", "benchmarks"):
        leave_out = shutil.ignore_patterns("__pycache__", "results")
        shutil.copytree(ROOT / name, folder / name, ignore=leave_out)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    env = os.environ | {"NPDL_ISAS": "", "CFLAGS": "-DNPDL_TRACE"}  # the pool is one for all builds
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", "--force"]
    subprocess.run(command, cwd=folder, env=env, check=True)
    return str(folder)


def jobs_of_a_step(folder: str, workload: str, cores: int) -> tuple[list[np.ndarray], int]:
    """The records of the jobs of a step, the best of each time; and the bytes of its arrays."""
    trace = os.path.join(folder, "trace.bin")
    env = os.environ | {
        "NPDL_TRACE": trace,
        "NPDL_NUM_THREADS": str(cores),
        "NPDL_BACKEND": "cython",
        "PYTHONPATH": folder,
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "benchmarks.cores", workload]
    done = subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True, text=True)
    first, n_bytes = map(int, done.stdout.split())
    numbers = np.fromfile(trace, np.int64)[first // 8 :]
    records, at = [], 0
    while at < len(numbers):
        records.append(numbers[at : at + 3 + numbers[at]])
        at += 3 + numbers[at]
    n = len(records) // STEPS
    steps = [records[i * n : (i + 1) * n] for i in range(STEPS)]
    return [np.min(same, axis=0) for same in zip(*steps, strict=True)], n_bytes


def makespan(tasks: Sequence[float], workers: int) -> float:
    """The time of a job by the rule of ``npdl_work`` in threads.h."""
    n = len(tasks)
    if n <= 1 or workers <= 1:
        return sum(tasks)
    ends = [n * (part + 1) // workers for part in range(workers)]
    following = [n * part // workers for part in range(workers)]
    free = [(0.0, worker, 0) for worker in range(workers)]  # time, worker, turn
    last = 0.0
    while free:
        now, worker, turn = heapq.heappop(free)
        while turn < workers:
            part = (worker + turn) % workers
            if following[part] < ends[part]:
                done = now + tasks[following[part]]
                following[part] += 1
                last = max(last, done)
                heapq.heappush(free, (done, worker, turn))
                break
            turn += 1
    return last + HAND_OVER + PER_WORKER * min(workers, n)


def simulate(workloads: Sequence[str]) -> list[CoresRow]:
    """Each workload on each number of cores."""
    folder = build()
    rows = []
    for workload in workloads:
        for cores in CORES:
            records, n_bytes = jobs_of_a_step(folder, workload, cores)
            rows.append(
                CoresRow(
                    workload,
                    cores,
                    len(records),
                    sum(int(r[0]) for r in records),
                    1e-9 * sum(int(r[2]) for r in records),
                    1e-9 * sum(int(r[3:].sum()) for r in records),
                    sum(makespan(1e-9 * r[3:], int(r[1])) for r in records),
                    n_bytes,
                )
            )
            print(f"{workload}, {cores} cores: {1e3 * rows[-1].step:.3g} ms", flush=True)
    return rows


def cores_table(rows: Sequence[CoresRow]) -> str:
    """Speed by cores, and what limits it."""
    head = ["workload", "jobs", "serial, ms", "1 core, ms"]
    head += [f"{cores} cores" for cores in CORES[1:]]
    head += ["tasks at 64", "extra work", "balance", "MB a step", "GB/s at 64"]
    lines = []
    for workload in dict.fromkeys(row.workload for row in rows):
        of = {row.cores: row for row in rows if row.workload == workload}
        one, most = of[1], of[CORES[-1]]
        lines.append(
            [
                workload,
                str(most.jobs),
                f"{1e3 * one.serial:.3f}",
                f"{1e3 * one.step:.3g}",
                *(f"{one.step / of[cores].step:.1f}" for cores in CORES[1:]),
                str(most.tasks),
                f"{100 * (most.work / one.work - 1):.0f}%",
                f"{100 * most.work / most.span / most.cores:.0f}%",
                f"{one.n_bytes / 1e6:.1f}",
                f"{one.n_bytes / most.step / 1e9:.0f}",
            ]
        )
    return table(head, lines)


def serve(workload: str) -> None:
    """Run steps; print where the last ones begin in the trace, and the bytes of a step's arrays."""
    from benchmarks import workloads as wl
    from benchmarks.adapters.npdl_adapter import NpdlAdapter
    from npdl._ext import noted

    adapter = NpdlAdapter({}, 1)
    adapter.open(wl.variant(workload), "train", False)
    with noted() as calls:
        adapter.step()
    n_bytes = 0
    for _, args in calls:
        arrays = {id(a): a.nbytes for a in args if isinstance(a, np.ndarray)}
        n_bytes += sum(arrays.values())
    for _ in range(8):  # until the steps are replayed
        adapter.step()
    first = os.path.getsize(os.environ["NPDL_TRACE"])
    for _ in range(STEPS):
        adapter.step()
    print(first, n_bytes)


if __name__ == "__main__":
    serve(sys.argv[1])
