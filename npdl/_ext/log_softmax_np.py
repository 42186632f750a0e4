"""The logarithm of softmax: the twin of ``log_softmax.pyx``.

    y_j = z_j - m - log Σ_k e^(z_k - m),   m = max_k z_k

The logarithm of a probability that has underflowed to 0 is never taken.
"""

from __future__ import annotations

import numpy as np


def log_softmax_forward(z, y):
    """y = log softmax of each row of z.

    Parameters
    ----------
    z : ndarray, shape (N, K)
        Read only.
    y : ndarray, shape (N, K)
        Filled. May be `z` itself.
    """
    shifted = z - z.max(axis=1, keepdims=True)
    y[...] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def log_softmax_backward(y, dy, dz):
    """Product with the Jacobian of log softmax: dz = dy - e^y Σ_k dy_k.

    Parameters
    ----------
    y, dy : ndarray, shape (N, K)
        The output of the forward pass and the gradient in it. Read only.
    dz : ndarray, shape (N, K)
        Filled. May be `dy` itself.
    """
    dz[...] = dy - np.exp(y) * dy.sum(axis=1, keepdims=True)
