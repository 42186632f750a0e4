"""Import time, and the memory and overhead of training."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping

from benchmarks.envs import FAMILIES, OURS, PEERS, ROOT
from benchmarks.process import Worker, WorkerError, note
from benchmarks.report import ms, table

_TIMED = "import sys, time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


def import_ms(python: str, module: str) -> float | None:
    """Time of one import in a fresh process, ms; None where it fails."""
    command = [python, "-W", "ignore", "-c", _TIMED.format(module)]
    # Installed packages have bytecode; the checkout has it from the second round on.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)
    return None if done.returncode else 1e3 * float(done.stdout.split()[-1])


def imports(pythons: Mapping[str, str], rounds: int) -> dict[str, float]:
    """Median import time of each family's module, and of NumPy in npdl's interpreter, ms."""
    wanted = {"numpy": (sys.executable, "numpy")}
    for peer, python in pythons.items():
        module = FAMILIES[PEERS[peer].family].module
        wanted[module] = (python, module)
    times: dict[str, list[float]] = {module: [] for module in wanted}
    for turn in range(rounds + 1):  # the first, which fills the disk's cache, is not counted
        for module, (python, name) in wanted.items():
            time = import_ms(python, name)
            if time is None and not turn:
                note(f"{name} can't be imported by {python}")
            if time is not None and turn:
                times[module].append(time)
    return {module: statistics.median(found) for module, found in times.items() if found}


def imports_table(times: Mapping[str, float]) -> str:
    """Import times, and the difference of each from NumPy's."""
    over = times["numpy"]
    rows = [(module, ms(time), ms(time - over)) for module, time in times.items()]
    return table(["import", "ms", "over NumPy's, ms"], rows)


def memory(
    pythons: Mapping[str, str], names: Iterable[str], threads: int, steps: int = 10
) -> dict[str, dict[str, float]]:
    """Peak resident memory of a process that trains one workload, MB, by workload and peer."""
    found: dict[str, dict[str, float]] = {}
    for name in names:
        row = found[name] = {}
        for peer, python in pythons.items():
            worker = Worker(peer, python, threads)
            try:
                if "skip" not in worker.ask("open", workload=name, mode="train"):
                    worker.ask("losses", steps=steps)
                    row[peer] = worker.ask("memory")["peak_mb"]
            except WorkerError as error:
                note(f"  {error}")
            finally:
                worker.close()
        note(f"{name}: " + "   ".join(f"{p} {mb:.0f}" for p, mb in row.items()) + " MB")
    return found


def memory_table(found: Mapping[str, Mapping[str, float]]) -> str:
    """Peak memory by workload, and npdl's as a share of PyTorch's."""
    peers = [p for p in PEERS if any(p in row for row in found.values())]
    rows = []
    for name, row in found.items():
        share = f"{row['npdl'] / row['torch']:.0%}" if {"npdl", "torch"} <= set(row) else "-"
        rows.append([name, *(f"{row[p]:.0f}" if p in row else "-" for p in peers), share])
    return table(["peak memory, MB", *(PEERS[p].label for p in peers), "of PyTorch's"], rows)


def overhead(
    question: str,
    pythons: Mapping[str, str],
    names: Iterable[str],
    threads: int,
    seconds: float,
) -> dict[str, dict[str, float]]:
    """Measurements of npdl's adapter, on the default backend, besides its bare steps; ms."""
    found: dict[str, dict[str, float]] = {}
    peer = next(p for p in OURS if p in pythons)
    worker = Worker(peer, pythons[peer], threads)
    try:
        for name in names:
            worker.ask("open", workload=name, mode="train")
            found[name] = worker.ask(question, seconds=seconds)
            note(f"{name}: {found[name]}")
    finally:
        worker.close()
    return found


def fit_table(found: Mapping[str, Mapping[str, float]]) -> str:
    """The bare step, a step of `fit`, what `fit` adds, and what a call of it takes besides."""
    rows = [
        (
            name,
            *(ms(row[key]) for key in ("step", "fit")),
            f"{row['fit'] / row['step'] - 1:+.1%}",
            ms(row["start"]),
        )
        for name, row in found.items()
    ]
    return table(
        ["workload", "bare step, ms", "step of fit, ms", "fit adds", "start of fit, ms"], rows
    )


def neighbour_table(found: Mapping[str, Mapping[str, float]]) -> str:
    """A step and a NumPy product, separately and in turns, and the cost of alternating."""
    rows = []
    for name, row in found.items():
        times = f"{row['both'] / (row['step'] + row['matmul']):.2f}"
        rows.append((name, ms(row["step"]), ms(row["matmul"]), ms(row["both"]), times))
    return table(["workload", "step, ms", "np.matmul, ms", "in turns, ms", "times the sum"], rows)
