"""Softmax, also fused with cross-entropy, and right predictions: the twin of ``softmax.pyx``.

    p_j = e^(z_j - m) / Σ_k e^(z_k - m),   m = max_k z_k
    loss = -Σ_j t_j log p_j = Σ_j t_j (m + log Σ_k e^(z_k - m) - z_j)

The shift by m keeps e^x from overflowing; the second form of the loss never takes the logarithm of
a p_j that has underflowed to zero. Its gradient is dz_j = p_j Σ_k t_k - t_j, which is p - t when
the targets sum to one.
"""

from __future__ import annotations

import numpy as np


def softmax_forward(z, p):
    """p = softmax of each row of z.

    Parameters
    ----------
    z : ndarray, shape (N, K)
        Read only.
    p : ndarray, shape (N, K)
        Filled. May be `z` itself.
    """
    e = np.exp(z - z.max(axis=1, keepdims=True))
    p[...] = e / e.sum(axis=1, keepdims=True)


def softmax_backward(p, dp, dz):
    """Product with the Jacobian of softmax: dz = p ∘ (dp - Σ_k dp_k p_k).

    Parameters
    ----------
    p, dp : ndarray, shape (N, K)
        The output of the forward pass and the gradient in it. Read only.
    dz : ndarray, shape (N, K)
        Filled. May be `dp` itself.
    """
    dz[...] = p * (dp - (dp * p).sum(axis=1, keepdims=True))


def softmax_xent_forward(z, t, p, loss):
    """Softmax of each row and its cross-entropy with the target.

    Parameters
    ----------
    z : ndarray, shape (N, K)
        Logits. Read only.
    t : ndarray of int64, shape (N,), or ndarray like `z`, shape (N, K)
        Class numbers in [0, K), or a distribution over the classes. Read only.
    p : ndarray, shape (N, K)
        Filled with the probabilities.
    loss : ndarray, shape (N,)
        Filled with the loss of each row.
    """
    m = z.max(axis=1, keepdims=True)
    e = np.exp(z - m)
    total = e.sum(axis=1, keepdims=True)
    p[...] = e / total
    nll = m + np.log(total) - z
    loss[...] = nll[np.arange(len(z)), t] if t.ndim == 1 else (t * nll).sum(axis=1)


def softmax_xent_backward(p, t, dloss, dz):
    """dz = (p Σ_k t_k - t) dloss, row by row.

    Parameters
    ----------
    p : ndarray, shape (N, K)
        From `softmax_xent_forward`. Read only.
    t : ndarray of int64, shape (N,), or ndarray like `p`, shape (N, K)
    dloss : ndarray, shape (N,)
        The gradient in the loss of each row: 1/N throughout for a mean.
    dz : ndarray, shape (N, K)
        Filled.
    """
    if t.ndim == 1:
        dz[...] = p
        dz[np.arange(len(p)), t] -= 1
    else:
        dz[...] = p * t.sum(axis=1, keepdims=True) - t
    dz *= dloss[:, None]


def right_answers(p, t, right):
    """right = whether the largest of each row of p is that of its target.

    Of equal values the first counts as the largest; nan is larger than all numbers.

    Parameters
    ----------
    p : ndarray, shape (N, K)
        Scores, such as probabilities or logits. Read only.
    t : ndarray of int64, shape (N,), or ndarray like `p`, shape (N, K)
        Class numbers, of which those outside of [0, K) are never right; or rows, whose largest
        value is the target, such as one-hot ones. Read only.
    right : ndarray of uint8 or bool, shape (N,)
        Filled with 0 and 1.
    """
    truth = t if t.ndim == 1 else t.argmax(axis=1)
    right[...] = p.argmax(axis=1) == truth
