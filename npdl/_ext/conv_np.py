"""Two-dimensional convolution by im2col: the NumPy twin of ``conv.pyx``.

A convolution in deep learning is a correlation: a window slides over the image, and at each
place its C*KH*KW pixels are multiplied with the filter and added up ::

    y[n,f,i,j] = b[f] + Σ_{c,u,v} w[f,c,u,v] · x[n, c, i*SH + u*DH - PH, j*SW + v*DW - PW]

*im2col* writes each window as a column, so that the sum becomes one matrix product, w · columns:

    image x[c] (4x4), window 2x2      columns (C*KH*KW rows, OH*OW columns)
      a b c d                           a b c e f g i j k     <- pixel (0,0) of every window
      e f g h             ->            b c d f g h j k l     <- pixel (0,1)
      i j k l                           e f g i j k m n o     <- pixel (1,0)
      m n o p                           f g h j k l n o p     <- pixel (1,1)

Each row of `columns` is a strided view of the image, so building it takes KH*KW copies. The
backward pass uses the same matrix: dw = dz · columnsᵀ; and *col2im*, its transpose, adds the
gradient of every column back to the pixels it came from.

Padding is implied: PH and PW are the numbers of zeros above and to the left of the image, and the
shape of y gives the number of windows; pixels outside the image count as zero.

In G groups, the filters are G parts of F/G, each of which sees a part of the channels: w has C/G of
them. With ``channels_last`` x and y have their channels on the last axis, (N, H, W, C), as
sequences (N, T, D) have, seen as images of one column; w stays as it is.

The transposed convolution is the gradient of the input as a layer: a convolution gathers a window
into a pixel, this spreads a pixel over a window ::

    y[n, f, i*SH + u*DH - PH, j*SW + v*DW - PW] += w[c,f,u,v] · x[n,c,i,j]     and b[f], once
"""

from __future__ import annotations

import numpy as np

from npdl._ext.activation_np import apply, pull_back


def _first(array, channels_last):
    """`array` with its channels on axis 1, a view."""
    return array.transpose(0, 3, 1, 2) if channels_last else array


def _padded_shape(size, count, window, stride, pad, dilation):
    """Rows, or columns, that hold the image at `pad` and every window."""
    return max((count - 1) * stride + (window - 1) * dilation + 1, pad + size)


def _windows(padded, window, count, stride, dilation):
    """Yield (u, v, view): in each window, the pixel (u, v), as a view of shape (N, C, OH, OW)."""
    for u in range(window[0]):
        for v in range(window[1]):
            rows, cols = (
                slice(k * d, k * d + s * (n - 1) + 1, s)
                for k, d, s, n in zip((u, v), dilation, stride, count)
            )
            yield u, v, padded[:, :, rows, cols]


def _padded(x, window, count, stride, pad, dilation):
    """An array of zeros that holds the image and every window, and the image's place in it."""
    size = (_padded_shape(*axis) for axis in zip(x.shape[2:], count, window, stride, pad, dilation))
    place = tuple(slice(p, p + s) for p, s in zip(pad, x.shape[2:]))
    return np.zeros((*x.shape[:2], *size), x.dtype), (..., *place)


def im2col(x, window, count, stride, pad, dilation):
    """Return the columns of `x`, shape (N, C, KH*KW, OH*OW)."""
    padded, place = _padded(x, window, count, stride, pad, dilation)
    padded[place] = x
    columns = np.empty((*x.shape[:2], *window, *count), x.dtype)
    for u, v, view in _windows(padded, window, count, stride, dilation):
        columns[:, :, u, v] = view
    return columns.reshape(*x.shape[:2], window[0] * window[1], count[0] * count[1])


def col2im(columns, x, window, count, stride, pad, dilation):
    """Return the transpose of `im2col` applied to `columns`, shape of `x`."""
    padded, place = _padded(x, window, count, stride, pad, dilation)
    columns = columns.reshape(*x.shape[:2], *window, *count)
    for u, v, view in _windows(padded, window, count, stride, dilation):
        view += columns[:, :, u, v]
    return padded[place]


