"""SGD with and without momentum, and Lion, which steps along the signs."""

from __future__ import annotations

from typing import Any

import numpy as np

from npdl._checks import check_number
from npdl.optimizers.base import Optimizer, register, update_mean
from npdl.optimizers.kernel_optimizer import KernelOptimizer


@register()
class SGD(KernelOptimizer):
    """p -= lr g (stochastic gradient descent)."""

    _kernel = ("sgd_step",)

    def _scalars(self, lr):
        return (lr,)


class _Moving(KernelOptimizer):
    """With a velocity v, which each step turns into m v - lr g.

    Parameters
    ----------
    momentum : float
        The factor m.
    *args, **kwargs
        Arguments of `Optimizer`.
    """

    slot_names = ("velocity",)
    _kernel = "momentum_step", "velocity"

    def __init__(self, momentum: float = 0.9, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.momentum = check_number("momentum", momentum, "[0, 1)")

    #: Whether the step looks ahead, by the velocity after it.
    _nesterov = False

    def _scalars(self, lr):
        return lr, self.momentum, self._nesterov


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

    _nesterov = True


@register()
class Lion(Optimizer):
    """p -= lr sign(β₁ m + (1-β₁) g), then m = β₂ m + (1-β₂) g (Chen et al. 2023).

    Each element moves by the whole rate, so use a third to a tenth of Adam's learning rate, and
    raise the weight decay by the same factor.

    Parameters
    ----------
    beta1, beta2 : float
    *args, **kwargs
        Arguments of `Optimizer`.
    """

    slot_names = ("mean",)

    def __init__(self, beta1: float = 0.9, beta2: float = 0.99, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.beta1 = check_number("beta1", beta1, "[0, 1)")
        self.beta2 = check_number("beta2", beta2, "[0, 1)")

    def step(self, p, g, slots, lr):
        """Do the step of one parameter; see `Optimizer.step`."""
        m = slots["mean"]
        p -= lr * np.sign(self.beta1 * m + (1 - self.beta1) * g)
        update_mean(m, self.beta2, g)
