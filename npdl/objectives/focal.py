"""Focal losses: cross-entropies that give little weight to outputs that are almost right."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from npdl import activations
from npdl._checks import check_int, check_number, error_message
from npdl._elementary import exp, log, log1p, power
from npdl._ext import kernels
from npdl.objectives.base import register
from npdl.objectives.crossentropy import FusedLoss
from npdl.objectives.kinds import Clipped, Elementwise, Rowwise


@register()
class FocalCrossEntropy(FusedLoss, Clipped, Rowwise):
    """-Σ_j α_j t_j (1 - p_j)^γ log p_j, for each row of probabilities (Lin et al. 2017).

    Targets are rows like the outputs, or class numbers. Outside of [epsilon, 1] an output counts as
    the nearer end, with gradient 0. `forward_logits` and `backward_logits` fuse the loss with the
    softmax before it and need no clipping; a model whose last layer is a softmax is trained through
    them. For a single output, or several that are a yes or no each, see
    `BinaryFocalCrossEntropy`.

    Parameters
    ----------
    gamma : float
        γ >= 0: how strongly outputs that are almost right are discounted; 0 gives the
        cross-entropy.
    alpha : float or array_like of K floats, optional
        α: one factor for all classes, or one for each; 1 by default.
    epsilon : float
    from_logits : bool
        Whether the outputs are logits z, p = softmax(z): for a network without a softmax.
    axis : int
        Where the classes lie, see `SoftmaxCategoricalCrossEntropy`.
    reduction : {'mean', 'sum', 'none'}
    """

    classifies = True

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: ArrayLike | None = None,
        *,
        epsilon: float = 1e-11,
        from_logits: bool = False,
        axis: int = -1,
        reduction: str = "mean",
    ) -> None:
        super().__init__(epsilon, reduction=reduction)
        self.gamma = check_number("gamma", gamma, "[0, inf)")
        self.alpha: Any = None if alpha is None else _factors(alpha)
        self.from_logits = bool(from_logits)
        self.axis = check_int("axis", axis, low=-32)

    def match(self, outputs, targets):
        """Return the shape of rows, or of class numbers; see `Objective.match`."""
        if outputs and outputs[-1] == 1:
            rule = "Outputs must be of at least two classes; for one see BinaryFocalCrossEntropy"
            raise ValueError(error_message(rule, shape=outputs))
        if isinstance(self.alpha, list) and len(self.alpha) != outputs[-1]:
            rule = f"`alpha` must have a factor for each of {outputs[-1]} classes"
            raise ValueError(error_message(rule, alpha=self.alpha))
        return super().match(outputs, targets)

    @property
    def fuses_with(self) -> type | None:
        """The softmax."""
        plain = type(self) is FocalCrossEntropy and not self.from_logits
        return activations.Softmax if plain and self.axis == -1 else None

    def _weighed(self, p: np.ndarray, t: np.ndarray) -> np.ndarray:
        """α t, as rows."""
        rows = self._rows(p, t)
        return rows if self.alpha is None else rows * np.asarray(self.alpha, p.dtype)

    def values(self, p, t):
        """Return the value of each row; see `Objective.values`."""
        if self.from_logits:
            return self._fused_values(p, t, np.empty_like(p))
        p = self._clip(p)
        return -(self._weighed(p, t) * power(1 - p, self.gamma) * log(p)).sum(axis=-1)

    def gradient(self, p, t):
        """Return the gradient of each row's value; see `Objective.gradient`."""
        if self.from_logits:
            q, dz = np.empty_like(p), np.empty_like(p)
            self._fused_values(p, t, q)
            self._fused_gradient(q, t, np.ones(p.shape[:-1], p.dtype), dz)
            return dz
        q = self._clip(p)
        grad = self._weighed(p, t) * _slope_times_p(q, 1 - q, self.gamma) / q
        grad[self._outside(p)] = 0
        return grad

    def _fused_values(self, z, t, p):
        kernels().softmax_forward(*(a.reshape(-1, z.shape[-1]) for a in (z, p)))
        top = z.max(axis=-1, keepdims=True)
        log_p = z - (top + log(exp(z - top).sum(axis=-1, keepdims=True)))
        weights = self._weighed(p, t) * power(_others(p), self.gamma)
        # An impossible class has -inf, which does not count where its target is 0.
        return -np.multiply(weights, log_p, out=np.zeros_like(p), where=weights != 0).sum(axis=-1)

    def _fused_gradient(self, p, t, factors, dz):
        # With g_j = p_j ∂f/∂p_j the gradient in the logits is g - p Σ g.
        g = self._weighed(p, t) * _slope_times_p(p, _others(p), self.gamma)
        g -= p * g.sum(axis=-1, keepdims=True)
        np.multiply(g, factors[..., None], out=dz)


