"""The checkers report every planted mistake, and accept correct layers."""

from __future__ import annotations

import re

import numpy as np
import pytest

import npdl
from npdl import objectives, utils
from npdl.layers import BatchNormal, Dense, Dropout, Embedding, Layer, Linear, Softmax
from npdl.testing import check_gradients, check_layer, numeric_gradient


class Scale(Layer):
    """A user's layer: plain arrays, no super().__init__(), no `train`."""

    def __init__(self, n=3):
        self.n = n

    def connect_to(self, prev_layer=None):
        self.out_shape = (None, self.n)
        self.s = np.ones(self.n, utils.get_dtype())
        self.ds = np.zeros_like(self.s)

    def forward(self, input):
        self.x = np.array(input)
        return self.x * self.s

    def backward(self, pre_grad):
        self.ds[...] = (self.x * pre_grad).sum(axis=0)
        return pre_grad * self.s

    @property
    def params(self):
        return [self.s]

    @property
    def grads(self):
        return [self.ds]


class Half(Layer):
    """A user's layer that keeps its parameter in npdl's list, and under its own name."""

    def build(self, in_shape):
        self.s = self.add_parameter("s", np.full(in_shape[-1], 0.5))
        return in_shape

    def forward(self, input, train=True):
        if train:
            self.x = input
        return input * self.s

    def backward(self, pre_grad):
        self.parameters[0].grad[...] = (self.x * pre_grad).sum(axis=0)
        return pre_grad * self.s


def broken(base=Scale, **methods):
    return type("Broken", (base,), methods)


def test_numeric_gradient():
    x = np.array([1.0, -2.0, 3.0])
    kept = x.copy()
    np.testing.assert_allclose(numeric_gradient(lambda: float((x**3).sum()), x), 3 * x**2)
    np.testing.assert_array_equal(x, kept)


@pytest.mark.parametrize("mode", ["full", "directional"])
def test_right_gradients(mode):
    assert check_gradients(Dense(3, n_in=4), mode=mode) < 1e-8
    assert check_gradients(Dense(3), (2, 5, 4), mode=mode) < 1e-8
    assert check_gradients(Dropout(0.5), (4, 3), mode=mode) < 1e-8
    assert check_gradients(Embedding(input_size=4, n_out=2), [[0, 3, 3]], mode=mode) < 1e-8
    utils.set_dtype("float64")
    assert check_gradients(Scale(), (4, 3), mode=mode) < 1e-8


def test_layer_that_is_connected_in_float32_is_left_as_it_was():
    layer = BatchNormal()
    before = Linear(3, n_in=2)
    before.connect_to()
    layer.connect_to(before)
    state = utils.get_rng().bit_generator.state
    mean = layer.running_mean.copy()
    check_gradients(layer, (4, 3))
    np.testing.assert_array_equal(layer.running_mean, mean)
    assert layer.gamma.dtype == np.float32
    assert utils.get_rng().bit_generator.state == state
    assert utils.get_dtype() == np.float32


@pytest.mark.parametrize("mode", ["full", "directional"])
@pytest.mark.parametrize(
    "wrong",
    [
        broken(backward=lambda self, dy: Scale.backward(self, dy) * 1.001),
        broken(backward=lambda self, dy: Scale.backward(self, 1.001 * dy) / 1.001),
        broken(backward=lambda self, dy: Scale.backward(self, dy) * np.nan),
        broken(backward=lambda self, dy: None),
        broken(grads=property(lambda self: [])),
        broken(backward=lambda self, dy: Scale.backward(self, dy)[:1]),
    ],
    ids=["input", "parameter", "nan", "none", "missing", "shape"],
)
def test_wrong_gradients(wrong, mode, float64):
    with pytest.raises(AssertionError):
        check_gradients(wrong(), (4, 3), mode=mode)


def test_message_names_the_place(float64):
    class Wrong(Scale):
        def backward(self, pre_grad):
            dx = super().backward(pre_grad)
            self.ds[1] *= 1.1
            return dx

    message = r"wrong/0 \[1\]: analytic -?[\d.]+, numeric -?[\d.]+, relative error 0.091 > 1e-06"
    with pytest.raises(AssertionError, match=message):
        check_gradients(Wrong(), (4, 3))


