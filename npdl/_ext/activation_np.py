"""Elementwise activations: the codes, their formulas, and the NumPy twin of ``activation.pyx``.

Every kernel takes an activation as a pair ``act = (code, steepness)``. All eight derivatives are
functions of the *output* y alone, so no kernel ever keeps the input of an activation:

====================  ==========================  ===========================
code                  y = f(x)                    f'(x), from y
====================  ==========================  ===========================
LINEAR                x                           1
RELU                  max(0, x)                   1 where y > 0, else 0
TANH                  tanh x                      1 - y²
SIGMOID               1 / (1 + e^-x)              y (1 - y)
SOFT_PLUS             log(1 + e^x)                1 - e^-y
SOFT_SIGN             x / (1 + |x|)               (1 - |y|)²
ELLIOT                s x / (1+|s x|) / 2 + 1/2   s/2 (1 - |2 y - 1|)²
SYMMETRIC_ELLIOT      s x / (1+|s x|)             s (1 - |y|)²
====================  ==========================  ===========================

Only the twins also take an *object* in the place of the pair, for what has no code: softmax, or an
activation of the user's own. It has ``forward(x)`` returning y, and ``backward(x, y, dy)``
returning dx; both take and return arrays of shape (..., U).
"""

from __future__ import annotations

import numpy as np

LINEAR, RELU, TANH, SIGMOID, SOFT_PLUS, SOFT_SIGN, ELLIOT, SYMMETRIC_ELLIOT = range(8)


def apply(act, x):
    """Return y = f(x), a new array."""
    if not isinstance(act, tuple):
        return act.forward(x)
    code, s = act
    if code == LINEAR:
        return x.copy()
    if code == RELU:
        return np.maximum(x, 0)
    if code == TANH:
        return np.tanh(x)
    if code == SIGMOID:  # 0.5 (1 + tanh(x/2)): no overflow for any x
        return 0.5 * (1 + np.tanh(0.5 * x))
    if code == SOFT_PLUS:  # log(1 + e^x) = max(x, 0) + log(1 + e^-|x|)
        return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
    if code == SOFT_SIGN:
        return x / (1 + np.abs(x))
    if code == ELLIOT:
        return 0.5 * s * x / (1 + np.abs(s * x)) + 0.5
    if code == SYMMETRIC_ELLIOT:
        return s * x / (1 + np.abs(s * x))
    raise ValueError(f"Unknown activation code {code!r}.")


def slope(act, y):
    """Return f'(x) as a function of y = f(x)."""
    code, s = act
    if code == LINEAR:
        return np.ones_like(y)
    if code == RELU:
        return (y > 0).astype(y.dtype)
    if code == TANH:
        return 1 - y * y
    if code == SIGMOID:
        return y * (1 - y)
    if code == SOFT_PLUS:
        return -np.expm1(-y)
    if code == SOFT_SIGN:
        return (1 - np.abs(y)) ** 2
    if code == ELLIOT:
        return 0.5 * s * (1 - np.abs(2 * y - 1)) ** 2
    if code == SYMMETRIC_ELLIOT:
        return s * (1 - np.abs(y)) ** 2
    raise ValueError(f"Unknown activation code {code!r}.")


def pull_back(act, x, y, dy):
    """Return dx = f'(x) dy, a new array. `x` is read only when `act` is an object."""
    if isinstance(act, tuple):
        return dy * slope(act, y)
    return act.backward(x, y, dy)


def activation_forward(x, y, act):
    """y = f(x), element by element.

    Parameters
    ----------
    x : ndarray, shape (n,)
        Read only.
    y : ndarray, shape (n,)
        Filled. May be `x` itself.
    act : tuple (code, steepness)
    """
    y[...] = apply(act, x)


def activation_backward(y, dy, dx, act):
    """dx = f'(x) dy, from the output y = f(x).

    Parameters
    ----------
    y, dy : ndarray, shape (n,)
        Read only.
    dx : ndarray, shape (n,)
        Filled. May be `dy` itself.
    act : tuple (code, steepness)
    """
    dx[...] = dy * slope(act, y)
