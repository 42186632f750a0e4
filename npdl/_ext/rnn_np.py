"""SimpleRNN, LSTM and GRU over whole batches of sequences: the NumPy twin of ``rnn.pyx``.

One matrix holds the weights of a layer. Its rows are the bias, the weights of the input and those
of the state; its columns are the gates, U each, in the order defined here and nowhere else:

    w = [ bias ]  1 row         SimpleRNN   1 gate
        [ w_x  ]  D rows        LSTM        4 gates: i, f, o, g
        [ w_h  ]  U rows        GRU         3 gates: z, r, h

    SimpleRNN   h' = act(b + x w_x + h w_h)
    LSTM        i, f, o = σ(b + x w_x + h w_h)       g = act(b + x w_x + h w_h)
                c' = f∘c + i∘g                       h' = o∘act(c')
    GRU         z, r = σ(b + x w_x + h w_h)          ĥ = act(b + x w_x + (h∘r) w_h)
                h' = (1-z)∘ĥ + z∘h

A GRU may have one row more, the bias b_h of the state's product, after the first. Then the reset
gate acts after that product (as in cuDNN, PyTorch, and Keras by default):

    GRU         z, r = σ(b + x w_x + b_h + h w_h)    ĥ = act(b + x w_x + r∘q),  q = b_h + h w_h

σ stands for the gate activation. With `reverse` the loop runs from the last step to the first; the
state "before" a step is then that of the step to its right. `drop_x` (N, D) and `drop_h` (N, U) are
factors of x and of h wherever these are multiplied by weights, the same in every step (Gal and
Ghahramani 2016).

A step whose mask is 0 leaves the state unchanged, and its output is that state. Nothing else
depends on such a step: x may hold anything there, even NaN, and its gates are filled with 0.

The input product x w_x does not depend on the order of steps: here it is one product over all N*T
rows. So is the gradient of the weights, at the end: the backward loop through time computes only
dz, the gradient of every pre-activation.

Letters: N samples, T steps, D features in, U units, G gates. All arrays are C-ordered, of one
dtype; `mask` is uint8. The backward pass reads the arrays that the forward pass fills (h, c,
gates); without a backward pass, c and gates need not be kept.
"""

from __future__ import annotations

import numpy as np

from npdl._ext.activation_np import apply, pull_back


def _split(w, n_in, units):
    """The blocks of rows of the weights: bias (G*U,), w_x (D, G*U), w_h (U, G*U)."""
    return w[0], w[-units - n_in : -units], w[-units:]


def _gates(a, n_gates):
    """The gates of `a`, shape (..., G*U), as G views of shape (..., U)."""
    u = a.shape[-1] // n_gates
    return [a[..., k * u : (k + 1) * u] for k in range(n_gates)]


def _walk(reverse, *arrays):
    """Views of the arrays (N, T, ...) with their steps in the order of the loop."""
    return [a if a is None or not reverse else a[:, ::-1] for a in arrays]


def _inputs(x, mask, drop_x):
    """The input as the weights see it: 0 in steps that are masked, and with its factors."""
    if mask is not None:
        x = np.where(mask[..., None] != 0, x, 0)
    return x if drop_x is None else x * drop_x[:, None]


def _dropped(state, drop_h):
    """A state (N, U), or one after each step (N, T, U), as the weights see it."""
    if drop_h is None:
        return state
    return state * (drop_h if state.ndim == 2 else drop_h[:, None])


def _keep(mask, t, new, old):
    """`new` where the mask of step t is set, `old` elsewhere."""
    return new if mask is None else np.where(mask[:, t, None] != 0, new, old)


def _blank(mask, t, grad):
    """Split a gradient of the state after step t: (part for the step, part that bypasses it)."""
    if mask is None:
        return grad, 0
    active = mask[:, t, None] != 0
    return np.where(active, grad, 0), np.where(active, 0, grad)


def _previous(state, first):
    """The state before each step: `first` (N, U), then all but the last of `state` (N, T, U)."""
    return np.concatenate([first[:, None], state[:, :-1]], axis=1)


def _input_of(acts, z):
    """The pre-activations `z()`, computed only if one of the activations needs them."""
    return None if all(isinstance(a, tuple) for a in acts) else z()


def _start(dhn, like):
    return np.zeros_like(like) if dhn is None else dhn.copy()


def _rows(a):
    """An array (N, T, width) as a matrix of N*T rows."""
    return a.reshape(-1, a.shape[2])


def _total(rows):
    """The sum of the rows, in at least float64."""
    return rows.sum(axis=0, dtype=np.result_type(rows, np.float64))


