"""Level 2: the data that a user passes, as arrays: inputs, targets, weights and masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl._checks import error_message, is_sparse, number_array


class Names(NamedTuple):
    """The names of the inputs and outputs of a model, under which a dict may hold arrays."""

    inputs: tuple[str, ...] = ("input",)
    outputs: tuple[str, ...] = ("output",)


#: Of a model of one input and one output.
ONE = Names()


class Batch(NamedTuple):
    """Samples with their targets, weights and masks.

    Attributes
    ----------
    x : tuple of ndarray, each of shape (N, ...)
        One for each input of the model.
    y : tuple of ndarray or None
        Targets for each output; empty if there are none.
    weight : tuple of ndarray or None
        For each output a weight for each sample, shape (N,), or for each of its steps, (N, T).
        Empty if there are none.
    mask : tuple of ndarray or None
        For each input 0 for each step that is padding, shape (N, T). Empty if there are none.
    """

    x: tuple[NDArray, ...]
    y: tuple[NDArray | None, ...] = ()
    weight: tuple[NDArray | None, ...] = ()
    mask: tuple[NDArray | None, ...] = ()

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return len(self.x[0])

    def map(self, function: Callable[[NDArray], NDArray]) -> Batch:
        """The batch with a function applied to each array."""
        found = [tuple([None if a is None else function(a) for a in part]) for part in self]
        return Batch(*found)  # type: ignore[arg-type]

    def rows(self, part: slice) -> Batch:
        """Some of the samples, as views."""
        return self.map(lambda array: array[part])


_ONE_INPUT = ". The model has one input; for several inputs make a Model(inputs, outputs)."


def as_samples(name: str, values: ArrayLike) -> NDArray:
    """Return `values` as an array of numbers with a sample axis that is not empty."""
    array = number_array(name, values)
    if array.ndim == 0 or array.size == 0:
        raise ValueError(
            error_message(f"`{name}` must hold at least one sample", shape=array.shape)
        )
    return array


def as_inputs(
    X: Any, names: tuple[str, ...] = ("input",)
) -> tuple[tuple[NDArray, ...], tuple[NDArray | None, ...]]:
    """The arrays of all inputs, and their masks.

    A model of one input takes an array, ``(x, mask)`` or ``{"input": x, "mask": mask}``. One of
    several takes a list, a tuple or a dict by name of the same.
    """
    if len(names) == 1:
        pairs = [_input("X", X, names[0])]
    else:
        pairs = [_input(f"X[{name!r}]", item, name) for name, item in _by_name("X", X, names)]
    masks = tuple(mask for _, mask in pairs)
    none = all(mask is None for mask in masks)
    return tuple(x for x, _ in pairs), () if none else masks


def _input(what: str, X: Any, name: str) -> tuple[NDArray, NDArray | None]:
    """One input and its mask."""
    mask = None
    if isinstance(X, np.ndarray):
        return as_samples(what, X), None
    if isinstance(X, Mapping):
        key = name if name in X else "input"
        if key not in X or not X.keys() <= {key, "mask"}:
            rule = f"A dict `X` must hold {name!r}, and may hold 'mask'"
            raise ValueError(error_message(rule, keys=[*X]) + _ONE_INPUT)
        X, mask = X[key], X.get("mask")
    elif isinstance(X, tuple) and len(X) == 2 and all(hasattr(a, "__array__") for a in X):
        X, mask = X
    elif isinstance(X, list | tuple) and len(X) == 1 and is_array(X[0]):
        (X,) = X  # a list of the inputs, as Keras takes it
    elif isinstance(X, list | tuple) and len(X) > 1 and _is_several(X):
        shapes = ", ".join(str(np.shape(array)) for array in X)
        raise ValueError(
            f"`{what}` must be one array: the model has one input. For several inputs make a "
            f"Model(inputs, outputs). Received: {len(X)} arrays of shapes {shapes}"
        )
    x = as_samples(what, X)
    return x, None if mask is None else as_mask(mask, x.shape[:2])


def _is_several(X: Any) -> bool:
    """Whether these look like arrays of many samples each, and not like the samples of one."""
    if not all(is_array(item) and np.ndim(item) > 0 for item in X):
        return False
    return len({np.shape(item) for item in X}) > 1 or (len(X) == 2 and isinstance(X, tuple))


def is_array(value: Any) -> bool:
    """Whether `value` is an array, or converts to one, such as a data frame."""
    return hasattr(value, "__array__") and np.ndim(value) > 0


def as_mask(mask: Any, steps: tuple[int, ...]) -> NDArray:
    """A mask of steps: 0 for padding, 1 for a real step."""
    mask = number_array("mask", mask)
    hint = "A model of one input takes (x, mask); for two inputs make a Model(inputs, outputs)"
    if mask.shape != steps:
        rule = f"`mask` must be numbers of shape {steps}"
        raise ValueError(
            error_message(rule, dtype=mask.dtype.name, shape=mask.shape) + f". {hint}."
        )
    if mask.dtype.kind != "b" and not ((mask == 0) | (mask == 1)).all():
        wrong = mask[(mask != 0) & (mask != 1)][0].item()
        raise ValueError(error_message("`mask` must hold 0 and 1 only", value=wrong) + f". {hint}.")
    return mask


def _by_name(
    what: str, values: Any, names: tuple[str, ...], missing: bool = False
) -> list[tuple[str, Any]]:
    """Name and value of each of several inputs or outputs; None for a `missing` one."""
    rule = f"`{what}` must be a list of {len(names)} arrays, or a dict by name ({', '.join(names)})"
    if isinstance(values, Mapping):
        unknown, absent = [k for k in values if k not in names], {*names} - values.keys()
        if unknown or (absent and not missing):
            raise ValueError(error_message(rule, keys=[*values]))
        return [(name, values.get(name)) for name in names]
    if not isinstance(values, list | tuple) or len(values) != len(names):
        got = len(values) if isinstance(values, list | tuple) else type(values).__name__
        raise ValueError(error_message(rule, received=got))
    return list(zip(names, values))


def as_batch(X: Any, Y: Any = None, sample_weight: Any = None, names: Names = ONE) -> Batch:
    """Samples, targets and weights as arrays of one length."""
    x, mask = as_inputs(X, names.inputs)
    n = len(x[0])
    for name, array in zip(names.inputs, x):
        if len(array) != n:
            rule = "All inputs must have the same number of samples"
            raise ValueError(f"{rule}. Received: {n} and {len(array)} ({name!r})")
    if Y is None:
        return Batch(x, mask=mask)
    y = _targets(Y, names.outputs)
    for target in y:
        if target is not None and len(target) != n:
            rule = "`X` and `Y` must have the same number of samples"
            several = isinstance(X, list | tuple) and all(
                is_array(item) and len(item) == len(target) for item in X
            )
            hint = _ONE_INPUT if len(x) == 1 and several else ""
            raise ValueError(f"{rule}. Received: {n} and {len(target)}{hint}")
    return Batch(x, y, _sample_weights(sample_weight, names.outputs, n), mask)


def _targets(Y: Any, names: tuple[str, ...]) -> tuple[NDArray | None, ...]:
    if len(names) == 1:
        if isinstance(Y, Mapping) and Y.keys() == {names[0]}:
            Y = Y[names[0]]
        elif isinstance(Y, list | tuple) and len(Y) == 1 and is_array(Y[0]):
            (Y,) = Y
        return (as_samples("Y", Y),)
    return tuple(
        None if value is None else as_samples(f"Y[{name!r}]", value)
        for name, value in _by_name("Y", Y, names, missing=True)
    )


def _sample_weights(given: Any, names: tuple[str, ...], n: int) -> tuple[NDArray | None, ...]:
    if given is None:
        return ()
    if isinstance(given, Mapping) or (len(names) > 1 and isinstance(given, list | tuple)):
        pairs = _by_name("sample_weight", given, names, missing=True)
    elif isinstance(given, list | tuple) and len(given) == 1 and is_array(given[0]):
        pairs = [(names[0], given[0])]
    else:
        pairs = [(name, given) for name in names]
    found = []
    for _, weight in pairs:
        if weight is not None:
            weight = as_samples("sample_weight", weight)
            if len(weight) != n:
                rule = f"`sample_weight` must have a weight for each of {n} samples"
                raise ValueError(error_message(rule, shape=weight.shape))
        found.append(weight)
    return tuple(found)


def item_batch(item: Any, names: Names = ONE) -> Batch:
    """An item of an iterable: ``x``, ``(x,)``, ``(x, y)`` or ``(x, y, weight)``."""
    if not isinstance(item, tuple | list):
        return as_batch(item, names=names)
    if not 1 <= len(item) <= 3:
        rule = "A batch must be (x, y) or (x, y, sample_weight)"
        raise ValueError(f"{rule}. Received: {len(item)} items")
    x, y, weight = (*item, None, None)[:3]
    return as_batch(x, y, weight, names)


def is_stream(X: Any) -> bool:
    """Whether `X` is an iterable of batches (rather than an array, a list or a dict of arrays)."""
    if isinstance(X, list):  # of batches, or of what makes an array
        arrays = np.ndarray | list | dict | tuple
        return any(isinstance(item, tuple) and isinstance(item[0], arrays) for item in X[:1])
    if hasattr(X, "__array__") or isinstance(X, Mapping | tuple | str | bytes) or is_sparse(X):
        return False
    return isinstance(X, Iterable) or (hasattr(X, "__getitem__") and hasattr(X, "__len__"))
