"""Steps scaled by the size that the gradients of each element had so far."""

from __future__ import annotations

from typing import Any

from npdl._checks import check_number
from npdl.optimizers.base import Optimizer, fused, register


@register()
class Adagrad(Optimizer):
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

    def _step(self, p, g, slots, lr):
        fused("adagrad_step", (p, g, slots["square"]), lr, self.epsilon)


class _MeanSquare(Optimizer):
    """With the moving mean square r = ρ r + (1-ρ) g²."""

    slot_names: tuple[str, ...] = ("square",)

    def __init__(self, rho: float = 0.9, epsilon: float = 1e-6, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rho = check_number("rho", rho, "[0, 1)")
        self.epsilon = check_number("epsilon", epsilon, "(0, inf)")


@register()
class RMSprop(_MeanSquare):
    """r = ρ r + (1-ρ) g²; p -= lr g / √(r + ε) (Hinton 2012).

    Parameters
    ----------
    rho, epsilon : float
    *args, **kwargs
        Arguments of `Optimizer`.
    """

    def _step(self, p, g, slots, lr):
        fused("rmsprop_step", (p, g, slots["square"]), lr, self.rho, self.epsilon)


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

    def _step(self, p, g, slots, lr):
        arrays = (p, g, slots["square"], slots["step_square"])
        fused("adadelta_step", arrays, lr, self.rho, self.epsilon)
