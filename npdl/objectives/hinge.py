"""Margin losses: no loss once the score is right by at least 1."""

from __future__ import annotations

import numpy as np

from npdl._checks import error_message
from npdl.objectives.base import register
from npdl.objectives.kinds import Elementwise, Rowwise


@register()
class Hinge(Elementwise):
    """max(0, 1 - t p), for each element. Targets are -1 and 1, or 0 and 1, which mean the same.

    Parameters
    ----------
    reduction : {'mean', 'sum', 'none'}
    """

    classifies = True

    @property
    def threshold(self) -> float:
        """0."""
        return 0.0

    def check(self, p, t):
        """Return outputs and targets as `values` takes them, or raise ValueError."""
        p, t = super().check(p, t)
        binary = (t == 0) | (t == 1)
        if binary.all():
            return p, 2 * t - 1
        wrong = np.abs(t) != 1
        if wrong.any():
            rule = "Targets must be -1 and 1, or 0 and 1"
            raise ValueError(error_message(rule, target=t[wrong][0].item()))
        return p, t

    def values(self, p, t):
        """Return the value of each item; see `Objective.values`."""
        return np.maximum(1 - t * p, 0)

    def gradient(self, p, t):
        """Return the gradient of each item's value; see `Objective.gradient`."""
        return np.where(t * p < 1, -t, np.zeros_like(t))


@register()
class SquaredHinge(Hinge):
    """max(0, 1 - t p)², for each element. Targets are -1 and 1, or 0 and 1, which mean the same.

    Parameters
    ----------
    reduction : {'mean', 'sum', 'none'}
    """

    def values(self, p, t):
        """Return the value of each item; see `Objective.values`."""
        return np.square(super().values(p, t))

    def gradient(self, p, t):
        """Return the gradient of each item's value; see `Objective.gradient`."""
        return -2 * t * super().values(p, t)


@register()
class CategoricalHinge(Rowwise):
    """max(0, 1 + max_j (1-t_j) p_j - Σ_j t_j p_j), for each row of scores.

    Targets are one-hot rows, or class numbers.

    Parameters
    ----------
    reduction : {'mean', 'sum', 'none'}
    """

    classifies = True

    def check(self, p, t):
        """Return outputs and targets as `values` takes them, or raise ValueError."""
        p, t = super().check(p, t)
        return p, self._rows(p, t)

    def values(self, p, t):
        """Return the value of each item; see `Objective.values`."""
        rival = ((1 - t) * p).max(axis=-1)
        return np.maximum(1 + rival - (t * p).sum(axis=-1), 0)

    def gradient(self, p, t):
        """Return the gradient of each item's value; see `Objective.gradient`."""
        rival = ((1 - t) * p).argmax(axis=-1)[..., None]
        grad = -t
        at_rival = np.take_along_axis(grad, rival, -1)
        np.put_along_axis(grad, rival, 1 + 2 * at_rival, -1)
        return np.where(self.values(p, t)[..., None] > 0, grad, np.zeros_like(grad))
