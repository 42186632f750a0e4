"""Activation layers, dropout of maps and noise: contract, values, options, errors."""

from __future__ import annotations

import numpy as np
import pytest

import npdl
from npdl import activations
from npdl.layers import (
    ELU,
    Activation,
    BatchNormal,
    Convolution,
    Dense,
    GaussianNoise,
    LeakyReLU,
    PReLU,
    ReLU,
    SpatialDropout,
)
from npdl.testing import check_layer
from npdl.utils import set_seed


class Data:
    """A stand-in for the previous layer, with outputs of this shape for any batch."""

    def __init__(self, shape):
        self.out_shape = (None, *shape[1:])


def off_kinks(*shape):
    """Numbers of both signs, further than a small step from the kinks at 0, 1 and 3."""
    x = np.random.default_rng(4).normal(0, 2, shape)
    for kink in (0, 1, 3):
        x[abs(abs(x) - kink) < 0.02] = 0.5
    return x


NAMES = [
    *("sigmoid", "tanh", "relu", "linear", "soft_plus", "soft_sign", "elliot", "symmetric_elliot"),
    *("leaky_relu", "elu", "selu", "gelu", "silu", "swish", "mish", "hard_sigmoid", "hard_tanh"),
    *("exponential", "log_softmax", "softmax", None),
]


@pytest.mark.parametrize("activation", NAMES)
def test_activation(activation):
    check_layer((Activation, {"activation": activation}), off_kinks(3, 2, 5))


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("axis", [1, 2, -1, -2])
def test_softmax_along_an_axis(name, axis):
    activation = {"name": name, "axis": axis}
    check_layer((Activation, {"activation": activation}), (2, 3, 4, 2))
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 2))
    y = Activation(activation).forward(x)
    total = (np.exp(y) if name == "log_softmax" else y).sum(axis=axis)
    np.testing.assert_allclose(total, 1)


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4, 2)], ids=str)
@pytest.mark.parametrize(
    "layer",
    [(ReLU, {}), (LeakyReLU, {}), (LeakyReLU, {"slope": 0.05}), (ELU, {}), (ELU, {"alpha": 0.4})],
    ids=lambda layer: f"{layer[0].__name__}{layer[1]}",
)
def test_named_layers(layer, shape):
    check_layer(layer, off_kinks(*shape))


@pytest.mark.parametrize("shape, axes", [((4, 3), None), ((2, 3, 4, 2), (2, 3)), ((3, 5, 2), 1)])
def test_prelu(shape, axes):
    check_layer((PReLU, {"shared_axes": axes, "alpha_init": "normal"}), off_kinks(*shape))
    layer = PReLU(shared_axes=axes, regularizer="l2")
    layer.connect_to(Data(shape))
    axes = {axes} if isinstance(axes, int) else set(axes or ())
    assert layer.alpha.shape == tuple(1 if i in axes else n for i, n in enumerate(shape) if i)
    assert not layer.alpha.any()


def test_defaults():
    x = np.array([[-2.0, -1, 0, 3]])
    np.testing.assert_allclose(LeakyReLU().forward(x), [[-0.6, -0.3, 0, 3]])
    np.testing.assert_allclose(ELU().forward(x), [[np.expm1(-2), np.expm1(-1), 0, 3]])
    np.testing.assert_allclose(Activation("leaky_relu").forward(x), [[-0.4, -0.2, 0, 3]])
    np.testing.assert_allclose(Activation(None).forward(x), x)
    assert LeakyReLU(0.1).slope == 0.1 and ELU(2).alpha == 2
    assert LeakyReLU(negative_slope=0.1).slope == 0.1


def test_names_of_layers_and_activations_do_not_meet(tmp_path):
    assert isinstance(activations.get("ReLU"), activations.ReLU)
    with pytest.raises(TypeError, match="The activation must be"):
        activations.get(ReLU)
    model = npdl.Model([Dense(3, n_in=2, activation="relu"), ReLU(), LeakyReLU(0.5)])
    model.compile("mse")
    x = np.random.default_rng(0).normal(size=(4, 2))
    want = model.predict(x)
    model.save(tmp_path / "model.safetensors")
    again = npdl.load_model(tmp_path / "model.safetensors")
    assert [type(layer) for layer in again.layers] == [Dense, ReLU, LeakyReLU]
    np.testing.assert_array_equal(again.predict(x), want)


