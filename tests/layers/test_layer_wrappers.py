"""Bidirectional, TimeDistributed, Masking and masks from Embedding."""

from __future__ import annotations

import json

import numpy as np
import pytest

import npdl
from npdl import utils
from npdl._ext import set_num_threads
from npdl.layers import (
    GRU,
    LSTM,
    BatchNormal,
    Bidirectional,
    Convolution,
    Dense,
    Embedding,
    Masking,
    SimpleRNN,
    Softmax,
    TimeDistributed,
)
from npdl.testing import check_gradients, check_layer

CELLS = [SimpleRNN, GRU, LSTM]
MODES = ["concat", "sum", "mul", "ave", None]
N, T, D, U = 3, 5, 2, 4
RIGHT = np.arange(T) < np.array([[5], [2], [3]])
LEFT = RIGHT[:, ::-1]


def connected(layer, *shape):
    layer.connect_to(npdl.Input(shape))
    return layer


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("return_sequence", [False, True], ids=["last", "sequence"])
@pytest.mark.parametrize("cls", CELLS)
def test_contract_of_bidirectional(cls, return_sequence, mode):
    states = mode in ("concat", "mul")

    def make():
        return Bidirectional(cls(2, return_sequence=return_sequence, return_state=states), mode)

    mask = {"concat": RIGHT, "sum": LEFT, "mul": LEFT}.get(mode)
    check_layer(make, (N, T, D), forward_args={} if mask is None else {"mask": mask})


@pytest.mark.parametrize(
    "kwargs",
    [
        {"dropout": 0.3, "recurrent_dropout": 0.3},
        {"use_bias": False},
        {"regularizer": "l2"},
        {"activation": "soft_plus"},
        {"activation": "softmax"},
    ],
    ids=str,
)
def test_contract_of_options(kwargs):
    def make():
        return Bidirectional(GRU(2, reset_after=True, return_sequence=True, **kwargs))

    check_layer(make, (N, T, D), forward_args={"mask": LEFT})


def test_another_backward_layer():
    def make():
        return Bidirectional(LSTM(3), backward_layer=GRU(U, go_backwards=True))

    check_layer(make, (N, T, D), forward_args={"mask": RIGHT})
    assert connected(make(), None, D).out_shape == (None, 3 + U)


@pytest.mark.parametrize("cls", CELLS)
def test_directions_by_hand(cls, float64, rng):
    """Each sequence separately, at its own length, forwards and reversed."""
    layer = connected(Bidirectional(cls(U, return_sequence=True)), None, D)
    one, other = (connected(cls(U, return_sequence=True), None, D) for _ in range(2))
    one.AllW, other.AllW = layer.forward_layer.AllW, layer.backward_layer.AllW
    x = rng.normal(size=(N, T, D))
    for mask in (RIGHT, LEFT):
        y = layer.forward(x, mask=mask, train=False)
        for n in range(N):
            real = x[n : n + 1, mask[n]]
            wanted = one.forward(real), other.forward(real[:, ::-1])[:, ::-1]
            np.testing.assert_allclose(y[n, mask[n]], np.dstack(wanted)[0], rtol=1e-12)


def test_both_at_once_are_two_layers_bit_for_bit(rng):
    layer = connected(Bidirectional(LSTM(37, return_sequence=True)), None, D)
    one = connected(LSTM(37, return_sequence=True), None, D)
    other = connected(LSTM(37, return_sequence=True, go_backwards=True), None, D)
    one.AllW, other.AllW = layer.forward_layer.AllW, layer.backward_layer.AllW
    try:
        for n in (1, 3, 8, 29):
            x, dy = rng.normal(size=(n, 11, D)), rng.normal(size=(n, 11, 74))
            wanted = np.dstack([one.forward(x), other.forward(x)[:, ::-1]])
            for threads in (1, 2, 3):
                set_num_threads(threads)
                np.testing.assert_array_equal(layer.forward(x), wanted)
                np.testing.assert_array_equal(layer.forward(x, train=False), wanted)
                dx = layer.backward(dy)
                parts = one.backward(dy[..., :37]), other.backward(dy[:, ::-1, 37:])
                np.testing.assert_array_equal(dx, parts[0] + parts[1])
                np.testing.assert_array_equal(layer.forward_layer.dAllW, one.dAllW)
                np.testing.assert_array_equal(layer.backward_layer.dAllW, other.dAllW)
    finally:
        set_num_threads(2)


