"""Recurrent layers: values by eye, the layout of AllW, states and their gradients, masks."""

from __future__ import annotations

import numpy as np
import pytest

from npdl import utils
from npdl.layers import GRU, LSTM, BatchLSTM, SimpleRNN
from npdl.testing import numeric_gradient

ALL = [SimpleRNN, GRU, LSTM, BatchLSTM]
N, T, D, U = 3, 5, 2, 4


def made(cls, n_in=D, n_out=U, **kwargs):
    layer = cls(n_in=n_in, n_out=n_out, **kwargs)
    layer.connect_to()
    return layer


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def test_simple_rnn_by_eye():
    layer = made(SimpleRNN, 1, 1, activation="linear", return_sequence=True)
    layer.AllW = [[1], [10], [2]]  # h' = 1 + 10 x + 2 h
    np.testing.assert_array_equal(layer.forward([[[1], [0], [2]]]).ravel(), [11, 23, 67])
    np.testing.assert_array_equal(layer.backward([[[0], [0], [1]]]).ravel(), [40, 20, 10])
    # dW = Σ_t dz_t (1, x_t, h_{t-1}) with dz = 4, 2, 1
    np.testing.assert_array_equal(layer.dAllW.ravel(), [7, 4 * 1 + 1 * 2, 2 * 11 + 1 * 23])
    np.testing.assert_array_equal(layer.dh0, [[8]])


