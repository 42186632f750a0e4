"""Before a time is believed: do the libraries compute the same numbers from the same weights?

Training
    Every library: the losses of the first steps, which hang on loss, gradients and update.
    npdl and PyTorch: every gradient, once of the workload itself, and once of its smooth variant
    (tanh for ReLU, mean for max). In the workload itself a value within rounding of a kink may take
    the other side and its whole gradient with it, so only the second can be held closely.
Prediction
    Every library: the probabilities.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.process import Worker, WorkerError, note

#: Greatest difference allowed, relative to the largest value of the array in question.
TOLERANCE = {"losses": 2e-5, "smooth gradients": 1e-4, "gradients": 1e-1, "outputs": 1e-4}
STEPS = 3

Found = dict[str, float]


def difference(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """Greatest difference of two lists of arrays, each relative to its largest value."""
    if [a.shape for a in ours] != [b.shape for b in theirs]:
        return float("inf")
    gaps = (
        float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))
        for a, b in zip(ours, theirs, strict=True)
    )
    return max((gap if np.isfinite(gap) else float("inf") for gap in gaps), default=0.0)


def _losses(worker: Worker, workload: str) -> list[np.ndarray] | None:
    """The first losses, or None where the library has another formula or no such workload."""
    answer = worker.ask("open", workload=workload, mode="train")
    if not answer.get("same_formula"):
        return None
    return [np.array(worker.ask("losses", steps=STEPS)["losses"])]


def _gradients(worker: Worker, workload: str, smooth: bool, folder: Path) -> list[np.ndarray]:
    worker.ask("open", workload=workload, mode="train", smooth=smooth, reference=True)
    return worker.arrays("gradients", folder)


def _probabilities(worker: Worker, workload: str, batch: int | None, folder: Path):
    worker.ask("open", workload=workload, mode="predict", batch=batch, reference=True)
    return worker.arrays("outputs", folder)


def training(workers: dict[str, Worker], workload: str) -> dict[str, Found]:
    """Differences to the first worker, by peer and by what was compared."""
    first, *others = workers.values()
    found: dict[str, Found] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = _losses(first, workload)
        for worker in others:
            theirs = _losses(worker, workload)
            if ours and theirs:
                found[worker.peer] = {"losses": difference(ours, theirs)}
        for worker in others:
            if worker.peer not in ("npdl", "npdl-numpy", "torch"):
                continue
            for smooth, what in ((False, "gradients"), (True, "smooth gradients")):
                pair = (_gradients(w, workload, smooth, folder) for w in (first, worker))
                found.setdefault(worker.peer, {})[what] = difference(*pair)
    return found


def prediction(workers: dict[str, Worker], workload: str, batch: int | None) -> dict[str, Found]:
    """Differences to the first worker, by peer."""
    first, *others = workers.values()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = _probabilities(first, workload, batch, folder)
        return {
            w.peer: {"outputs": difference(ours, _probabilities(w, workload, batch, folder))}
            for w in others
        }


def complaints(found: dict[str, Found]) -> list[str]:
    """What goes beyond its tolerance, in words."""
    return [
        f"{peer}: {what} differ by {gap:.1e}, allowed is {TOLERANCE[what]:.0e}"
        for peer, gaps in found.items()
        for what, gap in gaps.items()
        if not gap <= TOLERANCE[what]
    ]


def check(workers: dict[str, Worker], mode: str, workload: str, batch: int | None) -> list[str]:
    """Compare, tell what was found, and return the complaints."""
    try:
        if mode == "train":
            found = training(workers, workload)
        else:
            found = prediction(workers, workload, batch)
    except WorkerError as error:
        return [str(error)]
    for peer, gaps in found.items():
        note(f"  {peer:<20}" + "   ".join(f"{what} {gap:.0e}" for what, gap in gaps.items()))
    return complaints(found)