def test_parameters_are_those_of_the_layers(tmp_path, rng):
    def tagger():
        layers = [Bidirectional(LSTM(U, return_sequence=True)), Bidirectional(GRU(3)), Softmax(2)]
        model = npdl.Model(layers)
        model.compile("scce", "adam")
        return model

    model = tagger()
    x, y = rng.normal(size=(8, T, D)), np.arange(8) % 2
    mask = np.vstack([LEFT, RIGHT, LEFT])[:8]
    first = model.train_on_batch((x, mask), y).loss
    for _ in range(30):
        last = model.train_on_batch((x, mask), y).loss
    assert last < first
    names = [*model.state_dict()]
    assert names[:2] == [
        "bidirectional_1/forward_lstm/AllW",
        "bidirectional_1/backward_lstm/AllW",
    ]
    model.save(tmp_path / "m.npdl")
    again = npdl.load_model(tmp_path / "m.npdl")
    np.testing.assert_array_equal(again.predict((x, mask)), model.predict((x, mask)))
    check_gradients(model, x, targets=y, forward_args={"mask": mask})


def test_states_go_in_and_out_of_a_graph(float64, rng):
    """An encoder-decoder: the last state of the first is the first of the second."""
    source, target = npdl.Input((None, D)), npdl.Input((None, 3))
    _, *states = Bidirectional(LSTM(U, return_state=True))(source)
    merged = [a + b for a, b in zip(states[:2], states[2:])]
    y, h, c = LSTM(U, return_sequence=True, return_state=True)(target, initial_state=merged)
    out = TimeDistributed(Softmax(5))(y)
    model = npdl.Model([source, target], out)
    model.compile("scce", "sgd")
    xs = [rng.normal(size=(N, T, D)), rng.normal(size=(N, 4, 3))]
    check_gradients(model, xs, targets=rng.integers(0, 5, (N, 4)))
    assert h.shape == c.shape == (None, U)


@pytest.mark.parametrize("cls", CELLS)
def test_initial_state_by_itself(cls, float64, rng):
    x, h = npdl.Input((T, D)), npdl.Input((U,))
    layer = cls(U)
    model = npdl.Model([x, h], layer(x, initial_state=h))
    model.compile("mse", "sgd")
    xs = [rng.normal(size=(N, T, D)), rng.normal(size=(N, U))]
    np.testing.assert_allclose(
        model.predict(xs), layer.forward(xs[0], h0=xs[1], train=False), rtol=1e-12
    )
    check_gradients(model, xs, targets=rng.normal(size=(N, U)))
    with pytest.raises(TypeError, match="`initial_state` must be"):
        layer(x, initial_state=(h, h, h))
    with pytest.raises(ValueError, match=r"A first state must have shape \(N, 4\)"):
        cls(U)(x, initial_state=npdl.Input((U + 1,)))


def test_stateful_bidirectional(rng):
    layer = connected(Bidirectional(GRU(U, stateful=True)), None, D)
    x = rng.normal(size=(N, T, D))
    one = layer.forward(x, train=False)
    assert (layer.forward(x, train=False) != one).any()
    layer.reset_states()
    np.testing.assert_array_equal(layer.forward(x, train=False), one)


@pytest.mark.parametrize("wrap", [lambda layer: layer, Bidirectional], ids=["plain", "both ways"])
def test_a_stateful_model(wrap, rng):
    """The trial run of `fit` and `evaluate` on a sample does not change the states."""
    model = npdl.Model([wrap(GRU(U, stateful=True)), Softmax(2)])
    model.compile("scce", "sgd")
    x, y = rng.normal(size=(12, T, D)), np.arange(12) % 2
    with pytest.warns(RuntimeWarning, match="shuffle=False"):
        model.fit(x, y, batch_size=4, epochs=1, verbose=0)
    model.fit(x, y, batch_size=4, epochs=2, verbose=0, shuffle=False)
    model.evaluate(x[:4], y[:4])
    goes_on = model.predict(x[:4])
    model.reset_states()
    first = model.predict(x[:4])
    assert (first != goes_on).any()
    assert (model.predict(x[:4]) != first).any()
    model.reset_states()
    np.testing.assert_array_equal(model.predict(x[:4]), first)


@pytest.mark.parametrize(
    "make, error, rule",
    [
        (lambda: Bidirectional(Dense(3)), TypeError, "`layer` must be a recurrent layer"),
        (lambda: Bidirectional(LSTM(3), "max"), ValueError, "`merge_mode` must be one of"),
        (
            lambda: Bidirectional(LSTM(3), "sum", backward_layer=LSTM(4)),
            ValueError,
            "as many units",
        ),
        (
            lambda: Bidirectional(LSTM(3), backward_layer=LSTM(3, return_sequence=True)),
            ValueError,
            "same `return_sequence`",
        ),
        (lambda: Bidirectional(LSTM(3, go_backwards=True)), ValueError, "must not go backwards"),
    ],
)
def test_errors_of_bidirectional(make, error, rule):
    with pytest.raises(error, match=rule):
        make()


