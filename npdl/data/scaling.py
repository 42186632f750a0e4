"""Splits for training and test, and scaling of values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl._checks import check_number, error_message, float_array, number_array
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
    """Split arrays into a training part and a test part.

    Parameters
    ----------
    *arrays : array_like, shape (N, ...)
    test_size : float or int
        The fraction of samples in the test part, rounded up; or, if an int, their number.
    shuffle : bool
        Whether the parts are random. Otherwise the test part is the last samples.
    stratify : array_like of shape (N,), optional
        Class numbers: both parts then have the same share of each class, as nearly as possible.
    seed : int, optional
        For the same parts every time. Otherwise drawn from ``npdl.utils.get_rng()``.

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
        if np.ndim(stratify) != 1:
            rule = f"`stratify` must have shape (N,), a class for each of {n} samples"
            raise ValueError(error_message(rule, shape=np.shape(stratify)))
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
        raise TypeError(error_message(rule, test_size=test_size))
    whole = isinstance(test_size, int | np.integer)
    if not whole and not 0 < test_size < 1:
        raise ValueError(error_message(rule, test_size=test_size))
    count = int(test_size) if whole else int(np.ceil(float(test_size) * n))
    if not 0 < count < n:
        rule = f"`test_size` must divide {n} samples into two parts"
        raise ValueError(error_message(rule, test_size=test_size))
    return count


def _stratified(classes: NDArray, n_test: int, rng: np.random.Generator) -> NDArray:
    """Which samples to hold out, the same share of each class."""
    values, number = np.unique(classes, return_inverse=True)
    share = np.bincount(number) * n_test / len(classes)
    counts = share.astype(int)
    # Samples left over by rounding down go to the classes that lost most.
    most = np.argsort(counts - share, kind="stable")[: n_test - counts.sum()]
    counts[most] += 1
    held_out = np.zeros(len(classes), bool)
    for k in range(len(values)):
        held_out[rng.permutation(np.flatnonzero(number == k))[: counts[k]]] = True
    return held_out


class Standardizer:
    """Shift and scale values so that their mean is 0 and their standard deviation 1.

    Values may have any magnitude and offset, 64-bit integers included: everything is computed from
    the differences to the first sample. A feature that is constant, up to rounding, is only
    shifted.

    Parameters
    ----------
    axis : int or tuple of int
        The axes that mean and deviation are taken over, 0 among them. The default treats each
        feature separately; ``(0, 2, 3)`` each channel of images (N, C, H, W).
    epsilon : float
        A feature whose standard deviation is not larger is only shifted too.

    Attributes
    ----------
    mean, std : ndarray
        Set by `fit`, of the shape of one sample, with 1 for the axes averaged. float64 for data of
        float64 and for integers of 32 and 64 bits.

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
    #: mean = origin + offset, where the first is a number of the data, kept as it is.
    _origin: NDArray
    _offset: NDArray
    _exact_std: NDArray

    def __init__(self, axis: int | tuple[int, ...] = 0, epsilon: float = 0.0) -> None:
        self.axis = (axis,) if isinstance(axis, int) else tuple(axis)
        if 0 not in self.axis:
            raise ValueError(error_message("`axis` must include 0, the samples", axis=axis))
        self.epsilon = check_number("epsilon", epsilon, "[0, inf)")

    def fit(self, X: ArrayLike) -> Standardizer:
        """Take mean and deviation of the training data, and return this object."""
        x = number_array("X", X)
        if not x.size or not x.ndim:
            raise ValueError(error_message("`X` must hold at least one sample", shape=x.shape))
        if not all(np.isfinite(part).all() for part in _parts(x)):
            raise ValueError("`X` must be finite. Received: values that are nan or infinite")
        axes = {axis % x.ndim for axis in self.axis}
        origin = x[tuple(slice(0, 1 if i in axes else None) for i in range(x.ndim))]
        # Squares of very large or very small differences would leave the range of float64.
        spread = self._over(x, lambda part: np.abs(_difference(part, origin)), np.maximum)
        unit = np.where(spread > 0, spread, 1.0)
        mean = self._over(x, lambda part: _difference(part, origin) / unit, np.add)
        square = self._over(x, lambda part: (_difference(part, origin) / unit - mean) ** 2, np.add)
        std = unit * np.sqrt(square)
        rounding = np.spacing(np.abs(origin)) if x.dtype.kind == "f" else 0
        std[(spread <= rounding) | (std <= self.epsilon)] = 1
        self._origin, self._offset, self._exact_std = origin[0].copy(), (mean * unit)[0], std[0]
        wide = x.dtype == np.float64 or (x.dtype.kind in "iu" and x.dtype.itemsize >= 4)
        dtype = np.dtype(np.float64) if wide else float_array(x[:1]).dtype
        self.mean = (self._origin.astype(np.float64) + self._offset).astype(dtype)
        self.std = self._exact_std.astype(dtype)
        return self

    def __call__(self, X: ArrayLike) -> NDArray:
        """Return `X` shifted and scaled, as a new array."""
        self._require_fitted()
        x = number_array("X", X)
        y = np.empty(
            np.broadcast_shapes(x.shape, self._origin.shape), float_array(x[:1], "X").dtype
        )
        for part, out in zip(_parts(x), _parts(y)):
            out[...] = (_difference(part, self._origin) - self._offset) / self._exact_std
        return y

    transform = __call__

    def fit_transform(self, X: ArrayLike) -> NDArray:
        """Return `X` shifted and scaled by its own mean and deviation."""
        return self.fit(X)(X)

    def inverse(self, X: ArrayLike) -> NDArray:
        """Return the values before scaling; float64 where `mean` is."""
        mean, _ = self._require_fitted()
        x = float_array(X, "X")
        values = x * self._exact_std + self._offset + self._origin.astype(np.float64)
        return values.astype(np.result_type(x.dtype, mean.dtype))

    def _over(self, x: NDArray, function: Callable[[NDArray], NDArray], total: np.ufunc) -> NDArray:
        """A function of the values, in float64, over the axes: its maximum, or its mean."""
        results = [total.reduce(function(part), self.axis, keepdims=True) for part in _parts(x)]
        found = functools.reduce(total, results)
        return found * (found.size / x.size) if total is np.add else found

    def _require_fitted(self) -> tuple[NDArray, NDArray]:
        if self.mean is None or self.std is None:
            raise RuntimeError("fit must be called before the data can be scaled.")
        return self.mean, self.std


def _parts(x: NDArray) -> Iterator[NDArray]:
    """A large array in parts."""
    step = max(1, _PART * len(x) // x.size) if x.size else 1
    return (x[i : i + step] for i in range(0, len(x), step))


def _difference(x: NDArray, origin: NDArray) -> NDArray:
    """x - origin in float64; that of integers is exact as far as float64 goes."""
    about = x.astype(np.float64) - origin.astype(np.float64)
    if x.dtype.kind not in "iu" or origin.dtype.kind not in "iu":
        return about
    # Modulo 2^64, and so right where the difference has 63 bits.
    exact = (x.astype(np.int64) - origin.astype(np.int64)).astype(np.float64)
    return np.where(np.abs(about) < 2.0**62, exact, about)
