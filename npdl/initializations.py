"""Initial values of parameters. All draw from `npdl.utils.random.get_rng`, in float64."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np

from npdl import _ext
from npdl._checks import check_int, check_number, error_message
from npdl._ext.activation_np import LINEAR
from npdl._registry import Configurable, Registry
from npdl.utils.random import get_dtype, get_rng

_BLOCK = 16  # rows made orthonormal at once

#: Number of values that may still be created without drawing; see `no_random_init`.
_value_budget: ContextVar[list[int] | None] = ContextVar("_value_budget", default=None)


@contextlib.contextmanager
def no_random_init(limit: int) -> Iterator[None]:
    """Within the block, every initializer returns zeros, for values that come from elsewhere.

    Parameters
    ----------
    limit : int
        Number of values in all; more are a ValueError, raised before memory is allocated.
    """
    token = _value_budget.set([limit])
    try:
        yield
    finally:
        _value_budget.reset(token)


class Initializer(Configurable):
    """Base class; call an instance with a shape. A subclass defines `call`."""

    def __call__(self, shape: int | Sequence[int]) -> np.ndarray:
        """Return a new C-ordered array of `get_dtype()`.

        Parameters
        ----------
        shape : int or sequence of int
            Every dimension at least 1.
        """
        shape = (shape,) if np.ndim(shape) == 0 else shape  # type: ignore[assignment]
        dims = tuple(check_int("shape", n) for n in shape)  # type: ignore[union-attr]
        budget = _value_budget.get()
        if budget is not None:
            budget[0] -= math.prod(dims)
            if budget[0] < 0:
                raise ValueError("There are fewer values than the parameters have")
            return np.zeros(dims, get_dtype())
        values = np.asarray(self.call(dims), get_dtype(), order="C")
        if values.shape != dims:
            rule = f"{type(self).__name__}.call must return an array of shape {dims}"
            raise ValueError(error_message(rule, shape=values.shape))
        return values

    def call(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return the values, an array of this shape."""
        raise NotImplementedError(f"{type(self).__name__} must define call(shape).")


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """Return how many inputs an output has, and how many outputs an input.

    Parameters
    ----------
    shape : sequence of int
        (fan_in, fan_out), or filters (out, in, ...): the numbers of channels times the size of the
        window. A vector of n has fans (n, n).
    """
    if len(shape) < 2:
        n = math.prod(shape)
        return n, n
    if len(shape) == 2:
        return shape[0], shape[1]
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


def _uniform(shape: tuple[int, ...], limit: float) -> np.ndarray:
    return get_rng().uniform(-limit, limit, shape).astype(get_dtype())


def _normal(shape: tuple[int, ...], std: float, mean: float = 0.0) -> np.ndarray:
    return get_rng().normal(mean, std, shape).astype(get_dtype())


_registry = Registry("initializer", Initializer)
register = _registry.register


@register("zeros")
class Zero(Initializer):
    """Zeros."""

    def call(self, shape):
        """Return zeros."""
        return np.zeros(shape, get_dtype())


@register("ones")
class One(Initializer):
    """Ones."""

    def call(self, shape):
        """Return ones."""
        return np.ones(shape, get_dtype())


@register()
class Uniform(Initializer):
    """Uniform in [-scale, scale).

    Parameters
    ----------
    scale : float
    """

    def __init__(self, scale: float = 0.05) -> None:
        self.scale = check_number("scale", scale, "[0, inf)")

    def call(self, shape):
        """Return uniform values."""
        return _uniform(shape, self.scale)


@register()
class Normal(Initializer):
    """Normal distribution.

    Parameters
    ----------
    std, mean : float
    """

    def __init__(self, std: float = 0.01, mean: float = 0.0) -> None:
        self.std = check_number("std", std, "[0, inf)")
        self.mean = check_number("mean", mean, "(-inf, inf)")

    def call(self, shape):
        """Return normal values."""
        return _normal(shape, self.std, self.mean)