@register()
class BinaryFocalCrossEntropy(Clipped, Elementwise):
    """-α t (1-p)^γ log p - (1-α) (1-t) p^γ log(1-p), for each element (Lin et al. 2017).

    Targets lie in [0, 1]. Outside of [epsilon, 1 - epsilon] the loss is that of the nearer end, and
    its gradient 0. Above, epsilon is at least the spacing of the dtype's numbers at 1.

    Parameters
    ----------
    gamma : float
        γ >= 0: how strongly outputs that are almost right are discounted; 0 gives the
        cross-entropy.
    alpha : float, optional
        α in [0, 1], the factor of yes; that of no is 1 - α. By default both are 1.
    epsilon : float
    from_logits : bool
        Whether the outputs are logits z, p = σ(z): without clipping.
    reduction : {'mean', 'sum', 'none'}
    """

    classifies = True

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | None = None,
        *,
        epsilon: float = 1e-11,
        from_logits: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(epsilon, reduction=reduction)
        self.gamma = check_number("gamma", gamma, "[0, inf)")
        self.alpha = None if alpha is None else check_number("alpha", alpha, "[0, 1]")
        self.from_logits = bool(from_logits)

    @property
    def threshold(self) -> float:
        """0.5, or 0 for logits."""
        return 0.0 if self.from_logits else 0.5

    def check(self, p, t):
        """Return outputs and targets as `values` takes them, or raise ValueError."""
        p, t = super().check(p, t)
        outside = ~((t >= 0) & (t <= 1))
        if outside.any():
            raise ValueError(
                error_message("Targets must lie in [0, 1]", target=t[outside][0].item())
            )
        return p, t

    def _parts(self, p: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, ...]:
        """The factors of yes and no; p, 1 - p and their logarithms."""
        yes, no = (t, 1 - t) if self.alpha is None else (self.alpha * t, (1 - self.alpha) * (1 - t))
        if self.from_logits:
            e = exp(-np.abs(p))  # can't overflow
            high, low, rest = 1 / (1 + e), e / (1 + e), log1p(e)
            positive = p >= 0
            chances = np.where(positive, high, low), np.where(positive, low, high)
            return yes, no, *chances, np.minimum(p, 0) - rest, np.minimum(-p, 0) - rest
        end = max(self.epsilon, float(np.finfo(p.dtype).eps))
        p = np.clip(p, self.epsilon, 1 - end)
        return yes, no, p, 1 - p, log(p), log1p(-p)

    def values(self, p, t):
        """Return the value of each element; see `Objective.values`."""
        yes, no, p, q, log_p, log_q = self._parts(p, t)
        return -(yes * power(q, self.gamma) * log_p + no * power(p, self.gamma) * log_q)

    def gradient(self, p, t):
        """Return the gradient of each element's value; see `Objective.gradient`."""
        yes, no, high, low, log_p, log_q = self._parts(p, t)
        # p ∂/∂p of the first part, q ∂/∂q of the second.
        first = yes * power(low, self.gamma) * (self.gamma * high * _ratio(log_p, low) - 1)
        second = no * power(high, self.gamma) * (self.gamma * low * _ratio(log_q, high) - 1)
        if self.from_logits:
            return first * low - second * high
        grad = first / high - second / low
        grad[high != p] = 0  # clipped
        return grad


def _factors(alpha: ArrayLike) -> Any:
    array = np.asarray(alpha)
    if not array.ndim:
        return check_number("alpha", alpha, "[0, inf)")
    if array.ndim > 1:
        raise ValueError(
            error_message("`alpha` must be a number, or one for each class", alpha=alpha)
        )
    return [check_number("alpha", factor, "[0, inf)") for factor in array.tolist()]


def _others(p: np.ndarray) -> np.ndarray:
    """1 - p of probabilities that sum to 1, exact where p is almost 1 too."""
    before, after = np.zeros_like(p), np.zeros_like(p)
    np.cumsum(p[..., :-1], axis=-1, out=before[..., 1:])
    np.cumsum(p[..., :0:-1], axis=-1, out=after[..., -2::-1])
    return before + after


def _ratio(log_p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """log p / (1 - p), which is -1 at p = 1."""
    return np.divide(log_p, q, out=np.full_like(q, -1), where=q != 0)


def _slope_times_p(p: np.ndarray, q: np.ndarray, gamma: float) -> np.ndarray:
    """p times the derivative of -q^γ log p, with q = 1 - p."""
    small = np.maximum(p, np.finfo(p.dtype).tiny)
    log_p = np.where(q < 0.5, log1p(-np.minimum(q, 0.5)), log(small))
    return power(q, gamma) * (gamma * p * _ratio(log_p, q) - 1)
