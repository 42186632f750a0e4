"""Validators that layers, losses and optimizers share; every message has the same form."""

from __future__ import annotations

import math
import operator
import os
import sys
import warnings
from typing import Any

import numpy as np

from npdl._dtype import FLOATS, get_dtype


def error_message(rule: str, *, layer: str | None = None, **received: Any) -> str:
    """Return "rule. Received: name=value (layer 'x')", the form of every error message."""
    values = ", ".join(f"{name}={value!r}" for name, value in received.items())
    where = "" if layer is None else f" (layer {layer!r})"
    return f"{rule}. Received: {values}{where}"


def check_number(name: str, value: Any, interval: str, *, layer: str | None = None) -> float:
    """Return `value` as a float that lies in `interval`, such as "[0, 1)" or "(0, inf)"."""
    low, high = map(float, interval[1:-1].split(","))
    rule = f"`{name}` must be a number in {interval}"
    if isinstance(value, bool | str):
        raise TypeError(error_message(rule, layer=layer, **{name: value}))
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(error_message(rule, layer=layer, **{name: value})) from None
    above = low <= number if interval[0] == "[" else low < number
    below = number <= high if interval[-1] == "]" else number < high
    if not (above and below):
        raise ValueError(error_message(rule, layer=layer, **{name: value}))
    return number


def check_int(name: str, value: Any, low: int = 1, *, layer: str | None = None) -> int:
    """Return `value` as an int that is at least `low`."""
    if type(value) is int and value >= low:
        return value
    whole = hasattr(value, "__index__") and not isinstance(value, bool)
    if whole and (number := operator.index(value)) >= low:
        return number
    rule = f"`{name}` must be an integer >= {low}"
    error = ValueError if whole else TypeError
    raise error(error_message(rule, layer=layer, **{name: value}))


def check_pair(name: str, value: Any, low: int = 1, *, layer: str | None = None) -> tuple[int, int]:
    """Return `value`, an integer or a pair of integers that are at least `low`, as a pair."""
    if not isinstance(value, tuple | list | np.ndarray):
        number = check_int(name, value, low, layer=layer)
        return number, number
    if len(value) != 2:
        rule = f"`{name}` must be an integer or a pair of integers"
        raise ValueError(error_message(rule, layer=layer, **{name: value}))
    first, second = (check_int(name, v, low, layer=layer) for v in value)
    return first, second


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """Return `value`, which must be one of `choices`."""
    if value not in choices:
        rule = f"`{name}` must be one of {', '.join(map(repr, choices))}"
        raise ValueError(error_message(rule, **{name: value}))
    return value


def check_same_shape(name: str, array: np.ndarray, other: str, reference: np.ndarray) -> None:
    """Raise ValueError unless both arrays have one shape."""
    if array.shape != reference.shape:
        rule = f"`{name}` must have the shape of `{other}`, {reference.shape}"
        raise ValueError(error_message(rule, shape=array.shape))


def float_array(values: Any, name: str = "input") -> np.ndarray:
    """Return `values` C-ordered, float32 or float64; other dtypes become `get_dtype()`."""
    array = np.asarray(values, order="C")
    dtype = array.dtype
    if dtype in FLOATS:  # the common case
        return array
    if dtype.kind not in "fiub":
        raise TypeError(error_message(f"`{name}` must be an array of numbers", dtype=dtype.name))
    dtype = dtype.newbyteorder("=")
    if dtype not in FLOATS:
        dtype = get_dtype()
    return np.asarray(array, dtype, order="C")


def number_array(name: str, values: Any) -> np.ndarray:
    """Return data that a user passed as an array of numbers.

    Raises
    ------
    TypeError, ValueError
        If it is not an array of numbers; the message says what to do.
    """
    if is_sparse(values):
        rule = f"`{name}` must be a dense array: use `{name}.toarray()`, or convert batch by batch"
        raise TypeError(error_message(rule, type=type(values).__name__))
    if "numpy.ma" in sys.modules and isinstance(values, np.ma.MaskedArray):
        if np.ma.is_masked(values):
            rule = f"`{name}` must have no masked values: use `{name}.filled(...)` and weights of 0"
            raise TypeError(error_message(rule, masked=int(np.ma.count_masked(values))))
        values = values.data
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise _ragged(name) from error
    kind = array.dtype.kind
    if kind in "fiub":
        return array
    rule = f"`{name}` must be an array of numbers"
    if kind == "O":
        columns = _columns(values)
        if columns:
            rule += f", and its columns {columns} prevent that: use `.astype('float32')`"
        elif any(isinstance(item, list | tuple | np.ndarray) for item in array.flat[:1]):
            raise _ragged(name)
        else:
            rule += ": use `.astype('float32')`"
    raise TypeError(error_message(rule, dtype=array.dtype.name))


