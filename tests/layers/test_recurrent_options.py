"""Options of recurrent layers: the contract with each, states, dropout, masked steps."""

from __future__ import annotations

import json

import numpy as np
import pytest

from npdl import utils
from npdl._ext import available_backends, set_num_threads, use_backend
from npdl.layers import GRU, LSTM, BatchLSTM, Recurrent, SimpleRNN
from npdl.testing import check_layer

CELLS = [SimpleRNN, GRU, LSTM]
N, T, D, U = 3, 5, 2, 4
RIGHT = np.arange(T) < np.array([[5], [2], [3]])
LEFT = RIGHT[:, ::-1]
OPTIONS = {
    "backwards": {"go_backwards": True},
    "no bias": {"use_bias": False},
    "dropout": {"dropout": 0.4},
    "recurrent dropout": {"recurrent_dropout": 0.4},
    "all": {"go_backwards": True, "use_bias": False, "dropout": 0.3, "recurrent_dropout": 0.3},
}


def made(cls, n_in=D, n_out=U, **kwargs):
    layer = cls(n_in=n_in, n_out=n_out, **kwargs)
    layer.connect_to()
    for parameter in layer.params:  # no bias is 0 by chance
        parameter += 0.1 * np.random.default_rng(8).standard_normal(parameter.shape)
    return layer


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


