"""Sums of very many numbers stay accurate: gradients of weights, biases and embedded rows."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_calls import Maker

import npdl
from npdl._ext.activation_np import LINEAR, TANH

N = 10_000_000
#: Half a unit in the last place of float32, relative.
U = 2.0**-24


@pytest.fixture(scope="module")
def tenths():
    """The worst case for a plain sum: numbers of one sign that all round the same way."""
    return np.full((N, 1), 0.1, np.float32)


def test_bias_gradient_of_ten_million_rows(implementation, tenths):
    db = np.empty(1, np.float32)
    w = np.ones((1, 1), np.float32)
    implementation.dense_backward(tenths, w, tenths, tenths, None, None, db, (LINEAR, 1.0))
    exact = N * float(tenths[0, 0])
    assert abs(db[0] - exact) <= 12 * U * exact


def test_weight_gradient_of_ten_million_rows(compiled, tenths):
    dw = np.empty((1, 1), np.float32)
    compiled.dense_backward(tenths, dw, tenths, tenths, None, dw, None, (LINEAR, 1.0))
    exact = N * float(tenths[0, 0]) ** 2
    assert abs(dw[0, 0] - exact) <= (512 + 64) * U * exact


def test_bias_gradient_of_ten_million_images_of_one_window(tenths):
    layer = npdl.layers.Convolution(1, 1, input_shape=(1, 1, 1), activation="linear")
    layer.connect_to()
    images = tenths.reshape(N, 1, 1, 1)
    layer.forward(images)
    layer.backward(images)
    exact = N * float(tenths[0, 0])
    assert abs(layer.db[0] - exact) <= 12 * U * exact


def conv_gradients(kernel, x, dy):
    """dw and db of 3x3 filters without activation."""
    dw, db = np.empty((dy.shape[1], x.shape[1], 3, 3), x.dtype), np.empty(dy.shape[1], x.dtype)
    geometry = 1, 1, 0, 0, 1, 1, 1, 0, (LINEAR, 1.0)
    kernel.conv2d_backward(x, dw, dy, dy, None, dw, db, *geometry)
    return dw, db


def test_gradients_of_filters_over_ten_million_windows(compiled, tenths):
    images = tenths.reshape(1000, 1, 100, 100)
    dy = tenths[: 1000 * 98 * 98].reshape(1000, 1, 98, 98)
    dw, db = conv_gradients(compiled, images, dy)
    tenth = float(tenths[0, 0])
    assert np.all(abs(dw - dy.size * tenth**2) <= (512 + 256 + 74) * U * dy.size * tenth**2)
    assert abs(db[0] - dy.size * tenth) <= (256 + 74) * U * dy.size * tenth


def test_gradients_of_winograds_filters_over_many_small_images(compiled, tenths):
    n = 17_000
    images, dy = (tenths[: n * 16 * s * s].reshape(n, 16, s, s) for s in (6, 4))
    dw, db = conv_gradients(compiled, images, dy)
    tenth = float(tenths[0, 0])
    assert np.all(abs(dw - n * 16 * tenth**2) <= 1e-5 * n * 16 * tenth**2)
    assert np.all(abs(db - n * 16 * tenth) <= 4 * U * n * 16 * tenth)


@pytest.mark.parametrize(
    "layer, shape, name",
    [
        (npdl.layers.PReLU(), (N // 4, 4), "alpha"),
        (npdl.layers.PositionEmbedding(2), (N // 4, 2, 2), "positions"),
        (npdl.layers.LayerNormalization(), (N // 4, 4), "beta"),
        (npdl.layers.BatchNormal(), (N // 4, 4), "beta"),
    ],
)
def test_gradients_of_other_layers_over_millions_of_samples(tenths, layer, shape, name):
    layer.connect_to(npdl.graph.Input((None, *shape[1:])))
    layer.forward(-tenths.reshape(shape))
    layer.backward(tenths.reshape(shape))
    grad = getattr(layer, f"d{name}")
    exact = shape[0] * float(tenths[0, 0])
    if name == "alpha":
        exact *= -float(tenths[0, 0])
    assert np.all(abs(grad - exact) <= 33 * U * abs(exact))


@pytest.mark.parametrize("width", [1, 3])
def test_a_row_that_was_embedded_a_million_times(implementation, tenths, width):
    n = 1_000_000
    index, dtable = np.zeros(n, np.int64), np.empty((2, width), np.float32)
    implementation.embedding_backward(index, tenths[: n * width].reshape(n, width), dtable)
    exact = n * float(tenths[0, 0])
    assert np.all(abs(dtable[0] - exact) <= 33 * U * exact)
    assert not dtable[1].any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "shape", [(65_537, 5, 7), (98_305, 1, 3), (40_001, 9, 65), (33_000, 17, 1)]
)
def test_products_over_more_rows_than_one_part(compiled, dtype, shape):
    backward = Maker(dtype).dense(*shape, (TANH, 1.0))[1]
    found, u = compiled.run(backward), U if dtype == "float32" else 2.0**-53
    x, y, dy = (backward.args[name].astype(np.longdouble) for name in ("x", "y", "dy"))
    dz = (1 - y * y) * dy
    bound = abs(x).T @ abs(dz)
    # the derivative itself is rounded a few times
    assert np.all(abs(found["dw"] - x.T @ dz) <= 40 * u * bound)
    assert np.all(abs(found["db"] - dz.sum(axis=0)) <= 20 * u * abs(dz).sum(axis=0))


def test_a_product_over_many_inputs(compiled):
    """With bias and activation, for few rows and many; the bits of a row are the same in both."""
    call = Maker("float32").dense(9, 70_001, 3, (TANH, 1.0))[0]
    y = compiled.run(call)["y"]
    x, w = call.args["x"].astype(float), call.args["w"].astype(float)
    assert np.allclose(y, np.tanh(x @ w + call.args["b"]), rtol=0, atol=1e-5)
    args = dict(call.args, x=call.args["x"][:1], y=call.args["y"][:1])
    assert compiled.run(call._replace(args=args))["y"].tobytes() == y[:1].tobytes()


@pytest.mark.parametrize("without", [("dw",), ("db",), ("dw", "db"), ("dx", "dw", "db")])
@pytest.mark.parametrize("n", [0, 9])
def test_unused_gradients(implementation, without, n):
    call = Maker("float32").dense(n, 5, 7)[1]
    wanted = implementation.run(call)
    found = implementation.run(call._replace(args=call.args | dict.fromkeys(without)))
    assert found.keys() == wanted.keys() - set(without)
    for name, array in found.items():
        assert array.tobytes() == wanted[name].tobytes()
