"""Batch normalisation: the NumPy twin of ``norm.pyx``.

An input of any shape is passed as (O, C, I): C channels, each of which is normalised over its
M = O I elements along the axes before and after it.
"""

from __future__ import annotations

import numpy as np

from npdl._ext.activation_np import LINEAR, apply, pull_back


def _totals(x):
    """The sum of each channel. NumPy adds pairwise, and so accurately, only along the last axis."""
    rows = np.ascontiguousarray(np.moveaxis(x, 1, 0))
    return rows.reshape(len(rows), -1).sum(axis=1)


def norm_forward(x, gamma, beta, epsilon, y, mean, var, act):
    """y = f(gamma (x - mean) / √(var + ε) + beta), with the statistics of x itself.

    Parameters
    ----------
    x : ndarray, shape (O, C, I)
        Read only, as are `gamma` and `beta`. O or I may be 0; the statistics are then 0.
    gamma, beta : ndarray, shape (C,)
    epsilon : float
    y : ndarray, shape (O, C, I)
        Filled, as are `mean` and `var`.
    mean, var : ndarray, shape (C,)
        Mean of each channel, and the mean of the squared deviations.
    act : tuple (code, steepness)
        The activation f, LINEAR or RELU.
    """
    if x.size == 0:
        mean[...] = 0
        var[...] = 0
        return
    count = x.size // gamma.size
    mean[...] = _totals(x) / count
    np.subtract(x, mean[:, None], out=y)
    mean += _totals(y) / count  # the rounding error of the first sum
    np.subtract(x, mean[:, None], out=y)
    var[...] = _totals(np.square(y)) / count
    y *= (gamma / np.sqrt(var + epsilon))[:, None]
    y += beta[:, None]
    if act[0] != LINEAR:
        y[...] = apply(act, y)


def norm_fixed_forward(x, gamma, beta, mean, var, epsilon, y):
    """y = gamma (x - mean) / √(var + ε) + beta, with given statistics.

    Parameters
    ----------
    x : ndarray, shape (O, C, I)
        Read only, as are all arrays except `y`.
    gamma, beta, mean, var : ndarray, shape (C,)
    epsilon : float
    y : ndarray, shape (O, C, I)
        Filled.
    """
    np.subtract(x, mean[:, None], out=y)
    y *= (gamma / np.sqrt(var + epsilon))[:, None]
    y += beta[:, None]


def norm_backward(x, gamma, beta, mean, var, epsilon, dy, dx, dgamma, dbeta, act):
    """Gradients of `norm_forward`; the statistics depend on x too.

    ::

        x̂ = (x - mean) / √(var + ε),   dz = f'(gamma x̂ + beta) dy
        dbeta = Σ dz,   dgamma = Σ dz x̂
        dx = gamma / √(var + ε) (dz - dbeta / M - x̂ dgamma / M)

    Parameters
    ----------
    x : ndarray, shape (O, C, I)
        Read only, as are `gamma`, `beta`, `mean`, `var` and `dy`.
    gamma, beta : ndarray, shape (C,)
    mean, var : ndarray, shape (C,)
        From the forward pass.
    epsilon : float
    dy : ndarray, shape (O, C, I)
    dx : ndarray, shape (O, C, I), or None
        Filled; None if not needed.
    dgamma, dbeta : ndarray, shape (C,), or None
        Filled, not added to; None if not needed.
    act : tuple (code, steepness)
        As in the forward pass.
    """
    inverse = 1 / np.sqrt(var + epsilon)
    centred = x - mean[:, None]
    if act[0] != LINEAR:
        y = apply(act, centred * (gamma * inverse)[:, None] + beta[:, None])
        dy = pull_back(act, None, y, dy)
    slope = _totals(np.multiply(dy, centred, out=dx)) * inverse
    total = _totals(dy)
    if dgamma is not None:
        dgamma[...] = slope
    if dbeta is not None:
        dbeta[...] = total
    if dx is not None and x.size:
        share = gamma.size / x.size  # 1 / M
        np.multiply(centred, (slope * inverse * share)[:, None], out=dx)
        np.subtract(dy, dx, out=dx)
        dx -= (total * share)[:, None]
        dx *= (gamma * inverse)[:, None]
