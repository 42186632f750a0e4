"""Layers that several models share, layers in layers, and frozen ones."""

from __future__ import annotations

import io

import numpy as np
import pytest

import npdl
from npdl import Input, Model
from npdl.layers import BatchNormal, Convolution, Dense, Flatten, Layer, MaxPooling, Softmax
from npdl.testing import check_gradients


def numbers(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape)


def test_cutting_a_model_breaks_neither(tmp_path):
    npdl.utils.set_seed(0)
    x, y = numbers(8, 6).astype("f4"), np.arange(8) % 3
    whole = Model([Dense(5, n_in=6), Dense(4), Softmax(3)])
    whole.compile("scce", "adam")
    whole.fit(x, y, epochs=1, verbose=0)
    want = whole.predict(x)
    upper = Model(whole.layers[1:])
    upper.compile("scce")
    np.testing.assert_array_equal(upper.predict(whole.layers[0].forward(x, train=False)), want)
    whole.save(tmp_path / "whole")  # which needs a model that is built
    np.testing.assert_array_equal(npdl.load_model(tmp_path / "whole").predict(x), want)
    head = Model([*whole.layers[:-1], Softmax(2)])
    head.compile("scce")
    head.fit(x, y % 2, epochs=1, verbose=0)
    assert list(whole.weights) == [
        *("dense_1/W", "dense_1/b", "dense_2/W", "dense_2/b", "softmax_1/W", "softmax_1/b")
    ]
    whole.fit(x, y, epochs=1, verbose=0)
    assert whole.built and upper.built and head.built
    features = Model(whole.layers[:2]).predict(x)  # needs no loss
    np.testing.assert_array_equal(whole.layers[2].forward(features, train=False), whole.predict(x))


def test_two_trained_models_join():
    def make():
        model = Model([Dense(4, n_in=4), Dense(4)])
        model.compile("mse")
        return model

    a, b = make(), make()
    joined = Model(a.layers + b.layers)
    joined.compile("mse")
    assert [layer.name for layer in joined.layers] == [f"dense_{i}" for i in (1, 2, 3, 4)]
    x = numbers(3, 4).astype("f4")
    np.testing.assert_array_equal(joined.predict(x), b.predict(a.predict(x)))
    assert list(b.weights) == ["dense_1/W", "dense_1/b", "dense_2/W", "dense_2/b"]


def test_a_base_goes_under_a_new_head_for_another_size():
    base = [Convolution(2, 3, activation="relu"), MaxPooling(2)]
    small = Model([*base, Flatten(), Softmax(3)])
    small.compile("scce")
    x = numbers(4, 1, 8, 8).astype("f4")
    small.fit(x, np.arange(4) % 3, epochs=1, verbose=0)
    weights, want = base[0].W.copy(), small.predict(x)
    large = Model([*base, Flatten(), Softmax(2)])
    large.compile("scce")
    assert large.predict(numbers(2, 1, 12, 12)).shape == (2, 2)
    np.testing.assert_array_equal(base[0].W, weights)
    np.testing.assert_array_equal(small.predict(x), want)
    with pytest.raises(ValueError, match=r"'W' of shape \(18, 3\).*layer 'softmax_1'"):
        Model(small.layers).build((None, 1, 12, 12))


class Doubled(Layer):
    """A user's layer that owns two layers."""

    def __init__(self, n=3):
        self.n = n
        self.parts = {"one": [Dense(n, regularizer="l2")], "two": Dense(n)}

    def build(self, in_shape):
        self.parts["one"][0].connect_to(Value(in_shape))
        self.parts["two"].connect_to(Value(in_shape))
        return self.parts["two"].out_shape

    def forward(self, input, train=True):
        one, two = self.parts["one"][0], self.parts["two"]
        y = one.forward(input, train=train) + two.forward(input, train=train)
        if train:
            self._cache = (y,)
        return y

    def backward(self, pre_grad):
        self._saved_for_backward()
        return self.parts["one"][0].backward(pre_grad) + self.parts["two"].backward(pre_grad)


def Value(shape):
    return Input(shape[1:])


def test_a_layer_in_a_layer_is_trained_saved_penalised_and_frozen(tmp_path):
    npdl.testing.check_layer(Doubled, (4, 5))
    npdl.saving.register(Doubled)
    model = Model([Doubled(), Softmax(2)])
    model.compile("scce", "adam")
    x, y = numbers(6, 5), np.arange(6) % 2
    model.fit(x, y, epochs=1, verbose=0)
    names = [f"doubled_1/dense_{i}/{p}" for i in (1, 2) for p in "Wb"]
    assert list(model.weights)[:4] == names
    assert model.penalty() == pytest.approx(
        model.layers[0].parts["one"][0].regularizer.forward(model.weights[names[0]])
    )
    check_gradients(model, x, targets=y)
    model.save(tmp_path / "m")
    np.testing.assert_array_equal(npdl.load_model(tmp_path / "m").predict(x), model.predict(x))
    model.layers[0].trainable = False
    before = model.get_weights()
    model.fit(x, y, epochs=1, verbose=0)
    np.testing.assert_equal(model.get_weights()[:4], before[:4])
    text = io.StringIO()
    model.summary(text)
    assert "\n  dense_2 " in text.getvalue() and " no " in text.getvalue()


# ---------------------------------------------------------------------------------- freezing


def test_freezing_before_and_after_building(tmp_path):
    x, y = numbers(6, 5), np.arange(6) % 2
    for early in (True, False):
        model = Model([Dense(4, trainable=not early), BatchNormal(), Softmax(2)])
        model.compile("scce", "adam")
        model.build((None, 5))
        model.layers[0].trainable = False
        before = model.weights["dense_1/W"].copy()
        model.fit(x, y, epochs=2, verbose=0)
        np.testing.assert_array_equal(model.weights["dense_1/W"], before)
        assert model.layers[0].dW is None
        model.save(tmp_path / "m")
        again = npdl.load_model(tmp_path / "m")
        assert not again.layers[0].trainable and again.layers[2].trainable
        again.layers[0].trainable = True
        again.fit(x, y, epochs=1, verbose=0)
        assert (again.weights["dense_1/W"] != before).any()


@pytest.mark.parametrize("first", [True, False], ids=["unfrozen", "frozen"])
def test_freezing_and_unfreezing_between_two_batches(first):
    """The layers below get gradients from then on, and the others no steps."""

    class Switch(npdl.callbacks.Callback):
        def on_train_batch_end(self, batch, logs):
            layer = self.model.layers[0]
            if batch == 4:
                layer.trainable = not first
                self.before = layer.W.copy()

    npdl.utils.set_seed(0)
    model = Model([Dense(4, trainable=first), Dense(4), Softmax(3)])
    model.compile("scce", "adam")
    switch = Switch()
    model.fit(
        *(numbers(80, 5), np.arange(80) % 3), batch_size=8, epochs=1, verbose=0, callbacks=[switch]
    )
    assert (model.layers[0].W == switch.before).all() == first
