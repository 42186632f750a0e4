"""Cross-entropies, of probabilities and of logits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from npdl._checks import check_int, check_number, complaint
from npdl._ext import kernels
from npdl.objectives.base import Clipped, Elementwise, Rowwise, register


@register("BCE")
class BinaryCrossEntropy(Clipped, Elementwise):
    """-t log p - (1-t) log(1-p), for each element.

    Targets lie in [0, 1]. Outside of [epsilon, 1 - epsilon] the loss is that of the nearer end, and
    its gradient 0. Above, epsilon is at least the spacing of the dtype's numbers at 1.

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

    def _check(self, outputs, targets):
        p, t = super()._check(outputs, targets)
        outside = (t < 0) | (t > 1)
        if outside.any():
            raise ValueError(complaint("Targets must lie in [0, 1]", target=t[outside][0].item()))
        s = self.label_smoothing
        return p, (1 - s) * t + 0.5 * s if s else t

    def _ends(self, p: np.ndarray) -> tuple[float, float]:
        return self.epsilon, 1 - max(self.epsilon, float(np.finfo(p.dtype).eps))

    def _values(self, p, t):
        if self.from_logits:
            # log(1 + e^z) - t z, with an exponential that can't overflow.
            return np.maximum(p, 0) - t * p + np.log1p(np.exp(-np.abs(p)))
        p = np.clip(p, *self._ends(p))
        return -(t * np.log(p) + (1 - t) * np.log1p(-p))

    def _slopes(self, p, t):
        if self.from_logits:
            e = np.exp(-np.abs(p))
            return np.where(p >= 0, 1, e) / (1 + e) - t
        low, high = self._ends(p)
        q = np.clip(p, low, high)
        grad = (q - t) / (q * (1 - q))
        grad[(p < low) | (p > high)] = 0
        return grad


class LogitsCache(NamedTuple):
    """What `SoftmaxCategoricalCrossEntropy.backward_logits` needs."""

    probabilities: np.ndarray
    targets: np.ndarray
    factors: float | np.ndarray


@register("SCCE", "categorical_cross_entropy", "sparse_categorical_cross_entropy", "cross_entropy")
class SoftmaxCategoricalCrossEntropy(Clipped, Rowwise):
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
    reduction : {'mean', 'sum', 'none'}
    """

    def __init__(
        self,
        epsilon: float = 1e-11,
        *,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        ignore_class: int | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(epsilon, reduction=reduction)
        self.from_logits = bool(from_logits)
        self.label_smoothing = check_number("label_smoothing", label_smoothing, "[0, 1)")
        if ignore_class is not None:
            ignore_class = check_int("ignore_class", ignore_class, low=-(2**62))
        self.ignore_class = ignore_class

    def _ignored(self, p, targets):
        if self.ignore_class is None or np.ndim(targets) == p.ndim:
            return None
        return np.asarray(targets) == self.ignore_class

    def _check(self, outputs, targets):
        if self.ignore_class is not None:
            ignored = self._ignored(np.asarray(outputs), targets)
            targets = targets if ignored is None else np.where(ignored, 0, targets)
        p, t = super()._check(outputs, targets)
        s = self.label_smoothing
        return p, (1 - s) * self._rows(p, t) + s / p.shape[-1] if s else t

    def _values(self, p, t):
        if self.from_logits:
            return self._softmax(p, t)[1]
        if t.ndim < p.ndim:
            chosen = np.take_along_axis(p, t[..., None], -1)[..., 0]
            return -np.log(self._clip(chosen))
        return -(t * np.log(self._clip(p))).sum(axis=-1)

    def _slopes(self, p, t):
        if self.from_logits:
            return self.backward_logits(LogitsCache(self._softmax(p, t)[0], t, 1.0))
        if t.ndim < p.ndim:
            grad = np.zeros_like(p)
            chosen = np.take_along_axis(p, t[..., None], -1)
            np.put_along_axis(grad, t[..., None], -1 / self._clip(chosen), -1)
        else:
            grad = -t / self._clip(p)
        grad[self._outside(p)] = 0
        return grad

    @staticmethod
    def _softmax(
        z: np.ndarray, t: np.ndarray, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities, and the loss of each item."""
        p = np.empty(z.shape, z.dtype) if out is None else out
        loss = np.empty(z.shape[:-1], z.dtype)
        kernels().softmax_xent_forward(*by_rows(z, t, p, loss))
        return p, loss

    def forward_logits(
        self,
        logits: ArrayLike,
        targets: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        out: np.ndarray | None = None,
    ) -> tuple[Any, np.ndarray, LogitsCache]:
        """Return the loss of softmax(logits).

        Parameters
        ----------
        logits : array_like, shape (N, ..., K)
        targets, sample_weight : array_like
            As in `forward`.
        out : ndarray, shape and dtype of `logits`, optional
            Where the probabilities go; a new array by default.

        Returns
        -------
        loss : float or ndarray
            As in `forward`.
        probabilities : ndarray, shape of `logits`
        cache : LogitsCache
            For `backward_logits`.
        """
        z, t = self._check(logits, targets)
        factors = self._factors(z, targets, sample_weight)
        p, loss = self._softmax(z, t, out)
        return self._reduce(loss, factors), p, LogitsCache(p, t, factors)

    def backward_logits(self, cache: LogitsCache, *, out: np.ndarray | None = None) -> np.ndarray:
        """Return the gradient of the loss in the logits.

        Parameters
        ----------
        cache : LogitsCache
            From `forward_logits`.
        out : ndarray, shape and dtype of the probabilities, optional
            Where it goes; a new array by default.
        """
        p, t, factors = cache
        dloss = np.empty(p.shape[:-1], p.dtype)
        dz = np.empty(p.shape, p.dtype) if out is None else out
        dloss[...] = factors
        kernels().softmax_xent_backward(*by_rows(p, t, dloss, dz))
        if isinstance(factors, np.ndarray):
            dz[dloss == 0] = 0  # nan times 0 is nan
        return dz


def by_rows(p: np.ndarray, t: np.ndarray, *others: np.ndarray) -> Iterable[np.ndarray]:
    """The same arrays with one axis of items, as the kernels take them; views."""
    arrays = p, t, *others
    if p.ndim == 2:
        return arrays
    n = p.shape[:-1]
    return [a.reshape(-1) if a.shape == n else a.reshape(-1, p.shape[-1]) for a in arrays]
