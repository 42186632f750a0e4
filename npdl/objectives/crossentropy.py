"""Cross-entropies, of probabilities and of logits."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from npdl._checks import complaint
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
    reduction : {'mean', 'sum', 'none'}
    """

    def _check(self, outputs, targets):
        p, t = super()._check(outputs, targets)
        outside = (t < 0) | (t > 1)
        if outside.any():
            raise ValueError(complaint("Targets must lie in [0, 1]", target=t[outside][0].item()))
        return p, t

    def _ends(self, p: np.ndarray) -> tuple[float, float]:
        return self.epsilon, 1 - max(self.epsilon, float(np.finfo(p.dtype).eps))

    def _values(self, p, t):
        p = np.clip(p, *self._ends(p))
        return -(t * np.log(p) + (1 - t) * np.log1p(-p))

    def _slopes(self, p, t):
        low, high = self._ends(p)
        q = np.clip(p, low, high)
        grad = (q - t) / (q * (1 - q))
        grad[(p < low) | (p > high)] = 0
        return grad


class LogitsCache(NamedTuple):
    """What `SoftmaxCategoricalCrossEntropy.backward_logits` needs."""

    probabilities: np.ndarray
    targets: np.ndarray
    shape: tuple[int, ...]


@register("SCCE")
class SoftmaxCategoricalCrossEntropy(Clipped, Rowwise):
    """-Σ_j t_j log p_j, for each row of probabilities.

    Targets are rows like the outputs, or class numbers. Outside of [epsilon, 1] the loss is that of
    the nearer end, and its gradient 0. `forward_logits` and `backward_logits` fuse the loss with
    the softmax before it: they take logits, need no clipping, and their gradient is p - t.

    Parameters
    ----------
    epsilon : float
    reduction : {'mean', 'sum', 'none'}
    """

    def _values(self, p, t):
        if t.ndim < p.ndim:
            chosen = np.take_along_axis(p, t[..., None], -1)[..., 0]
            return -np.log(self._clip(chosen))
        return -(t * np.log(self._clip(p))).sum(axis=-1)

    def _slopes(self, p, t):
        if t.ndim < p.ndim:
            grad = np.zeros_like(p)
            chosen = np.take_along_axis(p, t[..., None], -1)
            np.put_along_axis(grad, t[..., None], -1 / self._clip(chosen), -1)
        else:
            grad = -t / self._clip(p)
        grad[(p < self.epsilon) | (p > 1)] = 0
        return grad

    def _clip(self, p: np.ndarray) -> np.ndarray:
        return np.clip(p, self.epsilon, 1)

    def forward_logits(
        self, logits: ArrayLike, targets: ArrayLike
    ) -> tuple[Any, np.ndarray, LogitsCache]:
        """Return the loss of softmax(logits).

        Parameters
        ----------
        logits : array_like, shape (N, ..., K)
        targets : array_like
            As in `forward`.

        Returns
        -------
        loss : float or ndarray
            As in `forward`.
        probabilities : ndarray, shape of `logits`
        cache : LogitsCache
            For `backward_logits`.
        """
        z, t = self._check(logits, targets)
        rows = z.reshape(-1, z.shape[-1])
        t = t.reshape(-1) if t.ndim < z.ndim else t.reshape(rows.shape)
        p, loss = np.empty_like(rows), np.empty(len(rows), rows.dtype)
        kernels().softmax_xent_forward(rows, t, p, loss)
        value = self._reduce(loss.reshape(z.shape[:-1]))
        return value, p.reshape(z.shape), LogitsCache(p, t, z.shape)

    def backward_logits(self, cache: LogitsCache) -> np.ndarray:
        """Return the gradient of the loss in the logits.

        Parameters
        ----------
        cache : LogitsCache
            From `forward_logits`.
        """
        p = cache.probabilities
        dloss = np.full(len(p), self._weight(len(p)), p.dtype)
        dz = np.empty_like(p)
        kernels().softmax_xent_backward(p, cache.targets, dloss, dz)
        return dz.reshape(cache.shape)
