"""Connectionist temporal classification: the twin of ``ctc.pyx`` (Graves et al. 2006).

Each step has an output row of K log-probabilities; one class is the blank. A path, one class
for each step, reads as the labels that are left when repeats are merged and blanks are dropped. The
loss is -log of the sum of the probabilities of all paths that read as the wanted labels.

With l the labels, blanks before, between and behind them make S = 2L + 1 states, odd ones for
labels. In logarithms, with e_t(s) the log-probability of the class of state s at step t, and ⊕ for
log(e^a + e^b):

    α_t(s) = e_t(s) + (α_{t-1}(s) ⊕ α_{t-1}(s-1) ⊕ [skip(s)] α_{t-1}(s-2))
    β_{t-1}(s) = (e_t(s) + β_t(s)) ⊕ (e_t(s+1) + β_t(s+1)) ⊕ [skip(s+2)] (e_t(s+2) + β_t(s+2))
    loss = -(α_T(S-1) ⊕ α_T(S-2)),   -∂loss/∂e_t(s) = e^(α_t(s) + β_t(s)) / Σ_s e^(α_t(s) + β_t(s))

A label may be reached from the label before it, skip(s), unless the two are equal. Each α_t and β_t
is stored less its maximum, which keeps the errors from growing with T. All sums are in float64.
"""

from __future__ import annotations

import numpy as np


def ctc_forward(x, labels, mask, blank, normalize, loss):
    """The loss of each sample; inf where no path reads as its labels.

    Parameters
    ----------
    x : ndarray, shape (N, T, K)
        Log-probabilities, which may be -inf; or logits. Read only.
    labels : ndarray of int64, shape (N, L)
        Classes in [0, K), none of them the blank. Negative ones are padding, wherever they are.
        L may be 0. Read only.
    mask : ndarray of uint8, shape (N, T), or None
        Steps with 0 are left out, wherever they are; they are not read. Read only.
    blank : int
        The class of the blank, in [0, K).
    normalize : bool
        Whether `x` are logits: log-softmax of each row is taken first.
    loss : ndarray, shape (N,)
        Filled.
    """
    states = _States(x, labels, mask, blank)
    if len(x):
        loss[...] = _run_alphas(states, normalize, None)


def ctc_backward(x, labels, mask, blank, normalize, dloss, dx):
    """The gradient of the losses in `x`.

    Parameters
    ----------
    x, labels, mask, blank, normalize
        As in `ctc_forward`.
    dloss : ndarray, shape (N,)
        The gradient in the loss of each sample. Read only.
    dx : ndarray, shape (N, T, K)
        Filled. It is 0 at steps that are left out, and throughout a sample whose `dloss` is 0 or
        whose loss is inf.
    """
    dx[...] = 0
    if not len(x):
        return
    states = _States(x, labels, mask, blank)
    alphas: list[np.ndarray] = []
    impossible = _run_alphas(states, normalize, alphas) == np.inf
    scale = np.where(impossible, 0, dloss).astype(states.dtype)
    n, ends = np.arange(len(x)), states.count - 1
    beta = np.full_like(alphas[0], -np.inf)
    beta[n, ends] = 0
    beta[n, np.maximum(ends - 1, 0)] = 0
    for t in reversed(range(x.shape[1])):
        kept = states.real[:, t] & (scale != 0)
        log_p = states.log_p(t, normalize)
        total = _without_maximum(alphas[t] + beta)[0]
        share = np.exp(total)
        share /= np.where(impossible, 1, share.sum(axis=1))[:, None]
        grad = np.exp(log_p) if normalize else np.zeros(log_p.shape, states.dtype)
        np.subtract.at(grad, (n[:, None], states.classes), share)
        dx[kept, t] = (grad * scale[:, None])[kept]
        onward = states.emission(log_p) + beta
        earlier = np.logaddexp(onward, _shifted(onward, -1))
        earlier = np.logaddexp(earlier, _shifted(onward + states.skip, -2))
        beta = np.where(kept[:, None], _without_maximum(earlier)[0], beta)


class _States:
    """The steps of each sample, and its states: number, classes, where a blank may be skipped."""

    def __init__(self, x, labels, mask, blank):
        self.dtype = np.result_type(x.dtype, np.float64)
        self.real = np.ones(x.shape[:2], bool) if mask is None else mask != 0
        self.x = np.where(self.real[..., None], x, 0)
        real = np.sort(labels < 0, axis=1) == 0
        order = np.argsort(labels < 0, axis=1, kind="stable")
        rows = np.take_along_axis(labels, order, axis=1)
        self.count = 2 * real.sum(axis=1) + 1
        self.classes = np.full((len(labels), 2 * labels.shape[1] + 1), blank)
        self.classes[:, 1::2] = np.where(real, rows, blank)
        skip = self.classes != _shifted(self.classes, 2, blank)
        skip &= self.classes != blank
        self.skip = np.where(skip, 0, -np.inf).astype(self.dtype)
        self.beyond = np.arange(self.classes.shape[1]) >= self.count[:, None]

    def log_p(self, t, normalize):
        """The log-probabilities (N, K) of a step."""
        x = self.x[:, t].astype(self.dtype)
        if not normalize:
            return x
        x = x - x.max(axis=1, keepdims=True)
        return x - np.log(np.exp(x).sum(axis=1, keepdims=True))

    def emission(self, log_p):
        """e_t, shape (N, S)."""
        e = np.take_along_axis(log_p, self.classes, axis=1)
        e[self.beyond] = -np.inf
        return e


def _run_alphas(states, normalize, kept_alphas):
    """The losses; appends α_t to the list if there is one."""
    alpha = np.full(states.classes.shape, -np.inf, states.dtype)
    alpha[:, 0] = 0
    offset = np.zeros(len(alpha), states.dtype)
    for t in range(states.x.shape[1]):
        reached = np.logaddexp(alpha, _shifted(alpha, 1))
        reached = np.logaddexp(reached, _shifted(alpha, 2) + states.skip)
        reached, top = _without_maximum(reached + states.emission(states.log_p(t, normalize)))
        alpha = np.where(states.real[:, t, None], reached, alpha)
        offset += np.where(states.real[:, t], top, 0)
        if kept_alphas is not None:
            kept_alphas.append(alpha)
    n = np.arange(len(alpha))
    last, before = alpha[n, states.count - 1], alpha[n, np.maximum(states.count - 2, 0)]
    before[states.count == 1] = -np.inf
    return -(offset + np.logaddexp(last, before))


def _shifted(rows, by, fill=-np.inf):
    """Rows moved by some places along axis 1, with `fill` coming in."""
    moved = np.full_like(rows, fill)
    if by > 0:
        moved[:, by:] = rows[:, :-by]
    else:
        moved[:, :by] = rows[:, -by:]
    return moved


def _without_maximum(rows):
    """Rows less their maximum, and the maxima; those of rows that are all -inf count as 0."""
    top = rows.max(axis=1)
    top = np.where(top == -np.inf, 0, top)
    return rows - top[:, None], top
