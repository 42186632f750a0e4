"""Distances between distributions and between directions."""

from __future__ import annotations

import numpy as np

from npdl._checks import complaint
from npdl.objectives.base import Rowwise, register

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

    def _check(self, outputs, targets):
        p, t = super()._check(outputs, targets)
        if t.ndim < p.ndim:
            t = (t[..., None] == np.arange(p.shape[-1])).astype(p.dtype)
        if (t < 0).any():
            raise ValueError(complaint("Targets must be >= 0", target=t[t < 0][0].item()))
        return p, np.maximum(t, _FLOOR)

    def _values(self, p, t):
        difference = np.sqrt(np.maximum(p, _FLOOR)) - np.sqrt(t)
        return np.sqrt(0.5 * np.square(difference).sum(axis=-1))

    def _slopes(self, p, t):
        # h² = ½ Σ (√p - √t)², so dh/dp = (1 - √t/√p) / (4 h).
        root = np.sqrt(np.maximum(p, _FLOOR))
        distance = self._values(p, t)[..., None]
        grad = np.zeros_like(p)
        moving = (distance > 0) & (p >= _FLOOR)
        np.divide(1 - np.sqrt(t) / root, 4 * distance, out=grad, where=moving)
        return grad