class _ByFans(Initializer):
    """Uniform within ±√v or normal with variance v, v a function of the fans."""

    _draw: Callable[[tuple[int, ...], float], np.ndarray]

    def _square(self, fan_in: int, fan_out: int) -> float:
        raise NotImplementedError

    def call(self, shape):
        return self._draw(shape, math.sqrt(self._square(*fans(shape))))


@register()
class LecunUniform(_ByFans):
    """Uniform within ±√(3 / fan_in) (LeCun et al. 1998, "Efficient BackProp")."""

    _draw = staticmethod(_uniform)

    def _square(self, fan_in, fan_out):
        return 3 / fan_in


@register()
class GlorotUniform(_ByFans):
    """Uniform within ±√(6 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""

    _draw = staticmethod(_uniform)

    def _square(self, fan_in, fan_out):
        return 6 / (fan_in + fan_out)


@register()
class GlorotNormal(_ByFans):
    """Normal with standard deviation √(2 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""

    _draw = staticmethod(_normal)

    def _square(self, fan_in, fan_out):
        return 2 / (fan_in + fan_out)


@register()
class HeNormal(_ByFans):
    """Normal with standard deviation √(2 / fan_in) (He et al. 2015)."""

    _draw = staticmethod(_normal)

    def _square(self, fan_in, fan_out):
        return 2 / fan_in


@register()
class HeUniform(_ByFans):
    """Uniform within ±√(6 / fan_in) (He et al. 2015)."""

    _draw = staticmethod(_uniform)

    def _square(self, fan_in, fan_out):
        return 6 / fan_in


@register()
class Orthogonal(Initializer):
    """Orthonormal rows or columns, whichever are fewer, times `gain` (Saxe et al. 2013).

    Parameters
    ----------
    gain : float or 'relu'
        'relu' stands for √2. Axes after the first count as one.
    """

    def __init__(self, gain: float | str = 1.0) -> None:
        self.gain = math.sqrt(2) if gain == "relu" else check_number("gain", gain, "(-inf, inf)")

    def call(self, shape):
        """Return the Q of a QR decomposition of normal values, times `gain`."""
        rows, cols = shape[0], math.prod(shape[1:])
        normal = get_rng().normal(size=(max(rows, cols), min(rows, cols)))
        q = normal.T.copy()
        _make_orthonormal(q)
        q = q.T if rows >= cols else q
        return (self.gain * q).reshape(shape).astype(get_dtype(), order="C")


def _make_orthonormal(q: np.ndarray) -> None:
    """Make the rows of `q` orthonormal, each from those before it and its own.

    By Gram and Schmidt, in blocks. (LAPACK's bits differ from one CPU to another.) No row changes
    its side of the others, so that `q` is uniform over the orthogonal matrices.
    """
    backward, forward = _ext.kernels().dense_backward, _ext.kernels().dense_forward
    linear = (LINEAR, 1.0)
    for start in range(0, len(q), _BLOCK):
        before, block = q[:start], q[start : start + _BLOCK]
        share, unread = (np.empty((len(block), start)) for _ in range(2))
        inside = np.empty_like(block)
        for _ in range(2):  # once would leave rounding errors
            if start:
                # share = block beforeᵀ, inside = share before
                backward(unread, before, inside, block, share, None, None, linear)
                forward(share, before, None, inside, linear)
                block -= inside
            for k, row in enumerate(block):
                row /= math.sqrt(np.square(row).sum())
                after = block[k + 1 :]
                after -= (after * row).sum(axis=1, keepdims=True) * row


def get(initialization: Any) -> Initializer:
    """Return an initializer by name.

    Parameters
    ----------
    initialization : str, Initializer, class or dict
        'glorot_uniform', 'GlorotUniform', ...; an instance is returned as it is; a dict holds the
        name and the arguments: ``{"name": "uniform", "scale": 0.1}``.

    Raises
    ------
    ValueError
        If the name is unknown; the message lists the valid ones.
    """
    return _registry.get(initialization)
