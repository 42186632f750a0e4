"""Check, before timing, that the libraries compute the same numbers from the same weights.

Training
    Every library: the losses of the first steps, which depend on loss, gradients and update.
    npdl and PyTorch: every gradient, once of the workload itself, and once of its smooth variant
    (tanh for ReLU, mean for max). In the workload itself a value within rounding of a kink may take
    the other side and its whole gradient with it, so only the second can be compared closely.
Prediction
    Every library: the probabilities.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.process import Worker, WorkerError, note

#: Largest difference allowed, relative to the largest value of the array in question.
TOLERANCE = {"losses": 2e-5, "smooth gradients": 1e-4, "gradients": 1e-1, "outputs": 1e-4}
STEPS = 3

#: The peers whose gradients are compared too.
WITH_GRADIENTS = ("npdl", "npdl-numpy", "torch")

Arrays = list[np.ndarray]


def difference(ours: Arrays, theirs: Arrays) -> float:
    """Largest difference of two lists of arrays, each relative to its largest value."""
    if [a.shape for a in ours] != [b.shape for b in theirs]:
        return float("inf")
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        gap = float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))
        worst = max(worst, gap if np.isfinite(gap) else float("inf"))
    return worst


def _compute(what: str, worker: Worker, case: dict[str, Any], folder: Path) -> Arrays | None:
    """The numbers to compare; None if the timed network has no such numbers."""
    if what == "losses":
        answer = worker.ask("open", mode="train", **case)
        if not answer.get("same_formula"):
            return None
        return [np.array(worker.ask("losses", steps=STEPS)["losses"])]
    if what == "outputs":
        answer = worker.ask("open", mode="predict", reference=True, **case)
        return None if "skip" in answer else worker.arrays("outputs", folder)
    worker.ask("open", mode="train", reference=True, smooth=what.startswith("smooth"), **case)
    return worker.arrays("gradients", folder)


def check(workers: dict[str, Worker], mode: str, workload: str, batch: int | None) -> list[str]:
    """Compare every worker with the first, print the results, and return what differs too much."""
    first, *others = workers.values()
    case = {"workload": workload, "batch": batch}
    kept: dict[str, Arrays | None] = {}
    complaints = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for worker in others:
            found = {}
            for what, tolerance in TOLERANCE.items():
                if (what == "outputs") != (mode == "predict"):
                    continue
                if "gradients" in what and worker.peer not in WITH_GRADIENTS:
                    continue
                try:
                    if what not in kept:
                        kept[what] = _compute(what, first, case, folder)
                    ours, theirs = kept[what], _compute(what, worker, case, folder)
                except WorkerError as error:
                    complaints.append(f"{worker.peer}, {what}: {error}")
                    continue
                if ours is None or theirs is None:
                    continue
                gap = found[what] = difference(ours, theirs)
                if not gap <= tolerance:
                    complaints.append(
                        f"{worker.peer}: {what} differ by {gap:.1e}, allowed is {tolerance:.0e}"
                    )
            if found:
                gaps = (f"{what} {gap:.0e}" for what, gap in found.items())
                note(f"  {worker.peer:<20}" + "   ".join(gaps))
    return complaints
