"""Cross-entropies, of probabilities and of logits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from npdl import activations
from npdl._checks import check_int, check_number, error_message
from npdl._elementary import exp, log, log1p
from npdl._ext import kernels
from npdl.objectives.base import Counted, Objective, register
from npdl.objectives.kinds import Clipped, Elementwise, Rowwise


class LogitsCache(NamedTuple):
    """The data that `FusedLoss.backward_logits` needs."""

    probabilities: np.ndarray
    targets: np.ndarray
    counted: Counted


class FusedLoss(Objective):
    """A loss that also runs together with the activation before it, see `Objective.fuses_with`.

    A subclass defines `_fused_values` and `_fused_gradient`.
    """

    def forward_logits(
        self,
        logits: ArrayLike,
        targets: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        *,
        out: np.ndarray | None = None,
    ) -> tuple[Any, np.ndarray, LogitsCache]:
        """Return the loss of the activation of `logits`.

        Parameters
        ----------
        logits : array_like, of the shape of the outputs
        targets, sample_weight, mask : array_like
            As in `forward`.
        out : ndarray, shape and dtype of `logits`, optional
            Array for the probabilities; a new one by default.

        Returns
        -------
        loss : float or ndarray
            As in `forward`.
        probabilities : ndarray, shape of `logits`
        cache : LogitsCache
            For `backward_logits`.
        """
        z, t = self._matched(logits, targets)
        counted = self.counted(z, t, sample_weight, mask)
        kept = counted.kept
        if kept is not None:  # items that do not count may hold anything
            t = np.where(kept[(..., *[None] * (t.ndim - kept.ndim))], t, 0)
        t = self.check(z, t)[1]
        p = self._output_array(out, z)
        values = self._fused_values(z, t, p)
        if kept is not None:
            values = values[kept]
        cache = LogitsCache(p, t, counted)
        loss = self._reduced(values, counted, self.item_shape(z))
        return loss, _delivered(self.arrange_back(p), out), cache

    def backward_logits(self, cache: LogitsCache, *, out: np.ndarray | None = None) -> np.ndarray:
        """Return the gradient of the loss in the logits.

        Parameters
        ----------
        cache : LogitsCache
            From `forward_logits`.
        out : ndarray, shape and dtype of the probabilities, optional
            Array for the gradient; a new one by default.
        """
        p, t, counted = cache
        factors = np.empty(self.item_shape(p), p.dtype)
        factors[...] = self._share(counted)
        if counted.weights is not None:
            factors *= counted.weights
        dz = self._output_array(out, p)
        self._fused_gradient(p, t, factors, dz)
        if counted.kept is not None:
            dz[~counted.kept] = 0  # nan times 0 is nan
        return _delivered(self.arrange_back(dz), out)

    def _output_array(self, out: np.ndarray | None, like: np.ndarray) -> np.ndarray:
        """`out`, if there is one with its axes as in arranged outputs; else a new array."""
        if out is not None and self.arrange(out, out)[0] is out:
            return out
        return np.empty(like.shape, like.dtype)

    def _fused_values(self, z: np.ndarray, t: np.ndarray, p: np.ndarray) -> np.ndarray:
        """Fill `p` with the probabilities, and return the value of each item."""
        raise NotImplementedError

    def _fused_gradient(
        self, p: np.ndarray, t: np.ndarray, factors: np.ndarray, dz: np.ndarray
    ) -> None:
        """Fill `dz` with the gradient, that of each item times its factor."""
        raise NotImplementedError


def _delivered(array: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """`array`, in `out` if there is one."""
    if out is None or out is array:
        return array
    out[...] = array
    return out


@register("BCE")
class BinaryCrossEntropy(FusedLoss, Clipped, Elementwise):
    """-t log p - (1-t) log(1-p), for each element.

    Targets lie in [0, 1]. Outside of [epsilon, 1 - epsilon] the loss is that of the nearer end, and
    its gradient 0. Above, epsilon is at least the spacing of the dtype's numbers at 1.

    `forward_logits` and `backward_logits` fuse the loss with the sigmoid before it: they take
    logits, need no clipping, and their gradient is p - t, which does not vanish where the sigmoid
    is saturated. A model whose last layer is a `Dense` with a sigmoid is trained through them.

    Parameters
    ----------
    epsilon : float
    from_logits : bool
        Whether the outputs are logits z, p = σ(z): without clipping, and with the gradient p - t.
    label_smoothing : float
        s in [0, 1): targets become (1-s) t + ½ s.
    reduction : {'mean', 'sum', 'none'}
    """

    def __init__(
        self,
        epsilon: float = 1e-11,
        *,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(epsilon, reduction=reduction)
        self.from_logits = bool(from_logits)
        self.label_smoothing = check_number("label_smoothing", label_smoothing, "[0, 1)")

    def check(self, p, t):
        """Return outputs and targets as `values` takes them, or raise ValueError."""
        p, t = super().check(p, t)
        outside = None  # an array only if something may be: most targets are right
        if t.size and not (t.min() >= 0 and t.max() <= 1):
            outside = (t < 0) | (t > 1)
        if outside is not None and outside.any():
            raise ValueError(
                error_message("Targets must lie in [0, 1]", target=t[outside][0].item())
            )
        s = self.label_smoothing
        return p, (1 - s) * t + 0.5 * s if s else t

    classifies = True

    @property
    def threshold(self) -> float:
        """0.5, or 0 for logits."""
        return 0.0 if self.from_logits else 0.5

    @property
    def fuses_with(self) -> type | None:
        """The sigmoid."""
        plain = type(self) is BinaryCrossEntropy and not self.from_logits
        return activations.Sigmoid if plain else None

    def _ends(self, p: np.ndarray) -> tuple[float, float]:
        return self.epsilon, 1 - max(self.epsilon, float(np.finfo(p.dtype).eps))

    def values(self, p, t):
        """Return the value of each element; see `Objective.values`."""
        if self.from_logits:
            return _logit_values(p, t, _decay(p))
        p = np.clip(p, *self._ends(p))
        return -(t * log(p) + (1 - t) * log1p(-p))

    def gradient(self, p, t):
        """Return the gradient of each element's value; see `Objective.gradient`."""
        if self.from_logits:
            q = np.empty_like(p)
            _to_sigmoid(p, _decay(p), q)
            return q - t
        low, high = self._ends(p)
        q = np.clip(p, low, high)
        grad = (q - t) / (q * (1 - q))
        grad[(p < low) | (p > high)] = 0
        return grad

    def _fused_values(self, z, t, p):
        decay = _decay(z)
        _to_sigmoid(z, decay, p)
        return _logit_values(z, t, decay)

    def _fused_gradient(self, p, t, factors, dz):
        np.subtract(p, t, out=dz)
        dz *= factors


