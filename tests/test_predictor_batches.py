"""How a predictor divides its batches: a few samples at a time, and each thread its own."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import npdl
from npdl import Model, layers
from npdl._ext import kernels
from npdl.layers import LSTM, BatchNormal, Convolution, Flatten, Layer, MaxPooling, Reshape, Softmax


class Doubled(Layer):
    """A user's layer, which may depend on the size of the batch."""

    def forward(self, input):
        return 2 * np.asarray(input)

    def backward(self, pre_grad):
        return 2 * pre_grad


def same(one, other):
    assert one.dtype == other.dtype and one.shape == other.shape
    return one.tobytes() == other.tobytes()


@pytest.mark.parametrize(("n", "parts"), [(1, {1}), (8, {8}), (9, {5, 4}), (50, {8, 2})])
def test_large_images_go_through_all_layers_a_few_at_a_time(n, parts, monkeypatch):
    model = Model(
        [
            *(Convolution(4, 3, padding="same", activation="relu"), BatchNormal()),
            *(MaxPooling(2), Flatten(), Softmax(3)),
        ]
    )
    model.build((None, 2, 12, 12))
    x = np.random.default_rng(n).normal(size=(n, 2, 12, 12)).astype(np.float32)
    wanted = model.predict(x)
    monkeypatch.setattr("npdl.predictor.CACHE", 10)
    predictor = model.predictor()
    sizes = set()
    routes, outputs = predictor._routes, predictor._routes.outputs
    monkeypatch.setattr(routes, "outputs", lambda xs: (sizes.add(len(xs[0])), outputs(xs))[1])
    assert same(predictor(x), wanted) and same(predictor(x), wanted)
    assert sizes <= (parts if kernels().ready else {n}) and (sizes or n < 9)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("large", [1, 1 << 20])
def test_each_thread_runs_images_of_its_own_through_all_layers(threads, large, monkeypatch):
    chain = [
        *(Convolution(6, 3, padding="same"), BatchNormal(axis=1), layers.Activation("relu")),
        *(layers.DepthwiseConvolution(3), Convolution(20, 1), MaxPooling(2)),
        *(Flatten(), Softmax(3)),
    ]
    model = Model(chain)
    model.build((None, 2, 14, 14))
    monkeypatch.setattr("npdl.predictor.LARGE", large)
    monkeypatch.setattr("npdl.predictor.OWN", 32000)
    before = npdl.get_num_threads()
    npdl.set_num_threads(threads)
    try:
        predictor = model.predictor()
        predictor._light = True
        sizes = []
        for n in (1, 12, 12, 37, 64, 65):
            x = np.random.default_rng(n).normal(size=(n, 2, 14, 14)).astype(np.float32)
            assert same(predictor(x), model.predict(x))
            sizes.append(predictor._of_a_thread(n))
    finally:
        npdl.set_num_threads(before)
    assert sizes[0] == 0 and sizes[-1] == (2 if kernels().ready else 0)


def test_heavy_layers_of_images_are_shared(monkeypatch):
    monkeypatch.setattr("npdl.predictor.OWN", 1)
    monkeypatch.setattr("npdl.predictor.LARGE", 100)
    model = Model([Convolution(4, 3), Flatten(), Softmax(3)])
    model.build((None, 2, 6, 6))
    assert model.predictor()._of_a_thread(100) == 0


@pytest.mark.parametrize("further", [[Doubled(), Flatten()], [Reshape((16, 4)), LSTM(3)]])
def test_the_batch_stays_whole_where_its_size_may_matter(further, monkeypatch):
    monkeypatch.setattr("npdl.predictor.CACHE", 10)
    model = Model([Convolution(4, 3), *further, Softmax(3)])
    model.build((None, 2, 6, 6))
    assert model.predictor()._at_a_time(100) == 100


def test_large_weights_behind_images_are_read_once(monkeypatch):
    chain = [
        Convolution(4, 3, (1, 12, 12), padding="same"),
        MaxPooling(2),
        Flatten(),
        layers.Dense(16),
        Softmax(3),
    ]
    model = Model(chain)
    model.compile("scce")
    monkeypatch.setattr("npdl.predictor.LARGE", 1)
    monkeypatch.setattr("npdl.predictor.CACHE", 4000)
    x = np.random.default_rng(0).normal(size=(35, 1, 12, 12)).astype("float32")
    for batch_size in (256, 20, 9):
        predictor = model.predictor(batch_size)
        for _ in range(2):
            np.testing.assert_array_equal(predictor(x), model.predict(x, batch_size=batch_size))
        np.testing.assert_array_equal(predictor(x[:1]), model.predict(x[:1]))
        assert len(predictor._halves or ()) == (2 if kernels().ready else 0)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(predictor))(x), predictor(x))


def test_two_plans_of_one():
    entry = npdl.Input((2, 6, 6))
    h = Convolution(3, 3)(entry)
    flat = Flatten()(h)
    out = layers.Dense(2)(layers.Add()(layers.Dense(4)(flat), layers.Dense(4)(flat)))
    model = Model(inputs=entry, outputs=[out])
    model.build()
    x = np.random.default_rng(0).normal(size=(3, 2, 6, 6)).astype("float32")
    before, after = model.plan.cut(2)
    between = before.forward([x], False)[0]
    np.testing.assert_array_equal(after.forward(between, False)[0][0], model.predict(x)[0])
    assert model.plan.cut(0) == () == model.plan.cut(3)  # the input itself; two values


def test_a_watched_value_has_the_same_bits_in_large_batches(monkeypatch):
    monkeypatch.setattr("npdl.predictor.LARGE", 1)
    monkeypatch.setattr("npdl.predictor.CACHE", 1)
    conv = Convolution(4, 3, (3, 8, 8), activation="linear")
    model = Model([conv, BatchNormal(axis=1), Flatten(), layers.Dense(2)])
    model.compile("mse")
    model.layers[1].running_var[...] = 3
    model.add_loss(lambda z: (float((z**2).sum()), 2 * z), conv)
    x = np.random.default_rng(0).normal(size=(20, 3, 8, 8)).astype("float32")
    np.testing.assert_array_equal(model.predictor()(x), model.predict(x))
