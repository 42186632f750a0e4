"""Fully connected product with its bias and activation: the NumPy twin of ``dense.pyx``."""

from __future__ import annotations

import numpy as np

from npdl._ext.activation_np import apply, pull_back


def dense_forward(x, w, b, y, act):
    """y = f(x w + b).

    Parameters
    ----------
    x : ndarray, shape (N, D)
        Read only, as are `w` and `b`.
    w : ndarray, shape (D, U)
    b : ndarray, shape (U,), or None
        None is a bias of 0.
    y : ndarray, shape (N, U)
        Filled.
    act : tuple (code, steepness)
        The activation f, see ``activation_np``.
    """
    y[...] = apply(act, x @ w if b is None else x @ w + b)


def dense_backward(x, w, y, dy, dx, dw, db, act):
    """Gradients of `dense_forward`: dz = f'(z) dy, dx = dz wᵀ, dw = xᵀ dz, db = Σ_n dz.

    Parameters
    ----------
    x : ndarray, shape (N, D)
        Read only, as are `w`, `y` and `dy`.
    w : ndarray, shape (D, U)
    y, dy : ndarray, shape (N, U)
        What the forward pass returned, and the gradient of the loss in it.
    dx : ndarray, shape (N, D), or None
        Filled, not added to, as are `dw` and `db`; None if not needed, like these.
    dw : ndarray, shape (D, U), or None
    db : ndarray, shape (U,), or None
    act : tuple (code, steepness)
    """
    dz = pull_back(act, None, y, dy)
    if dw is not None:
        dw[...] = x.T @ dz
    if db is not None:
        db[...] = dz.sum(axis=0, dtype=np.result_type(dz, np.float64))
    if dx is not None:
        dx[...] = dz @ w.T
