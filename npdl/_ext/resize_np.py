"""Upsampling of images by integer factors: the NumPy twin of ``resize.pyx``.

Along each axis, output k of pixel i, k = 0 ... S-1, lies at f = (k + 1/2)/S - 1/2 from the centre
of the pixel. Nearest takes the pixel; linear interpolates between it and the neighbour there:

    y[i S + k] = (1 - |f|) x[i] + |f| x[i + sign(f)]

where x[-1] is x[0], and x[H] is x[H-1].
"""

from __future__ import annotations

import numpy as np


def _taps(size, linear):
    """Side of the neighbour, -1 or 1, and its weight, for each output of a pixel."""
    places = [(k + 0.5) / size - 0.5 if linear else 0.0 for k in range(size)]
    return [(1 if place > 0 else -1, abs(place)) for place in places]


def _enlarge(x, size, linear):
    """x with axis 0 `size` times as long."""
    y = np.empty((len(x) * size, *x.shape[1:]), x.dtype)
    for k, (side, weight) in enumerate(_taps(size, linear)):
        y[k::size] = x
        if weight:
            neighbour = np.concatenate([x[1:], x[-1:]] if side > 0 else [x[:1], x[:-1]])
            y[k::size] = x * x.dtype.type(1 - weight) + neighbour * x.dtype.type(weight)
    return y


def _enlarge_back(dy, size, linear):
    """The adjoint of `_enlarge`."""
    dx = np.zeros((len(dy) // size, *dy.shape[1:]), dy.dtype)
    for k, (side, weight) in enumerate(_taps(size, linear)):
        dx += dy[k::size] * dy.dtype.type(1 - weight)
        neighbour = dy[k::size] * dy.dtype.type(weight)
        if weight and side > 0:
            dx[1:] += neighbour[:-1]
            dx[-1] += neighbour[-1]
        elif weight:
            dx[:-1] += neighbour[1:]
            dx[0] += neighbour[0]
    return dx


def enlarge_forward(x, y, linear):
    """Upsample images.

    Parameters
    ----------
    x : ndarray, shape (N, C, H, W)
        Read only.
    y : ndarray, shape (N, C, SH*H, SW*W)
        Filled. Its shape gives the factors.
    linear : bool
        Whether to interpolate. If false, each pixel is repeated.
    """
    down, right = (large // small for large, small in zip(y.shape[2:], x.shape[2:]))
    rows = _enlarge(np.moveaxis(x, 2, 0), down, linear)
    y[...] = np.moveaxis(_enlarge(np.moveaxis(rows, 3, 0), right, linear), (1, 0), (2, 3))


def enlarge_backward(dy, dx, linear):
    """Gradient of the small images.

    Parameters
    ----------
    dy : ndarray, shape (N, C, SH*H, SW*W)
        Read only.
    dx : ndarray, shape (N, C, H, W)
        Filled, not added to.
    linear : bool
        As in `enlarge_forward`.
    """
    down, right = (large // small for large, small in zip(dy.shape[2:], dx.shape[2:]))
    columns = _enlarge_back(np.moveaxis(dy, 3, 0), right, linear)
    dx[...] = np.moveaxis(_enlarge_back(np.moveaxis(columns, 3, 0), down, linear), (0, 1), (2, 3))
