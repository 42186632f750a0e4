"""The prediction for a sample has the same bits alone and in every batch, in layers and models."""

from __future__ import annotations

import numpy as np
import pytest

import npdl
from npdl import _ext
from npdl.graph import Input
from npdl.layers import (
    GRU,
    LSTM,
    BatchLSTM,
    BatchNormal,
    Bidirectional,
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
    TimeDistributed,
)

pytestmark = pytest.mark.skipif(
    _ext.kernels().backend == "numpy", reason="the sums of NumPy's BLAS depend on the batch"
)

N = 21
BATCHES = (1, 2, 3, 4, 5, 7, 8, 20)
WORDS = np.random.default_rng(1).integers(0, 9, (N, 7))

LAYERS = {
    "dense": (lambda: Dense(10), (784,)),
    "dense-steps": (lambda: Dense(5, activation="tanh"), (3, 300)),
    "linear": (lambda: Linear(3), (513,)),
    "softmax": (lambda: Softmax(10), (600,)),
    "convolution": (lambda: Convolution(5, 3, activation="relu"), (3, 9, 8)),
    "winograd-4x4": (lambda: Convolution(16, 3), (16, 6, 6)),
    "winograd-7x7": (lambda: Convolution(17, 3, padding="same"), (33, 7, 7)),
    "winograd-13x12": (lambda: Convolution(16, 3, padding="same"), (16, 13, 12)),
    "max-pooling": (lambda: MaxPooling(2), (3, 6, 5)),
    "mean-pooling": (lambda: MeanPooling(2), (3, 6, 5)),
    "batch-normal": (lambda: BatchNormal(axis=1), (3, 7, 5)),
    "flatten": (lambda: Flatten(), (2, 3, 4)),
    "dim-shuffle": (lambda: DimShuffle(axis=1), (3, 4)),
    "dropout": (lambda: Dropout(0.5), (33,)),
    "simple-rnn": (lambda: SimpleRNN(n_out=19), (6, 300)),
    "lstm": (lambda: LSTM(n_out=19, return_sequence=True), (6, 5)),
    "batch-lstm": (lambda: BatchLSTM(n_out=7), (3, 5)),
    "gru": (lambda: GRU(n_out=33), (3, 40)),
    "gru-reset-after": (lambda: GRU(33, reset_after=True, go_backwards=True), (5, 40)),
    "bidirectional": (lambda: Bidirectional(LSTM(19, return_sequence=True)), (6, 5)),
    "bidirectional-gru": (lambda: Bidirectional(GRU(9, reset_after=True), "sum"), (6, 31)),
    "time-distributed": (lambda: TimeDistributed(Dense(10)), (3, 600)),
}


def samples(shape):
    return np.random.default_rng(3).normal(size=(N, *shape)).astype(np.float32)


def assert_same_bits(predict, x):
    whole = predict(x)
    for size in BATCHES:
        for first in (0, N - size):
            part = predict(x[first : first + size])
            wanted = whole[first : first + size]
            assert part.tobytes() == wanted.tobytes(), f"batch of {size} at {first}"


@pytest.mark.parametrize("label", LAYERS)
def test_layer(label):
    make, shape = LAYERS[label]
    layer = make()
    layer.connect_to(Input((None, *shape)))
    assert_same_bits(lambda x: layer.forward(x, train=False), samples(shape))


MODELS = {
    "mlp": lambda: [Dense(300, n_in=300, activation="relu"), BatchNormal(), Softmax(4)],
    "cnn": lambda: [
        Convolution(16, 3, input_shape=(3, 14, 12), activation="relu"),
        Convolution(16, 3, activation="relu"),
        MaxPooling(2),
        Convolution(16, 3, padding="same"),
        Flatten(),
        Softmax(4),
    ],
    "words": lambda: [
        Embedding(input_size=9, n_out=6),
        GRU(n_out=11, return_sequence=True),
        LSTM(n_out=13),
        Softmax(4),
    ],
}
INPUTS = {"mlp": samples((300,)), "cnn": samples((3, 14, 12)), "words": WORDS}


@pytest.mark.parametrize("name", MODELS)
def test_model_for_every_size_of_batch(name):
    npdl.utils.set_seed(4)
    model, x = npdl.Model(MODELS[name]()), INPUTS[name]
    model.compile("scce")
    model.train_on_batch(x, np.arange(N) % 4)
    whole = model.predict(x, batch_size=N)
    for size in BATCHES:  # whose last batch is a smaller one
        assert model.predict(x, batch_size=size).tobytes() == whole.tobytes(), size
    assert_same_bits(model.predict, x)
