"""Windows of a series, as views."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from npdl._checks import check_int, error_message


def windows(
    series: ArrayLike, targets: ArrayLike | None, length: int, step: int = 1, ahead: int = 1
) -> Any:
    """Return windows of a series, each with the target that is `ahead` steps after its end.

    Window i is ``series[i * step : i * step + length]``, and its target is ``targets[i * step +
    length - 1 + ahead]``. Nothing is copied: each value is in up to `length` windows but only once
    in memory, and the results are read-only.

    Parameters
    ----------
    series : array_like, shape (T,) or (T, D, ...)
        Such as D measurements at each of T times. Recurrent layers need (T, D): give a series of
        single numbers as ``series[:, None]``.
    targets : array_like, shape (T, ...), or None
        One for each time, often `series` itself or a column of it.
    length : int
        Steps in a window.
    step : int
        From the beginning of a window to that of the next.
    ahead : int
        1 for the target of the step behind the window, 0 for that of its last step.

    Returns
    -------
    x : ndarray, shape (N, length) or (N, length, D, ...)
        A view.
    y : ndarray, shape (N, ...)
        A view; only where there are `targets`.

    Raises
    ------
    ValueError
        If there is not a single window, or if `series` and `targets` have different lengths.

    Examples
    --------
    >>> import numpy as np
    >>> from npdl.data import windows
    >>> x, y = windows(np.arange(6), np.arange(6), length=3, step=2)
    >>> x.tolist(), y.tolist()
    ([[0, 1, 2], [2, 3, 4]], [3, 5])
    """
    values = np.asarray(series)
    if not values.ndim:
        raise ValueError(error_message("`series` must have shape (T, ...)", shape=values.shape))
    length, step = check_int("length", length), check_int("step", step)
    wanted = None if targets is None else np.asarray(targets)
    last = length - 1
    if wanted is not None:
        last += check_int("ahead", ahead, low=0)
        if wanted.shape[:1] != values.shape[:1]:
            rule = f"`targets` must have one for each step of `series`, {len(values)}"
            raise ValueError(error_message(rule, shape=wanted.shape))
    count = (len(values) - last - 1) // step + 1
    if len(values) <= last:
        rule = f"`series` must have at least {last + 1} steps for one window and its target"
        raise ValueError(error_message(rule, shape=values.shape))
    view = np.lib.stride_tricks.sliding_window_view(values, length, axis=0)
    x = np.moveaxis(view, -1, 1)[::step][:count]
    if wanted is None:
        return x
    y = wanted[last::step][:count].view()
    y.flags.writeable = False
    return x, y
