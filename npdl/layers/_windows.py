"""Geometry of the windows that convolution and pooling slide over an image."""

from __future__ import annotations

from typing import Any

import numpy as np

from npdl._checks import check_int, error_message

Pair = tuple[int, int]
#: The numbers before and after each axis.
Sides = tuple[Pair, ...]

#: Names of the two axes in error messages.
SIDE_NAMES = "high", "wide"


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
        raise ValueError(error_message(f"`{name}` must be {forms}", layer=layer, **{name: value}))
    pairs = [v if _is_pair(v) else (v, v) for v in value]
    return tuple(tuple(check_int(name, n, 0, layer=layer) for n in pair) for pair in pairs)  # type: ignore[misc]


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple | list | np.ndarray) and len(value) == 2


def window_geometry(
    size: tuple[int | None, ...],
    window: tuple[int, ...],
    stride: tuple[int, ...],
    padding: str | tuple[int, ...] | Sides = "valid",
) -> tuple[tuple[int | None, ...], tuple[int, ...]]:
    """Number of windows along each axis of an image, and zeros before it.

    Parameters
    ----------
    size : tuple
        Height and width, or the length of a sequence; None where unknown.
    window, stride : tuple
        The same for the window and for the step from one window to the next.
    padding : {"valid", "same", "causal"} or tuple
        See `npdl.layers.Convolution`; a number for each axis, or a pair (before, after).

    Returns
    -------
    counts : tuple
        0 where not even one window fits, None where the size is unknown.
    before : tuple
    """
    pads: Any = (0,) * len(size) if isinstance(padding, str) else padding
    rule = _RULES.get(padding, _padded) if isinstance(padding, str) else _padded
    counts, before = zip(*map(rule, size, window, stride, pads))
    return counts, before


def spread(
    size: tuple[int | None, ...],
    window: tuple[int, ...],
    stride: tuple[int, ...],
    padding: str | tuple[int, ...] | Sides,
    more: tuple[int, ...],
) -> tuple[tuple[int | None, ...], tuple[int, ...]]:
    """Size of the output of a transposed convolution, and what is cut off before each axis.

    Parameters
    ----------
    size, window, stride, padding : tuple
        As of `window_geometry`; the padding is cut off.
    more : tuple
        Rows and columns to add at the end.
    """
    if padding == "same":
        counts = tuple(None if n is None else n * s for n, s in zip(size, stride))
        return counts, tuple(max(k - s, 0) // 2 for k, s in zip(window, stride))
    pads = ((0, 0),) * len(size) if isinstance(padding, str) else padding
    sides: list[Pair] = [p if isinstance(p, tuple) else (p, p) for p in pads]
    counts = tuple(
        None if n is None else max((n - 1) * s + k - sum(cut) + m, 0)
        for n, k, s, cut, m in zip(size, window, stride, sides, more)
    )
    return counts, tuple(before for before, _ in sides)


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


def _causal(size: int | None, window: int, stride: int, _: Any) -> tuple[int | None, int]:
    """With zeros only before the axis, so that a window ends with its own step."""
    return None if size is None else -(-size // stride), window - 1


_RULES = {"same": _same, "causal": _causal}
