"""Attention of queries to keys and values: the twin of ``attention.pyx``.

For each sample and head, with query i and key j:

    s_ij = scale (q_i · k_j)                     without w
    s_ij = scale (w · tanh(q_i + k_j))           with w (Bahdanau et al. 2015)
    p_ij = e^(s_ij) / Σ_j' e^(s_ij')             over the keys that i may attend to
    y_i = Σ_j p_ij v_j

A query may attend to the keys that `k_mask` leaves; if `causal`, to none later than itself, j <= i.
Where no key is left, and where `q_mask` is 0, y is 0. Masked steps are not read: they may hold NaN.
The probabilities are not kept; the backward pass computes them again.
"""

from __future__ import annotations

import numpy as np


def attention_forward(q, k, v, q_mask, k_mask, w, scale, causal, y):
    """y = softmax(scale q kᵀ) v.

    Parameters
    ----------
    q : ndarray, shape (N, TQ, H, D)
        Queries. Read only, like all inputs.
    k : ndarray, shape (N, TK, H, D)
        Keys.
    v : ndarray, shape (N, TK, H, E)
        Values.
    q_mask : ndarray of uint8, shape (N, TQ), or None
    k_mask : ndarray of uint8, shape (N, TK), or None
    w : ndarray, shape (H, D), or None
        Weights of the additive score.
    scale : float
    causal : bool
    y : ndarray, shape (N, TQ, H, E)
        Filled.
    """
    y[...] = 0
    for n in range(len(q)):
        rows, keys = _real(q_mask, n, q), _real(k_mask, n, k)
        p, _ = _probabilities(q[n, rows], k[n, keys], w, scale, _allowed(rows, keys, causal))
        y[n, rows] = np.einsum("hij,jhe->ihe", p, v[n, keys])


def attention_backward(q, k, v, q_mask, k_mask, w, scale, causal, dy, dq, dk, dv, dw):
    """The gradients in queries, keys, values and weights.

    Parameters
    ----------
    q, k, v, q_mask, k_mask, w, scale, causal
        As in `attention_forward`.
    dy : ndarray, shape (N, TQ, H, E)
        It is not read where `q_mask` is 0.
    dq, dk, dv : ndarray, or None
        Filled; of the shapes of `q`, `k` and `v`, and 0 in masked steps.
    dw : ndarray, shape (H, D), or None
        Filled. None without `w`.
    """
    for grad in (dq, dk, dv, dw):
        if grad is not None:
            grad[...] = 0
    for n in range(len(q)):
        rows, keys = _real(q_mask, n, q), _real(k_mask, n, k)
        queries, some = q[n, rows], k[n, keys]
        p, t = _probabilities(queries, some, w, scale, _allowed(rows, keys, causal))
        if dv is not None:
            dv[n, keys] = np.einsum("hij,ihe->jhe", p, dy[n, rows])
        dp = np.einsum("ihe,jhe->hij", dy[n, rows], v[n, keys])
        ds = scale * p * (dp - (p * dp).sum(axis=2, keepdims=True))
        if w is None:
            if dq is not None:
                dq[n, rows] = np.einsum("hij,jhd->ihd", ds, some)
            if dk is not None:
                dk[n, keys] = np.einsum("hij,ihd->jhd", ds, queries)
            continue
        dt = ds[..., None] * w[:, None, None] * (1 - t * t)
        if dq is not None:
            dq[n, rows] = dt.sum(axis=2).swapaxes(0, 1)
        if dk is not None:
            dk[n, keys] = dt.sum(axis=1).swapaxes(0, 1)
        if dw is not None:
            dw += np.einsum("hij,hijd->hd", ds, t)


def _real(mask, n, steps):
    """The numbers of the steps of sample n that are not masked."""
    return np.arange(steps.shape[1]) if mask is None else np.flatnonzero(mask[n])


def _allowed(rows, keys, causal):
    """Which of the keys each query may attend to, shape (queries, keys)."""
    return keys <= rows[:, None] if causal else np.ones((len(rows), len(keys)), bool)


def _probabilities(q, k, w, scale, allowed):
    """p, shape (H, queries, keys), and with w the tanh of the sums, with an axis D more."""
    t = None
    if w is None:
        s = np.einsum("ihd,jhd->hij", q, k)
    else:
        t = np.tanh(q.swapaxes(0, 1)[:, :, None] + k.swapaxes(0, 1)[:, None])
        s = np.einsum("hijd,hd->hij", t, w)
    s = np.where(allowed, s * s.dtype.type(scale), -np.inf)
    top = s.max(axis=2, keepdims=True, initial=-np.inf)
    e = np.exp(s - np.where(top == -np.inf, 0, top))
    total = e.sum(axis=2, keepdims=True)
    return e / np.where(total == 0, 1, total), t
