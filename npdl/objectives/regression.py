"""Regression losses."""

from __future__ import annotations

import math

import numpy as np

from npdl._checks import check_number, error_message
from npdl._elementary import exp, log, log1p, tanh
from npdl.objectives.base import register
from npdl.objectives.kinds import Elementwise


@register("MSE")
class MeanSquaredError(Elementwise):
    """(p - t)², for each element.

    Parameters
    ----------
    reduction : {'mean', 'sum', 'none'}
    """

    def values(self, p, t):
        """Return the value of each item; see `Objective.values`."""
        return np.square(p - t)

    def gradient(self, p, t):
        """Return the gradient of each item's value; see `Objective.gradient`."""
        return 2 * (p - t)


@register("MAE", "L1Loss")
class MeanAbsoluteError(Elementwise):
    """``|p - t|``, for each element; where p = t, the gradient is 0.

    Parameters
    ----------
    reduction : {'mean', 'sum', 'none'}
    """

    def values(self, p, t):
        """Return the value of each item; see `Objective.values`."""
        return np.abs(p - t)

    def gradient(self, p, t):
        """Return the gradient of each item's value; see `Objective.gradient`."""
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

    def values(self, p, t):
        """Return the value of each item; see `Objective.values`."""
        size = np.abs(p - t)
        # ½ d (2|e| - d) with d = min(|e|, delta) is both branches.
        d = np.minimum(size, self.delta)
        return 0.5 * d * (2 * size - d)

    def gradient(self, p, t):
        """Return the gradient of each item's value; see `Objective.gradient`."""
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

    def check(self, p, t):
        """Return outputs and targets as `values` takes them, or raise ValueError."""
        p, t = super().check(p, t)
        if (t < 0).any():
            raise ValueError(error_message("Targets must be >= 0", target=t[t < 0][0].item()))
        return p, t

    def values(self, p, t):
        """Return the value of each item; see `Objective.values`."""
        return p - t * log(np.maximum(p, self.epsilon))

    def gradient(self, p, t):
        """Return the gradient of each item's value; see `Objective.gradient`."""
        return 1 - np.where(p < self.epsilon, 0, t / np.maximum(p, self.epsilon))


@register("logcosh")
class LogCosh(Elementwise):
    """log cosh(p - t), for each element: ½ (p - t)² near 0, ``|p - t| - log 2`` far from it.

    Parameters
    ----------
    reduction : {'mean', 'sum', 'none'}
    """

    def values(self, p, t):
        """Return the value of each element; see `Objective.values`."""
        return log_cosh(p - t)

    def gradient(self, p, t):
        """Return the gradient of each element's value; see `Objective.gradient`."""
        return tanh(p - t)


@register("MAPE")
class MeanAbsolutePercentageError(Elementwise):
    """``100 |p - t| / |t|``, for each element; where p = t, the gradient is 0.

    A target closer to 0 than `epsilon` counts as that in the denominator.

    Parameters
    ----------
    epsilon : float
    reduction : {'mean', 'sum', 'none'}
    """

    def __init__(self, epsilon: float = 1e-7, *, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.epsilon = check_number("epsilon", epsilon, "(0, inf)")

    def values(self, p, t):
        """Return the value of each element; see `Objective.values`."""
        return absolute_percentage(p, t, self.epsilon)

    def gradient(self, p, t):
        """Return the gradient of each element's value; see `Objective.gradient`."""
        return np.sign(p - t) * (100 / np.maximum(np.abs(t), self.epsilon))


@register("MSLE")
class MeanSquaredLogarithmicError(Elementwise):
    """(log(1 + p) - log(1 + t))², for each element: t >= 0.

    An output below 0 counts as 0, and its gradient is 0.

    Parameters
    ----------
    reduction : {'mean', 'sum', 'none'}
    """

    def check(self, p, t):
        """Return outputs and targets as `values` takes them, or raise ValueError."""
        p, t = super().check(p, t)
        if (t < 0).any():
            raise ValueError(error_message("Targets must be >= 0", target=t[t < 0][0].item()))
        return p, t

    def values(self, p, t):
        """Return the value of each element; see `Objective.values`."""
        return np.square(log1p_difference(p, t))

    def gradient(self, p, t):
        """Return the gradient of each element's value; see `Objective.gradient`."""
        return np.where(p < 0, 0, 2 * log1p_difference(p, t) / (1 + np.maximum(p, 0)))


def log_cosh(x: np.ndarray) -> np.ndarray:
    """log cosh x, accurate near 0, and without overflow."""
    size = np.abs(x)
    near = -0.5 * log1p(-np.square(tanh(np.minimum(size, 1))))  # 1 / cosh² = 1 - tanh²
    return np.where(size < 1, near, size + log1p(exp(-2 * size)) - math.log(2))


def absolute_percentage(p: np.ndarray, t: np.ndarray, epsilon: float) -> np.ndarray:
    """100 |p - t| / |t|, in an order that overflows only where the result does."""
    return np.abs(p - t) / np.maximum(np.abs(t), epsilon) * 100


def log1p_difference(p: np.ndarray, t: np.ndarray) -> np.ndarray:
    """log(1 + p) - log(1 + t), where negative p and t count as 0."""
    return log1p(np.maximum(p, 0)) - log1p(np.maximum(t, 0))
