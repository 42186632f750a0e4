"""SimpleRNN, LSTM and GRU over whole batches of sequences: the NumPy twin of ``rnn.pyx``.

One matrix holds the weights of a layer. Its rows are the bias, the weights of the input and those
of the state; its columns are the gates, U each, in the order that stands here and nowhere else:

    w = [ bias ]  1 row         SimpleRNN   1 gate
        [ w_x  ]  D rows        LSTM        4 gates: i, f, o, g
        [ w_h  ]  U rows        GRU         3 gates: z, r, h

    SimpleRNN   h' = act(b + x w_x + h w_h)
    LSTM        i, f, o = σ(b + x w_x + h w_h)       g = act(b + x w_x + h w_h)
                c' = f∘c + i∘g                       h' = o∘act(c')
    GRU         z, r = σ(b + x w_x + h w_h)          ĥ = act(b + x w_x + (h∘r) w_h)
                h' = (1-z)∘ĥ + z∘h

σ stands for the gate activation. A step whose mask is 0 keeps the state as it was, and its output
is the kept state. The input product x w_x knows no time order: here it is one product over all N*T
rows. So is the gradient of the weights, at the end: the loop back through time leaves only dz, the
gradient of every pre-activation.

Letters: N samples, T steps, D features in, U units, G gates. All arrays are C-ordered, of one
dtype; `mask` is uint8. What a forward pass fills (h, c, gates) its backward pass reads; without a
backward pass, c and gates need not be kept.
"""

from __future__ import annotations

import numpy as np

from npdl._ext.activation_np import apply, pull_back


def _split(w, n_in):
    """The three blocks of rows of the weights: bias (G*U,), w_x (D, G*U), w_h (U, G*U)."""
    return w[0], w[1 : 1 + n_in], w[1 + n_in :]


def _gates(a, n_gates):
    """The gates of `a`, shape (..., G*U), as G views of shape (..., U)."""
    u = a.shape[-1] // n_gates
    return [a[..., k * u : (k + 1) * u] for k in range(n_gates)]


def _keep(mask, t, new, old):
    """`new` where the mask of step t is set, `old` elsewhere."""
    return new if mask is None else np.where(mask[:, t, None] != 0, new, old)


def _blank(mask, t, grad):
    """Split a gradient of the state after step t: (part for the step, part that passes it by)."""
    if mask is None:
        return grad, 0
    active = mask[:, t, None] != 0
    return np.where(active, grad, 0), np.where(active, 0, grad)


def _previous(state, first):
    """The state before each step: `first` (N, U), then all but the last of `state` (N, T, U)."""
    return np.concatenate([first[:, None], state[:, :-1]], axis=1)


def _input_of(acts, z):
    """The pre-activations `z()`, computed only if one of the activations has to see them."""
    return None if all(isinstance(a, tuple) for a in acts) else z()


def _start(dhn, like):
    return np.zeros_like(like) if dhn is None else dhn.copy()


def _weight_gradients(x, h_before, dz, w, dx, dw):
    """dw and dx from the gradient of the pre-activations, one product each over all N*T rows."""
    n_in, units, width = x.shape[2], h_before.shape[2], dz.shape[2]
    rows = dz.reshape(-1, width)
    d_bias, d_wx, d_wh = _split(dw, n_in)
    d_bias[...] = rows.sum(axis=0)
    d_wx[...] = x.reshape(-1, n_in).T @ rows
    d_wh[...] = h_before.reshape(-1, units).T @ rows
    if dx is not None:
        dx[...] = dz @ _split(w, n_in)[1].T


def rnn_forward(x, w, h0, mask, h, act):
    """SimpleRNN: the state after every step.

    Parameters
    ----------
    x : ndarray, shape (N, T, D)
        Read only, as are `w`, `h0` and `mask`.
    w : ndarray, shape (1 + D + U, U)
    h0 : ndarray, shape (N, U)
        State before the first step.
    mask : ndarray of uint8, shape (N, T), or None
    h : ndarray, shape (N, T, U)
        Filled.
    act : tuple (code, steepness), or an activation object
    """
    bias, w_x, w_h = _split(w, x.shape[2])
    z = x @ w_x + bias
    state = h0
    for t in range(x.shape[1]):
        state = _keep(mask, t, apply(act, z[:, t] + state @ w_h), state)
        h[:, t] = state


