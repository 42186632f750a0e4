"""Base classes of losses: by the shape of an item, and for those that take logarithms."""

from __future__ import annotations

import numpy as np

from npdl._checks import check_number, error_message, label_array
from npdl.objectives.base import Objective


class Elementwise(Objective):
    """An item is one element; outputs (N, ..., 1) also take targets without the last axis."""

    def match(self, outputs, targets):
        """Return the shape of the outputs; see `Objective.match`."""
        if targets != outputs and (*targets, 1) != outputs:
            raise ValueError(error_message(f"Targets must have shape {outputs}", shape=targets))
        return outputs


class Rowwise(Objective):
    """An item is a row; targets are rows too, or class numbers.

    Rows lie along the last axis, or along `axis`.
    """

    takes_labels = True
    #: The axis of the entries of a row in the outputs; 0 is that of the samples.
    axis: int = -1

    def arrange(self, outputs, targets):
        """Return outputs and targets with the rows along the last axis; views."""
        if self.axis == -1:
            return outputs, targets
        n = outputs.ndim
        if self.axis in (0, -n) or not -n <= self.axis < n:
            rule = f"`axis` must be an axis of outputs of shape {outputs.shape}, but not the first"
            raise ValueError(error_message(rule, axis=self.axis))
        if targets.ndim == outputs.ndim:
            targets = np.moveaxis(targets, self.axis, -1)
        return np.moveaxis(outputs, self.axis, -1), targets

    def arrange_back(self, grad):
        """Return rows along the last axis as an array like the outputs."""
        if self.axis == -1:
            return grad
        return np.ascontiguousarray(np.moveaxis(grad, -1, self.axis))

    def match(self, outputs, targets):
        """Return the shape of rows, or of class numbers; see `Objective.match`."""
        if len(outputs) < 2:
            raise ValueError(error_message("Outputs must have shape (N, ..., K)", shape=outputs))
        rows = outputs[:-1]
        if targets in (outputs, rows):
            return targets
        rule = f"Targets must have shape {outputs}, or {rows} for class numbers"
        raise ValueError(error_message(rule, shape=targets))

    def check(self, p, t):
        """Return outputs and rows, or int64 class numbers; see `Objective.check`."""
        return (p, label_array(t, p.shape[-1])) if t.ndim < p.ndim else super().check(p, t)

    def item_shape(self, p):
        """Return the shape of the rows."""
        return p.shape[:-1]

    @staticmethod
    def _rows(p: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Targets as rows: one-hot ones for class numbers."""
        if t.ndim == p.ndim:
            return t
        return (t[..., None] == np.arange(p.shape[-1])).astype(p.dtype)


class Clipped(Objective):
    """Takes logarithms, of outputs that are kept at least `epsilon` away from 0."""

    def __init__(self, epsilon: float = 1e-11, *, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.epsilon = check_number("epsilon", epsilon, "(0, 0.5)")

    @property
    def takes_probabilities(self) -> bool:  # type: ignore[override]
        """True, unless the outputs are logits."""
        return not self.from_logits

    def _clip(self, p: np.ndarray) -> np.ndarray:
        return np.clip(p, self.epsilon, 1)

    def _outside(self, p: np.ndarray) -> np.ndarray:
        """The elements whose gradient is 0 because of clipping."""
        return (p < self.epsilon) | (p > 1)