@pytest.mark.parametrize(
    "make, shape",
    [
        (lambda: TimeDistributed(Dense(3)), (N, T, D)),
        (lambda: TimeDistributed(Convolution(2, 2, activation="tanh")), (N, 2, 1, 4, 3)),
        (lambda: TimeDistributed(BatchNormal()), (N, T, D)),
        (lambda: TimeDistributed(Bidirectional(GRU(2))), (N, 2, 3, D)),
        (lambda: TimeDistributed(TimeDistributed(Dense(3))), (N, 2, 3, D)),
    ],
    ids=["dense", "convolution", "norm", "bidirectional", "twice"],
)
def test_contract_of_time_distributed(make, shape):
    check_layer(make, shape)


def test_time_distributed_is_the_layer_on_each_step(rng):
    layer = connected(TimeDistributed(Dense(3)), T, D)
    x = rng.normal(size=(N, T, D)).astype(np.float32)
    y = layer.forward(x, train=False)
    for t in range(T):
        np.testing.assert_array_equal(y[:, t], layer.layer.forward(x[:, t], train=False))
    assert layer.out_shape == (None, T, 3)
    with pytest.raises(ValueError, match="at least 3 axes"):
        connected(TimeDistributed(Dense(3)), D)


# ------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("mask_value", [0, -1.5, np.nan])
def test_masking(mask_value, rng):
    layer = connected(Masking(mask_value), T, D)
    x = rng.normal(size=(N, T, D)).astype(np.float32)
    x[~RIGHT] = mask_value
    x[0, 1, 0] = mask_value  # a single feature is not padding
    np.testing.assert_array_equal(layer.make_mask(x), RIGHT)
    y = layer.forward(x)
    np.testing.assert_array_equal(y, np.where(RIGHT[..., None], x, 0))
    dx = layer.backward(np.ones_like(y))
    np.testing.assert_array_equal(dx, np.where(RIGHT[..., None], 1, 0) * np.ones(D))
    config = json.loads(json.dumps(layer.to_json()))
    assert str(Masking.from_json(config).mask_value) == str(float(mask_value))


def test_contract_of_masking(rng):
    x = rng.normal(size=(N, T, D))
    x[LEFT] = 0
    check_layer((Masking, {}), rng.normal(size=(N, T, D)))


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("wrap", [lambda layer: layer, Bidirectional], ids=["plain", "both ways"])
def test_masks_that_layers_make_are_those_that_come_with_the_data(wrap, left, rng):
    index = rng.integers(1, 9, (N, T))
    mask = LEFT if left else RIGHT
    index[~mask] = 0

    def made(mask_zero):
        utils.set_seed(3)
        model = npdl.Model([Embedding(9, D, mask_zero=mask_zero), wrap(GRU(U)), Softmax(2)])
        model.compile("scce", "sgd")
        return model

    one, other = made(True), made(False)
    for _ in range(3):
        loss = one.train_on_batch(index, [0, 1, 1]).loss
        assert loss == other.train_on_batch((index, mask.astype(np.uint8)), [0, 1, 1]).loss
    np.testing.assert_array_equal(one.predict(index), other.predict((index, mask.astype(np.uint8))))


@pytest.mark.parametrize("cls", CELLS)
def test_padding_of_nan_does_no_harm(cls, rng):
    """The recurrent layer ignores masked steps, and `Masking` replaces them with 0."""
    x = rng.normal(size=(N, T, D)).astype(np.float32)
    x[~LEFT] = np.nan
    for front in ([], [Masking(np.nan), Dense(3)]):
        model = npdl.Model([*front, Bidirectional(cls(U)), Softmax(2)])
        model.compile("scce", "sgd")
        data = x if front else (x, LEFT.astype(np.uint8))
        assert np.isfinite(model.train_on_batch(data, [0, 1, 1]).loss)
        assert all(np.isfinite(w).all() for w in model.get_weights())


def test_embedding_of_two_numbers():
    layer = Embedding(1000, 64, mask_zero=True)
    assert (layer.input_size, layer.n_out, layer.makes_mask) == (1000, 64, True)
    assert Embedding(np.ones((3, 2))).n_out is None and not Embedding(5, 2).makes_mask
    for args in [(5,), (5, 2, 1), (5, "uniform"), (5, True)]:
        with pytest.raises((TypeError, ValueError), match="`input_size` and `n_out`"):
            Embedding(*args)
    with pytest.raises(TypeError, match="n_out twice"):
        Embedding(5, 2, n_out=2)
