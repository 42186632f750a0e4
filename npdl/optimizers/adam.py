"""Adam and its variants: a moving mean of the gradient, divided by a measure of its size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from npdl._checks import check_number
from npdl.optimizers.base import Optimizer, register, update_mean
from npdl.optimizers.kernel_optimizer import KernelOptimizer


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
        """1 - β^t, the sum of the weights in a moving mean after step t = 1, 2, ..."""
        return 1 - beta ** (self.iterations + 1)


@register()
class Adam(KernelOptimizer, _Moments):
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

    _kernel = "adam_step", "mean", "square"

    def _scalars(self, lr):
        unbias = self._unbias(self.beta1), self._unbias(self.beta2)
        return lr, self.beta1, self.beta2, self.epsilon, *unbias


@register()
class Adamax(KernelOptimizer, _Moments):
    """m = moving mean of g; u = max(β₂ u, ``|g|``); p -= lr m̂ / (u + ε) (the same, algorithm 2).

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

    _kernel = "adamax_step", "mean", "greatest"

    def _scalars(self, lr):
        return lr, self.beta1, self.beta2, self.epsilon, self._unbias(self.beta1)


@register()
class AdamW(Adam):
    """`Adam` with decoupled weight decay on by default (Loshchilov and Hutter 2019).

    Parameters
    ----------
    beta1, beta2, epsilon : float
        As in `Adam`.
    *args, **kwargs
        Arguments of `Optimizer`.
    weight_decay : float
        See `Optimizer`, also for what to exclude from it.
    """

    def __init__(
        self,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        *args: Any,
        weight_decay: float | None = 0.004,
        **kwargs: Any,
    ) -> None:
        super().__init__(beta1, beta2, epsilon, *args, weight_decay=weight_decay, **kwargs)


@register()
class Nadam(_Moments):
    """Adam with Nesterov's look ahead (Dozat 2016); m, v = moving means of g, g².

    ``m̂ = μ' m / (1-Πμ μ') + (1-μ) g / (1-Πμ)``; ``p -= lr m̂ / (√v̂ + ε)``

    μ = β₁ (1 - ½ 0.96^(t/250)) in step t = 1, 2, ...; μ' is that of the next step, and Πμ the
    product of all up to this one.

    Parameters
    ----------
    beta1, beta2 : float
        Of the moving means; v̂ = v / (1-β₂^t).
    epsilon : float
    *args, **kwargs
        Arguments of `Optimizer`.
    """

    slot_names = ("mean", "square")

    #: A step t, and the product Πμ up to it. It follows from t, so it is not part of the state.
    _product: tuple[int, float] = (0, 1.0)

    def step(self, p, g, slots, lr):
        """Do the step of one parameter; see `Optimizer.step`."""
        m = update_mean(slots["mean"], self.beta1, g)
        v = update_mean(slots["square"], self.beta2, g * g)
        t = self.iterations + 1
        now, after, product = self._mu(t), self._mu(t + 1), self._product_up_to(t)
        ahead = (lr * after / (1 - product * after)) * m
        ahead += (lr * (1 - now) / (1 - product)) * g
        p -= ahead / (np.sqrt(v / self._unbias(self.beta2)) + self.epsilon)

    def _mu(self, t: int) -> float:
        return self.beta1 * (1 - 0.5 * 0.96 ** (t / 250))

    def _product_up_to(self, t: int) -> float:
        done, product = self._product if self._product[0] <= t else (0, 1.0)
        for i in range(done, t):
            if product < 1e-30:  # negligible beside 1
                product = 0.0
                break
            product *= self._mu(i + 1)
        self._product = t, product
        return product


@register()
class RAdam(_Moments):
    """Rectified Adam (Liu et al. 2020): m, v = moving means of g, g²; p -= lr r m̂ / (√v̂ + ε).

    With ρ∞ = 2/(1-β₂) - 1 and ρ = ρ∞ - 2 t β₂^t / (1-β₂^t) in step t = 1, 2, ...,
    ``r = √((ρ-4)(ρ-2)ρ∞ / ((ρ∞-4)(ρ∞-2)ρ))``. As long as ρ <= 5, v̂ is too uncertain to divide by:
    p -= lr m̂.

    Parameters
    ----------
    beta1, beta2 : float
        Of the moving means; m̂ = m / (1-β₁^t), v̂ = v / (1-β₂^t).
    epsilon : float
    *args, **kwargs
        Arguments of `Optimizer`.
    """

    slot_names = ("mean", "square")

    def step(self, p, g, slots, lr):
        """Do the step of one parameter; see `Optimizer.step`."""
        m = update_mean(slots["mean"], self.beta1, g)
        v = update_mean(slots["square"], self.beta2, g * g)
        change = (lr / self._unbias(self.beta1)) * m
        r = self._rectification()
        if r is not None:
            change *= r
            change /= np.sqrt(v / self._unbias(self.beta2)) + self.epsilon
        p -= change

    def _rectification(self) -> float | None:
        t, unbias = self.iterations + 1, self._unbias(self.beta2)
        top = 2 / (1 - self.beta2) - 1
        rho = top - 2 * t * (1 - unbias) / unbias
        if rho <= 5:
            return None
        return math.sqrt((rho - 4) * (rho - 2) * top / ((top - 4) * (top - 2) * rho))