def _decay(z: np.ndarray) -> np.ndarray:
    """e^-|z|, which can't overflow."""
    return exp(-np.abs(z))


def _to_sigmoid(z: np.ndarray, decay: np.ndarray, p: np.ndarray) -> None:
    """p = 1 / (1 + e^-z)."""
    np.maximum(z >= 0, decay, out=p)  # 1, or e^z; np.where takes fifteen times as long
    p /= 1 + decay


def _logit_values(z: np.ndarray, t: np.ndarray, decay: np.ndarray) -> np.ndarray:
    """log(1 + e^z) - t z."""
    values = np.maximum(z, 0) - t * z
    values += log1p(decay)
    return values


@register("SCCE", "categorical_cross_entropy", "sparse_categorical_cross_entropy", "cross_entropy")
class SoftmaxCategoricalCrossEntropy(FusedLoss, Clipped, Rowwise):
    """-Σ_j t_j log p_j, for each row of probabilities.

    Targets are rows like the outputs, or class numbers. Outside of [epsilon, 1] the loss is that of
    the nearer end, and its gradient 0. `forward_logits` and `backward_logits` fuse the loss with
    the softmax before it: they take logits, need no clipping, and their gradient is p - t. A model
    whose last layer is a softmax is trained through them.

    Parameters
    ----------
    epsilon : float
    from_logits : bool
        Whether the outputs are logits z, p = softmax(z): for a network without a softmax.
    label_smoothing : float
        s in [0, 1): targets become (1-s) t + s/K (Szegedy et al. 2016).
    ignore_class : int, optional
        Items with this class number do not count, nor in the number that the mean divides by. It
        may lie outside of [0, K), such as -1.
    axis : int
        The axis of the classes, where 0 is that of the samples: 1 for images (N, K, H, W), whose
        class numbers and weights then have shape (N, H, W). Metrics are handed outputs whose
        classes are moved to the last axis.
    reduction : {'mean', 'sum', 'none'}
    """

    def __init__(
        self,
        epsilon: float = 1e-11,
        *,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        ignore_class: int | None = None,
        axis: int = -1,
        reduction: str = "mean",
    ) -> None:
        super().__init__(epsilon, reduction=reduction)
        self.from_logits = bool(from_logits)
        self.axis = check_int("axis", axis, low=-32)
        self.label_smoothing = check_number("label_smoothing", label_smoothing, "[0, 1)")
        if ignore_class is not None:
            ignore_class = check_int("ignore_class", ignore_class, low=-(2**62))
        self.ignore_class = ignore_class

    classifies = True

    @property
    def fuses_with(self) -> type | None:
        """The softmax."""
        plain = type(self) is SoftmaxCategoricalCrossEntropy and not self.from_logits
        plain &= self.axis == -1
        return activations.Softmax if plain else None

    def ignored(self, p, t):
        """Return which class numbers are `ignore_class`; see `Objective.ignored`."""
        if self.ignore_class is None or t.ndim == p.ndim:
            return None
        return t == self.ignore_class

    def check(self, p, t):
        """Return outputs, and rows or int64 class numbers; see `Objective.check`."""
        p, t = super().check(p, t)
        s = self.label_smoothing
        return p, (1 - s) * self._rows(p, t) + s / p.shape[-1] if s else t

    def values(self, p, t):
        """Return the value of each row; see `Objective.values`."""
        if self.from_logits:
            return self._fused_values(p, t, np.empty_like(p))
        if t.ndim < p.ndim:
            chosen = np.take_along_axis(p, t[..., None], -1)[..., 0]
            return -log(self._clip(chosen))
        return -(t * log(self._clip(p))).sum(axis=-1)

    def gradient(self, p, t):
        """Return the gradient of each row's value; see `Objective.gradient`."""
        if self.from_logits:
            q, dz = np.empty_like(p), np.empty_like(p)
            self._fused_values(p, t, q)
            self._fused_gradient(q, t, np.ones(p.shape[:-1], p.dtype), dz)
            return dz
        if t.ndim < p.ndim:
            grad = np.zeros_like(p)
            chosen = np.take_along_axis(p, t[..., None], -1)
            np.put_along_axis(grad, t[..., None], -1 / self._clip(chosen), -1)
        else:
            grad = -t / self._clip(p)
        grad[self._outside(p)] = 0
        return grad

    def _fused_values(self, z, t, p):
        loss = np.empty(z.shape[:-1], z.dtype)
        kernels().softmax_xent_forward(*by_rows(z, t, p, loss))
        return loss

    def _fused_gradient(self, p, t, factors, dz):
        kernels().softmax_xent_backward(*by_rows(p, t, factors, dz))


def by_rows(p: np.ndarray, t: np.ndarray, *others: np.ndarray) -> Iterable[np.ndarray]:
    """The same arrays with one axis of items, as the kernels take them; views."""
    arrays = p, t, *others
    if p.ndim == 2:
        return arrays
    n = p.shape[:-1]
    return [a.reshape(-1) if a.shape == n else a.reshape(-1, p.shape[-1]) for a in arrays]