def _weight_gradients(x, fed, dz, w, dx, dw, drop_x):
    """dw and dx from the gradient of the pre-activations, one product each over all N*T rows.

    `x` and `fed` are the input and the state before each step as the weights saw them.
    """
    if dw is not None:
        d_bias, d_wx, d_wh = _split(dw, x.shape[2], fed.shape[2])
        d_bias[...] = _total(_rows(dz))
        d_wx[...] = _rows(x).T @ _rows(dz)
        d_wh[...] = _rows(fed).T @ _rows(dz)
    if dx is not None:
        dx[...] = _dropped(dz @ _split(w, x.shape[2], fed.shape[2])[1].T, drop_x)


def rnn_forward(x, w, h0, mask, h, act, reverse=False, drop_x=None, drop_h=None):
    """SimpleRNN: the state after every step.

    Parameters
    ----------
    x : ndarray, shape (N, T, D)
        Read only, as are all arrays that are not filled.
    w : ndarray, shape (1 + D + U, U)
    h0 : ndarray, shape (N, U)
        State before the first step.
    mask : ndarray of uint8, shape (N, T), or None
    h : ndarray, shape (N, T, U)
        Filled.
    act : tuple (code, steepness), or an activation object
    reverse : bool
        Whether the first step is the one at T-1.
    drop_x : ndarray, shape (N, D), or None
    drop_h : ndarray, shape (N, U), or None
        Factors of the input and of the state.
    """
    bias, w_x, w_h = _split(w, x.shape[2], h.shape[2])
    x, mask, h = _walk(reverse, x, mask, h)
    z = _inputs(x, mask, drop_x) @ w_x + bias
    state = h0
    for t in range(x.shape[1]):
        state = _keep(mask, t, apply(act, z[:, t] + _dropped(state, drop_h) @ w_h), state)
        h[:, t] = state


def rnn_backward(
    x, w, h0, mask, h, dh, dhn, dx, dw, dh0, act, reverse=False, drop_x=None, drop_h=None
):
    """Gradients of `rnn_forward`.

    Parameters
    ----------
    x, w, h0, mask, h
        As in the forward pass, `h` as it was filled. Read only.
    dh : ndarray, shape (N, T, U), or None
        Gradient of the loss in every state; None for zero.
    dhn : ndarray, shape (N, U), or None
        A further gradient in the last state of the loop; None for zero.
    dx : ndarray, shape (N, T, D), or None
        Filled; None if not needed.
    dw : ndarray, shape of `w`, or None
        Filled, not added to; None if not needed.
    dh0 : ndarray, shape (N, U)
        Filled.
    act : tuple (code, steepness), or an activation object
    reverse, drop_x, drop_h
        As in the forward pass.
    """
    bias, w_x, w_h = _split(w, x.shape[2], h.shape[2])
    x, mask, h, dh, dx = _walk(reverse, x, mask, h, dh, dx)
    x, fed = _inputs(x, mask, drop_x), _dropped(_previous(h, h0), drop_h)
    z = _input_of([act], lambda: bias + x @ w_x + fed @ w_h)
    dz = np.empty_like(h)
    dstate = _start(dhn, h0)
    for t in reversed(range(x.shape[1])):
        if dh is not None:
            dstate = dstate + dh[:, t]
        step, rest = _blank(mask, t, dstate)
        dz[:, t] = _keep(mask, t, pull_back(act, None if z is None else z[:, t], h[:, t], step), 0)
        dstate = _dropped(dz[:, t] @ w_h.T, drop_h) + rest
    dh0[...] = dstate
    _weight_gradients(x, fed, dz, w, dx, dw, drop_x)