@pytest.mark.parametrize("mask", [None, RIGHT, LEFT], ids=["no mask", "right", "left"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("cls", CELLS)
def test_contract(cls, options, mask):
    for return_sequence in (False, True):
        kwargs = {"n_out": U, "return_sequence": return_sequence, **options}
        check_layer((cls, kwargs), (N, T, D), forward_args={} if mask is None else {"mask": mask})


@pytest.mark.parametrize("options", [{}, *OPTIONS.values()], ids=["plain", *OPTIONS])
@pytest.mark.parametrize("mask", [None, RIGHT, LEFT], ids=["no mask", "right", "left"])
def test_contract_of_reset_after(options, mask, rng):
    kwargs = {"n_out": U, "return_sequence": True, "reset_after": True, **options}
    args = {"h0": rng.normal(size=(N, U))}
    check_layer((GRU, kwargs), (N, T, D), forward_args=args if mask is None else {"mask": mask})


@pytest.mark.parametrize("cls", CELLS)
def test_contract_of_states(cls):
    kwargs = {"n_out": U, "return_sequence": True, "return_state": True}
    check_layer((cls, kwargs), (N, T, D), forward_args={"mask": LEFT})
    check_layer((cls, {"n_out": U, "return_state": True, "go_backwards": True}), (N, T, D))


def test_reset_after_by_its_formula(float64, rng):
    layer = made(GRU, return_sequence=True, reset_after=True)
    x, s = rng.normal(size=(N, T, D)), rng.normal(size=(N, U))
    y = layer.forward(x, h0=s)
    assert layer.AllW.shape == (2 + D + U, 3 * U)
    bias, state_bias, w_x, w_s = np.split(layer.AllW, [1, 2, 2 + D])
    for t in range(T):
        xz, xr, xh = np.split(x[:, t] @ w_x + bias, 3, axis=1)
        sz, sr, sh = np.split(s @ w_s + state_bias, 3, axis=1)
        z, r = sigmoid(xz + sz), sigmoid(xr + sr)
        s = (1 - z) * np.tanh(xh + r * sh) + z * s
        np.testing.assert_allclose(y[:, t], s, rtol=1e-12)


@pytest.mark.parametrize("cls", CELLS)
def test_backwards_is_forwards_on_the_reversed_sequence(cls, float64, rng):
    one, other = made(cls, return_sequence=True), made(cls, return_sequence=True, go_backwards=True)
    other.AllW = one.AllW
    x, mask, dy = rng.normal(size=(N, T, D)), RIGHT.copy(), rng.normal(size=(N, T, U))
    np.testing.assert_allclose(
        other.forward(x, mask=mask), one.forward(x[:, ::-1], mask=mask[:, ::-1]), rtol=1e-12
    )
    np.testing.assert_allclose(other.hn, one.hn, rtol=1e-12)
    np.testing.assert_allclose(other.backward(dy), one.backward(dy)[:, ::-1], rtol=1e-10)
    np.testing.assert_allclose(other.dAllW, one.dAllW, rtol=1e-10, atol=1e-14)
    y = np.zeros((N, T, U))
    np.testing.assert_array_equal(other.next_mask([mask], y), mask[:, ::-1])


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("mask", [RIGHT, LEFT], ids=["right", "left"])
@pytest.mark.parametrize("cls, kwargs", [(c, {}) for c in CELLS] + [(GRU, {"reset_after": True})])
def test_the_content_of_masked_steps_is_never_read(cls, kwargs, mask, backend, rng):
    """Padding with any values, even NaN, gives the bits of padding with 0."""
    x = rng.normal(size=(N, T, D)).astype(np.float32)
    layer = made(cls, return_sequence=True, dropout=0.4, **kwargs)
    dy = rng.normal(size=(N, T, U)).astype(np.float32)
    found = []
    for padding in (0, np.nan, np.inf):
        x[~mask] = padding
        utils.set_seed(4)
        with use_backend(backend):
            y = layer.forward(x, mask=mask)
            found.append([y.copy(), layer.backward(dy), layer.dAllW.copy(), layer.hn, layer.dh0])
    for other in found[1:]:
        for a, b in zip(found[0], other):
            np.testing.assert_array_equal(a, b)
    assert not found[0][1][~mask].any()


@pytest.mark.parametrize("cls", CELLS)
def test_one_mask_of_dropout_for_a_sequence(cls, float64, rng):
    """In each sequence, the same inputs are dropped in all steps."""
    layer = made(cls, n_in=40, activation="linear", return_sequence=True, dropout=0.5)
    if cls is not SimpleRNN:
        layer.gate_activation = layer.activation
    x = np.broadcast_to(rng.normal(size=(N, 1, 40)), (N, T, 40))
    layer.forward(x)
    walk = layer._cache[0]
    assert set(np.unique(walk.drops[0])) == {0, 2} and walk.drops[1] is None
    assert (walk.drops[0][0] != walk.drops[0][1]).any()
    dx = layer.backward(rng.normal(size=(N, T, U)))
    np.testing.assert_array_equal(dx == 0, np.repeat(walk.drops[0][:, None] == 0, T, axis=1))


def test_dropout_draws_the_same_on_every_backend():
    found = []
    for backend in available_backends():
        layer = made(LSTM, dropout=0.3, recurrent_dropout=0.3)
        utils.set_seed(5)
        with use_backend(backend):
            layer.forward(np.ones((N, T, D)))
        found.append(layer._cache[0].drops)
    for a, b in zip(found[0], found[-1]):
        np.testing.assert_array_equal(a, b)
    state = utils.random.get_rng().bit_generator.state
    layer.forward(np.ones((N, T, D)), train=False)  # nothing is dropped, nothing is drawn
    assert utils.random.get_rng().bit_generator.state == state


@pytest.mark.parametrize("cls", [*CELLS, BatchLSTM])
def test_without_bias(cls):
    layer = cls(3, n_in=2, use_bias=False)
    layer.connect_to()
    assert not layer.AllW[0].any()
    y = layer.forward(np.ones((1, 2, 2)))
    layer.backward(np.ones_like(y))
    assert not layer.dAllW[0].any() and layer.dAllW[1:].any()


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("cls", CELLS)
def test_stateful_continues_from_batch_to_batch(cls, train, float64, rng):
    plain, layer = made(cls, return_sequence=True), made(cls, return_sequence=True, stateful=True)
    layer.AllW = plain.AllW
    x = rng.normal(size=(N, 2 * T, D))
    whole = plain.forward(x)
    halves = [layer.forward(part, train=train) for part in (x[:, :T], x[:, T:])]
    np.testing.assert_allclose(np.hstack(halves), whole, rtol=1e-12)
    layer.reset_states()
    np.testing.assert_allclose(layer.forward(x[:, :T]), whole[:, :T], rtol=1e-12)
    with pytest.raises(ValueError, match=r"batches of 3 samples until reset_states\(\).*samples=1"):
        layer.forward(x[:1])
    with pytest.raises(ValueError, match="3 samples"):
        layer.forward(x[:2], train=False)


@pytest.mark.parametrize("kwargs", [{}, {"go_backwards": True}])
@pytest.mark.parametrize("cls", CELLS)
def test_step_by_step(cls, kwargs, float64, rng):
    layer = made(cls, return_sequence=True, **kwargs)
    x, state = rng.normal(size=(N, T, D)), None
    whole = layer.forward(x[:, ::-1] if kwargs else x)
    before = dict(vars(layer))
    for t in range(T):
        y, state = layer.step(x[:, t], state)
        np.testing.assert_allclose(y, whole[:, t], rtol=1e-12)
    lasts = (layer.hn, layer.cn) if cls is LSTM else (layer.hn,)
    for part, want in zip(state, lasts, strict=True):
        np.testing.assert_allclose(part, want, rtol=1e-12)
    assert vars(layer) == before
    with pytest.raises(ValueError, match="`state` must have"):
        layer.step(x[:, 0], (*state, state[0]))
    with pytest.raises(ValueError, match=r"`x` must have shape \(N, 2\)"):
        layer.step(x)


def test_states_come_out_in_every_mode(rng):
    for train in (True, False):
        layer = made(LSTM, return_state=True)
        y, h, c = layer.forward(rng.normal(size=(N, T, D)), train=train)
        np.testing.assert_array_equal(y, h)
        assert c.shape == (N, U) and layer.out_shape == ((None, U),) * 3
        assert layer.n_outputs == 3
    y, h, c = layer.forward(np.ones((N, T, D)))
    dx = layer.backward((None, None, c))
    assert dx.shape == (N, T, D) and layer.dAllW.any()


@pytest.mark.parametrize("cls", [SimpleRNN, GRU, LSTM, BatchLSTM])
def test_units_in_the_first_place(cls):
    assert cls(32).n_out == cls(np.int64(32), n_in=3).n_out == cls(units=32).n_out == 32
    for args in [(32, "tanh"), ("sigmoid",), (True,), (3.5,)]:
        with pytest.raises(TypeError, match=f"{cls.__name__} takes `n_out` alone.*Received"):
            cls(*args)
    with pytest.raises(TypeError, match="n_out"):
        cls(32, n_out=3)


class Sized(GRU):
    """A user's layer with a constructor."""

    def __init__(self, size, depth=2):
        super().__init__(n_out=size * depth)


def test_layers_of_ones_own_keep_their_positional_arguments():
    assert Sized(3, 4).n_out == 12
    assert Recurrent(3, 4).n_in == 4


@pytest.mark.parametrize(
    "kwargs, rule",
    [
        ({"dropout": 1}, r"`dropout` must be a number in \[0, 1\)"),
        ({"recurrent_dropout": -0.1}, r"`recurrent_dropout` must be a number in \[0, 1\)"),
        ({"dropout": "0.1"}, "`dropout` must be a number"),
    ],
)
def test_errors(kwargs, rule):
    with pytest.raises((ValueError, TypeError), match=rule):
        LSTM(3, **kwargs)


def test_keras_names():
    layer = LSTM(
        units=3,
        return_sequences=True,
        recurrent_activation="tanh",
        recurrent_dropout=0.1,
        unit_forget_bias=False,
        input_dim=2,
    )
    layer.connect_to()
    assert layer.return_sequence and not layer.AllW[0].any()
    config = json.loads(json.dumps(layer.to_json()))
    assert LSTM.from_json(config).to_json() == config


@pytest.mark.parametrize("cls, kwargs", [(c, {}) for c in CELLS] + [(GRU, {"reset_after": True})])
@pytest.mark.parametrize("backwards", [False, True])
def test_the_same_bits_on_any_number_of_threads(cls, kwargs, backwards, rng):
    layer = made(cls, n_out=37, return_sequence=True, go_backwards=backwards, **kwargs)
    x, dy = rng.normal(size=(29, 11, D)), rng.normal(size=(29, 11, 37))
    found = []
    try:
        for threads in (1, 2, 5):
            set_num_threads(threads)
            y = layer.forward(x).copy()
            found.append([y, layer.backward(dy), layer.dAllW.copy()])
    finally:
        set_num_threads(2)
    for other in found[1:]:
        for a, b in zip(found[0], other):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cls", CELLS)
def test_a_frozen_layer_hands_on_gradients_and_gets_none(cls, rng):
    layer, other = made(cls), made(cls)
    other.AllW = layer.AllW
    layer.trainable = False
    x, dy = rng.normal(size=(N, T, D)), rng.normal(size=(N, U))
    found = []
    for one in (layer, other):
        one.forward(x)
        found.append(one.backward(dy))
    np.testing.assert_array_equal(*found)
    assert layer.dAllW is None and layer.grads == [] and layer.penalty() == 0


def test_a_long_sequence(rng):
    """Over 3000 steps the state neither explodes nor vanishes; gradients stay finite."""
    layer = made(GRU, reset_after=True, return_sequence=True)
    x = rng.normal(size=(1, 3000, D)).astype(np.float32)
    y = layer.forward(x)
    assert np.abs(y).max() <= 1
    assert np.isfinite(layer.backward(np.ones_like(y))).all() and np.isfinite(layer.dAllW).all()
    np.testing.assert_array_equal(layer.forward(x[:, :1]), y[:, :1])