def _grouped(columns, w, groups):
    """Columns (N, G, C/G*KH*KW, OH*OW), and the filters (G, F/G, C/G*KH*KW)."""
    n, c, taps, places = columns.shape
    columns = columns.reshape(n, groups, c // groups * taps, places)
    return columns, w.reshape(groups, len(w) // groups, -1)


def _correlate(x, w, y, stride, pad, dilation, groups):
    """Return w * x, without bias, in the shape of `y`; channels on axis 1."""
    columns = im2col(x, w.shape[2:], y.shape[2:], stride, pad, dilation)
    columns, filters = _grouped(columns, w, groups)
    return (filters @ columns).reshape(y.shape)


def _filter_gradient(x, w, dz, stride, pad, dilation, groups):
    columns = im2col(x, w.shape[2:], dz.shape[2:], stride, pad, dilation)
    columns, _ = _grouped(columns, w, groups)
    dz = dz.reshape(len(dz), groups, len(w) // groups, dz.shape[2] * dz.shape[3])
    of_images = np.matmul(dz, columns.transpose(0, 1, 3, 2))
    return of_images.sum(axis=0, dtype=np.result_type(dz, np.float64)).reshape(w.shape)


def _spread(dz, w, x, stride, pad, dilation, groups):
    """Return the gradient in `x` from that in the output, channels on axis 1."""
    filters = w.reshape(groups, len(w) // groups, -1)
    count = dz.shape[2:]
    dz = dz.reshape(len(dz), groups, len(w) // groups, count[0] * count[1])
    return col2im(filters.transpose(0, 2, 1) @ dz, x, w.shape[2:], count, stride, pad, dilation)


def conv2d_forward(
    x, w, b, y, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups, channels_last, act
):
    """y = f(b + w * x), the formula at the head of this file.

    Parameters
    ----------
    x : ndarray, shape (N, C, H, W)
        Read only, as are `w` and `b`.
    w : ndarray, shape (F, C/G, KH, KW)
    b : ndarray, shape (F,), or None
        None is a bias of 0.
    y : ndarray, shape (N, F, OH, OW)
        Filled. Its shape is the caller's choice, see the head of this file; every dimension >= 1.
    stride_h, stride_w : int, >= 1
    pad_h, pad_w : int, >= 0
        Zeros above and to the left of the image.
    dilation_h, dilation_w : int, >= 1
        Rows and columns from one pixel of a window to the next.
    groups : int, >= 1
        G, which divides C and F.
    channels_last : int, 0 or 1
        Whether x has the shape (N, H, W, C), and y (N, OH, OW, F).
    act : tuple (code, steepness)
        The activation f, see ``activation_np``.
    """
    geometry = (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), groups
    out = _first(y, channels_last)
    z = _correlate(_first(x, channels_last), w, out, *geometry)
    out[...] = apply(act, z if b is None else z + b[:, None, None])


def conv2d_backward(
    x, w, y, dy, dx, dw, db, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups,
    channels_last, act,
):  # fmt: skip
    """Gradients of `conv2d_forward`.

    Parameters
    ----------
    x : ndarray, shape (N, C, H, W)
        Read only, as are `w`, `y` and `dy`.
    w : ndarray, shape (F, C/G, KH, KW)
    y, dy : ndarray, shape (N, F, OH, OW)
        What the forward pass returned, and the gradient of the loss in it.
    dx : ndarray, shape (N, C, H, W), or None
        Filled; None if not needed, as are the next two.
    dw : ndarray, shape (F, C/G, KH, KW), or None
        Filled, not added to, as is `db`.
    db : ndarray, shape (F,), or None
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups, channels_last : int
    act : tuple (code, steepness)
    """
    geometry = (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), groups
    x, dz = _first(x, channels_last), _first(pull_back(act, None, y, dy), channels_last)
    if dw is not None:
        dw[...] = _filter_gradient(x, w, dz, *geometry)
    if db is not None:
        db[...] = dz.sum(axis=(0, 2, 3), dtype=np.result_type(dz, np.float64))
    if dx is not None:
        _first(dx, channels_last)[...] = _spread(dz, w, x, *geometry)


def conv2d_transposed_forward(
    x, w, b, y, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups, channels_last, act
):
    """y = f(b + the gradient of the input of a convolution whose output has the gradient x).

    The geometry is that of this convolution, whose filters are `w`.

    Parameters
    ----------
    x : ndarray, shape (N, C, H, W)
        Read only, as are `w` and `b`.
    w : ndarray, shape (C, F/G, KH, KW)
    b : ndarray, shape (F,), or None
    y : ndarray, shape (N, F, OH, OW)
        Filled. Its shape is the caller's choice; pixels that no window reaches are f(b).
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups, channels_last : int
        As in `conv2d_forward`; the padding is cut off from y.
    act : tuple (code, steepness)
    """
    geometry = (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), groups
    out = _first(y, channels_last)
    z = _spread(np.ascontiguousarray(_first(x, channels_last)), w, out, *geometry)
    out[...] = apply(act, z if b is None else z + b[:, None, None])


def conv2d_transposed_backward(
    x, w, y, dy, dx, dw, db, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups,
    channels_last, act,
):  # fmt: skip
    """Gradients of `conv2d_transposed_forward`.

    Parameters
    ----------
    x : ndarray, shape (N, C, H, W)
        Read only, as are `w`, `y` and `dy`.
    w : ndarray, shape (C, F/G, KH, KW)
    y, dy : ndarray, shape (N, F, OH, OW)
    dx : ndarray, shape (N, C, H, W), or None
        Filled; None if not needed, as are the next two.
    dw : ndarray, shape (C, F/G, KH, KW), or None
    db : ndarray, shape (F,), or None
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups, channels_last : int
    act : tuple (code, steepness)
    """
    geometry = (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), groups
    x, dz = _first(x, channels_last), _first(pull_back(act, None, y, dy), channels_last)
    if dw is not None:
        dw[...] = _filter_gradient(dz, w, x, *geometry)
    if db is not None:
        db[...] = dz.sum(axis=(0, 2, 3), dtype=np.result_type(dz, np.float64))
    if dx is not None:
        out = _first(dx, channels_last)
        out[...] = _correlate(dz, w, out, *geometry)
