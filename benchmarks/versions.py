"""Training steps of this checkout against those of another one, in turns."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.envs import ROOT
from benchmarks.process import Worker, WorkerError, note
from benchmarks.race import REST
from benchmarks.report import ms, table


@dataclass(frozen=True)
class Pair:
    """The times of a step of one workload, ms: medians of the medians of the turns."""

    workload: str
    before: float
    now: float
    #: Median over the rounds of now / before, both of one round.
    ratio: float


def versions(
    other: Path, names: Iterable[str], threads: int, rounds: int, seconds: float
) -> list[Pair]:
    """Time workloads in the checkout at `other`, whose kernels are built, and in this one."""
    pairs = []
    workers = [Worker("npdl", sys.executable, threads, root) for root in (other, ROOT)]
    try:
        for name in names:
            try:
                for worker in workers:
                    worker.ask("open", workload=name, mode="train")
                    worker.ask("run", mode="train", seconds=0.3, warmup=3)
            except WorkerError as error:
                note(f"{name}: {str(error).strip().splitlines()[-1]}")
                continue
            turns: list[dict[Worker, float]] = []
            for _ in range(rounds):
                turns.append({})
                for worker in workers:
                    time.sleep(REST)
                    found = worker.ask("run", mode="train", seconds=seconds, warmup=3)
                    turns[-1][worker] = 1e3 * found["median"]
                workers.reverse()
            old, new = sorted(workers, key=lambda worker: worker.root == ROOT)
            times = [statistics.median(turn[worker] for turn in turns) for worker in (old, new)]
            pairs.append(Pair(name, *times, statistics.median(t[new] / t[old] for t in turns)))
            note(f"{name}: {times[0]:.3g} before, {times[1]:.3g} now, ratio {pairs[-1].ratio:.3f}")
    finally:
        for worker in workers:
            worker.close()
    return pairs


def versions_table(pairs: Iterable[Pair]) -> str:
    """Both times of each workload, and their ratio."""
    rows = [(p.workload, ms(p.before), ms(p.now), f"{p.ratio:.2f}") for p in pairs]
    return table(["workload", "other checkout, ms", "this one, ms", "ratio"], rows)
