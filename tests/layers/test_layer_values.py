"""Values that can be checked by eye, and guarantees of each layer beyond the contract."""

from __future__ import annotations

import numpy as np
import pytest

from npdl import layers, utils
from npdl.layers import (
    BatchNormal,
    Convolution,
    Dense,
    DimShuffle,
    Dropout,
    Embedding,
    Flatten,
    Linear,
    MaxPooling,
    MeanPooling,
    Softmax,
)

ARANGE = np.arange(16.0).reshape(1, 1, 4, 4)


def test_linear():
    layer = Linear(2, n_in=3, init="one")
    layer.connect_to()
    layer.b = [0, 10]
    np.testing.assert_array_equal(layer.forward([[1, 2, 3]]), [[6, 16]])
    np.testing.assert_array_equal(layer.backward([[1, 2]]), [[3, 3, 3]])
    np.testing.assert_array_equal(layer.dW, [[1, 2], [2, 4], [3, 6]])
    np.testing.assert_array_equal(layer.db, [1, 2])


def test_gradients_are_sums_over_the_batch_and_not_accumulated():
    layer = Linear(1, n_in=1, init="one")
    layer.connect_to()
    dW = layer.dW
    for _ in range(2):
        layer.forward([[1], [2], [3]])
        layer.backward([[1], [1], [1]])
    assert layer.dW is dW and layer.grads[0] is dW
    assert dW == 6 and layer.db == 3


def test_dense_tuple_n_out_has_that_shape():
    layer = Dense((2, 3), n_in=4)
    layer.connect_to()
    assert layer.out_shape == (None, 2, 3)
    assert layer.W.shape == (4, 6)
    assert layer.forward(np.ones((5, 4))).shape == (5, 2, 3)


