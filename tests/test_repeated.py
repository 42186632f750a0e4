"""Repeated predictions with the same weights: a snapshot answers them, until something changes."""

import copy
import pickle
import threading

import numpy as np
import pytest

import npdl
from npdl import layers
from npdl.repeated import FIRST

SHAPE = (3, 8, 8)
needs_kernels = pytest.mark.skipif(
    not npdl._ext.kernels().ready, reason="the NumPy twins prepare nothing"
)


def network():
    def conv(filters, size=3):
        return [
            layers.Convolution(filters, size, padding="same", activation="linear"),
            layers.BatchNormal(axis=1),
        ]

    body = [*conv(4), layers.Activation("elu"), *conv(4)]
    model = npdl.Model(
        [
            layers.Convolution(4, 3, SHAPE, padding="same"),
            layers.Residual(body, conv(4, 1), "relu"),
            *(layers.GlobalMeanPooling(), layers.Dense(5, activation="tanh"), layers.Softmax(3)),
        ]
    )
    model.compile("scce", npdl.optimizers.SGD(0.1))
    model.build()
    return model


def data(n=2):
    return np.random.default_rng(0).normal(size=(n, *SHAPE)).astype("float32")


def plain(model, x):
    """What the layers compute."""
    return model.plan.forward([x], False)[0][0]


def repeated(model, x, times=FIRST + 1):
    for _ in range(times):
        y = model.predict(x)
    return y


def is_snapshot(model):
    return model._repeats._made is not None


@needs_kernels
def test_a_snapshot_answers_with_the_bits_of_the_layers():
    model = network()
    for n in (1, 3):
        x = data(n)
        assert repeated(model, x).tobytes() == plain(model, x).tobytes()
        other = x + 1
        assert model.predict(other).tobytes() == plain(model, other).tobytes()
    assert is_snapshot(model)
    assert model.predict_on_batch(x).tobytes() == plain(model, x).tobytes()


def changes():
    """Names and functions that change a prediction of a model."""

    def in_place(model):
        model.layers[0].W[0, 0, 0, 0] += 1

    def statistics(model):
        model.layers[1].body[1].running_mean[...] += 1

    def epsilon(model):
        model.layers[1].body[1].epsilon = 3.0

    def activation(model):
        model.layers[0].activation = npdl.activations.Sigmoid()

    def slope(model):
        model.layers[1].body[2].activation.alpha = 0.3

    def method(model):
        model.layers[3].forward = lambda x, train=True: np.tanh(x[:, :1] + np.zeros((1, 5), "f"))

    def weights(model):
        model.set_weights([w * 1.5 for w in model.get_weights()])

    def training(model):
        model.train_on_batch(data(), np.array([0, 1]))

    def fit(model):
        model.fit(data(), np.array([0, 1]), max_iter=1, verbose=False)

    def built_again(model):
        model.layers[0].connect_to(None)

    return [
        *(in_place, statistics, epsilon, activation, slope, method, weights, training, fit),
        built_again,
    ]


@needs_kernels
@pytest.mark.parametrize("change", changes(), ids=lambda change: change.__name__)
def test_every_change_ends_it(change):
    model, x = network(), data()
    before = repeated(model, x)
    assert is_snapshot(model)
    change(model)
    after = model.predict(x)
    assert after.tobytes() != before.tobytes()
    for _ in range(2 * FIRST + 2):
        assert model.predict(x).tobytes() == after.tobytes() == plain(model, x).tobytes()


@needs_kernels
def test_changes_back_and_forth():
    model, x = network(), data()
    weights = model.layers[0].W
    for step in range(4):
        repeated(model, x, 20)
        weights *= -1
        assert model.predict(x).tobytes() == plain(model, x).tobytes(), step


APART = {
    "large": ((200,), lambda: [layers.Dense(300), layers.Softmax(10)]),
    "masks": ((3,), lambda: [layers.Embedding(9, 4, mask_zero=True), layers.LSTM(5)]),
    "stateful": ((3, 4), lambda: [layers.LSTM(5, stateful=True), layers.Softmax(2)]),
    "user": (SHAPE, lambda: [layers.Convolution(4, 3), layers.Lambda(np.tanh), layers.Flatten()]),
}


@pytest.mark.parametrize("name", APART)
def test_models_without_snapshots(name):
    shape, make = APART[name]
    model, x = npdl.Model(make()), np.ones((2, *shape), "int64" if name == "masks" else "float32")
    model.compile("mse")
    repeated(model, x, FIRST + 3)
    assert not is_snapshot(model)


