"""How the cost of a training step grows: with threads, batch, sequence length, image size.

Each sweep changes one thing. Work is counted as in ``Workload.flops``; the "cost of the work" is
the time of a unit of work relative to that of the sweep's first row, so 1.0 means that it grows
like the work, and above 1.0 it grows faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.envs import PEERS
from benchmarks.process import Worker, WorkerError, note
from benchmarks.report import ms, table
from benchmarks.workloads import variant

#: The sweeps: (title, workload, variants as arguments of `workloads.variant`).
SWEEPS: tuple[tuple[str, str, tuple[dict[str, Any], ...]], ...] = (
    ("batch", "mlp784", tuple({"batch": n} for n in (16, 64, 256, 1024))),
    ("batch", "lenet5", tuple({"batch": n} for n in (8, 32, 128))),
    ("batch", "lstm128", tuple({"batch": n} for n in (8, 32, 128))),
    ("sequence length", "lstm128", tuple({"shape": [t, 65]} for t in (25, 100, 400))),
    ("sequence length", "gru128", tuple({"shape": [t, 65]} for t in (25, 100, 400))),
    ("image size", "vgg", tuple({"batch": 16, "shape": [3, s, s]} for s in (16, 32, 64))),
)


@dataclass
class Point:
    """One measurement, ms by peer."""

    sweep: str
    workload: str
    setting: str
    gflop: float
    times: dict[str, float]


def _time(worker: Worker, workload: str, change: dict[str, Any], seconds: float) -> float:
    worker.ask("open", workload=workload, mode="train", **change)
    return 1e3 * worker.ask("run", mode="train", seconds=seconds, warmup=3)["median"]


def sweeps(pythons: Mapping[str, str], threads: int, seconds: float) -> list[Point]:
    """Time every sweep in every library."""
    workers = {p: Worker(p, python, threads) for p, python in pythons.items()}
    points = []
    try:
        for sweep, name, changes in SWEEPS:
            for change in changes:
                spec = variant(name, **change)
                times = {}
                for peer, worker in workers.items():
                    try:
                        times[peer] = _time(worker, name, change, seconds)
                    except WorkerError as error:
                        note(f"  {error}")
                shape = "x".join(map(str, (spec.batch, *spec.input_shape)))
                points.append(Point(sweep, name, shape, spec.flops() / 1e9, times))
                note(f"{sweep} {name} {shape}: {times}")
    finally:
        for worker in workers.values():
            worker.close()
    return points


def threads_sweep(
    pythons: Mapping[str, str], names: Iterable[str], most: int, seconds: float
) -> list[Point]:
    """Time workloads with 1, 2, 4, ... threads, up to `most`."""
    counts = [n for n in (1, 2, 4, 8, 16, 32, 64) if n < most] + [most]
    points: dict[str, dict[int, dict[str, float]]]
    points = {name: {n: {} for n in counts} for name in names}
    for n in counts:
        for peer, python in pythons.items():
            worker = Worker(peer, python, n)
            try:
                for name in points:
                    points[name][n][peer] = _time(worker, name, {}, seconds)
            except WorkerError as error:
                note(f"  {error}")
            finally:
                worker.close()
        note(f"{n} threads done")
    return [
        Point("threads", name, str(n), variant(name).flops() / 1e9, times)
        for name, by_count in points.items()
        for n, times in by_count.items()
    ]


def tables(points: Iterable[Point]) -> str:
    """One table for work that grows, one for threads."""
    grown: list[list[str]] = []
    threaded: list[list[str]] = []
    points = list(points)
    peers = [p for p in PEERS if any(p in point.times for point in points)]
    first: dict[tuple[str, str], Point] = {}
    for point in points:
        base = first.setdefault((point.sweep, point.workload), point)
        cells = []
        for peer in peers:
            time, start = point.times.get(peer), base.times.get(peer)
            cells.append(ms(time))
            if time is None or start is None:
                cells.append("-")
            elif point.sweep == "threads":
                cells.append(f"{start / time:.2f}")
            else:
                cells.append(f"{time / point.gflop / (start / base.gflop):.2f}")
        lines = threaded if point.sweep == "threads" else grown
        lines.append([f"{point.sweep}: {point.workload}", point.setting, *cells])

    def head(setting: str, ratio: str) -> list[str]:
        return ["sweep", setting, *(h for p in peers for h in (f"{PEERS[p].label}, ms", ratio))]

    found = [
        table(head("input", "cost of the work"), grown) if grown else "",
        table(head("threads", "speedup"), threaded) if threaded else "",
    ]
    return "\n\n".join(filter(None, found))
