"""The kernels of a predictor's one call, each with its time.

A program runs as one call of compiled code. Here its steps are run up to the first kernel, up to
the second, and so on, in turns; the time of a kernel is the difference of two of these, each the
least of many calls. Of a few microseconds it is only roughly known.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import workloads as wl
from benchmarks.report import table

#: The least number of calls.
LEAST = 20


@dataclass
class StepRow:
    """A kernel of a program, us; the whole of it has no arrays."""

    workload: str
    batch: int
    kernel: str
    arrays: str
    time: float


@contextlib.contextmanager
def _recorded() -> Iterator[list[Any]]:
    """The programs that are made within the block: their steps, with the arguments of `Chain`."""
    from npdl import _ext
    from npdl._ext import steps

    _ext.load_all()
    ready, chain = _ext.kernels().ready, steps.Chain
    kept, names, found = dict(ready), {}, []

    def tagged(name: str, make: Any) -> Any:
        def maker(*args: Any) -> Any:
            step = make(*args)
            shapes = [a.shape for a in args if isinstance(a, np.ndarray)]
            names[id(step)] = step, name, shapes
            return step

        return maker

    def watched(calls: list[Any], *rest: Any) -> Any:
        found.append(([names[id(step)][1:] for step, _ in calls], calls, rest))
        return chain(calls, *rest)

    ready.update((name, tagged(name, make)) for name, make in kept.items())
    steps.Chain = watched
    try:
        yield found
    finally:
        ready.update(kept)
        steps.Chain = chain


def _times(calls: list[Any], rest: Any, inputs: list[Any], seconds: float) -> list[float]:
    """The least time of the first k calls, for each k; in us."""
    from npdl._ext.steps import Chain

    chains = [Chain(calls[:k], *rest) for k in range(len(calls) + 1)]
    best = [float("inf")] * len(chains)
    rounds, end = 0, time.perf_counter() + seconds
    while rounds < LEAST or time.perf_counter() < end:
        rounds += 1
        for k, chain in enumerate(chains):
            start = time.perf_counter()
            chain.fill(inputs, False)
            best[k] = min(best[k], 1e6 * (time.perf_counter() - start))
    return best


def steps_of(names: Iterable[str], threads: int, seconds: float) -> list[StepRow]:
    """The kernels of these workloads' predictors, for one sample and for a batch."""
    from benchmarks.adapters.npdl_adapter import Network
    from npdl import _ext

    _ext.set_num_threads(threads)
    rows = []
    for name in names:
        workload = wl.WORKLOADS[name]
        network = Network(workload)
        network.load(workload.weights())
        data = workload.data()[0]
        for x in (data[:1], data):
            given = (x[:, 0], x[:, 1]) if len(network.model.input_names) > 1 else x
            with _recorded() as programs:
                network.model.predictor()(given)
            for kernels, calls, rest in programs:
                ends = [np.array(end) for end in rest[1]]
                best = _times(calls, rest, ends, seconds)
                size = len(ends[0])
                rows.append(StepRow(name, size, "whole", "", best[-1]))
                for (kernel, shapes), before, after in zip(kernels, best, best[1:]):
                    arrays = ", ".join("x".join(map(str, shape)) for shape in shapes)
                    rows.append(StepRow(name, size, kernel, arrays, max(0.0, after - before)))
    return rows


def steps_table(rows: list[StepRow]) -> str:
    """A table of each program."""
    lines = [(r.workload, str(r.batch), r.kernel, r.arrays, f"{r.time:,.1f}") for r in rows]
    return table(["workload", "samples", "kernel", "arrays", "us"], lines)
