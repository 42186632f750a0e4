"""Caches never hide a change of weights, options or shapes."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import npdl
from npdl import activations
from npdl.graph import Input
from npdl.layers import (
    LSTM,
    BatchNormal,
    Convolution,
    Dense,
    Embedding,
    Flatten,
    Layer,
    MaxPooling,
    MeanPooling,
    Softmax,
)
from npdl.layers.base import Parameter

LAYERS = [
    (lambda: Dense(3), (4, 5)),
    (lambda: Dense((2, 3)), (4, 2, 5)),
    (lambda: Softmax(3), (4, 5)),
    (lambda: Convolution(2, 3), (2, 3, 6, 5)),
    (lambda: MaxPooling(2), (2, 3, 6, 5)),
    (lambda: MeanPooling(2), (2, 6, 5)),
    (lambda: Flatten(), (2, 3, 4)),
    (lambda: BatchNormal(axis=1), (4, 3, 2, 2)),
    (lambda: LSTM(n_out=3), (2, 4, 5)),
]


def connected(make, shape):
    layer = make()
    layer.connect_to(Input((None, *shape[1:])))
    return layer


def numbers(*shape):
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


def predict(layer, x):
    return layer.forward(x, train=False)


@pytest.mark.parametrize("make, shape", LAYERS)
@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.tolist(),
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
        lambda x: x[::-1][::-1],
        lambda x: x.astype(">f4"),
        lambda x: x.astype(np.float64),
        lambda x: x.view(type("Own", (np.ndarray,), {})),
    ],
    ids=["list", "fortran", "strided", "reversed", "big-endian", "float64", "subclass"],
)
def test_any_form_of_the_input(make, shape, change):
    layer, x = connected(make, shape), numbers(*shape)
    for train in (False, True):
        expected = layer.forward(x, train=train)
        got = layer.forward(change(x), train=train)
        assert type(got) is np.ndarray
        np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("make, shape", LAYERS)
def test_an_input_that_does_not_fit_comes_after_one_that_does(make, shape):
    layer, x = connected(make, shape), numbers(*shape)
    for _ in range(2):
        expected = predict(layer, x)
        for wrong in (x[0, 0], x[:0], x.astype(complex), x.astype(str)):
            if isinstance(layer, Flatten) and wrong.dtype.kind not in "f":
                continue  # any value is accepted
            if isinstance(layer, Flatten | MeanPooling) and wrong.shape == x[:0].shape:
                wrong = x[0, 0, 0]
            with pytest.raises((ValueError, TypeError), match=f"layer '{layer.name}'"):
                predict(layer, wrong)
        np.testing.assert_array_equal(predict(layer, x), expected)


@pytest.mark.parametrize("make, shape", LAYERS)
def test_outputs_are_the_callers(make, shape):
    layer, x = connected(make, shape), numbers(*shape)
    before = x.copy()
    first = predict(layer, x)
    kept = first.copy()
    second = predict(layer, x[::-1].copy())
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("make, shape", LAYERS)
def test_inference_writes_nothing(make, shape):
    layer, x = connected(make, shape), numbers(*shape)
    state = pickle.dumps(layer)
    attributes = dict(vars(layer))
    predict(layer, x)
    assert pickle.dumps(layer) == state and vars(layer) == attributes


def test_weights_that_change():
    layer, x = connected(lambda: Dense(3, activation="linear"), (4, 5)), numbers(4, 5)
    predict(layer, x)
    layer.W = np.ones((5, 3))
    np.testing.assert_allclose(predict(layer, x), np.tile(x.sum(1)[:, None], 3), rtol=1e-5)
    layer.b += 1
    layer.W[...] = 0
    np.testing.assert_array_equal(predict(layer, x), np.ones((4, 3)))
    for parameter in layer.parameters:
        parameter.value = parameter.value.astype(np.float64) + 1
        parameter.grad = np.zeros_like(parameter.value)
    y = layer.forward(x)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, np.tile(x.sum(1, dtype=float)[:, None], 3) + 2)
    assert layer.backward(np.ones((4, 3), np.float32)).dtype == np.float64
    np.testing.assert_array_equal(layer.dW, np.tile(x.sum(0, dtype=float)[:, None], 3))


def test_options_that_change():
    conv, x = connected(lambda: Convolution(2, 3), (1, 3, 6, 6)), numbers(1, 3, 6, 6)
    assert predict(conv, x).shape == (1, 2, 4, 4)
    conv.padding = "same"
    assert predict(conv, x).shape == (1, 2, 6, 6)
    conv.stride = (2, 3)
    assert predict(conv, x).shape == (1, 2, 3, 2)
    pool = connected(lambda: MaxPooling(2), (1, 3, 6, 6))
    assert predict(pool, x).shape == (1, 3, 3, 3)
    pool.stride = (1, 1)
    assert predict(pool, x).shape == (1, 3, 5, 5)
    pool.pool_size = (7, 1)
    with pytest.raises(ValueError, match="The window must fit into the image, 6 pixels high"):
        predict(pool, x)


def test_activations_that_change():
    layer, x = connected(lambda: Dense(3, activation="relu"), (4, 5)), numbers(4, 5)
    z = x @ layer.W
    np.testing.assert_allclose(predict(layer, x), np.maximum(z, 0), atol=1e-6)
    layer.activation = activations.Elliot()
    for steepness in (1.0, 2.5):
        layer.activation.steepness = steepness
        scaled = steepness * z
        expected = 0.5 * scaled / (1 + abs(scaled)) + 0.5
        np.testing.assert_allclose(predict(layer, x), expected, atol=1e-6)
    layer.activation = activations.Softmax()
    expected = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    for train in (True, False):
        np.testing.assert_allclose(layer.forward(x, train=train), expected, atol=1e-6)


class Halved(activations.Softmax):
    def forward(self, input):
        return super().forward(input) / 2


class Doubled(activations.ReLU):
    def forward(self, input):
        return 2 * super().forward(input)


class SteepSlope(activations.Elliot):
    def derivative(self, input=None):
        return 7 * super().derivative(input)


class Nothing(Doubled):
    """Defines nothing; its inherited formula is not that of the kernels."""


class Renamed(activations.Tanh):
    """Defines nothing."""


@pytest.mark.parametrize("cls", [Halved, Doubled, Nothing, SteepSlope])
def test_an_activation_with_its_own_formulas_is_called(cls):
    activation = cls()
    assert activation.kernel_code is None
    layer, x = connected(lambda: Dense(3, activation=activation), (4, 5)), numbers(4, 5)
    z = layer.forward_linear(x)
    for train in (False, True):
        np.testing.assert_allclose(layer.forward(x, train=train), cls().forward(z), atol=1e-6)
    if not isinstance(activation, activations.Softmax):
        layer.backward(np.ones((4, 3), np.float32))
        np.testing.assert_allclose(layer.db, cls().derivative(z).sum(0), rtol=1e-5)


def test_an_activation_without_its_own_formulas_is_that_of_the_kernels():
    assert Renamed().kernel_code == activations.Tanh().kernel_code is not None

    class Unknown(activations.Tanh):
        kernel_code = None

    class Inherited(Unknown):
        pass

    assert Unknown().kernel_code is None and Inherited().kernel_code is None


@pytest.mark.skipif("cython" not in npdl._ext.available_backends(), reason="no kernels")
def test_backends_that_change():
    layer, x = connected(lambda: Softmax(3), (4, 5)), numbers(4, 5)
    for name in ("cython", "numpy", "cython"):
        with npdl.use_backend(name):
            np.testing.assert_allclose(predict(layer, x).sum(1), 1, rtol=1e-6)


class Scaled(Dense):
    """Owns one more parameter, in front of the others."""

    def build(self, in_shape):
        self.add_parameter("scale", [3.0])
        return super().build(in_shape)

    def forward(self, input, train=True):
        return self.scale * super().forward(input, train)

    @property
    def scale(self):
        return self.parameters[0].value


def test_parameters_are_found_by_name():
    layer, x = connected(lambda: Scaled(3, activation="linear"), (4, 5)), numbers(4, 5)
    assert [p.name for p in layer.parameters] == ["scale", "W", "b"]
    np.testing.assert_allclose(predict(layer, x), 3 * (x @ layer.W), rtol=1e-4, atol=1e-5)
    other = copy.deepcopy(layer)
    other.W = np.zeros((5, 3))
    assert layer.W.any() and not predict(other, x).any()
    layer.parameters = reversed(layer.parameters)
    assert [p.name for p in layer.parameters] == ["b", "W", "scale"]
    layer.parameters = []
    assert layer.W is None and layer.params == []


def test_names_of_parameters_must_differ():
    layer = connected(lambda: Dense(3), (4, 5))
    with pytest.raises(ValueError, match=r"names of parameters must differ.*'W'.*layer 'dense'"):
        layer.add_parameter("W", np.ones(2))
    with pytest.raises(ValueError, match="must differ"):
        layer.parameters = [Parameter("a", np.ones(2)), Parameter("a", np.ones(2))]
    assert layer.W.shape == (5, 3)


def test_embedding_looks_at_every_number():
    layer = connected(lambda: Embedding(input_size=4, n_out=2), (2, 3))
    good = np.array([[0, 3, 1], [2, 2, 0]])
    np.testing.assert_array_equal(predict(layer, good), layer.embed_words[good])
    for wrong in (-1, 4, 2**40):
        for place in np.ndindex(good.shape):
            index = good.copy()
            index[place] = wrong
            with pytest.raises(ValueError, match=rf"must lie in \[0, 4\).*index={wrong}"):
                predict(layer, index)


def model(*layers):
    made = npdl.Model(list(layers))
    made.compile(loss="mse", optimizer="sgd")
    return made


def test_layers_that_change():
    net, x = model(Dense(3, n_in=5), Dense(2)), numbers(4, 5)
    assert net.predict(x).shape == (4, 2)
    net.layers.append(Dense(7))  # not by `add`, which wants a new `compile`
    assert not net.built
    assert net.predict(x).shape == (4, 7) and net.built
    net.layers[1].connect_to(Input((None, 9)))  # away from the network
    assert not net.built
    assert net.predict(x).shape == (4, 7) and net.built
    net.add(Dense(1))
    with pytest.raises(RuntimeError, match="must be compiled"):
        net.predict(x)


def test_a_forward_that_changes(monkeypatch):
    class Plain(Layer):
        def forward(self, input):
            return input

    net, x = model(Plain(), Dense(2)), numbers(4, 5)
    first = net.predict(x)
    monkeypatch.setattr(
        Plain, "forward", lambda self, input, train=True: input if train else -input
    )
    np.testing.assert_allclose(net.predict(x), -first, atol=1e-6)  # tanh is odd
