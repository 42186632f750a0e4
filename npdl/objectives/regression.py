"""Losses of numbers."""

from __future__ import annotations

import numpy as np

from npdl._checks import check_number, complaint
from npdl.objectives.base import Elementwise, register


@register("MSE")
class MeanSquaredError(Elementwise):
    """(p - t)², for each element.

    Parameters
    ----------
    reduction : {'mean', 'sum', 'none'}
    """

    def _values(self, p, t):
        return np.square(p - t)

    def _slopes(self, p, t):
        return 2 * (p - t)


@register("MAE", "L1Loss")
class MeanAbsoluteError(Elementwise):
    """``|p - t|``, for each element; where p = t, the gradient is 0.

    Parameters
    ----------
    reduction : {'mean', 'sum', 'none'}
    """

    def _values(self, p, t):
        return np.abs(p - t)

    def _slopes(self, p, t):
        return np.sign(p - t)


@register("huber_loss", "smooth_l1")
class Huber(Elementwise):
    """``½ (p - t)²`` up to ``|p - t| = delta``, then the tangent (Huber 1964).

    The tangent is ``delta (|p - t| - ½ delta)``.

    Parameters
    ----------
    delta : float
    reduction : {'mean', 'sum', 'none'}
    """

    def __init__(self, delta: float = 1.0, *, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.delta = check_number("delta", delta, "(0, inf)")

    def _values(self, p, t):
        size = np.abs(p - t)
        # ½ d (2|e| - d) with d = min(|e|, delta) is both branches.
        d = np.minimum(size, self.delta)
        return 0.5 * d * (2 * size - d)

    def _slopes(self, p, t):
        return np.clip(p - t, -self.delta, self.delta)


@register()
class Poisson(Elementwise):
    """p - t log p, for each element: t >= 0 is a count, p the rate that is expected.

    An output below `epsilon` counts as `epsilon` in the logarithm, which then has no slope.

    Parameters
    ----------
    epsilon : float
    reduction : {'mean', 'sum', 'none'}
    """

    def __init__(self, epsilon: float = 1e-7, *, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.epsilon = check_number("epsilon", epsilon, "(0, 1)")

    def _check(self, outputs, targets):
        p, t = super()._check(outputs, targets)
        if (t < 0).any():
            raise ValueError(complaint("Targets must be >= 0", target=t[t < 0][0].item()))
        return p, t

    def _values(self, p, t):
        return p - t * np.log(np.maximum(p, self.epsilon))

    def _slopes(self, p, t):
        return 1 - np.where(p < self.epsilon, 0, t / np.maximum(p, self.epsilon))
