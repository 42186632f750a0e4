"""The base class of the losses, the checks that they share, and the look-up by name."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from npdl._checks import (
    check_choice,
    check_number,
    complaint,
    float_array,
    label_array,
    weights_like,
)
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
    #: Whether the outputs are logits, not yet probabilities.
    from_logits: bool = False
    #: The class number of the items that do not count.
    ignore_class: int | None = None

    def __init__(self, *, reduction: str = "mean") -> None:
        self.reduction = check_choice("reduction", reduction, ("mean", "sum", "none"))

    def forward(
        self, outputs: ArrayLike, targets: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> Any:
        """Return the loss.

        Parameters
        ----------
        outputs : array_like
            What the network returned.
        targets : array_like
            What it should have returned, see the class for the forms.
        sample_weight : array_like, optional
            The value of each item is multiplied by its weight; 0 leaves it out. Of the shape of the
            items or of its leading axes: (N,) for a weight for each sample. The mean stays one over
            the number of items, as in Keras.

        Returns
        -------
        float, or ndarray with a value for each item where `reduction` is 'none'
        """
        p, t = self._check(outputs, targets)
        return self._reduce(self._values(p, t), self._factors(p, targets, sample_weight))

    def backward(
        self, outputs: ArrayLike, targets: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> np.ndarray:
        """Return the gradient of the loss in the outputs, an array like them.

        Parameters
        ----------
        outputs, targets, sample_weight : array_like
            As in `forward`. Where `reduction` is 'none': the gradient of each item's own value.
        """
        p, t = self._check(outputs, targets)
        grad, factors = self._slopes(p, t), self._factors(p, targets, sample_weight)
        if isinstance(factors, np.ndarray):
            factors = factors.reshape(factors.shape + (1,) * (grad.ndim - factors.ndim))
            return _multiplied(grad, factors)
        grad *= factors
        return grad

    def count(self, outputs: ArrayLike, targets: ArrayLike) -> int:
        """Return the number of items that the mean is taken over.

        Parameters
        ----------
        outputs, targets : array_like
            As in `forward`.
        """
        p = np.asarray(outputs)
        ignored = self._ignored(p, targets)
        return math.prod(self._items(p)) if ignored is None else int((~ignored).sum())

    def _check(self, outputs: ArrayLike, targets: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Both as C-ordered arrays that fit each other."""
        raise NotImplementedError

    def _values(self, p: np.ndarray, t: np.ndarray) -> np.ndarray:
        """The value of each item."""
        raise NotImplementedError

    def _slopes(self, p: np.ndarray, t: np.ndarray) -> np.ndarray:
        """The gradient of each item's value, a new array like `p`."""
        raise NotImplementedError

    def _items(self, p: np.ndarray) -> tuple[int, ...]:
        """The shape of the items."""
        return p.shape

    def _ignored(self, p: np.ndarray, targets: ArrayLike) -> np.ndarray | None:
        """Which items do not count, as booleans of their shape; None where all do."""
        return None

    def _factors(
        self, p: np.ndarray, targets: ArrayLike, sample_weight: ArrayLike | None
    ) -> float | np.ndarray:
        """What the value of each item counts in the loss: one number for all, or an array."""
        items = self._items(p)
        ignored = self._ignored(p, targets)
        count = math.prod(items) if ignored is None else int((~ignored).sum())
        share = 1 / max(count, 1) if self.reduction == "mean" else 1.0
        if sample_weight is None and ignored is None:
            return share
        weights = 1.0 if sample_weight is None else weights_like(items, sample_weight)
        kept = 1.0 if ignored is None else ~ignored
        return np.broadcast_to(np.asarray(share * weights * kept, p.dtype), items)

    def _reduce(self, values: np.ndarray, factors: float | np.ndarray) -> Any:
        factor = 1.0
        if isinstance(factors, np.ndarray):
            values = _multiplied(values, factors)
        else:
            factor = factors
        if self.reduction == "none":
            return values
        # Summed in float64, so that the mean of many float32 values is not off by their number.
        return float(np.add.reduce(values, axis=None, dtype=np.float64)) * factor


def _multiplied(values: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """values · factors; what has the factor 0 does not count, be it nan."""
    return np.multiply(values, factors, out=np.zeros_like(values), where=factors != 0)


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

    def _clip(self, p: np.ndarray) -> np.ndarray:
        return np.clip(p, self.epsilon, 1)

    def _outside(self, p: np.ndarray) -> np.ndarray:
        """Where clipping has made the slope 0."""
        return (p < self.epsilon) | (p > 1)


def _arrays(outputs: ArrayLike, targets: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    p, t = float_array(outputs, "outputs"), np.asarray(targets)
    if not p.size:
        raise ValueError(complaint("Outputs must hold at least one value", shape=p.shape))
    if t.dtype.kind not in "fiub":
        raise TypeError(complaint("Targets must be numbers", dtype=t.dtype.name))
    return p, t


_registry = Registry("objective", Objective)
register = _registry.register


def get(objective: Any) -> Any:
    """Return a loss by name.

    Parameters
    ----------
    objective : str, Objective, class or dict
        'mse', 'MeanSquaredError', 'softmax_categorical_cross_entropy', ...; a dict holds the name
        and the arguments. An instance is returned as it is; so is any other object that has
        methods ``forward(outputs, targets)``, which returns a number, and
        ``backward(outputs, targets)``, which returns its gradient in the outputs.

    Raises
    ------
    ValueError
        If the name is unknown; the message lists the valid ones.
    """
    if all(callable(getattr(objective, name, None)) for name in ("forward", "backward")):
        return objective() if isinstance(objective, type) else objective
    return _registry.get(objective)