def lstm_forward(
    x, w, h0, c0, mask, h, c, gates, act, gate_act, reverse=False, drop_x=None, drop_h=None
):
    """LSTM: output and cell state after every step.

    Parameters
    ----------
    x : ndarray, shape (N, T, D)
        Read only, as are all arrays that are not filled.
    w : ndarray, shape (1 + D + U, 4*U)
        Columns i, f, o, g.
    h0, c0 : ndarray, shape (N, U)
        Output and cell state before the first step.
    mask : ndarray of uint8, shape (N, T), or None
    h, c : ndarray, shape (N, T, U)
        Filled; `c` may be None if not needed.
    gates : ndarray, shape (N, T, 4*U), or None
        Filled with i, f, o, g after their activations; None if not needed.
    act, gate_act : tuple (code, steepness), or an activation object
        Of g and of the output; of i, f and o.
    reverse : bool
        Whether the first step is the one at T-1.
    drop_x : ndarray, shape (N, D), or None
    drop_h : ndarray, shape (N, U), or None
        Factors of the input and of the state.
    """
    bias, w_x, w_h = _split(w, x.shape[2], h.shape[2])
    x, mask, h, c, gates = _walk(reverse, x, mask, h, c, gates)
    z = _inputs(x, mask, drop_x) @ w_x + bias
    h_t, c_t = h0, c0
    for t in range(x.shape[1]):
        zi, zf, zo, zg = _gates(z[:, t] + _dropped(h_t, drop_h) @ w_h, 4)
        i, f, o, g = apply(gate_act, zi), apply(gate_act, zf), apply(gate_act, zo), apply(act, zg)
        c_new = f * c_t + i * g
        h_t = _keep(mask, t, o * apply(act, c_new), h_t)
        c_t = _keep(mask, t, c_new, c_t)
        h[:, t] = h_t
        if c is not None:
            c[:, t] = c_t
        if gates is not None:
            gates[:, t] = _keep(mask, t, np.concatenate([i, f, o, g], axis=1), 0)


