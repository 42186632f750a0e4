"""Losses of numbers."""

from __future__ import annotations

import numpy as np

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
