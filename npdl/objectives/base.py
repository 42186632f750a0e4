"""The base class of the losses, the checks that they share, and the look-up by name."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from npdl._checks import check_choice, check_number, complaint, float_array, label_array
from npdl._registry import Configurable, Registry


class Objective(Configurable):
    """Base class of the losses.

    A subclass defines `_values` and `_slopes`, or `forward` and `backward` themselves.

    Parameters
    ----------
    reduction : {'mean', 'sum', 'none'}
        What `forward` returns: the mean or the sum over all items, or their values one by one.
    """

    reduction: str = "mean"

    def __init__(self, *, reduction: str = "mean") -> None:
        self.reduction = check_choice("reduction", reduction, ("mean", "sum", "none"))

    def forward(self, outputs: ArrayLike, targets: ArrayLike) -> Any:
        """Return the loss.

        Parameters
        ----------
        outputs : array_like
            What the network returned.
        targets : array_like
            What it should have returned, see the class for the forms.

        Returns
        -------
        float, or ndarray with a value for each item where `reduction` is 'none'
        """
        return self._reduce(self._values(*self._check(outputs, targets)))

    def backward(self, outputs: ArrayLike, targets: ArrayLike) -> np.ndarray:
        """Return the gradient of the loss in the outputs, an array like them.

        Parameters
        ----------
        outputs, targets : array_like
            As in `forward`. Where `reduction` is 'none': the gradient of each item's own value.
        """
        p, t = self._check(outputs, targets)
        grad = self._slopes(p, t)
        grad *= self._weight(self._items(p))
        return grad

    def _check(self, outputs: ArrayLike, targets: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Both as C-ordered arrays that fit each other."""
        raise NotImplementedError

    def _values(self, p: np.ndarray, t: np.ndarray) -> np.ndarray:
        """The value of each item."""
        raise NotImplementedError

    def _slopes(self, p: np.ndarray, t: np.ndarray) -> np.ndarray:
        """The gradient of each item's value, a new array like `p`."""
        raise NotImplementedError

    def _items(self, p: np.ndarray) -> int:
        return p.size

    def _weight(self, items: int) -> float:
        """The weight of one item in the loss."""
        return 1 / items if self.reduction == "mean" else 1.0

    def _reduce(self, values: np.ndarray) -> Any:
        if self.reduction == "none":
            return values
        # Summed in float64, so that the mean of many float32 values is not off by their number.
        return float(values.sum(dtype=np.float64) * self._weight(values.size))


class Elementwise(Objective):
    """An item is one element; outputs (N, ..., 1) also take targets without the last axis."""

    def _check(self, outputs, targets):
        p, t = _arrays(outputs, targets)
        if (*t.shape, 1) == p.shape:
            t = t[..., None]
        if t.shape != p.shape:
            raise ValueError(complaint(f"Targets must have shape {p.shape}", shape=t.shape))
        return p, np.asarray(t, p.dtype, order="C")


class Rowwise(Objective):
    """An item is a row; targets are rows too, or class numbers."""

    def _check(self, outputs, targets):
        p, t = _arrays(outputs, targets)
        if p.ndim < 2:
            raise ValueError(complaint("Outputs must have shape (N, ..., K)", shape=p.shape))
        if t.shape == p.shape:
            return p, np.asarray(t, p.dtype, order="C")
        if t.shape == p.shape[:-1]:
            return p, label_array(t, p.shape[-1])
        rule = f"Targets must have shape {p.shape}, or {p.shape[:-1]} for class numbers"
        raise ValueError(complaint(rule, shape=t.shape))

    def _items(self, p):
        return p.size // p.shape[-1]


class Clipped(Objective):
    """Takes logarithms, of outputs that are kept at least `epsilon` away from 0."""

    def __init__(self, epsilon: float = 1e-11, *, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.epsilon = check_number("epsilon", epsilon, "(0, 0.5)")


def _arrays(outputs: ArrayLike, targets: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    p, t = float_array(outputs, "outputs"), np.asarray(targets)
    if not p.size:
        raise ValueError(complaint("Outputs must hold at least one value", shape=p.shape))
    if t.dtype.kind not in "fiub":
        raise TypeError(complaint("Targets must be numbers", dtype=t.dtype.name))
    return p, t


_registry = Registry("objective", Objective)
register = _registry.register


def get(objective: Any) -> Objective:
    """Return a loss by name.

    Parameters
    ----------
    objective : str, Objective, class or dict
        'mse', 'MeanSquaredError', 'softmax_categorical_cross_entropy', ...; an instance is returned
        as it is; a dict holds the name and the arguments.

    Raises
    ------
    ValueError
        If the name is unknown; the message lists the valid ones.
    """
    return _registry.get(objective)
