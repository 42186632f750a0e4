"""Weights of samples, of steps and of classes, as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl._checks import check_number, error_message


def times(one: NDArray | None, other: NDArray | None) -> NDArray | None:
    """The product of two sets of weights; either may be None or lack the last axes."""
    if one is None or other is None:
        return other if one is None else one
    if one.ndim > other.ndim:
        one, other = other, one
    return one.reshape(one.shape + (1,) * (other.ndim - one.ndim)) * other


def selected(kept: NDArray, array: NDArray) -> NDArray:
    """The entries of `array` where `kept` is True; missing last axes are broadcast."""
    missing = kept.ndim - array.ndim
    if missing > 0:
        array = np.broadcast_to(array.reshape(array.shape + (1,) * missing), kept.shape)
    return array[kept]


def class_table(class_weight: Any) -> dict[int, float]:
    """The weights of classes by number, from a dict or an array.

    Raises
    ------
    TypeError, ValueError
        If they are neither, or a weight is no number; names the class.
    """
    if isinstance(class_weight, np.ndarray) and class_weight.ndim == 1:
        class_weight = dict(enumerate(class_weight.tolist()))
    if not isinstance(class_weight, Mapping):
        rule = "`class_weight` must be a dict of weights, an array, or 'balanced'"
        raise TypeError(error_message(rule, class_weight=class_weight))
    table = {}
    for key, weight in class_weight.items():
        if not hasattr(key, "__index__") or not 0 <= key < 2**63:
            raise ValueError(
                error_message("`class_weight` must have class numbers as keys", key=key)
            )
        table[int(key)] = check_number(f"class_weight[{int(key)}]", weight, "(-inf, inf)")
    return table


def class_weights(table: Mapping[int, float], y: NDArray, shape: tuple[int, ...]) -> NDArray:
    """The weight of the class of each target; 1 where `table` has none.

    Parameters
    ----------
    table : dict of int to float
    y : ndarray
        Targets: class numbers, yes or no, or one-hot.
    shape : tuple
        Of the outputs, with any sample axis.
    """
    labels = class_numbers(y, shape)
    if not table:
        return np.ones(labels.shape, np.float32)
    keys = np.array(sorted(table), np.int64)
    values = np.array([table[int(key)] for key in keys], np.float32)
    place = np.minimum(np.searchsorted(keys, labels), len(keys) - 1)
    return np.where(keys[place] == labels, values[place], np.float32(1))


def class_numbers(y: NDArray, shape: tuple[int, ...]) -> NDArray:
    """The class number of each target, for outputs of this shape; no is class 0, be it -1."""
    single = shape[-1] == 1
    if y.ndim == len(shape):  # rows of K: one-hot, or a single number
        y = y[..., 0] if y.shape[-1] == 1 else y.argmax(-1)
    if y.dtype.kind == "f":
        y = np.where(np.isfinite(y), y, -1)
    if single:  # targets of a hinge loss are -1 and 1
        return (y > 0).astype(np.int64)
    return y.astype(np.int64)


def balanced(labels: NDArray) -> dict[int, float]:
    """Weights that give every class the same total weight: ``n / (classes * n_of_the_class)``.

    Parameters
    ----------
    labels : ndarray of int
        The class numbers of all items that count.
    """
    classes, counts = np.unique(labels, return_counts=True)
    weights = labels.size / (len(classes) * counts)
    return dict(zip(classes.tolist(), weights.tolist()))


def counting_rows(X: NDArray, y: NDArray, weight: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Only the rows that count, with weights of mean 1, as the loss is a mean over the rows.

    Raises
    ------
    ValueError
        If a weight is negative, or none is above 0.
    """
    if (weight < 0).any():
        rule = "`sample_weight` must not be negative"
        raise ValueError(error_message(rule, least=float(weight.min())))
    counts = weight > 0
    if not counts.any():
        raise ValueError("`sample_weight` must have a value above 0. Received: only zeros")
    X, y, weight = X[counts], y[counts], weight[counts]
    return X, y, weight * (len(weight) / weight.sum())