def test_lstm_by_its_formula(float64, rng):
    layer = made(BatchLSTM, return_sequence=True)
    x, h, c = rng.normal(size=(N, T, D)), rng.normal(size=(N, U)), rng.normal(size=(N, U))
    y = layer.forward(x, c, h)
    for t in range(T):
        row = np.hstack([np.ones((N, 1)), x[:, t], h])
        i, f, o, g = np.split(row @ layer.AllW, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        np.testing.assert_allclose(y[:, t], h, rtol=1e-12)
    np.testing.assert_allclose(layer.hn, h, rtol=1e-12)
    np.testing.assert_allclose(layer.cn, c, rtol=1e-12)


def test_gru_by_its_formula(float64, rng):
    layer = made(GRU, return_sequence=True)
    x, s = rng.normal(size=(N, T, D)), rng.normal(size=(N, U))
    y = layer.forward(x, h0=s)
    bias, w_x, w_s = layer.AllW[0], layer.AllW[1 : 1 + D], layer.AllW[1 + D :]
    for t in range(T):
        xz, xr, xh = np.split(x[:, t] @ w_x + bias, 3, axis=1)
        wz, wr, wh = np.split(w_s, 3, axis=1)
        z, r = sigmoid(xz + s @ wz), sigmoid(xr + s @ wr)
        s = (1 - z) * np.tanh(xh + (s * r) @ wh) + z * s
        np.testing.assert_allclose(y[:, t], s, rtol=1e-12)


@pytest.mark.parametrize("cls, gates", [(SimpleRNN, 1), (GRU, 3), (LSTM, 4), (BatchLSTM, 4)])
def test_all_weights_in_one_matrix(cls, gates):
    layer = made(cls)
    assert layer.AllW.shape == layer.dAllW.shape == (1 + D + U, gates * U)
    assert len(layer.params) == 1 and layer.params[0] is layer.AllW
    for k in range(gates):  # the inner weights of each gate are orthogonal
        inner = layer.AllW[1 + D :, k * U : (k + 1) * U]
        np.testing.assert_allclose(inner @ inner.T, np.eye(U), atol=1e-6)


@pytest.mark.parametrize("cls", [LSTM, BatchLSTM])
def test_forget_bias(cls):
    bias = made(cls, forget_bias_num=3).AllW[0]
    np.testing.assert_array_equal(bias.reshape(4, U)[1], 3)
    np.testing.assert_array_equal(bias.reshape(4, U)[[0, 2, 3]], 0)
    assert not made(cls, forget_bias_num=0).AllW[0].any()


@pytest.mark.parametrize("return_sequence", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cls", ALL)
def test_gradients_in_the_states(cls, masked, return_sequence, float64, rng):
    """dh0 and dc0, for given gradients dhn and dcn, against differences."""
    layer = made(cls, return_sequence=return_sequence)
    x, h0, c0 = rng.normal(size=(N, T, D)), rng.normal(size=(N, U)), rng.normal(size=(N, U))
    states = {"h0": h0, "c0": c0} if issubclass(cls, LSTM) else {"h0": h0}
    mask = rng.integers(0, 2, (N, T)) if masked else None
    dy = rng.normal(size=layer.forward(x).shape)
    ends = {f"d{name[0]}n": rng.normal(size=(N, U)) for name in states}

    def loss():
        y = layer.forward(x, mask=mask, **states)
        lasts = sum(np.sum(d * getattr(layer, name[1:])) for name, d in ends.items())
        return float(np.sum(y * dy) + lasts)

    loss()
    dx = layer.backward(dy, **ends)
    analytic = {"x": dx, "w": layer.dAllW.copy(), **{k: getattr(layer, f"d{k}") for k in states}}
    for name, array in {"x": x, "w": layer.AllW, **states}.items():
        numeric = numeric_gradient(loss, array)
        np.testing.assert_allclose(analytic[name], numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("cls", ALL)
def test_mask_is_running_each_sequence_at_its_true_length(cls, float64, rng):
    layer = made(cls)
    x, lengths = rng.normal(size=(N, T, D)), [2, 5, 3]
    mask = np.arange(T) < np.array(lengths)[:, None]
    y = layer.forward(x, mask=mask)
    dy = rng.normal(size=y.shape)
    dx, dw = layer.backward(dy), layer.dAllW.copy()
    total = 0
    for n, length in enumerate(lengths):
        alone = layer.forward(x[n : n + 1, :length])
        np.testing.assert_allclose(y[n], alone[0], rtol=1e-12)
        dx_alone = layer.backward(dy[n : n + 1])
        np.testing.assert_allclose(dx[n, :length], dx_alone[0], rtol=1e-10, atol=1e-14)
        assert not dx[n, length:].any()
        total = total + layer.dAllW
    np.testing.assert_allclose(dw, total, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("cls", ALL)
def test_states_carry_over(cls, float64, rng):
    """Two halves equal the whole, if the second starts from the last state of the first."""
    layer = made(cls, return_sequence=True)
    x = rng.normal(size=(N, T, D))
    whole = layer.forward(x)
    first = layer.forward(x[:, :2])
    states = {"h0": layer.hn, "c0": layer.cn} if issubclass(cls, LSTM) else {"h0": layer.hn}
    second = layer.forward(x[:, 2:], **states)
    np.testing.assert_allclose(np.hstack([first, second]), whole, rtol=1e-12)


def test_both_orders_of_arguments(rng):
    utils.set_seed(3)
    a = made(LSTM)
    b = made(BatchLSTM)
    b.AllW = a.AllW
    x, c0, h0 = rng.normal(size=(N, T, D)), rng.normal(size=(N, U)), rng.normal(size=(N, U))
    np.testing.assert_array_equal(a.forward(x, None, c0, h0), b.forward(x, c0, h0))
    dy, dcn, dhn = rng.normal(size=(3, N, U))
    np.testing.assert_array_equal(a.backward(dy, dcn, dhn), b.backward(dy, dcn, dhn))


@pytest.mark.parametrize("cls", ALL)
def test_out_shape(cls):
    layer = cls(n_out=U, n_in=D, nb_seq=7, nb_batch=2, return_sequence=True)
    layer.connect_to()
    assert layer.out_shape == (None, 7, U)
    assert made(cls).out_shape == (None, U)


@pytest.mark.parametrize("cls", [GRU, LSTM, BatchLSTM])
def test_need_grad_false_remembers_nothing(cls):
    layer = made(cls, need_grad=False)
    layer.forward(np.ones((N, T, D)))
    assert layer.hn is None
    with pytest.raises(RuntimeError, match="need_grad"):
        layer.backward(np.ones((N, U)))


def test_a_longer_batch_after_a_shorter_one():
    layer = made(SimpleRNN)
    for n, t in (2, 3), (4, 9), (1, 1):
        assert layer.forward(np.ones((n, t, D))).shape == (n, U)
        assert layer.backward(np.ones((n, U))).shape == (n, t, D)
