"""The steps of the optimizers, one parameter at a time: the NumPy twin of ``optimizer.pyx``.

All arrays have one length and one dtype. `p`, the parameter, and the arrays that the optimizer
keeps for it are changed in place; `g`, its gradient, is read only.
"""

from __future__ import annotations

import numpy as np


def update_mean(mean, keep, new):
    """mean = keep·mean + (1 - keep)·new, in place."""
    mean *= keep
    mean += (1 - keep) * new
    return mean


def sgd_step(p, g, lr):
    """p -= lr g.

    Parameters
    ----------
    p, g : ndarray, shape (n,)
    lr : float
    """
    p -= lr * g


def momentum_step(p, g, v, lr, momentum, nesterov):
    """v = m v - lr g; p += v, or with Nesterov's look ahead p += m v - lr g.

    Parameters
    ----------
    p, g, v : ndarray, shape (n,)
    lr, momentum : float
    nesterov : bool
    """
    v *= momentum
    v -= lr * g
    p += momentum * v - lr * g if nesterov else v


def adagrad_step(p, g, r, lr, epsilon):
    """r += g²; p -= lr g / √(r + ε).

    Parameters
    ----------
    p, g, r : ndarray, shape (n,)
    lr, epsilon : float
    """
    r += g * g
    p -= lr * g / np.sqrt(r + epsilon)


def rmsprop_step(p, g, r, lr, rho, epsilon):
    """r = ρ r + (1-ρ) g²; p -= lr g / √(r + ε).

    Parameters
    ----------
    p, g, r : ndarray, shape (n,)
    lr, rho, epsilon : float
    """
    update_mean(r, rho, g * g)
    p -= lr * g / np.sqrt(r + epsilon)


def adadelta_step(p, g, r, s, lr, rho, epsilon):
    """r = ρ r + (1-ρ) g²; u = g √(s+ε)/√(r+ε); p -= lr u; s = ρ s + (1-ρ) u².

    Parameters
    ----------
    p, g, r, s : ndarray, shape (n,)
    lr, rho, epsilon : float
    """
    update_mean(r, rho, g * g)
    u = g * np.sqrt((s + epsilon) / (r + epsilon))
    p -= lr * u
    update_mean(s, rho, u * u)


def adam_step(p, g, m, v, lr, beta1, beta2, epsilon, unbias1, unbias2):
    """m, v = moving means of g, g²; p -= lr (m / unbias1) / (√(v / unbias2) + ε).

    Parameters
    ----------
    p, g, m, v : ndarray, shape (n,)
    lr, beta1, beta2, epsilon : float
    unbias1, unbias2 : float
        1 - β^t in step t = 1, 2, ...
    """
    update_mean(m, beta1, g)
    update_mean(v, beta2, g * g)
    p -= lr / unbias1 * m / (np.sqrt(v / unbias2) + epsilon)


def adamax_step(p, g, m, u, lr, beta1, beta2, epsilon, unbias1):
    """m = moving mean of g; u = max(β₂ u, |g|); p -= lr (m / unbias1) / (u + ε).

    Parameters
    ----------
    p, g, m, u : ndarray, shape (n,)
    lr, beta1, beta2, epsilon : float
    unbias1 : float
        1 - β₁^t in step t = 1, 2, ...
    """
    update_mean(m, beta1, g)
    u *= beta2
    np.maximum(u, np.abs(g), out=u)
    p -= lr / unbias1 * m / (u + epsilon)
