"""The process of one library: JSON, a request a line on standard input, an answer a line on output.

Run by ``process.Worker`` with the interpreter of the library's environment. What the library itself
prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import workloads


def pin(threads: int) -> None:
    """Keep this process on as many cores as it may use threads, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def peak_memory() -> float:
    """Peak resident memory of this process so far, MB."""
    status = Path("/proc/self/status")
    if status.exists():  # unlike ru_maxrss, it does not include the memory of the parent
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def measure(call: Callable[[], object], seconds: float, warmup: int) -> dict[str, float]:
    """Median and minimum of the calls that fit into `seconds`, five at least; in seconds."""
    for _ in range(warmup):
        call()
    times: list[float] = []
    clock = time.perf_counter
    end = clock() + seconds
    while len(times) < 5 or clock() < end:
        start = clock()
        call()
        times.append(clock() - start)
    return {"median": statistics.median(times), "min": min(times), "calls": len(times)}


class Server:
    """Answers requests with one adapter."""

    def __init__(self, adapter: str, options: dict[str, str], threads: int) -> None:
        pin(threads)
        self.adapter = import_module(f"benchmarks.adapters.{adapter}").create(options, threads)

    def hello(self) -> dict[str, Any]:
        return {"version": self.adapter.version()}

    def open(
        self,
        workload: str,
        mode: str,
        batch: int | None = None,
        shape: list[int] | None = None,
        smooth: bool = False,
        reference: bool = False,
    ) -> dict[str, Any]:
        """Build a workload, or one of its variants; a "skip" in the answer says why not."""
        spec = workloads.variant(workload, batch, shape, smooth)
        if not self.adapter.supports(spec):
            return {"skip": "no difference"}
        self.adapter.open(spec, mode, reference)
        self.workload = spec
        return {"same_formula": self.adapter.same_formula(spec)}

    def losses(self, steps: int) -> dict[str, Any]:
        return {"losses": [float(self.adapter.step()) for _ in range(steps)]}

    def gradients(self, file: str) -> dict[str, Any]:
        arrays = [a for layer in self.adapter.gradients() for a in layer]
        np.savez(file, *arrays)
        return {}

    def outputs(self, file: str) -> dict[str, Any]:
        outputs = self.adapter.outputs()
        if self.workload.masks:  # libraries differ in their outputs for padding
            x, _ = self.workload.data()
            outputs = np.where((x != 0)[..., None], outputs, 0)
        np.savez(file, outputs)
        return {}

    def run(self, mode: str, seconds: float, warmup: int) -> dict[str, Any]:
        call = self.adapter.step if mode == "train" else self.adapter.predict
        return measure(call, seconds, warmup)

    def fit_overhead(self, seconds: float) -> dict[str, Any]:
        """Time of a step, bare and inside `fit`, in ms."""
        return self.adapter.fit_overhead(seconds)

    def neighbour(self, seconds: float) -> dict[str, Any]:
        """Time of a step and of NumPy's product, separately and in turns, in ms."""
        return self.adapter.neighbour(seconds)

    def memory(self) -> dict[str, Any]:
        return {"peak_mb": peak_memory()}


def main() -> None:
    """Serve until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    config = json.loads(sys.argv[1])
    server: Server | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if server is None:
                server = Server(config["adapter"], config["options"], config["threads"])
            answer = getattr(server, request.pop("do"))(**request)
        except Exception:
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
