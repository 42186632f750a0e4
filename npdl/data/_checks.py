"""Checks of the arrays that the functions of npdl.data take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl._checks import error_message


def as_arrays(values: Sequence[Any], name: str = "arrays") -> list[NDArray]:
    """Return array_likes of one length as arrays, none of them empty."""
    if not values:
        raise ValueError(f"`{name}` must hold at least one array. Received: none")
    arrays = [np.asarray(value) for value in values]
    for array in arrays:
        if not array.ndim or not array.size:
            raise ValueError(
                error_message(f"`{name}` must hold at least one sample", shape=array.shape)
            )
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) > 1:
        raise ValueError(error_message(f"`{name}` must have one length", lengths=lengths))
    return arrays
