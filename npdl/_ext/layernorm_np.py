"""Normalisation of rows: the NumPy twin of ``layernorm.pyx``.

Layer, group and RMS normalisation are one: a row of numbers is normalised separately, and then each
of its L channels of I numbers gets a scale and a shift. There are P channels; row r has those from
r L on, modulo P. In layer normalisation P = L; each group of a sample has the next L channels.
"""

from __future__ import annotations

import numpy as np


def _of_rows(x, channels):
    """Numbers of the P channels, as each row of x, shape (R, L, I), sees them: (R, L, 1)."""
    rows, length, _ = x.shape
    return np.tile(channels.reshape(-1, length, 1), (rows // (channels.size // length), 1, 1))


def _over_rows(per_row, n):
    """Sums over all rows of what each has for its channels: (R, L) -> (P,)."""
    return per_row.reshape(-1, n).sum(axis=0, dtype=np.result_type(per_row, np.float64))


def layernorm_forward(x, gamma, beta, epsilon, y, mean, scale):
    """y = gamma (x - mean) scale + beta, scale = 1 / √(var + ε), in each row.

    Parameters
    ----------
    x : ndarray, shape (R, L, I)
        Read only, as are `gamma` and `beta`. Only R may be 0.
    gamma : ndarray, shape (P,)
        P is a multiple of L, and R one of P / L.
    beta : ndarray, shape (P,), or None
        None counts as 0.
    epsilon : float
    y : ndarray, shape (R, L, I)
        Filled, as are `mean` and `scale`.
    mean : ndarray, shape (R,), or None
        Mean of each row. None: nothing is subtracted, and var is the mean of x²
        (RMS normalisation).
    scale : ndarray, shape (R,)
    """
    y[...] = x
    if mean is not None:
        mean[...] = x.mean(axis=(1, 2))
        y -= mean[:, None, None]
        mean += y.mean(axis=(1, 2))  # the rounding error of the first sum
        np.subtract(x, mean[:, None, None], out=y)
    scale[...] = 1 / np.sqrt(np.square(y).mean(axis=(1, 2)) + epsilon)
    y *= scale[:, None, None]
    y *= _of_rows(x, gamma)
    if beta is not None:
        y += _of_rows(x, beta)


def layernorm_backward(x, gamma, mean, scale, dy, dx, dgamma, dbeta):
    """Gradients of `layernorm_forward`; mean and scale depend on x too.

    ::

        x̂ = (x - mean) scale,   g = gamma dy
        dx = scale (g - ⟨g⟩ - x̂ ⟨g x̂⟩),   dbeta = Σ dy,   dgamma = Σ dy x̂

    ⟨⟩ is the mean over a row; ⟨g⟩ is left out where `mean` is None. The sums are over all rows and
    the numbers of a channel.

    Parameters
    ----------
    x : ndarray, shape (R, L, I)
        Read only, as are `gamma`, `mean`, `scale` and `dy`.
    gamma : ndarray, shape (P,)
    mean : ndarray, shape (R,), or None
        From the forward pass, as is `scale`.
    scale : ndarray, shape (R,)
    dy : ndarray, shape (R, L, I)
    dx : ndarray, shape (R, L, I), or None
        Filled; None if not needed.
    dgamma, dbeta : ndarray, shape (P,), or None
        Filled, not added to; None if not needed.
    """
    hat = x * scale[:, None, None]
    if mean is not None:
        hat = (x - mean[:, None, None]) * scale[:, None, None]
    if dgamma is not None:
        dgamma[...] = _over_rows((dy * hat).sum(axis=2), dgamma.size)
    if dbeta is not None:
        dbeta[...] = _over_rows(dy.sum(axis=2), dbeta.size)
    if dx is None:
        return
    np.multiply(dy, _of_rows(x, gamma), out=dx)
    hat *= (dx * hat).mean(axis=(1, 2), keepdims=True)
    if mean is not None:
        hat += dx.mean(axis=(1, 2), keepdims=True)
    dx -= hat
    dx *= scale[:, None, None]
