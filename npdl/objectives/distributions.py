"""Distances between distributions, and between directions."""

from __future__ import annotations

import numpy as np

from npdl._checks import error_message
from npdl._elementary import log
from npdl.objectives.base import register
from npdl.objectives.kinds import Clipped, Rowwise

#: In `HellingerDistance` a probability counts as at least this much: its slope at 0 is infinite.
_FLOOR = 1e-30


@register("HeD")
class HellingerDistance(Rowwise):
    """‖√p - √t‖₂ / √2, for each row of probabilities.

    Targets are rows like the outputs, not negative, or class numbers. An output below 1e-30 counts
    as 1e-30, with gradient 0; so is the gradient of a row that equals its target, where the
    distance has a kink.

    Parameters
    ----------
    reduction : {'mean', 'sum', 'none'}
    """

    classifies = True
    takes_probabilities = True

    def check(self, p, t):
        """Return outputs and targets as `values` takes them, or raise ValueError."""
        p, t = super().check(p, t)
        t = self._rows(p, t)
        if (t < 0).any():
            raise ValueError(error_message("Targets must be >= 0", target=t[t < 0][0].item()))
        return p, np.maximum(t, _FLOOR)

    def values(self, p, t):
        """Return the value of each item; see `Objective.values`."""
        difference = np.sqrt(np.maximum(p, _FLOOR)) - np.sqrt(t)
        return np.sqrt(0.5 * np.square(difference).sum(axis=-1))

    def gradient(self, p, t):
        """Return the gradient of each item's value; see `Objective.gradient`."""
        # h² = ½ Σ (√p - √t)², so dh/dp = (1 - √t/√p) / (4 h).
        root = np.sqrt(np.maximum(p, _FLOOR))
        distance = self.values(p, t)[..., None]
        grad = np.zeros_like(p)
        moving = (distance > 0) & (p >= _FLOOR)
        np.divide(1 - np.sqrt(t) / root, 4 * distance, out=grad, where=moving)
        return grad


@register("kl_divergence", "KLD", "kullback_leibler_divergence")
class KLDivergence(Clipped, Rowwise):
    """Σ_j t_j log(t_j / p_j), for each row of probabilities (Kullback and Leibler 1951).

    Targets are rows of probabilities, or class numbers. Outside of [epsilon, 1] an output counts as
    the nearer end, with gradient 0; 0 log 0 is 0.

    Parameters
    ----------
    epsilon : float
    reduction : {'mean', 'sum', 'none'}
    """

    def check(self, p, t):
        """Return outputs and targets as `values` takes them, or raise ValueError."""
        p, t = super().check(p, t)
        t = self._rows(p, t)
        if (t < 0).any():
            raise ValueError(error_message("Targets must be >= 0", target=t[t < 0][0].item()))
        return p, t

    def values(self, p, t):
        """Return the value of each item; see `Objective.values`."""
        log_t = log(np.where(t > 0, t, 1))
        return (t * (log_t - log(self._clip(p)))).sum(axis=-1)

    def gradient(self, p, t):
        """Return the gradient of each item's value; see `Objective.gradient`."""
        grad = -t / self._clip(p)
        grad[self._outside(p)] = 0
        return grad


@register("cosine")
class CosineSimilarity(Rowwise):
    """-cos of the angle between each row and its target: from -1, the same way, to 1.

    Where one of them is zero, the value is 0 and so is the gradient.

    Parameters
    ----------
    reduction : {'mean', 'sum', 'none'}
    """

    def check(self, p, t):
        """Return outputs and targets as `values` takes them, or raise ValueError."""
        p, t = super().check(p, t)
        return p, _unit(self._rows(p, t))[0]

    def values(self, p, t):
        """Return the value of each item; see `Objective.values`."""
        return -(_unit(p)[0] * t).sum(axis=-1)

    def gradient(self, p, t):
        """Return the gradient of each item's value; see `Objective.gradient`."""
        # With u = p/|p|, the derivative of u·t in p is (t - (u·t) u) / |p|.
        u, length = _unit(p)
        along = (u * t).sum(axis=-1, keepdims=True)
        return np.divide(along * u - t, length, out=np.zeros_like(p), where=length > 0)


def _unit(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row divided by its length, 0 if that is 0, and the lengths."""
    # The largest element is factored out first: squares overflow, or underflow, where lengths do
    # not.
    top = np.abs(rows).max(axis=-1, keepdims=True)
    scaled = np.divide(rows, top, out=np.zeros_like(rows), where=top > 0)
    length = np.sqrt(np.square(scaled).sum(axis=-1, keepdims=True))
    return np.divide(scaled, length, out=scaled, where=length > 0), length * top
