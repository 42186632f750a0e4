"""The dtype of new parameters: a leaf, so that every module may ask for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from functools import partial

import numpy as np
from numpy.typing import DTypeLike

#: The dtypes that npdl computes in, in the machine's byte order.
FLOATS = frozenset({np.dtype(np.float32), np.dtype(np.float64)})

#: Of the process, and of a block of `use_dtype` in the thread that runs it.
_default: np.dtype = np.dtype(np.float32)
_local: ContextVar[np.dtype | None] = ContextVar("npdl_dtype", default=None)
#: Functions in C that return another object if `get_dtype` does.
WATCHED = _local.get, partial(globals().get, "_default")


def get_dtype() -> np.dtype:
    """Return the dtype of new parameters, and of integers made floats. The default is float32."""
    here = _local.get()
    return _default if here is None else here


def set_dtype(dtype: DTypeLike) -> None:
    """Set the dtype of new parameters, for all threads.

    Within a block of `use_dtype` it is set until the end of the block, in its thread.

    Parameters
    ----------
    dtype : dtype
        float32 or float64, in any spelling.

    Raises
    ------
    ValueError
        If it is another one.
    """
    global _default
    new = _checked(dtype)
    if _local.get() is None:
        _default = new
    else:
        _local.set(new)


@contextlib.contextmanager
def use_dtype(dtype: DTypeLike) -> Iterator[None]:
    """Within a ``with`` block, give new parameters this dtype, in this thread only.

    Parameters
    ----------
    dtype : dtype
        float32 or float64, in any spelling.

    Raises
    ------
    ValueError
        If it is another one.

    Examples
    --------
    >>> import npdl
    >>> with npdl.use_dtype("float64"):
    ...     layer = npdl.layers.Dense(2, n_in=3)
    ...     model = npdl.Model([layer])
    ...     model.build()
    >>> layer.W.dtype
    dtype('float64')
    """
    token = _local.set(_checked(dtype))
    try:
        yield
    finally:
        _local.reset(token)


def _checked(dtype: DTypeLike) -> np.dtype:
    try:
        new = np.dtype(dtype)
    except TypeError:
        new = None
    if dtype is None or new is None or new not in FLOATS:
        raise ValueError(f"`dtype` must be float32 or float64. Received: dtype={dtype!r}")
    return new
