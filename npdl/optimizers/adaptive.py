"""Steps scaled by the size of each element's past gradients."""

from __future__ import annotations

from typing import Any

from npdl._checks import check_number
from npdl.optimizers.base import register
from npdl.optimizers.kernel_optimizer import KernelOptimizer


@register()
class Adagrad(KernelOptimizer):
    """r += g²; p -= lr g / √(r + ε) (Duchi et al. 2011).

    Parameters
    ----------
    epsilon : float
    *args, **kwargs
        Arguments of `Optimizer`.
    """

    slot_names = ("square",)

    def __init__(self, epsilon: float = 1e-6, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.epsilon = check_number("epsilon", epsilon, "(0, inf)")

    _kernel = "adagrad_step", "square"

    def _scalars(self, lr):
        return lr, self.epsilon


class _MeanSquare(KernelOptimizer):
    """With the moving mean square r = ρ r + (1-ρ) g²."""

    slot_names: tuple[str, ...] = ("square",)

    def __init__(self, rho: float = 0.9, epsilon: float = 1e-6, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rho = check_number("rho", rho, "[0, 1)")
        self.epsilon = check_number("epsilon", epsilon, "(0, inf)")

    def _scalars(self, lr):
        return lr, self.rho, self.epsilon


@register()
class RMSprop(_MeanSquare):
    """r = ρ r + (1-ρ) g²; p -= lr g / √(r + ε) (Hinton 2012).

    Parameters
    ----------
    rho, epsilon : float
    *args, **kwargs
        Arguments of `Optimizer`.
    """

    _kernel = "rmsprop_step", "square"


@register()
class Adadelta(_MeanSquare):
    """r = ρ r + (1-ρ) g²; u = g √(s+ε)/√(r+ε); p -= lr u; s = ρ s + (1-ρ) u² (Zeiler 2012).

    Parameters
    ----------
    rho, epsilon : float
    *args, **kwargs
        Arguments of `Optimizer`.
    """

    slot_names = ("square", "step_square")

    _kernel = "adadelta_step", "square", "step_square"
