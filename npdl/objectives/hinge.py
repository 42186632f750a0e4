"""Losses of margins: right by 1 is right enough."""

from __future__ import annotations

import numpy as np

from npdl._checks import complaint
from npdl.objectives.base import Elementwise, Rowwise, register


@register()
class Hinge(Elementwise):
    """max(0, 1 - t p), for each element. Targets are -1 and 1, or 0 and 1, which mean the same.

    Parameters
    ----------
    reduction : {'mean', 'sum', 'none'}
    """

    def _check(self, outputs, targets):
        p, t = super()._check(outputs, targets)
        binary = (t == 0) | (t == 1)
        if binary.all():
            return p, 2 * t - 1
        wrong = np.abs(t) != 1
        if wrong.any():
            rule = "Targets must be -1 and 1, or 0 and 1"
            raise ValueError(complaint(rule, target=t[wrong][0].item()))
        return p, t

    def _values(self, p, t):
        return np.maximum(1 - t * p, 0)

    def _slopes(self, p, t):
        return np.where(t * p < 1, -t, np.zeros_like(t))


@register()
class SquaredHinge(Hinge):
    """max(0, 1 - t p)², for each element. Targets are -1 and 1, or 0 and 1, which mean the same.

    Parameters
    ----------
    reduction : {'mean', 'sum', 'none'}
    """

    def _values(self, p, t):
        return np.square(super()._values(p, t))

    def _slopes(self, p, t):
        return -2 * t * super()._values(p, t)


@register()
class CategoricalHinge(Rowwise):
    """max(0, 1 + max_j (1-t_j) p_j - Σ_j t_j p_j), for each row of scores.

    Targets are one-hot rows, or class numbers.

    Parameters
    ----------
    reduction : {'mean', 'sum', 'none'}
    """

    def _check(self, outputs, targets):
        p, t = super()._check(outputs, targets)
        return p, self._rows(p, t)

    def _values(self, p, t):
        rival = ((1 - t) * p).max(axis=-1)
        return np.maximum(1 + rival - (t * p).sum(axis=-1), 0)

    def _slopes(self, p, t):
        rival = ((1 - t) * p).argmax(axis=-1)[..., None]
        grad = -t
        at_rival = np.take_along_axis(grad, rival, -1)
        np.put_along_axis(grad, rival, 1 + 2 * at_rival, -1)
        return np.where(self._values(p, t)[..., None] > 0, grad, np.zeros_like(grad))
