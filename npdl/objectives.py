"""Losses: the value, and its exact gradient in the outputs of the network.

Letters: N samples, K classes. An *item* is what a loss gives one value for: for
`SoftmaxCategoricalCrossEntropy` and `HellingerDistance` a row of the outputs (a sample, or one step
of a sample), for `MeanSquaredError` and `BinaryCrossEntropy` an element. The mean over all items is
taken here, and nowhere else.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from npdl._checks import check_choice, check_number, complaint, float_array, label_array
from npdl._ext import kernels
from npdl._registry import Configurable, Registry


class Objective(Configurable):
    """Base class of the losses.

    A subclass defines `_values` and `_slopes`, or `forward` and `backward` themselves.

    Parameters
    ----------
    reduction : {'mean', 'sum', 'none'}
        What `forward` returns: the mean or the sum over all items, or their values one by one.
    """

    reduction: str = "mean"

    def __init__(self, *, reduction: str = "mean") -> None:
        self.reduction = check_choice("reduction", reduction, ("mean", "sum", "none"))

    def forward(self, outputs: ArrayLike, targets: ArrayLike) -> Any:
        """Return the loss.

        Parameters
        ----------
        outputs : array_like
            What the network returned.
        targets : array_like
            What it should have returned, see the class for the forms.

        Returns
        -------
        float, or ndarray with a value for each item where `reduction` is 'none'
        """
        return self._reduce(self._values(*self._check(outputs, targets)))

    def backward(self, outputs: ArrayLike, targets: ArrayLike) -> np.ndarray:
        """Return the gradient of the loss in the outputs, an array like them.

        Parameters
        ----------
        outputs, targets : array_like
            As in `forward`. Where `reduction` is 'none': the gradient of each item's own value.
        """
        p, t = self._check(outputs, targets)
        grad = self._slopes(p, t)
        grad *= self._weight(self._items(p))
        return grad

    def _check(self, outputs: ArrayLike, targets: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Both as C-ordered arrays that fit each other."""
        raise NotImplementedError

    def _values(self, p: np.ndarray, t: np.ndarray) -> np.ndarray:
        """The value of each item."""
        raise NotImplementedError

    def _slopes(self, p: np.ndarray, t: np.ndarray) -> np.ndarray:
        """The gradient of each item's value, a new array like `p`."""
        raise NotImplementedError

    def _items(self, p: np.ndarray) -> int:
        return p.size

    def _weight(self, items: int) -> float:
        """The weight of one item in the loss."""
        return 1 / items if self.reduction == "mean" else 1.0

    def _reduce(self, values: np.ndarray) -> Any:
        if self.reduction == "none":
            return values
        # Summed in float64, so that the mean of many float32 values is not off by their number.
        return float(values.sum(dtype=np.float64) * self._weight(values.size))


class _Elementwise(Objective):
    """An item is one element; outputs (N, ..., 1) also take targets without the last axis."""

    def _check(self, outputs, targets):
        p, t = _arrays(outputs, targets)
        if (*t.shape, 1) == p.shape:
            t = t[..., None]
        if t.shape != p.shape:
            raise ValueError(complaint(f"Targets must have shape {p.shape}", shape=t.shape))
        return p, np.asarray(t, p.dtype, order="C")


class _Rowwise(Objective):
    """An item is a row; targets are rows too, or class numbers."""

    def _check(self, outputs, targets):
        p, t = _arrays(outputs, targets)
        if p.ndim < 2:
            raise ValueError(complaint("Outputs must have shape (N, ..., K)", shape=p.shape))
        if t.shape == p.shape:
            return p, np.asarray(t, p.dtype, order="C")
        if t.shape == p.shape[:-1]:
            return p, label_array(t, p.shape[-1])
        rule = f"Targets must have shape {p.shape}, or {p.shape[:-1]} for class numbers"
        raise ValueError(complaint(rule, shape=t.shape))

    def _items(self, p):
        return p.size // p.shape[-1]


class _Clipped(Objective):
    """Takes logarithms, of outputs that are kept at least `epsilon` away from 0."""

    def __init__(self, epsilon: float = 1e-11, *, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.epsilon = check_number("epsilon", epsilon, "(0, 0.5)")


def _arrays(outputs: ArrayLike, targets: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    p, t = float_array(outputs, "outputs"), np.asarray(targets)
    if not p.size:
        raise ValueError(complaint("Outputs must hold at least one value", shape=p.shape))
    if t.dtype.kind not in "fiub":
        raise TypeError(complaint("Targets must be numbers", dtype=t.dtype.name))
    return p, t


_registry = Registry("objective", Objective)
register = _registry.register


@register("MSE")
class MeanSquaredError(_Elementwise):
    """(p - t)², for each element.

    Parameters
    ----------
    reduction : {'mean', 'sum', 'none'}
    """

    def _values(self, p, t):
        return np.square(p - t)

    def _slopes(self, p, t):
        return 2 * (p - t)


@register("BCE")
class BinaryCrossEntropy(_Clipped, _Elementwise):
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
class SoftmaxCategoricalCrossEntropy(_Clipped, _Rowwise):
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


#: In `HellingerDistance` a probability counts as at least this much: its slope at 0 is infinite.
_FLOOR = 1e-30


@register("HeD")
class HellingerDistance(_Rowwise):
    """‖√p - √t‖₂ / √2, for each row of probabilities.

    Targets are rows like the outputs, not negative, or class numbers. An output below 1e-30 counts
    as 1e-30, with gradient 0; so is the gradient of a row that equals its target, where the
    distance has a kink.

    Parameters
    ----------
    reduction : {'mean', 'sum', 'none'}
    """

    def _check(self, outputs, targets):
        p, t = super()._check(outputs, targets)
        if t.ndim < p.ndim:
            t = (t[..., None] == np.arange(p.shape[-1])).astype(p.dtype)
        if (t < 0).any():
            raise ValueError(complaint("Targets must be >= 0", target=t[t < 0][0].item()))
        return p, np.maximum(t, _FLOOR)

    def _values(self, p, t):
        difference = np.sqrt(np.maximum(p, _FLOOR)) - np.sqrt(t)
        return np.sqrt(0.5 * np.square(difference).sum(axis=-1))

    def _slopes(self, p, t):
        # h² = ½ Σ (√p - √t)², so dh/dp = (1 - √t/√p) / (4 h).
        root = np.sqrt(np.maximum(p, _FLOOR))
        distance = self._values(p, t)[..., None]
        grad = np.zeros_like(p)
        moving = (distance > 0) & (p >= _FLOOR)
        np.divide(1 - np.sqrt(t) / root, 4 * distance, out=grad, where=moving)
        return grad


MSE = MeanSquaredError
BCE = BinaryCrossEntropy
SCCE = SoftmaxCategoricalCrossEntropy
HeD = HellingerDistance


def get(objective: Any) -> Objective:
    """Return a loss by name.

    Parameters
    ----------
    objective : str, Objective, class or dict
        'mse', 'MeanSquaredError', 'softmax_categorical_cross_entropy', ...; an instance is returned
        as it is; a dict holds the name and the arguments.

    Raises
    ------
    ValueError
        If the name is unknown; the message lists the valid ones.
    """
    return _registry.get(objective)
