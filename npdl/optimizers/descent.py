"""Descent along the gradient, with and without a velocity."""

from __future__ import annotations

from typing import Any

from npdl._checks import check_number
from npdl.optimizers.base import Optimizer, register


@register()
class SGD(Optimizer):
    """p -= lr g (stochastic gradient descent)."""

    def _step(self, p, g, slots, lr):
        p -= lr * g


class _Moving(Optimizer):
    """With a velocity v, which each step turns into m v - lr g.

    Parameters
    ----------
    momentum : float
        The factor m.
    *args, **kwargs
        Arguments of `Optimizer`.
    """

    slot_names = ("velocity",)

    def __init__(self, momentum: float = 0.9, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.momentum = check_number("momentum", momentum, "[0, 1)")

    def _velocity(self, g, slots, lr):
        v = slots["velocity"]
        v *= self.momentum
        v -= lr * g
        return v


@register()
class Momentum(_Moving):
    """v = m v - lr g; p += v.

    Parameters
    ----------
    momentum : float
        The factor m.
    *args, **kwargs
        Arguments of `Optimizer`.
    """

    def _step(self, p, g, slots, lr):
        p += self._velocity(g, slots, lr)


@register()
class NesterovMomentum(_Moving):
    """v = m v - lr g; p += m v - lr g (Nesterov 1983; in this form, Bengio et al. 2012).

    Parameters
    ----------
    momentum : float
        The factor m.
    *args, **kwargs
        Arguments of `Optimizer`.
    """

    def _step(self, p, g, slots, lr):
        p += self.momentum * self._velocity(g, slots, lr) - lr * g
