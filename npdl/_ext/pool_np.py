"""Max and mean pooling: the NumPy twin of ``pool.pyx``.

    max:   y[n,c,i,j] = max  x[n, c, i*SH-PH : i*SH-PH+KH, j*SW-PW : j*SW-PW+KW]
    mean:  y[n,c,i,j] = mean of the same window

Windows may overlap (stride below the window) or leave gaps (stride above it), and reach beyond the
image on any side. Pixels outside the image do not count: it is never the maximum, and the
mean is that of the pixels inside. Each window holds at least one of these: PH < KH and
(OH-1)*SH < H + PH, and the same of the columns.
"""

from __future__ import annotations

import numpy as np


def _windows(x, y, kh, kw, stride_h, stride_w, pad_h, pad_w, outside):
    """All windows, shape (N, C, OH, OW, KH*KW), with the number `outside` beside the image."""
    (n, c, h, w), (out_h, out_w) = x.shape, y.shape[2:]
    below = max((out_h - 1) * stride_h + kh - pad_h - h, 0)
    right = max((out_w - 1) * stride_w + kw - pad_w - w, 0)
    around = (0, 0), (0, 0), (pad_h, below), (pad_w, right)
    x = np.pad(x, around, constant_values=outside)
    windows = np.lib.stride_tricks.sliding_window_view(x, (kh, kw), (2, 3))
    windows = windows[:, :, ::stride_h, ::stride_w][:, :, :out_h, :out_w]
    return windows.reshape(n, c, out_h, out_w, kh * kw)


def _spans(size, out, window, stride, pad):
    """First pixel and end of each window along one axis, as far as the image reaches."""
    start = np.arange(out) * stride - pad
    return np.maximum(start, 0), np.minimum(start + window, size)


def maxpool_forward(x, y, argmax, kh, kw, stride_h, stride_w, pad_h, pad_w):
    """Largest value of each window.

    Of equal values the first in row-major order is taken; a NaN counts as larger than any number.

    Parameters
    ----------
    x : ndarray, shape (N, C, H, W)
        Read only.
    y : ndarray, shape (N, C, OH, OW)
        Filled.
    argmax : ndarray of int32, shape (N, C, OH, OW), or None
        Filled with the position of the largest value, ``row * W + column`` in its image. None at
        prediction.
    kh, kw, stride_h, stride_w : int, >= 1
    pad_h, pad_w : int, >= 0
        How far the first windows reach beyond the image, above and on the left.
    """
    geometry = kh, kw, stride_h, stride_w, pad_h, pad_w
    windows = _windows(x, y, *geometry, outside=-np.inf)
    best = windows.argmax(axis=-1)
    y[...] = np.take_along_axis(windows, best[..., None], -1)[..., 0]
    if argmax is not None:
        out_h, out_w = y.shape[2:]
        row = np.arange(out_h)[:, None] * stride_h - pad_h + best // kw
        column = np.arange(out_w) * stride_w - pad_w + best % kw
        # Where all pixels are -inf, `best` is the corner of the window, which may be outside the
        # image.
        argmax[...] = np.maximum(row, 0) * x.shape[3] + np.maximum(column, 0)


def maxpool_backward(dy, argmax, dx):
    """Send each gradient to the largest pixel of its window; overlapping windows add up.

    Parameters
    ----------
    dy : ndarray, shape (N, C, OH, OW)
        Read only.
    argmax : ndarray of int32, shape (N, C, OH, OW)
        From `maxpool_forward`; read only. Each value lies in [0, H*W).
    dx : ndarray, shape (N, C, H, W)
        Filled, not added to.
    """
    n, c, h, w = dx.shape
    image = np.arange(n * c).reshape(n, c, 1, 1) * (h * w)
    dx[...] = 0
    np.add.at(dx.reshape(-1), (image + argmax).reshape(-1), dy.reshape(-1))


def meanpool_forward(x, y, kh, kw, stride_h, stride_w, pad_h, pad_w):
    """Mean of each window, exact to rounding however many pixels it has.

    Parameters
    ----------
    x : ndarray, shape (N, C, H, W)
        Read only.
    y : ndarray, shape (N, C, OH, OW)
        Filled.
    kh, kw, stride_h, stride_w : int, >= 1
    pad_h, pad_w : int, >= 0
        As in `maxpool_forward`.
    """
    windows = _windows(x, y, kh, kw, stride_h, stride_w, pad_h, pad_w, outside=0)
    total = windows.sum(axis=-1, dtype=np.result_type(x, np.float64))
    top, bottom = _spans(x.shape[2], y.shape[2], kh, stride_h, pad_h)
    left, right = _spans(x.shape[3], y.shape[3], kw, stride_w, pad_w)
    y[...] = total / ((bottom - top)[:, None] * (right - left))


def meanpool_backward(dy, dx, kh, kw, stride_h, stride_w, pad_h, pad_w):
    """Share each gradient equally among the pixels of its window.

    Parameters
    ----------
    dy : ndarray, shape (N, C, OH, OW)
        Read only.
    dx : ndarray, shape (N, C, H, W)
        Filled, not added to.
    kh, kw, stride_h, stride_w : int, >= 1
    pad_h, pad_w : int, >= 0
        As in `maxpool_forward`.
    """
    n, c, out_h, out_w = dy.shape
    top, bottom = _spans(dx.shape[2], out_h, kh, stride_h, pad_h)
    left, right = _spans(dx.shape[3], out_w, kw, stride_w, pad_w)
    share = dy / ((bottom - top)[:, None] * (right - left)).astype(dy.dtype)
    row = np.zeros((n, c, out_h, dx.shape[3]), dx.dtype)
    for j in range(out_w):
        row[..., left[j] : right[j]] += share[..., j : j + 1]
    dx[...] = 0
    for i in range(out_h):
        dx[:, :, top[i] : bottom[i]] += row[:, :, i : i + 1]