def lstm_backward(
    x,
    w,
    h0,
    c0,
    mask,
    h,
    c,
    gates,
    dh,
    dhn,
    dcn,
    dx,
    dw,
    dh0,
    dc0,
    act,
    gate_act,
    reverse=False,
    drop_x=None,
    drop_h=None,
):
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
        Filled; None if not needed.
    dw : ndarray, shape of `w`, or None
        Filled, not added to; None if not needed.
    dh0, dc0 : ndarray, shape (N, U)
        Filled.
    act, gate_act : tuple (code, steepness), or an activation object
    reverse, drop_x, drop_h
        As in the forward pass.
    """
    bias, w_x, w_h = _split(w, x.shape[2], h.shape[2])
    x, mask, h, c, gates, dh, dx = _walk(reverse, x, mask, h, c, gates, dh, dx)
    x, fed = _inputs(x, mask, drop_x), _dropped(_previous(h, h0), drop_h)
    c_before = _previous(c, c0)
    z = _input_of([act, gate_act], lambda: bias + x @ w_x + fed @ w_h)
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
        parts = [
            pull_back(gate_act, zi, i, di),
            pull_back(gate_act, zf, f, df),
            pull_back(gate_act, zo, o, do),
            pull_back(act, zg, g, dg),
        ]
        dz[:, t] = _keep(mask, t, np.concatenate(parts, axis=1), 0)
        dh_t = _dropped(dz[:, t] @ w_h.T, drop_h) + dh_rest
        dc_t = dc * f + dc_rest
    dh0[...], dc0[...] = dh_t, dc_t
    _weight_gradients(x, fed, dz, w, dx, dw, drop_x)


def gru_forward(x, w, h0, mask, h, gates, act, gate_act, reverse=False, drop_x=None, drop_h=None):
    """GRU: the state after every step.

    Parameters
    ----------
    x : ndarray, shape (N, T, D)
        Read only, as are all arrays that are not filled.
    w : ndarray, shape (1 + D + U, 3*U) or (2 + D + U, 3*U)
        Columns z, r, h. With one row more the reset gate acts after the product.
    h0 : ndarray, shape (N, U)
        State before the first step.
    mask : ndarray of uint8, shape (N, T), or None
    h : ndarray, shape (N, T, U)
        Filled.
    gates : ndarray, shape (N, T, 3*U), or (N, T, 4*U) with the row more, or None
        Filled with z, r, ĥ after their activations, and q; None if not needed.
    act, gate_act : tuple (code, steepness), or an activation object
        Of ĥ; of z and r.
    reverse : bool
        Whether the first step is the one at T-1.
    drop_x : ndarray, shape (N, D), or None
    drop_h : ndarray, shape (N, U), or None
        Factors of the input and of the state.
    """
    units = h.shape[2]
    bias, w_x, w_h = _split(w, x.shape[2], units)
    after = len(w) == 2 + x.shape[2] + units
    w_zr, w_hat = w_h[:, : 2 * units], w_h[:, 2 * units :]
    x, mask, h, gates = _walk(reverse, x, mask, h, gates)
    xw = _inputs(x, mask, drop_x) @ w_x + bias
    state = h0
    for t in range(x.shape[1]):
        fed = _dropped(state, drop_h)
        if after:
            zr, q = np.split(w[1] + fed @ w_h, [2 * units], axis=1)
        else:
            zr = fed @ w_zr
        z_in, r_in = _gates(xw[:, t, : 2 * units] + zr, 2)
        z, r = apply(gate_act, z_in), apply(gate_act, r_in)
        inner = r * q if after else (fed * r) @ w_hat
        hat = apply(act, xw[:, t, 2 * units :] + inner)
        if gates is not None:
            parts = [z, r, hat, q] if after else [z, r, hat]
            gates[:, t] = _keep(mask, t, np.concatenate(parts, axis=1), 0)
        state = _keep(mask, t, (1 - z) * hat + z * state, state)
        h[:, t] = state


def gru_backward(
    x,
    w,
    h0,
    mask,
    h,
    gates,
    dh,
    dhn,
    dx,
    dw,
    dh0,
    act,
    gate_act,
    reverse=False,
    drop_x=None,
    drop_h=None,
):
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
        Filled; None if not needed.
    dw : ndarray, shape of `w`, or None
        Filled, not added to; None if not needed.
    dh0 : ndarray, shape (N, U)
        Filled.
    act, gate_act : tuple (code, steepness), or an activation object
    reverse, drop_x, drop_h
        As in the forward pass.
    """
    n_in, units = x.shape[2], h.shape[2]
    bias, w_x, w_h = _split(w, n_in, units)
    after = len(w) == 2 + n_in + units
    w_zr, w_hat = w_h[:, : 2 * units], w_h[:, 2 * units :]
    x, mask, h, gates, dh, dx = _walk(reverse, x, mask, h, gates, dh, dx)
    h_before = _previous(h, h0)
    x, fed = _inputs(x, mask, drop_x), _dropped(h_before, drop_h)
    r_all = gates[..., units : 2 * units]
    seen = fed if after else fed * r_all  # what w_hat multiplies

    def pre_activations():
        zr = fed @ w_zr + (w[1, : 2 * units] if after else 0)
        inner = r_all * gates[..., 3 * units :] if after else seen @ w_hat
        return bias + x @ w_x + np.concatenate([zr, inner], axis=2)

    pre = _input_of([act, gate_act], pre_activations)
    dz = np.empty_like(gates[..., : 3 * units])
    dq = np.empty_like(h)  # gradient of the state's product, among those of ĥ
    dstate = _start(dhn, h0)
    for t in reversed(range(x.shape[1])):
        z, r, hat = _gates(gates[:, t, : 3 * units], 3)
        z_in, r_in, hat_in = (None,) * 3 if pre is None else _gates(pre[:, t], 3)
        if dh is not None:
            dstate = dstate + dh[:, t]
        step, rest = _blank(mask, t, dstate)
        # h' = (1-z)∘ĥ + z∘h
        d_hat = pull_back(act, hat_in, hat, step * (1 - z))
        d_z = pull_back(gate_act, z_in, z, step * (h_before[:, t] - hat))
        # ĥ = act(b + x w_x + r∘q), or with (h∘r) w_hat instead of r∘q
        if after:
            dq[:, t] = d_hat * r
            d_r, d_seen = d_hat * gates[:, t, 3 * units :], dq[:, t] @ w_hat.T
        else:
            dq[:, t] = d_hat
            d_reset = d_hat @ w_hat.T
            d_r, d_seen = d_reset * fed[:, t], d_reset * r
        parts = [d_z, pull_back(gate_act, r_in, r, d_r), d_hat]
        dz[:, t] = _keep(mask, t, np.concatenate(parts, axis=1), 0)
        dq[:, t] = _keep(mask, t, dq[:, t], 0)
        d_seen = _keep(mask, t, d_seen, 0) + dz[:, t, : 2 * units] @ w_zr.T
        dstate = step * z + _dropped(d_seen, drop_h) + rest
    dh0[...] = dstate
    _weight_gradients(x, fed, dz, w, dx, dw, drop_x)
    if dw is not None:  # the columns of ĥ belong to another product of the state
        dw[-units:, 2 * units :] = _rows(seen).T @ _rows(dq)
        if after:
            dw[1, : 2 * units] = _total(_rows(dz)[:, : 2 * units])
            dw[1, 2 * units :] = _total(_rows(dq))


def recurrent_pair(function, one, other):
    """Two calls of one of the functions above, such as those of a layer's two directions.

    The kernels run both at once. The results have the bits of two calls.

    Parameters
    ----------
    function : str
        Such as "lstm_forward".
    one, other : tuple
        All arguments of a call, in order. No array that one of them fills is used by the other.
    """
    for args in (one, other):
        globals()[function](*args)
