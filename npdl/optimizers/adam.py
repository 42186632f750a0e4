"""Adam and its kin: a moving mean of the gradients over a measure of their size."""

from __future__ import annotations

from typing import Any

import numpy as np

from npdl._checks import check_number
from npdl.optimizers.base import Optimizer, blend, register


class _Moments(Optimizer):
    """With the moving mean m = β₁ m + (1-β₁) g and a measure of the size of g.

    Parameters
    ----------
    beta1, beta2, epsilon : float
    *args, **kwargs
        Arguments of `Optimizer`.
    """

    def __init__(
        self,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.beta1 = check_number("beta1", beta1, "[0, 1)")
        self.beta2 = check_number("beta2", beta2, "[0, 1)")
        self.epsilon = check_number("epsilon", epsilon, "(0, inf)")

    def _unbias(self, beta: float) -> float:
        """1 - β^t, what a moving mean that started at 0 adds up to in step t = 1, 2, ..."""
        return 1 - beta ** (self.iterations + 1)


@register()
class Adam(_Moments):
    """m, v = moving means of g, g²; p -= lr m̂ / (√v̂ + ε) (Kingma and Ba 2014, algorithm 1).

    Parameters
    ----------
    beta1, beta2 : float
        Of the moving means; m̂ = m / (1-β₁^t), v̂ = v / (1-β₂^t).
    epsilon : float
    *args, **kwargs
        Arguments of `Optimizer`.
    """

    slot_names = ("mean", "square")

    def _step(self, p, g, slots, lr):
        m = blend(slots["mean"], self.beta1, g)
        v = blend(slots["square"], self.beta2, g * g)
        size = np.sqrt(v / self._unbias(self.beta2)) + self.epsilon
        p -= lr / self._unbias(self.beta1) * m / size


@register()
class Adamax(_Moments):
    """m = moving mean of g; u = max(β₂ u, |g|); p -= lr m̂ / (u + ε) (the same, algorithm 2).

    Parameters
    ----------
    beta1, beta2 : float
        m̂ = m / (1-β₁^t).
    epsilon : float
        Keeps the step of a parameter whose gradients were all 0 from being 0/0.
    *args, **kwargs
        Arguments of `Optimizer`.
    """

    slot_names = ("mean", "greatest")

    def _step(self, p, g, slots, lr):
        m, u = blend(slots["mean"], self.beta1, g), slots["greatest"]
        u *= self.beta2
        np.maximum(u, np.abs(g), out=u)
        p -= lr / self._unbias(self.beta1) * m / (u + self.epsilon)
