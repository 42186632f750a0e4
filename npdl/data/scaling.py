"""Parts for training and test, and values of one scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl._checks import check_number, complaint, float_array
from npdl.data._checks import as_arrays
from npdl.data.batches import take
from npdl.utils.random import get_rng

#: How many values `Standardizer.fit` converts at a time.
_PART = 1 << 20


def train_test_split(
    *arrays: ArrayLike,
    test_size: float | int = 0.25,
    shuffle: bool = True,
    stratify: ArrayLike | None = None,
    seed: int | None = None,
) -> list[NDArray]:
    """Divide arrays into a part for training and one for testing.

    Parameters
    ----------
    *arrays : array_like, shape (N, ...)
    test_size : float or int
        The fraction of samples in the test part, rounded up; or, if an int, their number.
    shuffle : bool
        Whether the parts are random. Otherwise the test part is the end.
    stratify : array_like of shape (N,), optional
        Class numbers: both parts then have the same shares of each class, as far as that goes.
    seed : int, optional
        For the same parts each time. Otherwise drawn from ``npdl.utils.get_rng()``.

    Returns
    -------
    list of ndarray
        ``x_train, x_test, y_train, y_test``: the two parts of each array, copied.

    Examples
    --------
    >>> import numpy as np
    >>> from npdl.data import train_test_split
    >>> train, test = train_test_split(np.arange(8), test_size=0.25, shuffle=False)
    >>> test.tolist()
    [6, 7]
    """
    parts = as_arrays(arrays)
    n = len(parts[0])
    n_test = _count(test_size, n)
    rng = get_rng() if seed is None else np.random.default_rng(seed)
    if stratify is not None:
        if not shuffle:
            raise ValueError("`stratify` needs shuffle=True. Received: shuffle=False")
        held_out = _stratified(as_arrays([*parts, stratify])[-1], n_test, rng)
        order = rng.permutation(n)
        train, test = order[~held_out[order]], order[held_out[order]]
    else:
        order = rng.permutation(n) if shuffle else np.arange(n)
        train, test = order[: n - n_test], order[n - n_test :]
    return [take(array, index) for array in parts for index in (train, test)]


def _count(test_size: float | int, n: int) -> int:
    rule = "`test_size` must be a fraction in (0, 1) or a number of samples"
    if isinstance(test_size, bool) or not isinstance(test_size, float | int | np.number):
        raise TypeError(complaint(rule, test_size=test_size))
    whole = isinstance(test_size, int | np.integer)
    if not whole and not 0 < test_size < 1:
        raise ValueError(complaint(rule, test_size=test_size))
    count = int(test_size) if whole else int(np.ceil(float(test_size) * n))
    if not 0 < count < n:
        rule = f"`test_size` must divide {n} samples into two parts"
        raise ValueError(complaint(rule, test_size=test_size))
    return count


def _stratified(classes: NDArray, n_test: int, rng: np.random.Generator) -> NDArray:
    """Which samples to hold out, the same share of each class."""
    if classes.ndim != 1:
        raise ValueError(complaint("`stratify` must have shape (N,)", shape=classes.shape))
    values, number = np.unique(classes, return_inverse=True)
    share = np.bincount(number) * n_test / len(classes)
    counts = share.astype(int)
    # What rounding down left over goes to the classes that lost most.
    most = np.argsort(counts - share, kind="stable")[: n_test - counts.sum()]
    counts[most] += 1
    held_out = np.zeros(len(classes), bool)
    for k in range(len(values)):
        held_out[rng.permutation(np.flatnonzero(number == k))[: counts[k]]] = True
    return held_out


class Standardizer:
    """Shift and scale values so that their mean is 0 and their standard deviation 1.

    Parameters
    ----------
    axis : int or tuple of int
        The axes that mean and deviation are taken over, 0 among them. The default treats each
        feature by itself; ``(0, 2, 3)`` each channel of images (N, C, H, W).
    epsilon : float
        A feature whose standard deviation is not greater is constant, and only shifted.

    Attributes
    ----------
    mean, std : ndarray
        Set by `fit`, of the shape of one sample, with 1 for the axes averaged.

    Examples
    --------
    >>> import numpy as np
    >>> from npdl.data import Standardizer
    >>> scale = Standardizer().fit(np.array([[1.0, 5.0], [3.0, 5.0]]))
    >>> scale(np.array([[3.0, 6.0]])).tolist()
    [[1.0, 1.0]]
    """

    mean: NDArray | None = None
    std: NDArray | None = None

    def __init__(self, axis: int | tuple[int, ...] = 0, epsilon: float = 1e-7) -> None:
        self.axis = (axis,) if isinstance(axis, int) else tuple(axis)
        if 0 not in self.axis:
            raise ValueError(complaint("`axis` must include 0, the samples", axis=axis))
        self.epsilon = check_number("epsilon", epsilon, "[0, inf)")

    def fit(self, X: ArrayLike) -> Standardizer:
        """Take mean and deviation of the training data, and return this object."""
        x = np.asarray(X)
        if x.dtype.kind not in "fiub":
            raise TypeError(complaint("`X` must be an array of numbers", dtype=x.dtype.name))
        if not x.size or not x.ndim:
            raise ValueError(complaint("`X` must hold at least one sample", shape=x.shape))
        mean = self._mean(x, lambda part: part)
        std = np.sqrt(self._mean(x, lambda part: (part - mean) ** 2))
        if not np.isfinite(std).all():
            raise ValueError("`X` must be finite. Received: values that are nan or infinite")
        std[std <= self.epsilon * np.maximum(np.abs(mean), 1)] = 1
        dtype = float_array(x[:1]).dtype
        self.mean, self.std = mean.astype(dtype), std.astype(dtype)
        return self

    def __call__(self, X: ArrayLike) -> NDArray:
        """Return `X` shifted and scaled, as a new array."""
        mean, std = self._fitted()
        return (float_array(X, "X") - mean) / std

    transform = __call__

    def fit_transform(self, X: ArrayLike) -> NDArray:
        """Return `X` shifted and scaled by its own mean and deviation."""
        return self.fit(X)(X)

    def inverse(self, X: ArrayLike) -> NDArray:
        """Return the values that `X` was made of."""
        mean, std = self._fitted()
        return float_array(X, "X") * std + mean

    def _mean(self, x: NDArray, function: Callable[[NDArray], NDArray]) -> NDArray:
        """Mean of a function of the values, in float64; a part of a large array at a time."""
        step = max(1, _PART * len(x) // x.size)
        parts = (function(x[i : i + step].astype(np.float64)) for i in range(0, len(x), step))
        total = sum(part.sum(self.axis, keepdims=True) for part in parts)
        return (total * (total.size / x.size))[0]

    def _fitted(self) -> tuple[Any, Any]:
        if self.mean is None or self.std is None:
            raise RuntimeError("fit must be called before the data can be scaled.")
        return self.mean, self.std
