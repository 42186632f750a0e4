"""Bad input: errors say what is expected, what was received, and in which layer."""

from __future__ import annotations

import re

import numpy as np
import pytest

from npdl.layers import (
    GRU,
    LSTM,
    BatchLSTM,
    BatchNormal,
    Convolution,
    Dense,
    DimShuffle,
    Dropout,
    Embedding,
    Flatten,
    Layer,
    Linear,
    MaxPooling,
    MeanPooling,
    Recurrent,
    SimpleRNN,
)

RECURRENT = [SimpleRNN, GRU, LSTM, BatchLSTM]


def raises(error, *parts):
    """Expect an error whose message holds the parts in this order."""
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, parts)))


def connected(layer, *shape):
    if shape:
        before = Flatten()
        before.out_shape = (None, *shape)
        layer.connect_to(before)
    else:
        layer.connect_to()
    return layer


@pytest.mark.parametrize(
    "make, error, parts",
    [
        (lambda: Dense(0), ValueError, ["`n_out`", ">= 1", "n_out=0", "(layer 'dense')"]),
        (lambda: Dense(2.5), TypeError, ["`n_out`", "n_out=2.5"]),
        (lambda: Dense((2, -1)), ValueError, ["`n_out`", "-1"]),
        (lambda: Dense(2, n_in=0), ValueError, ["`n_in`", "n_in=0"]),
        (lambda: Dense(2, activation="foo"), ValueError, ["'foo'", "Valid names", "soft_plus"]),
        (lambda: Dense(2, init="foo"), ValueError, ["'foo'", "Valid names", "glorot_uniform"]),
        (lambda: Dropout(1.0), ValueError, ["`p`", "[0, 1)", "p=1.0", "(layer 'dropout')"]),
        (lambda: Dropout(-0.1), ValueError, ["`p`", "-0.1"]),
        (
            lambda: Convolution(2, 3, stride=0),
            ValueError,
            ["`stride`", "stride=0", "'convolution'"],
        ),
        (lambda: Convolution(2, (3, 0)), ValueError, ["`filter_size`", "0"]),
        (lambda: Convolution(2, (3, 3, 3)), ValueError, ["`filter_size`", "(3, 3, 3)"]),
        (lambda: Convolution(2, 3, padding="full"), ValueError, ["`padding`", "'same'", "'full'"]),
        (lambda: Convolution(2, 3, padding=-1), ValueError, ["`padding`", "-1"]),
        (
            lambda: Convolution(2, 3, (28, 28)),
            ValueError,
            ["`input_shape`", "(C, H, W)", "(28, 28)"],
        ),
        (lambda: MaxPooling(0), ValueError, ["`pool_size`", "0", "(layer 'max_pooling')"]),
        (lambda: MeanPooling(2, stride=(1, 0)), ValueError, ["`stride`", "0"]),
        (lambda: BatchNormal(momentum=1.5), ValueError, ["`momentum`", "1.5"]),
        (lambda: BatchNormal(epsilon=0), ValueError, ["`epsilon`", "0"]),
        (lambda: Embedding(), ValueError, ["`input_size` and `n_out`", "input_size=None"]),
        (lambda: Embedding(np.ones(3)), ValueError, ["`embed_words`", "(3,)"]),
        (lambda: Embedding(np.eye(3), n_out=4), ValueError, ["`embed_words`", "(3, 3)", "n_out=4"]),
        (lambda: Flatten(0), ValueError, ["`outdim`", "outdim=0"]),
        (lambda: GRU(n_out=0), ValueError, ["`n_out`", "(layer 'gru')"]),
        (lambda: LSTM(n_out=2, gate_activation="foo"), ValueError, ["'foo'", "Valid names"]),
        (lambda: LSTM(n_out=2, forget_bias_num="x"), TypeError, ["`forget_bias_num`"]),
        (lambda: SimpleRNN(n_out=2, typo=3), TypeError, ["typo"]),
    ],
)
def test_arguments(make, error, parts):
    with raises(error, *parts):
        make()


