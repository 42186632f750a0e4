"""Composites: layers made of layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import npdl
from npdl import layers
from npdl.layers import (
    GRU,
    LSTM,
    BatchNormal,
    Convolution,
    Dense,
    Dropout,
    Embedding,
    GlobalMeanPooling,
    Parallel,
    Residual,
    Sequence,
    Softmax,
)
from npdl.layers.plan import Plan
from npdl.testing import check_layer
from npdl.training import train_step

MASK = np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [0, 1, 0, 1, 1]])
MERGED = {
    "sum": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "ave": lambda a, b: (a + b) / 2,
    "max": np.maximum,
    "min": np.minimum,
    "concat": lambda a, b: np.concatenate([a, b], 1),
}


def tanh(n):
    return Dense(n, activation="tanh")


def convolution(n):
    return Convolution(n, 3, padding="same", activation="tanh")


@pytest.mark.parametrize("activation", ["linear", "tanh", "softmax"])
def test_residual(activation):
    check_layer(lambda: Residual(tanh(4), activation=activation), (3, 4))
    check_layer(lambda: Residual([tanh(5), tanh(2)], [tanh(2)], activation), (3, 4))


def test_residual_of_images():
    body = lambda: [convolution(2), BatchNormal(axis=1)]  # noqa: E731
    check_layer(lambda: Residual(body(), activation="tanh"), (3, 2, 4, 4))
    check_layer(lambda: Residual(body(), Convolution(2, 1, activation="linear")), (3, 3, 4, 4))


@pytest.mark.parametrize("merge", MERGED)
def test_parallel(merge):
    check_layer(lambda: Parallel([tanh(4), [], [tanh(3), tanh(4)]], merge), (3, 4))


def test_sequence():
    check_layer(lambda: Sequence([tanh(4), Dropout(0.3), tanh(2)]), (3, 4))
    check_layer(lambda: Sequence([Residual(tanh(4)), Parallel([tanh(2), [tanh(3)]])]), (3, 4))


def test_masks_travel_inside():
    def make():
        sides = [LSTM(n_out=3, return_sequence=True), GRU(n_out=2, return_sequence=True)]
        return Sequence([Parallel(sides, axis=-1), Residual(tanh(5)), GlobalMeanPooling()])

    check_layer(make, (3, 5, 2), forward_args={"mask": MASK})
    layer = make()
    layer.connect_to(npdl.graph.Input((None, 5, 2)))
    x = np.random.default_rng(0).standard_normal((3, 5, 2))
    y = layer.forward(x, mask=MASK, train=False)
    x[MASK == 0] = 1e3
    np.testing.assert_array_equal(layer.forward(x, mask=MASK, train=False), y)


@pytest.mark.parametrize("merge", MERGED)
def test_values(merge):
    x = np.random.default_rng(0).standard_normal((3, 4)).astype("f4")
    left, right = tanh(4), tanh(4)
    layer = Parallel([left, right], merge)
    layer.connect_to(npdl.graph.Input((None, 4)))
    wanted = MERGED[merge](left.forward(x, train=False), right.forward(x, train=False))
    np.testing.assert_allclose(layer.forward(x), wanted, rtol=1e-6)
    residual = Residual(left, right, activation="relu")
    residual.connect_to(npdl.graph.Input((None, 4)))
    wanted = left.forward(x, train=False) + right.forward(x, train=False)
    np.testing.assert_array_equal(residual.forward(x), np.maximum(wanted, 0))


def test_a_model_of_composites_trains_and_is_saved(tmp_path):
    npdl.utils.set_seed(3)
    rng = np.random.default_rng(1)
    x = rng.integers(1, 9, (64, 6))
    y = (x == 3).any(axis=1).astype(int)
    body = [Dense(6, activation="relu"), Dropout(0.1), Dense(6, activation="linear")]
    model = npdl.Model(
        [
            Embedding(input_size=10, n_out=6),
            Residual(body, activation="relu"),
            Parallel([Dense(4), [Dense(4), Dense(4)]], "sum"),
            GlobalMeanPooling(),
            Softmax(2),
        ]
    )
    model.compile("scce", "adam")
    model.optimizer.lr = 0.01
    history = model.fit(x, y, epochs=30, batch_size=16, verbose=0)
    assert history.history["loss"][-1] < 0.7 * history.history["loss"][0]
    assert {name.split("/")[0] for name in model.weights} >= {"residual_1", "parallel_1"}
    model.save(tmp_path / "m.safetensors")
    again = npdl.load_model(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(again.predict(x), model.predict(x))


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Residual(3), ["`body`", "list of layers", "3"]),
        (lambda: Residual([tanh(2)], "conv"), ["`shortcut`", "'conv'"]),
        (lambda: Parallel(tanh(2)), ["`branches`", "list of layers"]),
        (lambda: Parallel([]), ["`branches`", "[]"]),
        (lambda: Parallel([tanh(2)], "add"), ["`merge`", "'concat'", "'add'"]),
        (lambda: Parallel([tanh(2)], axis=0), ["`axis`", "samples"]),
        (
            lambda: Residual(tanh(2)).connect_to(npdl.graph.Input((None, 4))),
            ["`body` and `shortcut`", "(None, 2)", "(None, 4)", "(layer 'residual')"],
        ),
    ],
)
def test_errors(make, words):
    with pytest.raises((TypeError, ValueError)) as caught:
        make()
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, str(caught.value)


def _trained(change: Any = None) -> list[bytes]:
    """The weights after three steps of a network whose sums and normalizations are fused."""
    npdl.utils.set_seed(3)
    first = layers.BatchNormal(axis=1)
    body = [layers.Convolution(4, 3, padding="same"), layers.BatchNormal(axis=1), layers.ReLU()]
    acts = [layers.Activation("relu"), layers.Activation("tanh")]
    value = entry = npdl.Input((3, 5, 5))
    for layer in (layers.Convolution(4, 3), first, acts[0], layers.Residual(body, None, "relu")):
        value = layer(value)
    value = acts[1](layers.Add()(value, value, value))
    value = layers.Dense(2)(layers.Flatten()(layers.Residual([layers.Convolution(4, 1)])(value)))
    model = npdl.Model(entry, value)
    model.compile(npdl.objectives.MeanSquaredError(), npdl.optimizers.SGD(lr=0.1))
    x = np.random.default_rng(1).standard_normal((6, 3, 5, 5))
    with model.training():
        for step in range(3):
            train_step(model, x, x[:, 0, 0, :2])
            if change and step == 1:
                change(first, *acts)
        model.predict(x)
    assert all(layer.follower is None for layer in (first, *body))
    return [weights.tobytes() for weights in model.get_weights()]


def _frozen(first: Any, relu: Any, tanh: Any) -> None:
    first.trainable = False


def _other(first: Any, relu: Any, tanh: Any) -> None:
    relu.activation, tanh.activation = npdl.activations.Tanh(), npdl.activations.GELU()


@pytest.mark.parametrize("change", [None, _frozen, _other])
def test_layers_that_do_the_work_of_two_give_the_same_bits(change, monkeypatch):
    fused = _trained(change)
    monkeypatch.setattr(Plan, "_fuse", lambda plan: None)
    assert _trained(change) == fused
