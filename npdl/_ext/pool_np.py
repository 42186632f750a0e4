"""Max and mean pooling: the NumPy twin of ``pool.pyx``.

    max:   y[n,c,i,j] = max  x[n, c, i*SH : i*SH+KH, j*SW : j*SW+KW]
    mean:  y[n,c,i,j] = mean of the same window

Windows may overlap (stride below the window) or leave gaps (stride above it). There is no padding:
every window lies inside the image, (OH-1)*SH + KH <= H and (OW-1)*SW + KW <= W.
"""

from __future__ import annotations

import numpy as np


def _windows(x, kh, kw, out_h, out_w, stride_h, stride_w):
    """Yield (u, v, view): the pixel (u, v) of every window, a view of shape (N, C, OH, OW)."""
    for u in range(kh):
        for v in range(kw):
            rows = slice(u, u + stride_h * (out_h - 1) + 1, stride_h)
            cols = slice(v, v + stride_w * (out_w - 1) + 1, stride_w)
            yield u, v, x[:, :, rows, cols]


def maxpool_forward(x, y, argmax, kh, kw, stride_h, stride_w):
    """Greatest value of each window.

    Of equal values the first in row-major order wins; a NaN counts as greater than any number.

    Parameters
    ----------
    x : ndarray, shape (N, C, H, W)
        Read only.
    y : ndarray, shape (N, C, OH, OW)
        Filled.
    argmax : ndarray of int32, shape (N, C, OH, OW), or None
        Filled with the place of the winner, ``row * W + column`` in its image. None at prediction.
    kh, kw, stride_h, stride_w : int, >= 1
    """
    out_h, out_w = y.shape[2:]
    width = x.shape[3]
    corner = np.arange(out_h)[:, None] * stride_h * width + np.arange(out_w) * stride_w
    for u, v, view in _windows(x, kh, kw, out_h, out_w, stride_h, stride_w):
        if u == v == 0:
            y[...] = view
            if argmax is not None:
                argmax[...] = corner
            continue
        better = (view > y) | (np.isnan(view) & ~np.isnan(y))
        y[...] = np.where(better, view, y)
        if argmax is not None:
            argmax[...] = np.where(better, corner + u * width + v, argmax)


def maxpool_backward(dy, argmax, dx):
    """Send each gradient to the pixel that won; windows that overlap add up.

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


def meanpool_forward(x, y, kh, kw, stride_h, stride_w):
    """Mean of each window.

    Parameters
    ----------
    x : ndarray, shape (N, C, H, W)
        Read only.
    y : ndarray, shape (N, C, OH, OW)
        Filled.
    kh, kw, stride_h, stride_w : int, >= 1
    """
    out_h, out_w = y.shape[2:]
    y[...] = 0
    for _, _, view in _windows(x, kh, kw, out_h, out_w, stride_h, stride_w):
        y += view
    y /= kh * kw


def meanpool_backward(dy, dx, kh, kw, stride_h, stride_w):
    """Share each gradient equally among the pixels of its window.

    Parameters
    ----------
    dy : ndarray, shape (N, C, OH, OW)
        Read only.
    dx : ndarray, shape (N, C, H, W)
        Filled, not added to.
    kh, kw, stride_h, stride_w : int, >= 1
    """
    out_h, out_w = dy.shape[2:]
    share = dy / dy.dtype.type(kh * kw)
    dx[...] = 0
    for _, _, view in _windows(dx, kh, kw, out_h, out_w, stride_h, stride_w):
        view += share
