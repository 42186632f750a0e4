"""Regularizers: penalties on large weights, added to the loss.

::

    npdl.layers.Dense(64, regularizer="l2")
    npdl.layers.Dense(64, regularizer=npdl.regularizers.L1L2(l1=1e-5, l2=1e-4))

`Model` adds them to the loss of every batch, and of validation and evaluation. For a decay of the
weights that is no part of the loss see ``weight_decay`` of the optimizers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from npdl._checks import check_number
from npdl._registry import Configurable, Registry


class Regularizer(Configurable):
    """Base class. A subclass defines `forward` and `backward`."""

    def forward(self, weights: np.ndarray) -> float:
        """Return the penalty of an array of weights."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(weights).")

    def backward(self, weights: np.ndarray) -> np.ndarray:
        """Return the gradient of `forward`, a new array like `weights`."""
        raise NotImplementedError(f"{type(self).__name__} must define backward(weights).")


_registry = Registry("regularizer", Regularizer)
register = _registry.register


@register("l1_l2")
class L1L2(Regularizer):
    """``l1 Σ |w| + l2 Σ w²``.

    Parameters
    ----------
    l1, l2 : float
    """

    def __init__(self, l1: float = 0.0, l2: float = 0.0) -> None:
        self.l1 = check_number("l1", l1, "[0, inf)")
        self.l2 = check_number("l2", l2, "[0, inf)")

    def forward(self, weights: np.ndarray) -> float:
        """Return the penalty of an array of weights."""
        # Summed in float64, like the losses.
        ones = self.l1 * np.abs(weights).sum(dtype=np.float64) if self.l1 else 0.0
        twos = self.l2 * np.square(weights).sum(dtype=np.float64) if self.l2 else 0.0
        return float(ones + twos)

    def backward(self, weights: np.ndarray) -> np.ndarray:
        """Return the gradient of `forward`; that of ``|w|`` at 0 is 0."""
        grad = (2 * self.l2) * weights
        if self.l1:
            grad += self.l1 * np.sign(weights)
        return grad


@register()
class L1(L1L2):
    """``l1 Σ |w|`` (Tibshirani 1996): weights that are not needed become small together.

    Parameters
    ----------
    l1 : float
    """

    def __init__(self, l1: float = 0.01) -> None:
        super().__init__(l1=l1)


@register()
class L2(L1L2):
    """l2 Σ w², with no factor ½, as in Keras.

    Parameters
    ----------
    l2 : float
    """

    def __init__(self, l2: float = 0.01) -> None:
        super().__init__(l2=l2)


def get(regularizer: Any) -> Regularizer | None:
    """Return a regularizer by name.

    Parameters
    ----------
    regularizer : str, Regularizer, class, dict or None
        'l1', 'l2', 'l1_l2'; an instance and None are returned as they are; a dict holds the name
        and the arguments: ``{"name": "L2", "l2": 1e-4}``.

    Raises
    ------
    ValueError
        If the name is unknown; the message lists the valid ones.
    """
    return None if regularizer is None else _registry.get(regularizer)