def test_softmax_rows_sum_to_one():
    layer = Softmax(3, n_in=2, init="zero")
    layer.connect_to()
    np.testing.assert_allclose(layer.forward([[5, 7]]), [[1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)


def test_dense_linear_half_is_the_fused_head():
    layer = Softmax(3, n_in=2)
    layer.connect_to()
    x, dy = np.array([[1.0, -2.0], [0.5, 3.0]]), np.array([[1.0, 2.0, 0.5], [0.0, 1.0, 0.0]])
    z = layer.forward_linear(x)
    np.testing.assert_allclose(z, x @ layer.W + layer.b, rtol=1e-6)
    y = layer.forward(x)
    dx = layer.backward(dy)
    dz = y * (dy - (dy * y).sum(axis=1, keepdims=True))
    layer.forward_linear(x)
    np.testing.assert_allclose(layer.backward_linear(dz), dx, rtol=1e-5)


def test_dropout():
    layer = Dropout(0.25)
    x = np.ones((100, 100), np.float32)
    y = layer.forward(x)
    kept = y != 0
    assert kept.mean() == pytest.approx(0.75, abs=0.02)
    np.testing.assert_allclose(y[kept], 1 / 0.75, rtol=1e-6)
    np.testing.assert_array_equal(layer.backward(x), y)
    np.testing.assert_array_equal(layer.forward(x, train=False), x)


def test_dropout_draws_from_the_generator_of_npdl():
    x = np.ones((4, 4))
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    utils.set_seed(7)
    first = Dropout(0.5).forward(x)
    utils.set_seed(7)
    np.testing.assert_array_equal(Dropout(0.5).forward(x), first)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_dropout_of_nothing_keeps_all():
    np.testing.assert_array_equal(Dropout().forward([[1.0, 2.0]]), [[1, 2]])


def test_convolution():
    layer = Convolution(1, 2, input_shape=(1, 4, 4), init="one", activation="linear")
    layer.connect_to()
    assert layer.out_shape == (None, 1, 3, 3)
    expected = [[10, 14, 18], [26, 30, 34], [42, 46, 50]]
    np.testing.assert_array_equal(layer.forward(ARANGE)[0, 0], expected)
    counts = [[1, 2, 2, 1], [2, 4, 4, 2], [2, 4, 4, 2], [1, 2, 2, 1]]
    np.testing.assert_array_equal(layer.backward(np.ones((1, 1, 3, 3)))[0, 0], counts)
    assert layer.db == 9


@pytest.mark.parametrize(
    "stride, padding, expected",
    [
        ((2, 1), "valid", [[10, 14, 18], [42, 46, 50]]),
        (2, "same", [[10, 18], [42, 50]]),
        (1, "same", [[10, 14, 18, 10], [26, 30, 34, 18], [42, 46, 50, 26], [25, 27, 29, 15]]),
        (3, 1, [[0, 5], [20, 50]]),
        (3, (0, 1), [[4, 18]]),
    ],
    ids=str,
)
def test_convolution_stride_and_padding(stride, padding, expected):
    shape = (None, 1, 4, 4)  # the form of old scripts
    layer = Convolution(1, 2, shape, stride, "one", "linear", padding=padding)
    layer.connect_to()
    y = layer.forward(ARANGE)
    assert y.shape[1:] == layer.out_shape[1:]
    np.testing.assert_array_equal(y[0, 0], expected)


def test_same_padding_puts_the_odd_zero_below_and_on_the_right():
    layer = Convolution(1, (1, 4), (1, 1, 5), init="one", activation="linear", padding="same")
    layer.connect_to()
    y = layer.forward([[[[1, 10, 100, 1000, 10000]]]])
    np.testing.assert_array_equal(y[0, 0, 0], [111, 1111, 11110, 11100, 11000])


@pytest.mark.parametrize("images", [ARANGE, ARANGE[:, 0]], ids=["4d", "3d"])
def test_pooling(images):
    size = images.shape
    most, mean = MaxPooling(2), MeanPooling(2)
    np.testing.assert_array_equal(most.forward(images).ravel(), [5, 7, 13, 15])
    np.testing.assert_array_equal(mean.forward(images).ravel(), [2.5, 4.5, 10.5, 12.5])
    dy = most.forward(images) * 0 + np.arange(1, 5).reshape((*size[:-2], 2, 2))
    expected = np.zeros(16)
    expected[[5, 7, 13, 15]] = 1, 2, 3, 4
    np.testing.assert_array_equal(most.backward(dy).ravel(), expected)
    rows = [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    np.testing.assert_array_equal(mean.backward(4 * dy).reshape(4, 4), rows)


def test_pooling_windows_that_overlap():
    layer = MaxPooling((2, 3), stride=(2, 1))
    np.testing.assert_array_equal(layer.forward(ARANGE)[0, 0], [[6, 7], [14, 15]])


@pytest.mark.parametrize("axis", [0, 1])
def test_batch_normal(axis, rng):
    layer = BatchNormal(axis=axis, epsilon=1e-12)
    layer.connect_to(_after(3, 5))
    assert layer.gamma.shape == ((3, 5) if axis == 0 else (3,))
    over = 0 if axis == 0 else (0, 2)
    x = rng.normal(3, 10, size=(50, 3, 5))
    y = layer.forward(x)
    np.testing.assert_allclose(y.mean(axis=over), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(axis=over), 1, rtol=1e-4)
    np.testing.assert_allclose(layer.running_mean, 0.1 * x.mean(axis=over), rtol=1e-4)
    np.testing.assert_allclose(layer.running_var, 0.9 + 0.1 * x.var(axis=over), rtol=1e-4)


def test_batch_normal_predicts_with_running_statistics():
    layer = BatchNormal(epsilon=1e-12)
    layer.connect_to(_after(2))
    layer.running_mean, layer.running_var = [1, 2], [4, 9]
    layer.gamma, layer.beta = [1, 10], [0, 5]
    np.testing.assert_allclose(layer.forward([[3, 5]], train=False), [[1, 15]], rtol=1e-6)
    assert len(layer.params) == len(layer.grads) == 2


def test_embedding():
    layer = Embedding(input_size=3, n_out=2, nb_seq=4)
    layer.connect_to()
    assert layer.out_shape == (None, 4, 2)
    layer.embed_words = [[0, 1], [10, 11], [20, 21]]
    y = layer.forward([[2, 0, 2, 1]])
    np.testing.assert_array_equal(y, [[[20, 21], [0, 1], [20, 21], [10, 11]]])
    assert layer.backward(np.ones((1, 4, 2))) is None
    np.testing.assert_array_equal(layer.grads[0], [[1, 1], [1, 1], [2, 2]])


@pytest.mark.parametrize(
    "given, static, trained",
    [(True, None, 0), (False, None, 1), (True, False, 1), (False, True, 0), (True, True, 0)],
)
def test_embedding_static(given, static, trained):
    table = np.eye(3)
    kwargs = {"embed_words": table} if given else {"input_size": 3, "n_out": 3}
    layer = Embedding(static=static, **kwargs)
    layer.connect_to()
    assert len(layer.params) == len(layer.grads) == trained
    assert not np.shares_memory(layer.embed_words, table)
    layer.forward([[0, 1]])
    layer.backward(np.ones((1, 2, 3)))


def test_flatten_and_dim_shuffle():
    x = np.arange(24).reshape(2, 3, 4)
    assert Flatten().forward(x).shape == (2, 12)
    assert Flatten(3).forward(x).shape == (2, 3, 4)
    assert DimShuffle().forward(x).shape == (2, 1, 3, 4)
    layer = Flatten()
    layer.connect_to(_after(None, 4))
    assert layer.out_shape == (None, None)


def _after(*shape):
    """A layer whose output has this shape."""
    layer = Flatten(outdim=1)
    layer.out_shape = (None, *shape)
    return layer


def test_chain_of_layers_is_a_handle_to_the_network():
    first = Dense(4, n_in=3)
    first.connect_to()
    second = Softmax(2)
    second.connect_to(first)
    assert second.prev_layer is first
    assert second.W.shape == (4, 2)
    assert [p.shape for p in second.params] == [(4, 2), (2,)]
    assert [len(pair) for pair in second.param_grads] == [2, 2]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_of_parameters(dtype):
    utils.set_dtype(dtype)
    layer = Dense(2, n_in=2)
    layer.connect_to()
    assert layer.W.dtype == dtype
    other = np.float64 if dtype == "float32" else np.float32
    assert layer.forward(np.ones((1, 2), other)).dtype == dtype  # the parameters decide


def test_integers_become_npdl_dtype():
    assert MeanPooling(2).forward(np.arange(16).reshape(1, 4, 4)).dtype == np.float32


def test_kept_buffers_are_reused_only_in_training():
    layer = Dense(3, n_in=2)
    layer.connect_to()
    x = np.ones((4, 2), np.float32)
    assert layer.forward(x) is not layer.forward(x)
    layer.keep_buffers = True
    y = layer.forward(x)
    assert layer.forward(x) is y
    assert layer.forward(x, train=False) is not y
    assert layer.forward(x[:2]).shape == (2, 3)


@pytest.mark.parametrize(
    "layer, shape",
    [
        (Dense(2), (3, 4)),
        (Softmax(2), (3, 4)),
        (Convolution(2, 2), (2, 1, 4, 4)),
        (MaxPooling(2), (2, 1, 4, 4)),
        (BatchNormal(), (3, 4)),
        (Dropout(0.5), (3, 4)),
        (Flatten(), (3, 2, 2)),
        (layers.LSTM(n_out=2), (2, 3, 4)),
        (layers.GRU(n_out=2), (2, 3, 4)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_needless_input_gradient_is_left_out(layer, shape):
    layer.connect_to(_after(*shape[1:]))
    layer.need_input_grad = False
    y = layer.forward(np.ones(shape))
    assert layer.backward(np.ones_like(y)) is None


def test_default_names():
    assert BatchNormal().name == "batch_normal"
    assert layers.BatchLSTM(n_out=1).name == "batch_lstm"
    layer = Dense(1)
    layer.name = "head"
    assert layer.name == "head"