@pytest.mark.parametrize(
    "layer, shape, parts",
    [
        (Dense(2), (), ["must be told the shape of its input", "(layer 'dense')"]),
        (Dense(2), (None,), ["axis -1 must be known", "(None, None)"]),
        (Dense(2, n_in=3), (4,), ["`n_in` must be 4", "n_in=3"]),
        (Convolution(2, 3), (8,), ["4 axes", "(None, 8)"]),
        (Convolution(2, 9), (1, 8, 9), ["filter must fit", "8 pixels high", "(9, 9)"]),
        (Convolution(2, (2, 5)), (1, 8, 4), ["filter must fit", "4 pixels wide", "(2, 5)"]),
        (MaxPooling(5), (1, 8, 4), ["window must fit", "4 pixels wide", "pool_size=(5, 5)"]),
        (MeanPooling(2), (5,), ["3 or 4 axes", "(None, 5)"]),
        (BatchNormal(axis=2), (5,), ["`axis`", "axis=2"]),
        (BatchNormal(), (None, 3), ["axis 1 must be known", "(None, None, 3)"]),
        (Flatten(4), (2, 3), ["at least 4 axes", "(None, 2, 3)"]),
        (DimShuffle(4), (2,), ["`axis`", "axis=4"]),
        (LSTM(n_out=2), (5,), ["3 axes", "(None, 5)", "'lstm'"]),
        (GRU(n_out=2, n_in=3), (4, 5), ["`n_in` must be 5", "n_in=3"]),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_connection(layer, shape, parts):
    with raises(ValueError, *parts):
        connected(layer, *shape)


@pytest.mark.parametrize(
    "layer, x, parts",
    [
        (Dense(2, n_in=7), np.ones((4, 6)), ["(N, ..., 7)", "(4, 6)", "(layer 'dense')"]),
        (Dense(2, n_in=7), np.ones(7), ["(N, ..., 7)", "(7,)"]),
        (Dense(2, n_in=7), np.ones((0, 7)), ["must not be empty", "(0, 7)"]),
        (Convolution(2, 2, (3, 5, 5)), np.ones((1, 2, 5, 5)), ["(N, 3, H, W)", "(1, 2, 5, 5)"]),
        (Convolution(2, 2, (3, 5, 5)), np.ones((3, 5, 5)), ["(N, 3, H, W)", "(3, 5, 5)"]),
        (Convolution(2, 5, (3, 5, 5)), np.ones((1, 3, 5, 4)), ["filter must fit", "4 pixels wide"]),
        (Embedding(None, None, 9, 2), [[0, 9]], ["[0, 9)", "index=9", "(layer 'embedding')"]),
        (Embedding(None, None, 9, 2), [[-1, 3]], ["[0, 9)", "index=-1"]),
        *((cls(n_out=2, n_in=3), np.ones((4, 3)), ["(N, T, 3)", "(4, 3)"]) for cls in RECURRENT),
        *((cls(n_out=2, n_in=3), np.ones((4, 5, 2)), ["(N, T, 3)"]) for cls in RECURRENT),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_input(layer, x, parts):
    with raises(ValueError, *parts):
        connected(layer).forward(x)


def test_input_of_layers_without_parameters():
    with raises(ValueError, "`input` must have shape (N, C, H, W)", "(5,)", "'max_pooling'"):
        MaxPooling(2).forward(np.ones(5))
    with raises(ValueError, "window must fit", "1 pixels wide"):
        MaxPooling(2).forward(np.ones((1, 3, 1)))
    with raises(ValueError, "at least 2 axes", "(3,)"):
        Flatten().forward(np.ones(3))
    with raises(ValueError, "(N, 3)", "(2, 4)", "'batch_normal'"):
        connected(BatchNormal(), 3).forward(np.ones((2, 4)))


def test_input_type():
    with raises(TypeError, "real numbers", "complex128", "(layer 'dense')"):
        connected(Dense(2, n_in=3)).forward(np.ones((1, 3), complex))
    with raises(TypeError, "integers", "float64", "(layer 'embedding')"):
        connected(Embedding(input_size=3, n_out=2)).forward([[0.5]])


@pytest.mark.parametrize("cls", RECURRENT)
def test_mask_and_states(cls):
    layer = connected(cls(n_out=2, n_in=3))
    x = np.ones((4, 5, 3))
    with raises(ValueError, "`mask` must have shape (4, 5)", "(4, 4)", f"(layer '{layer.name}')"):
        layer.forward(x, mask=np.ones((4, 4)))
    with raises(ValueError, "`h0` must have shape (4, 2)", "(2,)"):
        layer.forward(x, h0=np.ones(2))
    layer.forward(x)
    with raises(ValueError, "`dhn` must have shape (4, 2)", "(4, 3)"):
        layer.backward(np.ones((4, 2)), dhn=np.ones((4, 3)))
    if issubclass(cls, LSTM):
        with raises(ValueError, "`c0` must have shape (4, 2)", "(4, 1)"):
            layer.forward(x, c0=np.ones((4, 1)))


@pytest.mark.parametrize(
    "layer, shape",
    [
        (Dense(2), (3, 4)),
        (Convolution(2, 2), (2, 1, 4, 4)),
        (MaxPooling(2), (2, 1, 4, 4)),
        (BatchNormal(), (3, 4)),
        (Dropout(0.5), (3, 4)),
        (Flatten(), (3, 4)),
        (GRU(n_out=2), (2, 3, 4)),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_order_of_calls(layer, shape):
    x = np.ones(shape)
    if hasattr(layer, "W") or hasattr(layer, "gamma") or hasattr(layer, "AllW"):
        with raises(RuntimeError, "connect_to must be called", layer.name):
            layer.forward(x)
    connected(layer, *shape[1:])
    with raises(RuntimeError, "after a training forward", layer.name):
        layer.backward(x)
    y = layer.forward(x, train=False)
    with raises(RuntimeError, "after a training forward", layer.name):
        layer.backward(y)
    y = layer.forward(x)
    with raises(ValueError, "`pre_grad` must have shape", layer.name):
        layer.backward(y[..., None])


def test_unconnected_previous_layer():
    with raises(ValueError, "previous layer must be connected first"):
        Dense(2).connect_to(Linear(3))


def test_parameters_are_overwritten_in_place():
    layer = Dense(2, n_in=3)
    assert layer.W is None
    with raises(ValueError, "'W' does not exist yet"):
        layer.W = np.ones((3, 2))
    connected(layer)
    W = layer.W
    layer.W = np.ones((3, 2))
    assert layer.W is W and (W == 1).all()
    with raises(ValueError, "`W` must have shape (3, 2)", "(2, 3)"):
        layer.W = np.ones((2, 3))


def test_base_classes_say_what_is_missing():
    with raises(NotImplementedError, "Layer must define forward"):
        Layer().forward(1)
    with raises(NotImplementedError, "Layer must define backward"):
        Layer().backward(1)
    with raises(NotImplementedError, "Recurrent"):
        connected(Recurrent(2, n_in=3)).forward(np.ones((1, 2, 3)))
