"""Warnings about what goes wrong during training."""

import warnings

import numpy as np
import pytest

import npdl
from npdl import Model
from npdl.layers import Dense, Softmax

R = np.random.default_rng(0)
X = R.normal(size=(200, 6)).astype("f4")
Y = (X[:, 0] > 0).astype(int)


class Scaled(npdl.layers.Layer):
    scale = npdl.layers.ParameterView("scale")

    def __init__(self, forgets):
        self.forgets = forgets

    def build(self, in_shape):
        self.add_parameter("scale", np.ones(in_shape[1:]))
        return in_shape

    def forward(self, input, train=True):
        self._cache = (input,) if train else None
        return input * self.scale

    def backward(self, pre_grad):
        parameter = self.parameters[0]
        if parameter.grad is not None and not self.forgets:
            np.sum(pre_grad * self._cache[0], axis=0, out=parameter.grad)
        return pre_grad * self.scale


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_gradient_that_a_layer_forgets_is_reported_once(optimizer):
    model = Model([Scaled(forgets=True), Dense(3), Scaled(forgets=False), Softmax(2)])
    model.compile("scce", optimizer)
    with pytest.warns(RuntimeWarning, match="No gradient reached parameter 'scale'") as caught:
        model.fit(X, Y, epochs=3, verbose=0)
    assert len(caught) == 1 and "layer 'scaled_1' (Scaled)" in str(caught[0].message)


def test_a_frozen_layer_of_ones_own_is_not_reported():
    layer = Scaled(forgets=True)
    layer.trainable = False
    model = Model([layer, Softmax(2)])
    model.compile("scce")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X, Y, epochs=2, verbose=0)


def test_a_layer_of_ones_own_below_an_output_without_a_loss_is_not_reported():
    x = npdl.Input((6,))
    h = Dense(3)(x)
    model = Model(x, {"a": Softmax(2)(h), "b": Scaled(forgets=False)(h)})
    model.compile({"a": "scce"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X, {"a": Y}, epochs=1, verbose=0)
