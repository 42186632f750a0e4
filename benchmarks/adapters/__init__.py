"""One adapter for each library: it builds a workload there and runs its steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from benchmarks.workloads import Workload

#: The arrays of one leaf, and of all.
Arrays = tuple[np.ndarray, ...]
Weights = list[Arrays]

#: For each library that orders the gates otherwise: the position of each of its gates in ours, see
#: ``workloads``. All of these are their own inverse.
GATE_ORDER = {
    "torch": {"lstm": (0, 1, 3, 2), "gru": (1, 0, 2), "rnn": (0,)},
    "keras": {"lstm": (0, 1, 3, 2), "gru": (0, 1, 2), "rnn": (0,)},
    "onnx": {"lstm": (0, 2, 1, 3), "gru": (0, 1, 2), "rnn": (0,)},
}


def reorder(w: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """The columns of `w`, shape (..., G*U), with its gates in another order."""
    gates = np.split(w, len(order), axis=-1)
    return np.concatenate([gates[g] for g in order], axis=-1)


class Adapter(ABC):
    """A library at work. `open` comes first; `step` and `predict` return when the work is done."""

    def __init__(self, options: dict[str, str], threads: int) -> None:
        self.options = options
        self.threads = threads

    @abstractmethod
    def version(self) -> str:
        """Version of the library, and what else distinguishes builds."""

    def supports(self, workload: Workload) -> bool:
        """Whether this way of using the library makes a difference to the workload."""
        return True

    def same_formula(self, workload: Workload) -> bool:
        """Whether the timed network computes exactly what npdl does."""
        return True

    @abstractmethod
    def open(self, workload: Workload, mode: str, reference: bool) -> None:
        """Build the network with the workload's weights, and put its data in the library's form.

        With `reference` it computes what npdl does even where the library's own layer does not.
        """

    def step(self) -> object:
        """One training step; returns the loss, which `float` takes."""
        raise NotImplementedError

    def gradients(self) -> Weights:
        """Gradients at the present weights, in the layout of the workload."""
        raise NotImplementedError

    def predict(self) -> object:
        """Probabilities for the batch, in the library's own form."""
        raise NotImplementedError

    def outputs(self) -> np.ndarray:
        """What `predict` computes, as an array."""
        return np.asarray(self.predict())
