"""Two-dimensional convolution by im2col: the NumPy twin of ``conv.pyx``.

What deep learning calls a convolution is a correlation: a window slides over the image, and at each
place its C*KH*KW pixels are multiplied with the filter and added up ::

    y[n,f,i,j] = b[f] + Σ_{c,u,v} w[f,c,u,v] · x[n, c, i*SH + u - PH, j*SW + v - PW]

*im2col* writes each window as a column, so that the sum becomes one matrix product, w · columns:

    image x[c] (4x4), window 2x2      columns (C*KH*KW rows, OH*OW columns)
      a b c d                           a b c e f g i j k     <- pixel (0,0) of every window
      e f g h             ->            b c d f g h j k l     <- pixel (0,1)
      i j k l                           e f g i j k m n o     <- pixel (1,0)
      m n o p                           f g h j k l n o p     <- pixel (1,1)

Each row of `columns` is a strided view of the image, so building it takes KH*KW copies. The
backward pass uses the same matrix: dw = dz · columnsᵀ; and *col2im*, its transpose, adds the
gradient of every column back to the pixels it came from.

Padding is implied: PH and PW say how many zeros stand above and to the left of the image, and the
shape of y says how far the windows go; whatever lies outside the image counts as zero.
"""

from __future__ import annotations

import numpy as np

from npdl._ext.activation_np import apply, pull_back


def _padded_shape(x, y, kh, kw, stride_h, stride_w, pad_h, pad_w):
    """Height and width that hold the image at (pad_h, pad_w) and every window of y."""
    rows = (y.shape[2] - 1) * stride_h + kh
    cols = (y.shape[3] - 1) * stride_w + kw
    return max(rows, pad_h + x.shape[2]), max(cols, pad_w + x.shape[3])


def _windows(padded, kh, kw, out_h, out_w, stride_h, stride_w):
    """Yield (u, v, view): in each window, the pixel (u, v), as a view of shape (N, C, OH, OW)."""
    for u in range(kh):
        for v in range(kw):
            rows = slice(u, u + stride_h * (out_h - 1) + 1, stride_h)
            cols = slice(v, v + stride_w * (out_w - 1) + 1, stride_w)
            yield u, v, padded[:, :, rows, cols]


def im2col(x, y, kh, kw, stride_h, stride_w, pad_h, pad_w):
    """Return the columns of `x`, shape (N, C*KH*KW, OH*OW)."""
    n, c, h, w = x.shape
    out_h, out_w = y.shape[2:]
    height, width = _padded_shape(x, y, kh, kw, stride_h, stride_w, pad_h, pad_w)
    padded = np.zeros((n, c, height, width), x.dtype)
    padded[:, :, pad_h : pad_h + h, pad_w : pad_w + w] = x
    columns = np.empty((n, c, kh, kw, out_h, out_w), x.dtype)
    for u, v, view in _windows(padded, kh, kw, out_h, out_w, stride_h, stride_w):
        columns[:, :, u, v] = view
    return columns.reshape(n, c * kh * kw, out_h * out_w)


def col2im(columns, x, y, kh, kw, stride_h, stride_w, pad_h, pad_w):
    """Return the transpose of `im2col` applied to `columns`, shape of `x`."""
    n, c, h, w = x.shape
    out_h, out_w = y.shape[2:]
    height, width = _padded_shape(x, y, kh, kw, stride_h, stride_w, pad_h, pad_w)
    columns = columns.reshape(n, c, kh, kw, out_h, out_w)
    padded = np.zeros((n, c, height, width), columns.dtype)
    for u, v, view in _windows(padded, kh, kw, out_h, out_w, stride_h, stride_w):
        view += columns[:, :, u, v]
    return padded[:, :, pad_h : pad_h + h, pad_w : pad_w + w]


def conv2d_forward(x, w, b, y, stride_h, stride_w, pad_h, pad_w, act):
    """y = f(b + w * x), the formula at the head of this file.

    Parameters
    ----------
    x : ndarray, shape (N, C, H, W)
        Read only, as are `w` and `b`.
    w : ndarray, shape (F, C, KH, KW)
    b : ndarray, shape (F,)
    y : ndarray, shape (N, F, OH, OW)
        Filled. Its shape is the caller's choice, see the head of this file; every dimension >= 1.
    stride_h, stride_w : int, >= 1
    pad_h, pad_w : int, >= 0
        Zeros above and to the left of the image.
    act : tuple (code, steepness)
        The activation f, see ``activation_np``.
    """
    kh, kw = w.shape[2:]
    columns = im2col(x, y, kh, kw, stride_h, stride_w, pad_h, pad_w)
    z = w.reshape(len(w), -1) @ columns + b[:, None]
    y[...] = apply(act, z.reshape(y.shape))


def conv2d_backward(x, w, y, dy, dx, dw, db, stride_h, stride_w, pad_h, pad_w, act):
    """Gradients of `conv2d_forward`.

    Parameters
    ----------
    x : ndarray, shape (N, C, H, W)
        Read only, as are `w`, `y` and `dy`.
    w : ndarray, shape (F, C, KH, KW)
    y, dy : ndarray, shape (N, F, OH, OW)
        What the forward pass returned, and the gradient of the loss in it.
    dx : ndarray, shape (N, C, H, W), or None
        Filled; None where nobody needs it.
    dw : ndarray, shape (F, C, KH, KW)
        Filled, not added to, as is `db`.
    db : ndarray, shape (F,)
    stride_h, stride_w, pad_h, pad_w : int
    act : tuple (code, steepness)
    """
    kh, kw = w.shape[2:]
    dz = pull_back(act, None, y, dy).reshape(*y.shape[:2], y.shape[2] * y.shape[3])
    columns = im2col(x, y, kh, kw, stride_h, stride_w, pad_h, pad_w)
    dw[...] = np.matmul(dz, columns.transpose(0, 2, 1)).sum(axis=0).reshape(w.shape)
    db[...] = dz.sum(axis=(0, 2))
    if dx is not None:
        columns = w.reshape(len(w), -1).T @ dz
        dx[...] = col2im(columns, x, y, kh, kw, stride_h, stride_w, pad_h, pad_w)
