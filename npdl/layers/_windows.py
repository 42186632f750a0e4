"""Geometry of the windows that convolution and pooling slide over an image."""

from __future__ import annotations

from typing import Any

import numpy as np

from npdl._checks import check_int, complaint

Pair = tuple[int, int]
#: Numbers before and after each axis.
Sides = tuple[Pair, ...]

#: What messages call the two axes.
SIDES = "high", "wide"


def check_sides(name: str, value: Any, axes: int = 2, *, layer: str | None = None) -> Sides:
    """Return numbers before and after each of some axes, all at least 0.

    Parameters
    ----------
    name : str
    value : int or sequence
        One number for all sides. Of two axes: a number for each axis, or a pair (before, after) for
        each. Of one axis: the pair (before, after).
    axes : int
    layer : str, optional
    """
    if not isinstance(value, tuple | list | np.ndarray):
        number = check_int(name, value, 0, layer=layer)
        return ((number, number),) * axes
    if axes == 1 and len(value) == 2 and not any(map(_is_pair, value)):
        value = [value]
    if len(value) != axes or not all(_is_pair(v) or not hasattr(v, "__len__") for v in value):
        forms = "an integer or (before, after)"
        if axes == 2:
            forms = "an integer, a pair of integers or ((top, bottom), (left, right))"
        raise ValueError(complaint(f"`{name}` must be {forms}", layer=layer, **{name: value}))
    pairs = [v if _is_pair(v) else (v, v) for v in value]
    return tuple(tuple(check_int(name, n, 0, layer=layer) for n in pair) for pair in pairs)  # type: ignore[misc]


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple | list | np.ndarray) and len(value) == 2


def windows(
    size: tuple[int | None, ...], window: Pair, stride: Pair, padding: str | Pair | Sides = "valid"
) -> tuple[tuple[int | None, ...], Pair]:
    """Number of windows along the two axes of an image, and zeros before either axis.

    Parameters
    ----------
    size : tuple
        Height and width, None where unknown.
    window, stride : tuple
        The same of the window and of the step from one to the next.
    padding : {"valid", "same"} or tuple
        See `npdl.layers.Convolution`; a number for each axis, or a pair (before, after).

    Returns
    -------
    counts : tuple
        0 where not even one window fits, None where the size is unknown.
    before : tuple
    """
    pads: Any = (0, 0) if isinstance(padding, str) else padding
    axes = [
        (_same if padding == "same" else _padded)(*axis)
        for axis in zip(size, window, stride, pads, strict=True)
    ]
    (rows, top), (cols, left) = axes
    return (rows, cols), (top, left)


def _padded(size: int | None, window: int, stride: int, pad: int | Pair) -> tuple[int | None, int]:
    """With `pad` zeros before and after the axis, or different numbers of them."""
    before, after = pad if isinstance(pad, tuple) else (pad, pad)
    count = None if size is None else max((size + before + after - window) // stride + 1, 0)
    return count, before


def _same(size: int | None, window: int, stride: int, _: Any) -> tuple[int | None, int]:
    """With zeros for ``ceil(size / stride)`` windows; of an odd number, one more after the axis."""
    if size is None:
        return None, 0
    count = -(-size // stride)
    return count, max((count - 1) * stride + window - size, 0) // 2
