"""The arrays that layers keep from step to step, and release at the end of training."""

import tracemalloc
import weakref

import numpy as np
import pytest
from fit_cases import LABELS, X

import npdl
from npdl import Model
from npdl.layers import (
    LSTM,
    BatchNormal,
    Convolution,
    Dense,
    Dropout,
    Flatten,
    Linear,
    MaxPooling,
    MeanPooling,
    Softmax,
)
from npdl.objectives import MSE


def classifier():
    model = Model([Dense(8, n_in=4), Softmax(3)])
    model.compile("scce", "adam")
    return model


def test_buffers_are_kept_only_in_training():
    model = classifier()
    model.fit(X, LABELS, epochs=2, verbose=False)
    for layer in model.layers:
        assert not layer.keep_buffers and layer.need_input_grad
    one, two = (model.layers[0].forward(X[:3]) for _ in range(2))
    assert not np.shares_memory(one, two)


@pytest.mark.parametrize("activation", ["relu", npdl.activations.Softmax(axis=0)])
def test_a_model_does_not_keep_its_data(activation):
    """Batches that are not shuffled are views of them."""
    x = np.ones((60, 4), np.float32)
    model = Model([Dense(5, activation=activation), Softmax(3)])
    model.compile("scce", "adam")
    model.fit(x, np.zeros(60, int), batch_size=10, epochs=2, shuffle=False, verbose=False)
    kept = weakref.ref(x)
    del x
    assert kept() is None


@pytest.mark.skipif(npdl._ext.kernels().backend == "numpy", reason="the twins do allocate")
@pytest.mark.parametrize(
    "layers, shape, labels",
    [
        ([Flatten(), Dense(200, activation="relu"), Softmax(500)], (64, 300), (64,)),
        (
            [
                *(Convolution(8, 3, activation="relu"), BatchNormal(), MaxPooling(2)),
                *(Convolution(8, 3, activation="tanh"), Dropout(0.2), MeanPooling(2)),
                *(Flatten(), Softmax(10)),
            ],
            (32, 3, 26, 26),
            (32,),
        ),
        ([LSTM(n_out=16, return_sequence=True), Softmax(70)], (24, 40, 8), (24, 40)),
    ],
    ids=["dense", "convolution", "recurrent"],
)
def test_a_steady_step_allocates_nothing_large(layers, shape, labels):
    model = Model(layers)
    model.compile("scce", npdl.optimizers.Adam())
    x, y = np.ones(shape, np.float32), np.zeros(labels, int)
    model.build((None, *shape[1:]))
    with model.training():
        for _ in range(6):  # it is recorded, tried and replayed
            npdl.training.train_step(model, x, y)
        tracemalloc.start()
        npdl.training.train_step(model, x, y)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 25_000  # bytes; most outputs take more than 50 000


def test_what_a_step_returns_outside_of_a_training_is_the_callers():
    model = classifier()
    _, first, cache = model.loss_forward(X[:5], LABELS[:5])
    copy = first.copy()
    _, second, _ = model.loss_forward(X[5:10], LABELS[5:10])
    model.loss_backward(cache)
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(first, copy)


def test_after_an_error_the_layers_are_as_before():
    class Failing(MSE):
        def backward(self, outputs, targets):
            raise KeyError("stop")

    model = Model([Linear(2, n_in=4)])
    model.compile(Failing())
    with pytest.raises(KeyError):
        model.fit(X, X[:, :2], epochs=2, verbose=False)
    assert not model.layers[0].keep_buffers and model.layers[0].need_input_grad
