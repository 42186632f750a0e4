"""Layers that do the work of the activation behind them in training."""

import copy

import numpy as np
import pytest

import npdl
from npdl import Input, Model
from npdl.layers import (
    Activation,
    Add,
    BatchNormalization,
    Convolution,
    Flatten,
    ReLU,
    Softmax,
    plan,
)
from npdl.training import train_step


def batch(i, channels=3):
    rng = np.random.default_rng(i)
    return rng.normal(size=(6, channels, 6, 6)).astype(np.float32), rng.integers(0, 3, 6)


def chain():
    first = [Convolution(4, 3, padding="same"), BatchNormalization()]
    return Model([*first, ReLU(), Flatten(), Softmax(3)])


def shortcut():
    x = Input((3, 6, 6))
    h = Convolution(4, 3, padding="same")(x)
    h = Add()(h, BatchNormalization()(h))
    return Model(x, Softmax(3)(Flatten()(Activation("gelu")(h))))


def negate(layer):
    """Replace the methods of one layer, as a program does to look at what passes through."""
    forward, backward = layer.forward, layer.backward
    layer.forward = lambda *x, train=True: -forward(*x, train=train)

    def negated(gradient):
        found = backward(gradient)
        return tuple(-g for g in found) if isinstance(found, tuple) else -found

    layer.backward = negated


def layer_of(model, kind):
    return next(layer for layer in model.layers if isinstance(layer, kind))


def train_another(model):
    """A training run of another model that has the normalization too."""
    other = Model([layer_of(model, BatchNormalization), Flatten(), Softmax(3)])
    other.compile("scce", "sgd")
    other.build((None, 4, 6, 6))
    other.train_on_batch(*batch(9, channels=4))


CHANGES = {
    "nothing": lambda m: None,
    "activation's methods": lambda m: negate(layer_of(m, Activation)),
    "methods": lambda m: negate(layer_of(m, Add if m.inputs else BatchNormalization)),
    "activation": lambda m: setattr(
        layer_of(m, Activation), "activation", npdl.activations.Softmax()
    ),
    "frozen": lambda m: setattr(layer_of(m, BatchNormalization), "trainable", False),
    "another model": train_another,
}


@pytest.mark.parametrize("network", [chain, shortcut])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("when", [0, 2])
def test_fused_layers_give_the_same_bits_after_changes(network, change, when, monkeypatch):
    def result():
        npdl.utils.set_seed(1)
        model = network()
        model.compile("scce", "adam")
        model.build((None, 3, 6, 6))
        if when == 0:
            change(model)
        with model.training():
            for i in range(4):
                if i == when > 0:
                    change(model)
                train_step(model, *batch(i))
        return [w.tobytes() for w in model.get_weights()]

    found = result()
    monkeypatch.setattr(plan, "pairs", lambda *_: {})
    assert result() == found


def test_models_with_a_common_layer_train_in_turns():
    """It is the first layer, whose gradient in the input nothing needs, of only one of them."""

    def result(together):
        npdl.utils.set_seed(1)
        common = Convolution(3, 3, padding="same")
        tail = Flatten(), Softmax(3)
        one, two = Model([common, *tail]), Model([Convolution(3, 3, padding="same"), common])
        two.add(Flatten())
        two.add(Softmax(3))
        for model in (two, one):
            model.compile("scce", "sgd")
            model.build((None, 3, 6, 6))
        if together:
            with two.training(), one.training():
                for i in range(3):
                    train_step(two, *batch(i))
                    train_step(one, *batch(i))
        else:
            for i in range(3):
                two.train_on_batch(*batch(i))
                one.train_on_batch(*batch(i))
        return [w.tobytes() for model in (one, two) for w in model.get_weights()]

    assert result(True) == result(False)


def test_copies_made_in_training_are_models_that_do_not_train():
    model = chain()
    model.compile("scce", "adam")
    model.build((None, 3, 6, 6))
    with model.training():
        train_step(model, *batch(0))
        other = copy.deepcopy(model)
    _, outputs, caches = other.loss_forward(*batch(1))
    other.loss_backward(caches)
    assert other._running is None and outputs.shape == (6, 3)