def rnn_backward(x, w, h0, mask, h, dh, dhn, dx, dw, dh0, act):
    """Gradients of `rnn_forward`.

    Parameters
    ----------
    x, w, h0, mask, h
        As in the forward pass, `h` as it was filled. Read only.
    dh : ndarray, shape (N, T, U), or None
        Gradient of the loss in every state; None for zero.
    dhn : ndarray, shape (N, U), or None
        A further gradient in the last state; None for zero.
    dx : ndarray, shape (N, T, D), or None
        Filled; None where nobody needs it.
    dw : ndarray, shape of `w`
        Filled, not added to.
    dh0 : ndarray, shape (N, U)
        Filled.
    act : tuple (code, steepness), or an activation object
    """
    bias, w_x, w_h = _split(w, x.shape[2])
    h_before = _previous(h, h0)
    z = _input_of([act], lambda: bias + x @ w_x + h_before @ w_h)
    dz = np.empty_like(h)
    dstate = _start(dhn, h0)
    for t in reversed(range(x.shape[1])):
        if dh is not None:
            dstate = dstate + dh[:, t]
        step, rest = _blank(mask, t, dstate)
        dz[:, t] = pull_back(act, None if z is None else z[:, t], h[:, t], step)
        dstate = dz[:, t] @ w_h.T + rest
    dh0[...] = dstate
    _weight_gradients(x, h_before, dz, w, dx, dw)


def lstm_forward(x, w, h0, c0, mask, h, c, gates, act, gate_act):
    """LSTM: output and cell state after every step.

    Parameters
    ----------
    x : ndarray, shape (N, T, D)
        Read only, as are `w`, `h0`, `c0` and `mask`.
    w : ndarray, shape (1 + D + U, 4*U)
        Columns i, f, o, g.
    h0, c0 : ndarray, shape (N, U)
        Output and cell state before the first step.
    mask : ndarray of uint8, shape (N, T), or None
    h, c : ndarray, shape (N, T, U)
        Filled; `c` may be None where nobody needs it.
    gates : ndarray, shape (N, T, 4*U), or None
        Filled with i, f, o, g after their activations; None where nobody needs them.
    act, gate_act : tuple (code, steepness), or an activation object
        Of g and of the output; of i, f and o.
    """
    bias, w_x, w_h = _split(w, x.shape[2])
    z = x @ w_x + bias
    h_t, c_t = h0, c0
    for t in range(x.shape[1]):
        zi, zf, zo, zg = _gates(z[:, t] + h_t @ w_h, 4)
        i, f, o, g = apply(gate_act, zi), apply(gate_act, zf), apply(gate_act, zo), apply(act, zg)
        c_new = f * c_t + i * g
        h_t = _keep(mask, t, o * apply(act, c_new), h_t)
        c_t = _keep(mask, t, c_new, c_t)
        h[:, t] = h_t
        if c is not None:
            c[:, t] = c_t
        if gates is not None:
            gates[:, t] = np.concatenate([i, f, o, g], axis=1)


def lstm_backward(x, w, h0, c0, mask, h, c, gates, dh, dhn, dcn, dx, dw, dh0, dc0, act, gate_act):
    """Gradients of `lstm_forward`.

    Parameters
    ----------
    x, w, h0, c0, mask, h, c, gates
        As in the forward pass, the last three as they were filled. Read only.
    dh : ndarray, shape (N, T, U), or None
        Gradient of the loss in every output; None for zero.
    dhn, dcn : ndarray, shape (N, U), or None
        Further gradients in the last output and the last cell state; None for zero.
    dx : ndarray, shape (N, T, D), or None
        Filled; None where nobody needs it.
    dw : ndarray, shape of `w`
        Filled, not added to.
    dh0, dc0 : ndarray, shape (N, U)
        Filled.
    act, gate_act : tuple (code, steepness), or an activation object
    """
    bias, w_x, w_h = _split(w, x.shape[2])
    h_before, c_before = _previous(h, h0), _previous(c, c0)
    z = _input_of([act, gate_act], lambda: bias + x @ w_x + h_before @ w_h)
    dz = np.empty_like(gates)
    dh_t, dc_t = _start(dhn, h0), _start(dcn, c0)
    for t in reversed(range(x.shape[1])):
        i, f, o, g = _gates(gates[:, t], 4)
        zi, zf, zo, zg = (None,) * 4 if z is None else _gates(z[:, t], 4)
        if dh is not None:
            dh_t = dh_t + dh[:, t]
        dh_step, dh_rest = _blank(mask, t, dh_t)
        dc_step, dc_rest = _blank(mask, t, dc_t)
        # h' = o∘act(c')
        y = apply(act, c[:, t])
        do = dh_step * y
        dc = dc_step + pull_back(act, c[:, t], y, dh_step * o)
        # c' = f∘c + i∘g
        di, df, dg = dc * g, dc * c_before[:, t], dc * i
        dz[:, t] = np.concatenate(
            [
                pull_back(gate_act, zi, i, di),
                pull_back(gate_act, zf, f, df),
                pull_back(gate_act, zo, o, do),
                pull_back(act, zg, g, dg),
            ],
            axis=1,
        )
        dh_t = dz[:, t] @ w_h.T + dh_rest
        dc_t = dc * f + dc_rest
    dh0[...], dc0[...] = dh_t, dc_t
    _weight_gradients(x, h_before, dz, w, dx, dw)


