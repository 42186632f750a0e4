"""Steps of a sequence that a mask leaves out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def without_padding(x: Any, mask: NDArray | None) -> Any:
    """The input `x`, with zeros in its masked steps.

    Their content must have no effect: a convolution over the steps reads neighbouring steps, and 0
    times inf or nan is nan in a gradient.
    """
    if mask is None or getattr(x, "dtype", np.dtype(int)).kind != "f" or x.ndim < 3:
        return x
    padding = np.asarray(mask) == 0
    if padding.shape != x.shape[:2] or not x[padding].any():
        return x
    x = x.copy()
    x[padding] = 0
    return x
