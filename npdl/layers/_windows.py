"""Geometry of the windows that convolution and pooling slide over an image."""

from __future__ import annotations


def n_windows(size: int, window: int, stride: int, pad: int = 0) -> int:
    """Number of windows along an axis of `size` pixels with `pad` zeros around, both sides added.

    It is 0 where not even one fits.
    """
    return max((size + pad - window) // stride + 1, 0)


def same_padding(size: int, window: int, stride: int) -> tuple[int, int]:
    """Zeros before the axis, and in all, for ``ceil(size / stride)`` windows.

    Where their number is odd, the one more goes after the axis.
    """
    count = -(-size // stride)
    pad = max((count - 1) * stride + window - size, 0)
    return pad // 2, pad
