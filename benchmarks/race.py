"""Time the workloads in every library: each in its process, in turns, over several rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks import compare
from benchmarks.envs import OURS, PEERS
from benchmarks.process import Worker, WorkerError, note
from benchmarks.workloads import variant

#: Pause between two turns, so that the threads of the previous library go to sleep.
REST = 0.2

Turns = list[dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """How to measure."""

    pythons: dict[str, str]  # peer -> interpreter
    threads: int
    rounds: int
    seconds: float
    warmup: int = 3
    check: bool = True


@dataclass
class Row:
    """One workload: its times by peer, ms."""

    workload: str
    title: str
    batch: int
    gflop: float
    times: dict[str, float] = field(default_factory=dict)
    minima: dict[str, float] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)

    @property
    def best_peer(self) -> str | None:
        """The fastest library but npdl."""
        peers = {p: t for p, t in self.times.items() if p not in OURS}
        return min(peers, key=peers.__getitem__, default=None)

    @property
    def speedup(self) -> float | None:
        """Speed of npdl over the best peer's."""
        best = self.best_peer
        return self.times[best] / self.times["npdl"] if best and "npdl" in self.times else None

    def speedup_of(self, ours: str) -> float | None:
        """The same for another way of using npdl."""
        best = self.best_peer
        return self.times[best] / self.times[ours] if best and ours in self.times else None


@contextmanager
def started(plan: Plan) -> Iterator[tuple[dict[str, Worker], dict[str, str]]]:
    """The workers that start, and their versions; all are ended afterwards."""
    workers = {p: Worker(p, python, plan.threads) for p, python in plan.pythons.items()}
    versions: dict[str, str] = {}
    try:
        for peer, worker in workers.items():
            try:
                versions[peer] = worker.ask("hello")["version"]
            except WorkerError as error:
                note(f"{peer} is left out: {str(error).strip().splitlines()[-1]}")
        yield {p: workers[p] for p in versions}, versions
    finally:
        for worker in workers.values():
            worker.close()


def _take_turns(workers: dict[str, Worker], plan: Plan, mode: str) -> dict[str, Turns]:
    """The measurements of each worker, turn by turn; another worker begins each round."""
    turns: dict[str, Turns] = {peer: [] for peer in workers}
    order = list(workers)
    for turn in range(plan.rounds):
        warmup = plan.warmup if turn else 2 * plan.warmup
        for peer in order:
            time.sleep(REST)
            worker = workers[peer]
            turns[peer].append(worker.ask("run", mode=mode, seconds=plan.seconds, warmup=warmup))
        order = order[1:] + order[:1]
    return turns


def race(workers: dict[str, Worker], plan: Plan, mode: str, name: str, batch: int | None) -> Row:
    """Check and time one workload in all workers."""
    spec = variant(name, batch)
    row = Row(name, spec.title, spec.batch, spec.flops(training=mode == "train") / 1e9)
    note(f"{mode} {name} (batch {spec.batch})")
    if plan.check and len(workers) > 1:
        row.complaints = compare.check(workers, mode, name, batch)
        for complaint in row.complaints:
            note(f"  NOT THE SAME NUMBERS: {complaint}")
    ready = {}
    for peer, worker in workers.items():
        try:
            if "skip" not in worker.ask("open", workload=name, mode=mode, batch=batch):
                worker.ask("run", mode=mode, seconds=0, warmup=0)  # compiles, where needed
                ready[peer] = worker
        except WorkerError as error:
            note(f"  {error}")
    for peer, turns in _take_turns(ready, plan, mode).items():
        row.times[peer] = 1e3 * statistics.median(turn["median"] for turn in turns)
        row.minima[peer] = 1e3 * min(turn["min"] for turn in turns)
    note("  " + "   ".join(f"{PEERS[p].label} {t:.3g}" for p, t in row.times.items()) + " ms")
    return row


def run(
    plan: Plan, mode: str, names: Iterable[str], batches: Iterable[int | None]
) -> tuple[list[Row], dict[str, str]]:
    """Time all workloads, and for prediction each batch; returns the rows and the versions."""
    with started(plan) as (workers, versions):
        cases = [(name, batch) for batch in batches for name in names]
        rows = [race(workers, plan, mode, name, batch) for name, batch in cases]
    return rows, versions
