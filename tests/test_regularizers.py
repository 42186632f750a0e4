"""Regularizers: values by eye, and the whole loss of a model against differences."""

from __future__ import annotations

import json

import numpy as np
import pytest

import npdl
from npdl import regularizers
from npdl.layers import GRU, Convolution, Dense, Embedding, Flatten, SimpleRNN, Softmax
from npdl.regularizers import L1, L1L2, L2, Regularizer

W = np.array([[1.0, -2.0], [0.0, 3.0]])


def test_by_eye():
    assert L1(0.5).forward(W) == 3
    assert L1(0.5).backward(W).tolist() == [[0.5, -0.5], [0, 0.5]]
    assert L2(0.5).forward(W) == 7
    assert L2(0.5).backward(W).tolist() == [[1, -2], [0, 3]]
    assert L1L2(0.5, 0.5).forward(W) == 10
    assert L1L2(0.5, 0.5).backward(W).tolist() == [[1.5, -2.5], [0, 3.5]]
    assert L1L2().forward(W) == 0


@pytest.mark.parametrize("name", ["l1", "l2", "l1_l2", "L1L2"])
def test_dtype_kept_and_names(name):
    rule = regularizers.get({"name": name})
    assert rule.backward(W.astype(np.float32)).dtype == np.float32
    assert rule.get_config() == type(rule)().get_config()


def test_get():
    rule = L2(0.1)
    assert regularizers.get(rule) is rule
    assert regularizers.get(None) is None
    assert regularizers.get(L1).l1 == regularizers.get("l1").l1 == 0.01
    with pytest.raises(ValueError, match=r"Unknown regularizer 'l3'\. Valid names: l1l2, l1_l2"):
        regularizers.get("l3")
    with pytest.raises(ValueError, match=r"`l1` must be a number in \[0, inf\)\. Received: l1=-1"):
        L1(-1)
    with pytest.raises(NotImplementedError, match="Regularizer must define forward"):
        Regularizer().forward(W)


CHAINS = {
    "dense": ([Dense(4, n_in=3, regularizer="l2"), Softmax(3, regularizer=L1(0.02))], (5, 3)),
    "unfused": ([Dense(3, n_in=3, activation="sigmoid", regularizer=L1L2(0.1, 0.2))], (5, 3)),
    "convolution": (
        [
            Convolution(2, 2, input_shape=(1, 3, 4), activation="tanh", regularizer="l2"),
            Flatten(),
            Softmax(3),
        ],
        (5, 1, 3, 4),
    ),
    "recurrent": (
        [
            SimpleRNN(n_out=3, n_in=2, return_sequence=True, regularizer=L2(0.1)),
            GRU(n_out=2, regularizer="l1"),
            Softmax(3),
        ],
        (5, 4, 2),
    ),
}


def model_of(name):
    layers, shape = CHAINS[name]
    npdl.utils.set_seed(0)  # no weight within a difference step of the kink of |w| at 0
    model = npdl.Model([type(one).from_json(one.to_json()) for one in layers])
    model.compile("mse" if name == "unfused" else "scce", npdl.optimizers.SGD(lr=0.1))
    return model, np.random.default_rng(0).normal(size=shape)


@pytest.mark.parametrize("name", CHAINS)
def test_the_gradient_of_the_whole_loss(name):
    with_dtype = npdl.utils.get_dtype()
    npdl.utils.set_dtype("float64")
    try:
        model, x = model_of(name)
        y = np.eye(3)[[0, 2, 1, 1, 0]]
        model.build()
        npdl.testing.check_gradients(model, x, targets=y)
        # check_gradients can't tell a penalty that is left out of both loss and gradient.
        plain, _, _ = model.loss_forward(x, y)
        weights = [(layer, w) for layer in model.layers for w, _ in layer._regularized()]
        want = sum(layer.regularizer.forward(w) for layer, w in weights if layer.regularizer)
        assert model.penalty() == pytest.approx(want)
        assert want > 0
        for layer in model.layers:
            layer.regularizer = None
        bare, _, _ = model.loss_forward(x, y)
        assert plain == pytest.approx(bare + want)
    finally:
        npdl.utils.set_dtype(with_dtype)


def test_biases_are_not_penalized():
    dense, rnn = Dense(2, n_in=3, regularizer="l2"), SimpleRNN(n_out=2, n_in=3, regularizer="l2")
    for layer in (dense, rnn):
        layer.connect_to()
        layer.grads[0][...] = 0
    dense.b = [1, 2]
    rnn.AllW[0] = 5
    for layer in (dense, rnn):
        layer.add_penalty_gradient()
    np.testing.assert_allclose(dense.dW, 0.02 * dense.W, rtol=1e-6)
    assert dense.db.tolist() == [0, 0]
    np.testing.assert_allclose(rnn.dAllW[1:], 0.02 * rnn.AllW[1:], rtol=1e-6)
    assert rnn.dAllW[0].tolist() == [0, 0]
    assert dense.penalty() == pytest.approx(0.01 * np.square(dense.W).sum())


def test_embedding_frozen_or_not():
    for static in (False, True):
        layer = Embedding(W, static=static, regularizer="l2")
        layer.connect_to()
        assert layer.penalty() == pytest.approx(0 if static else 0.14)


def test_configuration():
    layer = Dense(2, n_in=3, regularizer=L1L2(0.5, 0))
    config = json.loads(json.dumps(layer.to_json()))
    assert config["regularizer"] == {"name": "L1L2", "l1": 0.5, "l2": 0.0}
    assert Dense.from_json(config).regularizer.l1 == 0.5
    assert Dense(2).to_json()["regularizer"] is None


def test_l1_makes_weights_small():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 8)).astype(np.float32)
    y = x[:, :1]
    sizes = []
    for rule in (None, L1(0.05)):
        npdl.utils.set_seed(0)
        model = npdl.Model([Dense(1, n_in=8, activation="linear", regularizer=rule)])
        model.compile("mse", npdl.optimizers.SGD(lr=0.05))
        model.fit(x, y, epochs=40, verbose=False)
        sizes.append(np.abs(model.layers[0].W[1:]).sum())
    assert sizes[1] < 0.2
    assert model.layers[0].W[0, 0] > 0.9


def test_users_own_layer_and_regularizer():
    class Positive(Regularizer):
        def forward(self, weights):
            return float(np.square(np.minimum(weights, 0)).sum())

        def backward(self, weights):
            return 2 * np.minimum(weights, 0)

    class Scale(npdl.layers.Layer):
        regularizer = Positive()

        def __init__(self):
            self.w, self.dw = np.array([[-1.0, 2.0]], np.float32), np.zeros((1, 2), np.float32)

        @property
        def params(self):
            return [self.w]

        @property
        def grads(self):
            return [self.dw]

        def forward(self, input):
            self.x = input
            return self.w * input

        def backward(self, pre_grad):
            self.dw[...] = (pre_grad * self.x).sum(axis=0)
            return pre_grad * self.w

    layer = Scale()
    assert layer.penalty() == 1
    layer.add_penalty_gradient()
    assert layer.dw.tolist() == [[-2, 0]]
