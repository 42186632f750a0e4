"""Data, small models and their training, for the tests of `Model.fit`."""

import numpy as np

from npdl import Model
from npdl.layers import Dense, Layer, Softmax
from npdl.optimizers import SGD
from npdl.utils import set_seed

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 70)
X = (np.eye(3)[LABELS] @ RNG.normal(size=(3, 4)) + 0.3 * RNG.normal(size=(70, 4))).astype("f4")
WEIGHTS = RNG.integers(0, 3, 70).astype("f4")
COUNT = np.arange(10, dtype="f4")[:, None]

#: How `fit` trains by default.
BRIEFLY = {"epochs": 2, "verbose": 0}


def classifier(lr=0.1, **kwargs):
    set_seed(1)
    model = Model([Dense(8, n_in=4), Softmax(3)])
    model.compile("scce", SGD(lr=lr), **kwargs)
    return model


def fit(model, *data, **kwargs):
    set_seed(2)
    return model.fit(*data, **{**BRIEFLY, **kwargs})


def same_weights(one, other, **tolerance):
    for a, b in zip(one.weights.values(), other.weights.values(), strict=True):
        np.testing.assert_allclose(a, b, **{"rtol": 1e-6, "atol": 1e-7, **tolerance})


class Seen(Layer):
    """Passes its input on and records the first column of each training batch."""

    def __init__(self):
        self.seen = []

    def forward(self, input, train=True):
        if train:
            self.seen.append(np.asarray(input)[:, 0].tolist())
        return input

    def backward(self, pre_grad):
        return pre_grad