@needs_kernels
def test_graphs_copies_and_threads():
    entry = npdl.Input(SHAPE)
    h = layers.Convolution(3, 3, padding="same")(entry)
    out = layers.Softmax(2)(layers.GlobalMeanPooling()(layers.Add()(h, layers.ReLU()(h))))
    model, x = npdl.Model(inputs=entry, outputs=out), data()
    model.build()
    y = repeated(model, x)
    assert is_snapshot(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other._repeats is None
        assert repeated(other, x).tobytes() == y.tobytes()
    found = []
    threads = [
        threading.Thread(target=lambda: found.extend(model.predict(x) for _ in range(50)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 200
    assert all(one.tobytes() == y.tobytes() for one in found)


@needs_kernels
def test_backends_and_dtypes_of_the_input():
    model, x = network(), data()
    y = repeated(model, x)
    for other in (x.astype("float64"), x[::-1][::-1], np.asfortranarray(x), x.astype(">f4")):
        assert repeated(model, other).tobytes() == y.tobytes()
    with npdl.use_backend("numpy"):
        np.testing.assert_allclose(model.predict(x), y, rtol=1e-5)
        assert model.predict(x).tobytes() == plain(model, x).tobytes()
    assert model.predict(x).tobytes() == y.tobytes()


def test_integers_are_converted_as_the_dtype_of_the_moment_says():
    pool, conv = layers.MeanPooling(2, input_shape=(1, 4, 4)), layers.Convolution(1, 2)
    model = npdl.Model([pool, conv, layers.Flatten(), layers.Dense(1, activation="linear")])
    model.build((None, 1, 4, 4))
    for array in model.weights.values():
        array[...] = 1
    x = np.tile([[2**25 + 3, -(2**25)], [0, 0]], (1, 1, 2, 2))  # float32 can't hold the first
    first = repeated(model, x)
    for dtype in ("float64", "float32"):
        with npdl.utils.random.use_dtype(dtype):
            assert model.predict(x).tobytes() == plain(model, x).tobytes()
            assert model.predictor()(x).tobytes() == plain(model, x).tobytes()
            assert (model.predict(x) == first).all() == (dtype == "float32")


def test_a_replaced_method_of_a_class_is_still_called(monkeypatch):
    model, x, calls = network(), data(), []
    usual = layers.Dense.forward
    monkeypatch.setattr(
        layers.Dense, "forward", lambda self, x, train=True: [calls.append(1), usual(self, x)][1]
    )
    repeated(model, x, FIRST + 4)
    assert len(calls) == 2 * (FIRST + 4)
    assert not is_snapshot(model)


def test_a_change_while_the_snapshot_is_made(monkeypatch):
    model, x = network(), data()
    repeated(model, x, FIRST)
    usual = npdl.predictor.Predictor.__init__

    def slow(self, model):
        usual(self, model)
        model.layers[0].activation = npdl.activations.Sigmoid()  # another thread does it

    with monkeypatch.context() as patch:
        patch.setattr(npdl.predictor.Predictor, "__init__", slow)
        model.predict(x)
    assert not is_snapshot(model)
    assert repeated(model, x, 2 * FIRST + 1).tobytes() == plain(model, x).tobytes()
    assert is_snapshot(model) == bool(npdl._ext.kernels().ready)


def test_large_inputs_run_the_layers():
    model = npdl.Model([layers.Convolution1D(2, 3, (3000, 1)), layers.GlobalMeanPooling()])
    model.build()
    for n in (30, 1):
        x = np.ones((n, 3000, 1), "float32")
        assert repeated(model, x).tobytes() == plain(model, x).tobytes()
        assert is_snapshot(model) == (n == 1 and bool(npdl._ext.kernels().ready))


def test_errors_stay_the_same():
    model = network()
    for bad in (np.ones((2, 4, 8, 8), "f"), np.ones((2, 3, 2), "f"), np.ones((0, *SHAPE), "f")):
        found = set()
        for _ in range(FIRST + 3):
            with pytest.raises(ValueError) as error:
                model.predict(bad)
            found.add(str(error.value))
        assert len(found) == 1


def test_a_model_of_ones_own_whose_state_is_everything():
    class Whole(npdl.Model):
        def __getstate__(self):
            return vars(self)

    model = Whole(network().layers)
    y = repeated(model, data())
    other = copy.deepcopy(model)
    other.layers[0].W[...] = 0
    assert model.predict(data()).tobytes() == y.tobytes()
    assert other.predict(data()).tobytes() == plain(other, data()).tobytes()
