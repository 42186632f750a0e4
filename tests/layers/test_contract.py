"""Every layer, with every option that matters, keeps the contract of `npdl.testing.check_layer`."""

from __future__ import annotations

import numpy as np
import pytest

from npdl import activations
from npdl.activations import Activation
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
    Linear,
    MaxPooling,
    MeanPooling,
    SimpleRNN,
    Softmax,
)
from npdl.testing import check_layer


@activations.register()
class Sine(Activation):
    """An activation without a kernel."""

    def forward(self, input):
        return np.sin(input)

    def derivative(self, input=None):
        return np.cos(input)


ACTIVATIONS = [
    "sigmoid",
    "tanh",
    "relu",
    "linear",
    "soft_plus",
    "soft_sign",
    "elliot",
    {"name": "symmetric_elliot", "steepness": 2.0},
    "softmax",
    "sine",
]
RECURRENT = [SimpleRNN, GRU, LSTM, BatchLSTM]
MASK = np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [0, 1, 0, 1, 1]])


def distinct(*shape):
    """A batch whose values are further apart than the difference step: no ties, no kinks."""
    return (
        np.random.default_rng(5).permutation(np.linspace(-2, 2, int(np.prod(shape)))).reshape(shape)
    )


def name_of(activation):
    return activation if isinstance(activation, str) else activation["name"]


@pytest.mark.parametrize("cls", [Linear, Dense, Softmax])
@pytest.mark.parametrize("n_out", [3, (2, 3)], ids=["int", "tuple"])
@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 5)], ids=["2d", "3d"])
def test_dense(cls, n_out, shape):
    check_layer((cls, {"n_out": n_out, "init": "lecun_uniform"}), shape)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=name_of)
def test_dense_activations(activation):
    check_layer((Dense, {"n_out": 3, "n_in": 5, "activation": activation}), (4, 5))


def test_dropout():
    check_layer((Dropout, {"p": 0.4}), (3, 7))


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("shape", [(5, 3), (3, 2, 3, 2)], ids=["2d", "4d"])
def test_batch_normal(axis, shape):
    check_layer((BatchNormal, {"axis": axis, "momentum": 0.7}), shape)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=name_of)
def test_convolution_activations(activation):
    kwargs = {"nb_filter": 2, "filter_size": (2, 3), "activation": activation}
    check_layer((Convolution, kwargs), (2, 2, 4, 5))


@pytest.mark.parametrize(
    "size, stride, padding",
    [
        (1, 1, "valid"),
        ((3, 2), (2, 1), "valid"),
        ((2, 3), (1, 2), "same"),
        ((4, 3), (3, 2), "same"),
        (2, 3, "valid"),
        ((7, 5), 1, "valid"),
        ((2, 3), (3, 1), (2, 1)),
        (3, 2, 2),
    ],
    ids=str,
)
def test_convolution_geometry(size, stride, padding):
    kwargs = {"nb_filter": 3, "filter_size": size, "stride": stride, "padding": padding}
    check_layer((Convolution, {**kwargs, "activation": "tanh"}), (2, 2, 7, 5))


@pytest.mark.parametrize("cls", [MaxPooling, MeanPooling])
@pytest.mark.parametrize(
    "pool_size, stride",
    [(2, None), ((2, 3), None), ((3, 2), (1, 2)), (2, 3), (1, 2), ((7, 5), 1)],
    ids=str,
)
@pytest.mark.parametrize("shape", [(2, 3, 7, 5), (2, 7, 5)], ids=["4d", "3d"])
def test_pooling(cls, pool_size, stride, shape):
    check_layer((cls, {"pool_size": pool_size, "stride": stride}), distinct(*shape))


@pytest.mark.parametrize("static", [None, True, False])
@pytest.mark.parametrize("table", ["random", "given"])
def test_embedding(static, table):
    words = np.random.default_rng(1).normal(size=(6, 3))
    kwargs = {"input_size": 6, "n_out": 3} if table == "random" else {"embed_words": words}
    index = np.array([[0, 5, 2, 2], [5, 5, 1, 0]])
    check_layer((Embedding, {**kwargs, "static": static}), index)


@pytest.mark.parametrize("outdim", [1, 2, 3, 4])
def test_flatten(outdim):
    check_layer((Flatten, {"outdim": outdim}), (2, 3, 5, 2))


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
def test_dim_shuffle(axis):
    check_layer((DimShuffle, {"axis": axis}), (2, 3, 5))


@pytest.mark.parametrize("cls", RECURRENT)
@pytest.mark.parametrize("return_sequence", [False, True], ids=["last", "sequence"])
@pytest.mark.parametrize("given", ["", "h0", "mask", "mask and h0"])
def test_recurrent(cls, return_sequence, given, rng):
    args = {"mask": MASK} if "mask" in given else {}
    if "h0" in given:
        args["h0"] = rng.normal(size=(3, 4))
        if issubclass(cls, LSTM):
            args["c0"] = rng.normal(size=(3, 4))
    check_layer(
        (cls, {"n_out": 4, "return_sequence": return_sequence}), (3, 5, 2), forward_args=args
    )


@pytest.mark.parametrize("cls", [SimpleRNN, GRU, LSTM])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=name_of)
def test_recurrent_activations(cls, activation):
    gates = {} if cls is SimpleRNN else {"gate_activation": activation}
    kwargs = {"n_out": 3, "n_in": 2, "activation": activation, **gates}
    check_layer((cls, {**kwargs, "return_sequence": True}), (3, 5, 2), forward_args={"mask": MASK})


@pytest.mark.parametrize("cls", RECURRENT)
def test_one_step(cls):
    check_layer((cls, {"n_out": 3}), (2, 1, 4))