@pytest.mark.parametrize("labels", ["classes", "one-hot"])
@pytest.mark.parametrize("loss", ["scce", "mse"])
def test_model(loss, labels, rng):
    model = npdl.Model([Dense(5, n_in=4, activation="sigmoid"), BatchNormal(), Softmax(3)])
    model.compile(loss=loss)
    Y = np.array([0, 2, 1, 2, 0, 1])
    if labels == "one-hot" or loss == "mse":
        Y = utils.one_hot(Y, 3)
    assert check_gradients(model, rng.normal(size=(6, 4)), targets=Y) < 1e-6
    assert check_gradients(model, (6, 4), targets=Y, mode="directional") < 1e-6
    assert model.params[0].dtype == np.float32


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_loss(reduction, rng):
    loss = objectives.MeanSquaredError(reduction=reduction)
    outputs, targets = rng.normal(size=(2, 4, 3))
    assert check_gradients(loss, outputs, targets=targets) < 1e-6


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((Dense(2),), ValueError, "needs `input`"),
        ((objectives.MSE(), np.ones(3)), ValueError, "`targets`"),
        ((npdl.Model([Dense(2, n_in=3)]),), ValueError, "`targets`"),
        (("dense",), TypeError, "'dense'"),
    ],
)
def test_arguments(arguments, error, message):
    target, *rest = arguments
    with pytest.raises(error, match=message):
        check_gradients(target, *rest)


def test_mode():
    with pytest.raises(ValueError, match="'half'"):
        check_gradients(Dense(2, n_in=3), mode="half")


def test_own_layer_of_float32_is_refused():
    layer = Scale()
    layer.connect_to()
    with pytest.raises(ValueError, match=re.escape("set_dtype('float64')")):
        check_gradients(layer, (4, 3))


def test_contract_of_an_own_layer():
    check_layer(Scale, (4, 3))
    check_layer((Scale, {"n": 5}), (2, 5))
    check_layer(lambda: Scale(2), (2, 2), dtypes=("float64",))
    check_layer(Half, (4, 3))


def test_own_layer_connected_in_float32():
    layer = Half()
    before = Linear(3, n_in=2)
    before.connect_to()
    layer.connect_to(before)
    assert check_gradients(layer, (4, 3)) < 1e-8
    assert layer.s.dtype == np.float32


def test_an_own_layer_trains_in_a_model(rng):
    model = npdl.Model([Scale(3), Softmax(2, n_in=3)])
    model.layers[0].connect_to()
    model.compile("scce", npdl.optimizers.SGD(lr=0.5))
    X = rng.normal(size=(40, 3)).astype("f4")
    history = model.fit(X, (X[:, 0] > 0).astype(int), max_iter=20, verbose=False)
    assert history.history["loss"][-1] < 0.5 * history.history["loss"][0]
    assert not np.array_equal(model.layers[0].s, np.ones(3))


class Own(Linear):
    """Right, and to be broken in one place each."""


def _writes(self, input, train=True):
    self.seen = True
    return Linear.forward(self, input, train)


def _reuses(self, input, train=True):
    y = Linear.forward(self, input, train)
    if getattr(self, "kept", None) is None or self.kept.shape != y.shape:
        self.kept = y
    self.kept[...] = y
    return self.kept


def _changes_input(self, input, train=True):
    y = Linear.forward(self, input, train)
    if isinstance(input, np.ndarray) and input.flags.writeable:
        input *= 2
    return y


def _needs_writeable(self, input, train=True):
    input += 0
    return Linear.forward(self, input, train)


def _forgets_strides(self, input, train=True):
    flat = np.asarray(input).ravel(order="K").reshape(np.shape(input))
    return Linear.forward(self, flat, train)


def _bad_shape(self, in_shape):
    Linear.build(self, in_shape)
    return (None, self.n_out + 1)


@pytest.mark.parametrize(
    "methods, message",
    [
        ({"forward": _writes}, "writes on the layer"),
        ({"forward": _reuses}, "writes on the layer|changed by a later"),
        ({"forward": _changes_input}, "changes its input"),
        ({"forward": _forgets_strides}, "Fortran"),
        ({"build": _bad_shape}, "out_shape"),
        ({"to_json": lambda self: {"n_out": self.n_out + 1}}, "configuration changes"),
        (
            {
                "forward": lambda self, x, train=True: (
                    Linear.forward(self, x, train) * np.float64([1])
                )
            },
            "output is float64",
        ),
        ({"backward": lambda self, dy: Linear.backward(self, -dy)}, "loss up"),
        ({"backward": lambda self, dy: Linear.backward(self, 1.5 * dy)}, "Wrong gradient"),
    ],
    ids=["writes", "reuses", "input", "strides", "out_shape", "config", "dtype", "sign", "scale"],
)
def test_broken_contracts(methods, message):
    with pytest.raises(AssertionError, match=message):
        check_layer((broken(Own, **methods), {"n_out": 2}), (4, 3))


def test_read_only_input_has_to_do():
    with pytest.raises(ValueError, match="read-only"):
        check_layer((broken(Own, forward=_needs_writeable), {"n_out": 2}), (4, 3))


def test_integer_input():
    check_layer((Embedding, {"input_size": 2, "n_out": 3}), (3, 4), input_dtype=int)
