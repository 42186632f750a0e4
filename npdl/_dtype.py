"""The dtype of new parameters: a leaf, so that every module may ask for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

#: What npdl computes in, in the machine's byte order.
FLOATS = frozenset({np.dtype(np.float32), np.dtype(np.float64)})

_dtype: np.dtype = np.dtype(np.float32)


def get_dtype() -> np.dtype:
    """Return the dtype of new parameters, and of integer data made float; float32 at first."""
    return _dtype


def set_dtype(dtype: DTypeLike) -> None:
    """Set the dtype of new parameters.

    Parameters
    ----------
    dtype : dtype
        float32 or float64, in any spelling.

    Raises
    ------
    ValueError
        If it is another one.
    """
    global _dtype
    try:
        new = np.dtype(dtype)
    except TypeError:
        new = None
    if dtype is None or new is None or new not in FLOATS:
        raise ValueError(f"`dtype` must be float32 or float64. Received: dtype={dtype!r}")
    _dtype = new