def is_sparse(values: Any) -> bool:
    """Whether this is a sparse matrix or array of SciPy."""
    return hasattr(values, "toarray") and hasattr(values, "nnz")


def _ragged(name: str) -> ValueError:
    rule = f"`{name}` must hold samples of one shape: use npdl.data.pad_sequences for sequences"
    return ValueError(f"{rule}. Received: items of different lengths")


def _columns(frame: Any) -> str:
    """The columns of a data frame that are not of the most frequent dtype of numbers."""
    if not hasattr(frame, "columns") or not hasattr(frame, "dtypes"):
        return ""
    names = [str(dtype) for dtype in frame.dtypes]
    plain = [n for n in names if n.startswith(("float", "int", "uint"))]
    usual = max(plain, key=plain.count, default="")
    odd = [f"{c!r} ({n})" for c, n in zip(frame.columns, names) if n != usual]
    return ", ".join(odd[:5]) + (", ..." if len(odd) > 5 else "")


def label_array(labels: Any, nb_classes: int | None = None, name: str = "labels") -> np.ndarray:
    """Return class numbers as a C-ordered int64 array.

    Parameters
    ----------
    labels : array_like, any shape
        Integers, or floats that are whole numbers.
    nb_classes : int, optional
        Every label must lie in [0, nb_classes).
    name : str
        What the message calls them.

    Raises
    ------
    TypeError
        If `labels` are not numbers.
    ValueError
        If a label is not whole, is negative, or is not below `nb_classes`.
    """
    array = np.asarray(labels)
    if array.dtype.kind not in "fiub":
        raise TypeError(error_message(f"`{name}` must be whole numbers", dtype=array.dtype.name))
    if array.dtype.kind == "f":
        bad = ~np.isfinite(array)
        bad |= np.floor(array, where=~bad, out=np.zeros_like(array)) != array
        if bad.any():
            raise ValueError(
                error_message(f"`{name}` must be whole numbers", label=array[bad][0].item())
            )
    end = math.inf if nb_classes is None else nb_classes
    # For the few labels of a step this is much faster than comparing all of them.
    if array.size and not 0 <= array.item(array.argmin()) <= array.item(array.argmax()) < end:
        outside = (array < 0) | (array >= end)
        raise ValueError(
            error_message(f"`{name}` must lie in [0, {end})", label=array[outside][0].item())
        )
    return np.asarray(array, np.int64, order="C")


def weights_like(
    shape: tuple[int, ...], sample_weight: Any, name: str = "sample_weight"
) -> np.ndarray:
    """Return `sample_weight` so that it broadcasts over items of this shape.

    Parameters
    ----------
    shape : tuple of int
        Shape of the items, (N, ...).
    sample_weight : array_like
        A weight for each entry of one or more leading axes; axes of length 1 may follow.
    name : str
        What the message calls it.
    """
    weights = np.asarray(sample_weight)
    if weights.dtype.kind not in "fiub":
        raise TypeError(error_message(f"`{name}` must be numbers", dtype=weights.dtype.name))
    while weights.ndim > 1 and weights.shape[-1] == 1:
        weights = weights[..., 0]
    if not weights.ndim or weights.shape != shape[: weights.ndim]:
        rule = f"`{name}` must have a weight for each item, shape {shape}"
        raise ValueError(error_message(rule + " or its leading axes", shape=weights.shape))
    return weights.reshape(weights.shape + (1,) * (len(shape) - weights.ndim))


_PACKAGE = os.path.dirname(__file__)


def warn(message: str) -> None:
    """Issue a RuntimeWarning that points to the user's line, outside of npdl."""
    level = outermost = 1
    frame = sys._getframe()
    while frame.f_back is not None:
        if frame.f_code.co_filename.startswith(_PACKAGE):
            outermost = level
        level, frame = level + 1, frame.f_back
    warnings.warn(message, RuntimeWarning, stacklevel=outermost + 1)
