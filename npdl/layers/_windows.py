"""Geometry of the windows that convolution and pooling slide over an image."""

from __future__ import annotations

Pair = tuple[int, int]

#: What messages call the two axes.
SIDES = "high", "wide"


def windows(
    size: tuple[int | None, ...], window: Pair, stride: Pair, padding: str | Pair = "valid"
) -> tuple[tuple[int | None, ...], Pair]:
    """Number of windows along the two axes of an image, and zeros before either axis.

    Parameters
    ----------
    size : tuple
        Height and width, None where unknown.
    window, stride : tuple
        The same of the window and of the step from one to the next.
    padding : {"valid", "same"} or tuple
        See `npdl.layers.Convolution`.

    Returns
    -------
    counts : tuple
        0 where not even one window fits, None where the size is unknown.
    before : tuple
    """
    pads = (0, 0) if isinstance(padding, str) else padding
    axes = [
        (_same if padding == "same" else _padded)(*axis)
        for axis in zip(size, window, stride, pads, strict=True)
    ]
    (rows, top), (cols, left) = axes
    return (rows, cols), (top, left)


def _padded(size: int | None, window: int, stride: int, pad: int) -> tuple[int | None, int]:
    """With `pad` zeros before and after the axis."""
    count = None if size is None else max((size + 2 * pad - window) // stride + 1, 0)
    return count, pad


def _same(size: int | None, window: int, stride: int, _: int) -> tuple[int | None, int]:
    """With zeros for ``ceil(size / stride)`` windows; of an odd number, one more after the axis."""
    if size is None:
        return None, 0
    count = -(-size // stride)
    return count, max((count - 1) * stride + window - size, 0) // 2