@pytest.mark.parametrize("activation", ["gelu", "silu", "mish"])
@pytest.mark.parametrize("cls, args", [(Dense, (2,)), (Convolution, (2, (1, 2)))])
def test_a_layer_with_such_an_activation_is_that_layer_and_the_activation(
    activation, cls, args, rng
):
    x = rng.normal(size=(3, 2, 4, 5)).astype(np.float32)
    whole, linear = cls(*args, activation=activation), cls(*args, activation=None)
    act = Activation(activation)
    for layer in (whole, linear):
        layer.connect_to(Data(x.shape))
    for a, b in zip(linear.params, whole.params):
        a[...] = b
    y = whole.forward(x)
    np.testing.assert_array_equal(y, act.forward(linear.forward(x)))
    np.testing.assert_array_equal(y, whole.forward(x, train=False))
    dy = rng.normal(size=y.shape).astype(np.float32)
    np.testing.assert_array_equal(whole.backward(dy), linear.backward(act.backward(dy)))


def test_convolution_batch_normal_relu_learns(rng):
    x = rng.normal(size=(32, 1, 8, 8)).astype(np.float32)
    y = (x.mean(axis=(1, 2, 3)) > 0).astype(int)
    set_seed(1)
    body = [Convolution(4, 3, activation=None), BatchNormal(axis=1), ReLU()]
    model = npdl.Model([*body, npdl.layers.Flatten(), npdl.layers.Softmax(2)])
    model.compile("scce", npdl.optimizers.Adam(lr=0.02))
    losses = model.fit(x, y, epochs=12, verbose=0).history["loss"]
    assert losses[-1] < 0.6 * losses[0]


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"`slope` must be a number in \[0, inf\)"):
        LeakyReLU(-0.1)
    with pytest.raises(ValueError, match=r"`alpha` must be a number in \[0, inf\)"):
        ELU(-1)
    with pytest.raises(ValueError, match="`shared_axes` must be an integer >= 1"):
        PReLU(shared_axes=(0, 2))
    with pytest.raises(ValueError, match=r"`shared_axes` must lie in \[1, 1\]"):
        PReLU(shared_axes=2).connect_to(Data((None, 3)))
    with pytest.raises(
        ValueError, match="Axis 1 of the input must be known, or be in `shared_axes`"
    ):
        PReLU().connect_to(Data((None, None, 3)))
    with pytest.raises(ValueError, match="entries along its axis 3"):
        Activation({"name": "softmax", "axis": 3}).forward(np.ones((2, 3)))
    with pytest.raises(ValueError, match="must have 3 or 4 axes"):
        SpatialDropout(0.5).connect_to(Data((None, 3)))
    with pytest.raises(ValueError, match=r"`p` must be a number in \[0, 1\)"):
        SpatialDropout(1)
    with pytest.raises(ValueError, match=r"`std` must be a number in \[0, inf\)"):
        GaussianNoise(-1)


# ------------------------------------------------------------------------------------- noise


@pytest.mark.parametrize("shape", [(3, 4, 2, 3), (3, 5, 4)], ids=["images", "sequences"])
def test_spatial_dropout(shape):
    check_layer((SpatialDropout, {"p": 0.4}), shape)
    set_seed(3)
    layer, x = SpatialDropout(rate=0.25), np.ones((200, *shape[1:]), np.float32)
    y = layer.forward(x)
    maps = y.reshape(200, shape[1], -1) if len(shape) == 4 else y.transpose(0, 2, 1)
    assert (maps == maps[..., :1]).all()
    assert set(np.unique(maps)) == {0, np.float32(1 / 0.75)}
    assert abs((maps[..., 0] == 0).mean() - 0.25) < 0.05
    np.testing.assert_array_equal(layer.backward(x), y)
    assert layer.forward(x, train=False) is x
    set_seed(3)
    np.testing.assert_array_equal(SpatialDropout(0.25).forward(x), y)


def test_gaussian_noise():
    check_layer((GaussianNoise, {"std": 0.3}), (3, 4))
    layer, x = GaussianNoise(stddev=0.5), np.full((400, 100), 2, np.float32)
    set_seed(3)
    y = layer.forward(x)
    assert y.dtype == np.float32
    assert abs(y.mean() - 2) < 0.01 and abs(y.std() - 0.5) < 0.01
    np.testing.assert_array_equal(layer.backward(x), x)
    assert layer.forward(x, train=False) is x
    set_seed(3)
    np.testing.assert_array_equal(GaussianNoise(0.5).forward(x), y)