def gru_forward(x, w, h0, mask, h, gates, act, gate_act):
    """GRU: the state after every step.

    Parameters
    ----------
    x : ndarray, shape (N, T, D)
        Read only, as are `w`, `h0` and `mask`.
    w : ndarray, shape (1 + D + U, 3*U)
        Columns z, r, h.
    h0 : ndarray, shape (N, U)
        State before the first step.
    mask : ndarray of uint8, shape (N, T), or None
    h : ndarray, shape (N, T, U)
        Filled.
    gates : ndarray, shape (N, T, 3*U), or None
        Filled with z, r, ĥ after their activations; None where nobody needs them.
    act, gate_act : tuple (code, steepness), or an activation object
        Of ĥ; of z and r.
    """
    units = h.shape[2]
    bias, w_x, w_h = _split(w, x.shape[2])
    w_zr, w_hat = w_h[:, : 2 * units], w_h[:, 2 * units :]
    xw = x @ w_x + bias
    state = h0
    for t in range(x.shape[1]):
        z_in, r_in = _gates(xw[:, t, : 2 * units] + state @ w_zr, 2)
        z, r = apply(gate_act, z_in), apply(gate_act, r_in)
        hat = apply(act, xw[:, t, 2 * units :] + (state * r) @ w_hat)
        if gates is not None:
            gates[:, t] = np.concatenate([z, r, hat], axis=1)
        state = _keep(mask, t, (1 - z) * hat + z * state, state)
        h[:, t] = state


def gru_backward(x, w, h0, mask, h, gates, dh, dhn, dx, dw, dh0, act, gate_act):
    """Gradients of `gru_forward`.

    Parameters
    ----------
    x, w, h0, mask, h, gates
        As in the forward pass, the last two as they were filled. Read only.
    dh : ndarray, shape (N, T, U), or None
        Gradient of the loss in every state; None for zero.
    dhn : ndarray, shape (N, U), or None
        A further gradient in the last state; None for zero.
    dx : ndarray, shape (N, T, D), or None
        Filled; None where nobody needs it.
    dw : ndarray, shape of `w`
        Filled, not added to.
    dh0 : ndarray, shape (N, U)
        Filled.
    act, gate_act : tuple (code, steepness), or an activation object
    """
    units = h.shape[2]
    bias, w_x, w_h = _split(w, x.shape[2])
    w_zr, w_hat = w_h[:, : 2 * units], w_h[:, 2 * units :]
    h_before = _previous(h, h0)
    reset = h_before * gates[..., units : 2 * units]  # h∘r, what w_hat multiplies
    pre = _input_of(
        [act, gate_act],
        lambda: bias + x @ w_x + np.concatenate([h_before @ w_zr, reset @ w_hat], axis=2),
    )
    dz = np.empty_like(gates)
    dstate = _start(dhn, h0)
    for t in reversed(range(x.shape[1])):
        z, r, hat = _gates(gates[:, t], 3)
        z_in, r_in, hat_in = (None,) * 3 if pre is None else _gates(pre[:, t], 3)
        if dh is not None:
            dstate = dstate + dh[:, t]
        step, rest = _blank(mask, t, dstate)
        # h' = (1-z)∘ĥ + z∘h
        d_hat = pull_back(act, hat_in, hat, step * (1 - z))
        d_z = pull_back(gate_act, z_in, z, step * (h_before[:, t] - hat))
        # ĥ = act(b + x w_x + (h∘r) w_hat)
        d_reset = d_hat @ w_hat.T
        d_r = pull_back(gate_act, r_in, r, d_reset * h_before[:, t])
        dz[:, t] = np.concatenate([d_z, d_r, d_hat], axis=1)
        dstate = step * z + d_reset * r + dz[:, t, : 2 * units] @ w_zr.T + rest
    dh0[...] = dstate
    _weight_gradients(x, h_before, dz, w, dx, dw)
    # ... but the columns of ĥ saw h∘r in the place of h.
    _split(dw, x.shape[2])[2][:, 2 * units :] = reset.reshape(-1, units).T @ dz[
        ..., 2 * units :
    ].reshape(-1, units)
