"""Functions that only move numbers, for all backends: NumPy does it as fast as a kernel would.

Layers call them like kernels, so that their calls are noted too (`npdl._ext.noted`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def copy_array(x: NDArray, y: NDArray) -> None:
    """y = x, for arrays of one shape; they may have any strides."""
    np.copyto(y, x)


def take_rows(table: NDArray, rows: NDArray, y: NDArray) -> None:
    """y = table[rows], for int64 `rows` that are numbers of rows."""
    np.take(table, rows, axis=0, out=y, mode="clip")  # other modes use a temporary buffer


def mark_steps(x: NDArray, mask: NDArray) -> None:
    """mask = 1 where x is not 0, as uint8."""
    np.not_equal(x, 0, out=mask)


def copy_array_ready(steps: Any, x: NDArray, y: NDArray) -> Any:
    """`copy_array` as a step, for the module `steps`; None if it can't be one."""
    if x.dtype != y.dtype or x.ndim > 8:
        return None
    axes, run = [*zip(x.shape, x.strides, y.strides)], x.itemsize
    while axes and axes[-1][1] == axes[-1][2] == run:
        run *= axes.pop()[0]
    return steps.copy_step(run, axes)


def mark_steps_ready(steps: Any, x: NDArray, mask: NDArray) -> Any:
    """`mark_steps` as a step; None if the numbers are not int64 in order."""
    return steps.mark_step(x.size) if x.dtype == np.int64 and x.flags.c_contiguous else None


def take_rows_ready(steps: Any, table: NDArray, rows: NDArray, y: NDArray) -> Any:
    """`take_rows` as a step; the numbers of the rows are not checked."""
    return steps.take_step(rows.size, table[0].nbytes)
