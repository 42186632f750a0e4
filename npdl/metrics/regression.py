"""Metrics of regression."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl._checks import error_message
from npdl.metrics.base import MeanMetric, Metric, register, weights_like, what_counts
from npdl.objectives.regression import absolute_percentage, log1p_difference, log_cosh


def match_shapes(y_true: NDArray, y_pred: NDArray) -> NDArray:
    """The targets in the shape of the outputs; a last axis of length 1 may be missing."""
    if (*y_true.shape, 1) == y_pred.shape:
        return y_true[..., None]
    if y_true.shape != y_pred.shape:
        raise ValueError(
            error_message(f"Targets must have shape {y_pred.shape}", shape=y_true.shape)
        )
    return y_true


@register("MSE")
class MeanSquaredError(MeanMetric):
    """The mean of (y_pred - y_true)², over all elements.

    Parameters
    ----------
    name : str, optional
    """

    direction = "min"

    def values(self, y_true: NDArray, y_pred: NDArray) -> NDArray:
        """Return the value of each item; see `MeanMetric.values`."""
        return np.square(y_pred - match_shapes(y_true, y_pred))


@register("RMSE")
class RootMeanSquaredError(MeanSquaredError):
    """The square root of the mean of (y_pred - y_true)², over all elements.

    Parameters
    ----------
    name : str, optional
    """

    def result(self) -> float:
        """The value, or nan if there were no items."""
        return float(np.sqrt(super().result()))


@register("MAE")
class MeanAbsoluteError(MeanMetric):
    """The mean of ``|y_pred - y_true|``, over all elements.

    Parameters
    ----------
    name : str, optional
    """

    direction = "min"

    def values(self, y_true: NDArray, y_pred: NDArray) -> NDArray:
        """Return the value of each item; see `MeanMetric.values`."""
        return np.abs(y_pred - match_shapes(y_true, y_pred))


@register("MAPE")
class MeanAbsolutePercentageError(MeanMetric):
    """The mean of ``100 |y_pred - y_true| / |y_true|``, over all elements.

    A target closer to 0 than 1e-7 counts as that in the denominator.

    Parameters
    ----------
    name : str, optional
    """

    direction = "min"

    def values(self, y_true: NDArray, y_pred: NDArray) -> NDArray:
        """Return the value of each item; see `MeanMetric.values`."""
        return absolute_percentage(y_pred, match_shapes(y_true, y_pred), 1e-7)


@register("MSLE")
class MeanSquaredLogarithmicError(MeanMetric):
    """The mean of (log(1 + y_pred) - log(1 + y_true))², over all elements.

    Negative values count as 0.

    Parameters
    ----------
    name : str, optional
    """

    direction = "min"

    def values(self, y_true: NDArray, y_pred: NDArray) -> NDArray:
        """Return the value of each item; see `MeanMetric.values`."""
        return np.square(log1p_difference(y_pred, match_shapes(y_true, y_pred)))


@register("log_cosh", "logcosh")
class LogCoshError(MeanMetric):
    """The mean of log cosh(y_pred - y_true), over all elements.

    Parameters
    ----------
    name : str, optional
    """

    direction = "min"

    def values(self, y_true: NDArray, y_pred: NDArray) -> NDArray:
        """Return the value of each item; see `MeanMetric.values`."""
        return log_cosh(y_pred - match_shapes(y_true, y_pred))


@register("R2")
class R2Score(Metric):
    """R² = 1 - Σ (y_pred - y_true)² / Σ (y_true - mean)², of each output, then their mean.

    Targets that are all the same have no R²; as in scikit-learn it is then 1 if the outputs equal
    them, else 0.

    Parameters
    ----------
    name : str, optional
    """

    direction = "max"

    def update_state(
        self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> None:
        """Count one batch; see `Metric.update_state`."""
        y_true, y_pred, sample_weight = what_counts(y_true, y_pred, sample_weight)
        if not len(y_pred):
            return
        p = np.asarray(y_pred, np.float64)
        t = match_shapes(y_true, p).astype(np.float64)
        w: NDArray = np.ones(t.shape)
        if sample_weight is not None:
            w = weights_like(t, sample_weight)
        size = p.shape[-1] if p.ndim > 1 else 1
        p, t, w = (a.reshape(-1, size) for a in (p, t, w))
        n = w.sum(axis=0)
        mean = _ratio((w * t).sum(axis=0), n)
        spread = (w * np.square(t - mean)).sum(axis=0)
        error = (w * np.square(p - t)).sum(axis=0)
        self._add(np.array([n, mean, spread, error]))

    def merge_state(self, metrics: Iterable[Any]) -> None:
        """Add the sums of other metrics of this kind."""
        for other in metrics:
            if other._sums is not None:
                self._add(other._sums)

    def _add(self, counted: NDArray) -> None:
        if self._sums is None:
            self._sums = counted
            return
        # Chan, Golub and LeVeque (1979): the spread of two sets from that of each.
        (n0, mean0, spread0, error0), (n, mean, spread, error) = self._sums, counted
        total = n0 + n
        gap, part = mean - mean0, _ratio(n, total)
        self._sums = np.array(
            [total, mean0 + gap * part, spread0 + spread + gap * gap * n0 * part, error0 + error]
        )

    def result(self) -> float:
        """The mean over the outputs with any items, or nan if there were none."""
        if self._sums is None:
            return float("nan")
        n, _, spread, error = self._sums[:, self._sums[0] != 0]
        if not n.size:
            return float("nan")
        constant = np.where(error == 0, 1.0, 0.0)
        return float(np.where(spread > 0, 1 - _ratio(error, spread), constant).mean())

    def reset_state(self) -> None:
        """Reset the sums."""
        self._sums = None  # weight, mean, spread and error of each output


def _ratio(top: NDArray, bottom: NDArray) -> NDArray:
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom != 0)
