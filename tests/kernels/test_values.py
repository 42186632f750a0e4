"""Values of the kernels that can be checked by eye."""

from __future__ import annotations

import math

import numpy as np
import pytest
from kernel_calls import TWINS

from npdl._ext.activation_np import (
    ELLIOT,
    LINEAR,
    RELU,
    SIGMOID,
    SOFT_PLUS,
    SOFT_SIGN,
    SYMMETRIC_ELLIOT,
    TANH,
)

NO_ACT = (LINEAR, 1.0)


def array(values, dtype="float64"):
    return np.ascontiguousarray(values, dtype)


def like(values, fill=np.nan):
    return np.full_like(values, fill)


@pytest.mark.parametrize(
    "act, x, y, slope",
    [
        ((LINEAR, 1.0), [-2, 0, 3], [-2, 0, 3], [1, 1, 1]),
        ((RELU, 1.0), [-2, 0, 3], [0, 0, 3], [0, 0, 1]),
        ((TANH, 1.0), [-np.log(2), 0, np.log(3)], [-0.6, 0, 0.8], [0.64, 1, 0.36]),
        ((SIGMOID, 1.0), [-np.log(3), 0, np.log(3)], [0.25, 0.5, 0.75], [3 / 16, 1 / 4, 3 / 16]),
        ((SOFT_PLUS, 1.0), [0, np.log(3)], [np.log(2), np.log(4)], [0.5, 0.75]),
        ((SOFT_SIGN, 1.0), [-1, 0, 3], [-0.5, 0, 0.75], [0.25, 1, 1 / 16]),
        ((ELLIOT, 1.0), [-1, 0, 3], [0.25, 0.5, 0.875], [1 / 8, 1 / 2, 1 / 32]),
        ((ELLIOT, 2.0), [-0.5, 0, 1.5], [0.25, 0.5, 0.875], [1 / 4, 1, 1 / 16]),
        ((SYMMETRIC_ELLIOT, 1.0), [-1, 0, 3], [-0.5, 0, 0.75], [0.25, 1, 1 / 16]),
        ((SYMMETRIC_ELLIOT, 2.0), [-0.5, 0, 1.5], [-0.5, 0, 0.75], [0.5, 2, 1 / 8]),
    ],
)
def test_activations(backend, act, x, y, slope):
    x, found, dx = array(x), like(array(x)), like(array(x))
    backend.activation_forward(x, found, act)
    np.testing.assert_allclose(found, y, rtol=1e-15, atol=1e-15)
    backend.activation_backward(array(y), like(x, 10), dx, act)
    np.testing.assert_allclose(dx, 10 * array(slope), rtol=1e-14)


def test_dense(backend):
    x, w, b = array([[1, 2], [3, 4]]), array([[1, 0, -1], [1, 1, -1]]), array([0, 10, 0])
    y = np.empty((2, 3))
    backend.dense_forward(x, w, b, y, (RELU, 1.0))
    np.testing.assert_array_equal(y, [[3, 12, 0], [7, 14, 0]])
    dx, dw, db = like(x), like(w), like(b)
    backend.dense_backward(x, w, y, np.ones((2, 3)), dx, dw, db, (RELU, 1.0))
    np.testing.assert_array_equal(dx, [[1, 2], [1, 2]])  # the third unit is off
    np.testing.assert_array_equal(dw, [[4, 4, 0], [6, 6, 0]])
    np.testing.assert_array_equal(db, [2, 2, 0])


IMAGE = np.arange(16.0).reshape(1, 1, 4, 4)


@pytest.mark.parametrize(
    "w, stride, pad, y",
    [
        ([[1, 0], [0, 0]], (1, 1), (0, 0), [[0, 1, 2], [4, 5, 6], [8, 9, 10]]),
        ([[0, 0], [0, 1]], (1, 1), (0, 0), [[5, 6, 7], [9, 10, 11], [13, 14, 15]]),
        ([[1, 1], [1, 1]], (2, 2), (0, 0), [[10, 18], [42, 50]]),
        ([[-1, 1]], (1, 1), (0, 0), [[1, 1, 1]] * 4),
        ([[-1], [1]], (2, 1), (0, 0), [[4, 4, 4, 4]] * 2),
        ([[1]], (3, 3), (0, 0), [[0, 3], [12, 15]]),
        ([[1, 0], [0, 0]], (2, 2), (1, 1), [[0, 0, 0], [0, 5, 7], [0, 13, 15]]),
        ([[0, 0], [0, 1]], (2, 2), (1, 1), [[0, 2, 0], [8, 10, 0], [0, 0, 0]]),
    ],
    ids=lambda v: str(v).replace(" ", ""),
)
def test_convolution(backend, w, stride, pad, y):
    w, b, found = array(w)[None, None], array([100]), like(array(y))[None, None]
    backend.conv2d_forward(IMAGE, w, b, found, *stride, *pad, 1, 1, 1, 0, NO_ACT)
    np.testing.assert_array_equal(found[0, 0], array(y) + 100)


#: No stride, padding or dilation, one group, channels first.
PLAIN = 1, 1, 0, 0, 1, 1, 1, 0


def test_dilation_and_groups(backend):
    w, y = array([[[[1, 10]]], [[[1, 100]]]]), np.empty((1, 2, 4, 2))
    x = np.concatenate([IMAGE, IMAGE + 1], axis=1)
    backend.conv2d_forward(x, w, None, y, 1, 1, 0, 0, 1, 2, 2, 0, NO_ACT)
    np.testing.assert_array_equal(y[0, 0], IMAGE[0, 0, :, :2] + 10 * IMAGE[0, 0, :, 2:])
    np.testing.assert_array_equal(y[0, 1], 101 + IMAGE[0, 0, :, :2] + 100 * IMAGE[0, 0, :, 2:])


def test_causal_convolution_of_a_sequence(backend):
    x, y = array([[1, 2], [3, 4], [5, 6]])[None, :, None], np.empty((1, 3, 1, 1))
    w = array([[100, 1], [0, 0]]).reshape(1, 2, 2, 1)  # of the first number: before, and now
    backend.conv2d_forward(x, w, None, y, 1, 1, 1, 0, 1, 1, 1, 1, NO_ACT)
    assert y.ravel().tolist() == [1, 103, 305]


def test_transposed_convolution(backend):
    x, w = array([[1, 2]])[None, None], array([[1, 10, 100]])[None, None]
    y = np.empty((1, 1, 1, 6))
    backend.conv2d_transposed_forward(x, w, array([1000]), y, 1, 2, 0, 0, 1, 1, 1, 0, NO_ACT)
    assert (y.ravel() - 1000).tolist() == [1, 10, 102, 20, 200, 0]


def test_im2col_is_the_picture_of_its_docstring():
    letters = np.frombuffer(b"abcdefghijklmnop", np.uint8).reshape(1, 1, 4, 4)
    columns = TWINS["conv"].im2col(letters, (2, 2), (3, 3), (1, 1), (0, 0), (1, 1))
    rows = [bytes(row).decode() for row in columns[0, 0]]
    assert rows == ["abcefgijk", "bcdfghjkl", "efgijkmno", "fghjklnop"]


def test_convolution_adds_channels_and_knows_filters_apart(backend):
    x = np.stack([IMAGE[0, 0], 100 + IMAGE[0, 0]])[None]
    w = array([[[[1]], [[0]]], [[[0]], [[1]]], [[[1]], [[1]]]])
    y = np.empty((1, 3, 4, 4))
    backend.conv2d_forward(x, w, array([0, 0, 1]), y, *PLAIN, NO_ACT)
    np.testing.assert_array_equal(y[0], [x[0, 0], x[0, 1], x[0, 0] + x[0, 1] + 1])


def test_convolution_backward(backend):
    w, y, dy = array([[[[1, 2], [3, 4]]]]), np.empty((1, 1, 3, 3)), np.zeros((1, 1, 3, 3))
    dy[0, 0, 1, 2] = 1  # one window: pixels 6, 7, 10, 11
    dx, dw, db = like(IMAGE), like(w), np.empty(1)
    backend.conv2d_backward(IMAGE, w, y, dy, dx, dw, db, *PLAIN, NO_ACT)
    np.testing.assert_array_equal(dw[0, 0], [[6, 7], [10, 11]])
    np.testing.assert_array_equal(db, [1])
    np.testing.assert_array_equal(
        dx[0, 0], [[0, 0, 0, 0], [0, 0, 1, 2], [0, 0, 3, 4], [0, 0, 0, 0]]
    )


@pytest.mark.parametrize(
    "window, stride, argmax, mean",
    [
        ((2, 2), (2, 2), [[5, 7], [13, 15]], [[2.5, 4.5], [10.5, 12.5]]),
        ((2, 2), (1, 2), [[5, 7], [9, 11], [13, 15]], [[2.5, 4.5], [6.5, 8.5], [10.5, 12.5]]),
        ((1, 3), (3, 1), [[2, 3], [14, 15]], [[1, 2], [13, 14]]),
        ((3, 1), (1, 3), [[8, 11], [12, 15]], [[4, 7], [8, 11]]),
        ((4, 4), (1, 1), [[15]], [[7.5]]),
    ],
)
def test_pooling(backend, window, stride, argmax, mean):
    argmax, steps = np.array([[argmax]]), (*window, *stride, 0, 0)
    y, where = np.empty(argmax.shape), np.empty(argmax.shape, np.int32)
    backend.maxpool_forward(IMAGE, y, where, *steps)
    np.testing.assert_array_equal(y, argmax)
    np.testing.assert_array_equal(where, argmax)  # pixel k has the value k
    y[...] = np.nan
    backend.maxpool_forward(IMAGE, y, None, *steps)
    np.testing.assert_array_equal(y, argmax)
    backend.meanpool_forward(IMAGE, y, *steps)
    np.testing.assert_allclose(y[0, 0], mean, rtol=1e-15)


def test_pooling_backward(backend):
    dx, dy = like(IMAGE), array([[[[1, 2], [3, 4]]]])
    argmax = np.array([[[[5, 6], [5, 15]]]], np.int32)  # pixel 5 won twice
    backend.maxpool_backward(dy, argmax, dx)
    wanted = np.zeros(16)
    wanted[[5, 6, 15]] = 4, 2, 4
    np.testing.assert_array_equal(dx.ravel(), wanted)
    backend.meanpool_backward(dy, dx, 2, 2, 2, 2, 0, 0)
    np.testing.assert_array_equal(
        4 * dx[0, 0], [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    )
    backend.meanpool_backward(dy, dx, 2, 2, 1, 1, 0, 0)  # windows overlap, the last row has none
    np.testing.assert_array_equal(
        4 * dx[0, 0], [[1, 3, 2, 0], [4, 10, 6, 0], [3, 7, 4, 0], [0, 0, 0, 0]]
    )


def test_pooling_counts_no_pixel_beside_the_image(backend):
    """Windows of 2x2 that begin one pixel above and left: corners, edges, and one in the middle."""
    y, where, steps = np.empty((1, 1, 3, 3)), np.empty((1, 1, 3, 3), np.int32), (2, 2, 2, 2, 1, 1)
    backend.maxpool_forward(IMAGE, y, where, *steps)
    np.testing.assert_array_equal(where[0, 0], [[0, 2, 3], [8, 10, 11], [12, 14, 15]])
    np.testing.assert_array_equal(y[0, 0], [[0, 2, 3], [8, 10, 11], [12, 14, 15]])
    backend.maxpool_forward(IMAGE - 100, y, where, *steps)
    np.testing.assert_array_equal(y[0, 0, 0], [-100, -98, -97])
    backend.maxpool_forward(np.full_like(IMAGE, -np.inf), y, where, *steps)
    np.testing.assert_array_equal(y, np.full_like(y, -np.inf))
    np.testing.assert_array_equal(where[0, 0], [[0, 1, 3], [4, 5, 7], [12, 13, 15]])
    backend.meanpool_forward(IMAGE, y, *steps)
    np.testing.assert_array_equal(y[0, 0], [[0, 1.5, 3], [6, 7.5, 9], [12, 13.5, 15]])
    dx = like(IMAGE)
    backend.meanpool_backward(np.ones((1, 1, 3, 3)), dx, *steps)
    np.testing.assert_array_equal(
        dx[0, 0],
        [[1, 0.5, 0.5, 1], [0.5, 0.25, 0.25, 0.5], [0.5, 0.25, 0.25, 0.5], [1, 0.5, 0.5, 1]],
    )


@pytest.mark.parametrize("shape", [(1, 1, 1100, 1000), (1, 3, 1_100_000, 1), (1, 1, 2, 550_000)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_mean_of_a_million_pixels_is_exact_to_rounding(backend, shape, dtype):
    x, y = np.full(shape, 0.1, dtype), np.empty((*shape[:2], 1, 1), dtype)
    x[..., ::3, :] *= 1.5
    backend.meanpool_forward(x, y, *shape[2:], 1, 1, 0, 0)
    wanted = [math.fsum(image.ravel()) / image.size for image in x[0]]
    places = 1 if backend.backend == "cython" or dtype == "float32" else 2e5  # NumPy's own sum
    np.testing.assert_allclose(y.ravel(), wanted, rtol=places * np.finfo(dtype).eps)


def test_enlarging(backend):
    x, y = array([[[[0, 4], [8, 12]]]]), np.empty((1, 1, 4, 2))
    backend.enlarge_forward(x, y, False)
    np.testing.assert_array_equal(y[0, 0], [[0, 4], [0, 4], [8, 12], [8, 12]])
    backend.enlarge_forward(x, y, True)
    np.testing.assert_array_equal(y[0, 0], [[0, 4], [2, 6], [6, 10], [8, 12]])
    dy, dx = array([[[[1, 2, 3, 4, 5, 6]]]]), np.empty((1, 1, 1, 2))
    backend.enlarge_backward(dy, dx, False)
    np.testing.assert_array_equal(dx[0, 0], [[6, 15]])
    backend.enlarge_backward(dy, dx, True)  # a third of pixels 3 and 4 goes to the other side
    np.testing.assert_allclose(dx[0, 0], [[6 - 1 + 4 / 3, 15 - 4 / 3 + 1]])


def test_of_equal_values_the_first_wins(backend):
    y, where = np.empty((1, 1, 2, 2)), np.empty((1, 1, 2, 2), np.int32)
    backend.maxpool_forward(np.ones((1, 1, 4, 4)), y, where, 2, 2, 2, 2, 0, 0)
    np.testing.assert_array_equal(where[0, 0], [[0, 2], [8, 10]])


def test_softmax(backend):
    z, p = np.log(array([[1, 2, 5], [3, 3, 4]])), np.empty((2, 3))
    backend.softmax_forward(z, p)
    wanted = [[1 / 8, 2 / 8, 5 / 8], [0.3, 0.3, 0.4]]
    np.testing.assert_allclose(p, wanted, rtol=1e-15)
    dz = like(p)
    backend.softmax_backward(array(wanted), array([[1, 0, 0], [1, 1, 1]]), dz)
    np.testing.assert_allclose(dz, [[7 / 64, -2 / 64, -5 / 64], [0, 0, 0]], atol=1e-16)


@pytest.mark.parametrize("targets", ["labels", "dense"])
def test_cross_entropy(backend, targets):
    z, p, loss = np.log(array([[1, 2, 5], [3, 3, 4]])), np.empty((2, 3)), np.empty(2)
    t = np.array([1, 2])
    if targets == "dense":
        t = np.eye(3)[t]
    backend.softmax_xent_forward(z, t, p, loss)
    np.testing.assert_allclose(loss, [np.log(4), np.log(2.5)], rtol=1e-15)
    dz = like(p)
    backend.softmax_xent_backward(p, t, array([1, 10]), dz)
    np.testing.assert_allclose(dz, [[1 / 8, -6 / 8, 5 / 8], [3, 3, -6]], rtol=1e-14)


def test_cross_entropy_of_what_is_almost_impossible(backend):
    z, p, loss = array([[1000, 0], [-1000, 0]]), np.empty((2, 2)), np.empty(2)
    backend.softmax_xent_forward(z, np.array([1, 1]), p, loss)
    np.testing.assert_array_equal(p, [[1, 0], [0, 1]])
    np.testing.assert_array_equal(loss, [1000, 0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "p, largest",
    [
        ([1, 3, 2], 1),
        ([3, 3, 2], 0),
        ([1, 3, 3], 1),
        ([-np.inf, -np.inf, -np.inf], 0),
        ([1, np.inf, 2], 1),
        ([3, np.nan, np.inf], 1),
        ([np.nan, np.nan, 3], 0),
        ([-0.0, 0.0, -1], 0),
        ([*range(70), 69, 68], 69),
        ([*range(40), np.nan, 50, np.nan], 40),
        ([7], 0),
    ],
)
def test_right_answers(backend, p, largest, dtype):
    """All classes, and numbers outside of them, as numbers, one-hot and as the row itself."""
    k = len(p)
    rows = np.tile(np.array(p, dtype), (k + 4, 1))
    t = np.array([*range(k), -1, k, -(2**63), 2**63 - 1])
    right = np.full(k + 4, 7, np.uint8)
    backend.right_answers(rows, t, right)
    np.testing.assert_array_equal(right, t == largest)
    backend.right_answers(rows[:k], np.eye(k, dtype=dtype), right[:k])
    np.testing.assert_array_equal(right[:k], t[:k] == largest)
    backend.right_answers(rows, rows, right)
    np.testing.assert_array_equal(right, 1)


@pytest.mark.parametrize(
    "function, slots, numbers, p, left",
    [
        ("sgd_step", [], [], [-1, 3], []),
        ("momentum_step", [[2, 0]], [0.5, False], [0, 3], [[-1, 1]]),
        ("momentum_step", [[2, 0]], [0.5, True], [-1.5, 3.5], [[-1, 1]]),
        ("adagrad_step", [[9, 12]], [0], [0.6, 2.25], [[25, 16]]),
        ("rmsprop_step", [[2, 27]], [0.5, 0.5], [1 - 2 / 9.5**0.5, 2.25], [[9, 15.5]]),
        ("adadelta_step", [[2, 28], [4, 1]], [0.5, 0], [-1 / 3, 2.25], [[9, 16], [50 / 9, 0.625]]),
        ("adam_step", [[0, 6], [0, 4]], [0.5, 0.75, 1, 0.5, 0.25], [0.6, 1.6], [[2, 2], [4, 4]]),
        ("adamax_step", [[0, 6], [8, 0]], [0.5, 0.75, 2, 0.5], [0.75, 1.5], [[2, 2], [6, 2]]),
    ],
)
def test_optimizer_steps(backend, function, slots, numbers, p, left):
    found, g, slots = array([1, 2]), array([4, -2]), [array(slot) for slot in slots]
    getattr(backend, function)(found, g, *slots, 0.5, *numbers)
    np.testing.assert_allclose(found, p, rtol=1e-14)
    for slot, wanted in zip(slots, left, strict=True):
        np.testing.assert_allclose(slot, wanted, rtol=1e-15)


def gates_of(n_gates, **bias):
    """Weights (1 + 1 + 1, n_gates) of one unit that reads only its biases, then ``x`` and ``h``."""
    w = np.zeros((3, n_gates))
    for name, values in bias.items():
        w["bxh".index(name[0])] = values
    return w


def test_simple_rnn_counts(backend):
    """h' = h + x: a running sum."""
    x = array([1, 2, 3, 4]).reshape(1, 4, 1)
    w = gates_of(1, x=1, h=1)
    h = np.empty((1, 4, 1))
    backend.rnn_forward(x, w, array([[10]]), None, h, NO_ACT)
    np.testing.assert_array_equal(h.ravel(), [11, 13, 16, 20])
    backend.rnn_forward(x, w, array([[10]]), np.array([[1, 0, 0, 1]], np.uint8), h, NO_ACT)
    np.testing.assert_array_equal(h.ravel(), [11, 11, 11, 15])
    dx, dw, dh0 = like(x), like(w), np.empty((1, 1))
    backend.rnn_backward(
        x, w, array([[10]]), None, array([11, 13, 16, 20]).reshape(1, 4, 1),
        np.ones((1, 4, 1)), None, dx, dw, dh0, NO_ACT,
    )  # fmt: skip
    np.testing.assert_array_equal(dx.ravel(), [4, 3, 2, 1])  # x_t is in the sums from t on
    np.testing.assert_array_equal(dw.ravel(), [10, 4 + 6 + 6 + 4, 40 + 33 + 26 + 16])
    np.testing.assert_array_equal(dh0, [[4]])


def test_lstm_opens_and_closes_its_gates(backend):
    """Linear activations show every product: i = 2, f = 1/2, o = 3, g = x."""
    x = array([1, 10, 100]).reshape(1, 3, 1)
    w = gates_of(4, b=[2, 0.5, 3, 0], x=[0, 0, 0, 1])
    h, c, gates = np.empty((1, 3, 1)), np.empty((1, 3, 1)), np.empty((1, 3, 4))
    state = array([[0]]), array([[8]])
    backend.lstm_forward(x, w, *state, None, h, c, gates, NO_ACT, NO_ACT)
    np.testing.assert_array_equal(c.ravel(), [4 + 2, 3 + 20, 11.5 + 200])
    np.testing.assert_array_equal(h.ravel(), 3 * c.ravel())
    np.testing.assert_array_equal(gates[0], [[2, 0.5, 3, 1], [2, 0.5, 3, 10], [2, 0.5, 3, 100]])
    mask = np.array([[1, 0, 1]], np.uint8)
    backend.lstm_forward(x, w, *state, mask, h, c, gates, NO_ACT, NO_ACT)
    np.testing.assert_array_equal(c.ravel(), [6, 6, 203])
    np.testing.assert_array_equal(h.ravel(), [18, 18, 609])


def test_lstm_with_the_usual_activations(backend):
    """σ(log 3) = 3/4, σ(0) = 1/2, tanh(log 3) = 4/5, tanh(log 2) = 3/5."""
    w = gates_of(4, b=[np.log(3), 0, np.log(3), np.log(3)])
    h, c, gates = np.empty((1, 1, 1)), np.empty((1, 1, 1)), np.empty((1, 1, 4))
    c0 = 2 * (np.log(2) - 0.75 * 0.8)
    backend.lstm_forward(
        np.ones((1, 1, 1)), w, np.ones((1, 1)), array([[c0]]), None, h, c, gates,
        (TANH, 1.0), (SIGMOID, 1.0),
    )  # fmt: skip
    np.testing.assert_allclose(gates[0, 0], [0.75, 0.5, 0.75, 0.8], rtol=1e-15)
    np.testing.assert_allclose([c[0, 0, 0], h[0, 0, 0]], [np.log(2), 0.75 * 0.6], rtol=1e-15)


def test_gru_mixes_old_and_new(backend):
    """z = 1/4 keeps a quarter of h; r = 2 doubles it for ĥ = x + 2 h."""
    x = array([1, 0, 0]).reshape(1, 3, 1)
    w = gates_of(3, b=[0.25, 2, 0], x=[0, 0, 1], h=[0, 0, 1])
    h, gates = np.empty((1, 3, 1)), np.empty((1, 3, 3))
    backend.gru_forward(x, w, array([[4]]), None, h, gates, NO_ACT, NO_ACT)
    # ĥ = 1 + 8 = 9, then 2 * 7.75; h = 3/4 ĥ + 1/4 h
    np.testing.assert_array_equal(gates[0, :, 2], [9, 15.5, 27.125])
    np.testing.assert_array_equal(h.ravel(), [7.75, 13.5625, 23.734375])
    mask = np.array([[0, 1, 0]], np.uint8)
    backend.gru_forward(x, w, array([[4]]), mask, h, gates, NO_ACT, NO_ACT)
    np.testing.assert_array_equal(h.ravel(), [4, 0.75 * 8 + 1, 7])


def test_normalisation(backend):
    x = array([[[1, 3], [0, 0]], [[5, 7], [0, 8]]])  # two channels of four numbers
    y, mean, var = like(x), np.empty(2), np.empty(2)
    gamma, beta = array([1, 4]), array([0, 10])
    backend.norm_forward(x, gamma, beta, 4, y, mean, var, NO_ACT)
    np.testing.assert_allclose(mean, [4, 2], rtol=1e-15)
    np.testing.assert_allclose(var, [5, 12], rtol=1e-15)
    wanted = [[[-1, -1 / 3], [8, 8]], [[1 / 3, 1], [8, 16]]]
    np.testing.assert_allclose(y, wanted, rtol=1e-14)
    y[...] = np.nan
    backend.norm_fixed_forward(x, gamma, beta, mean, var, 4, y)
    np.testing.assert_allclose(y, wanted, rtol=1e-14)
    dy, dx, dgamma, dbeta = np.zeros_like(x), like(x), np.empty(2), np.empty(2)
    dy[0, 0, 0] = 9
    backend.norm_backward(x, gamma, beta, mean, var, 4, dy, dx, dgamma, dbeta, NO_ACT)
    np.testing.assert_allclose(dgamma, [-9, 0], rtol=1e-14)
    np.testing.assert_allclose(dbeta, [9, 0], rtol=1e-14)
    # (dy - 9/4 + x̂ 9/4) / 3
    np.testing.assert_allclose(dx[:, 0].ravel(), [1.5, -1, -0.5, 0], rtol=1e-13, atol=1e-15)
    np.testing.assert_array_equal(dx[:, 1], 0)


@pytest.mark.parametrize("shape", [(100_000, 3, 1), (5000, 2, 25), (40, 3, 3000), (1, 2, 120_000)])
def test_normalisation_sums_many_numbers_exactly(backend, shape):
    """100,000 numbers far from 0, in float32: the large mean costs the variance no accuracy."""
    x = np.random.default_rng(3).normal(50, 1, shape).astype(np.float32)
    one, zero = np.ones(shape[1], np.float32), np.zeros(shape[1], np.float32)
    y, mean, var = like(x), np.empty_like(one), np.empty_like(one)
    backend.norm_forward(x, one, zero, 1e-6, y, mean, var, NO_ACT)
    exact = x.astype(float)
    tolerance = 3e-7 if backend.backend == "cython" else 1e-4
    np.testing.assert_allclose(mean, exact.mean(axis=(0, 2)), rtol=tolerance)
    np.testing.assert_allclose(var, exact.var(axis=(0, 2)), rtol=tolerance)
    dgamma, dbeta, dy = like(one), like(one), np.abs(x - 50)
    backend.norm_backward(x, one, zero, mean, var, 1e-6, dy, None, dgamma, dbeta, NO_ACT)
    np.testing.assert_allclose(dbeta, dy.sum(axis=(0, 2), dtype=float), rtol=tolerance)


@pytest.mark.parametrize("shape", [(9, 5, 1), (4, 5, 7), (3, 5, 600)])
def test_a_nan_stays_in_its_channel(backend, shape):
    x = np.random.default_rng(3).normal(size=shape)
    x[1, 2, -1] = np.nan
    one, zero, y = np.ones(5), np.zeros(5), np.empty(shape)
    mean, var, dx, dgamma, dbeta = np.empty(5), np.empty(5), np.empty(shape), np.empty(5), zero + 7
    backend.norm_forward(x, one, zero, 1e-6, y, mean, var, NO_ACT)
    statistics = mean, var, 1e-6, np.cos(y)
    backend.norm_backward(x, one, zero, *statistics, dx, dgamma, dbeta, NO_ACT)
    spoilt = np.arange(5) == 2
    for found in (y, dx, mean[:, None], var[:, None], dgamma[:, None], dbeta[:, None]):
        nan = np.isnan(found).any(axis=(0, 2) if found.ndim == 3 else 1)
        np.testing.assert_array_equal(nan, spoilt)


def test_dropout(backend):
    x, dy = np.arange(1.0, 100_001), np.full(100_000, 3.0)
    y, dx, mask = like(x), like(x), np.full(100_000, 7, np.uint8)
    backend.dropout_forward(x, 99, 0.25, y, mask)
    assert set(mask) == {0, 1}
    assert mask.mean() == pytest.approx(0.75, abs=0.006)  # 4 standard deviations
    np.testing.assert_allclose(y, x * mask / 0.75, rtol=1e-15)
    backend.dropout_backward(dy, mask, 0.25, dx)
    np.testing.assert_array_equal(dx, 4 * mask)
    again = np.empty_like(mask)
    backend.dropout_forward(x, 100, 0.25, y, again)
    assert np.corrcoef(mask, again)[0, 1] == pytest.approx(0, abs=0.013)


def test_dropout_draws_what_it_always_drew(backend):
    """A training run that is resumed on another machine relies on this."""
    mask, y = np.empty(20_000, np.uint8), np.empty(20_000, np.float32)
    backend.dropout_forward(np.ones(20_000, np.float32), 2024, 0.5, y, mask)
    assert np.packbits(mask[:64]).tobytes().hex() == "6d8f8100067385e2"
    assert np.packbits(mask[16384:][:64]).tobytes().hex() == "b620a281f6536b8a"


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_looks_random(backend, p):
    """Neighbours in a row, in a column and in the next chunk are independent."""
    n = 1 << 20
    x, y, mask = np.ones(n, np.float32), np.empty(n, np.float32), np.empty(n, np.uint8)
    backend.dropout_forward(x, 5, p, y, mask)
    rest = (mask - (1 - p)) / np.sqrt(p * (1 - p))
    assert abs(rest.sum()) < 4 * n**0.5
    for lag in (1, 2, 3, 4, 7, 8, 16, 24, 28, 32, 64, 100, 128, 512, 1024, 4096, 16384, 32768):
        assert abs((rest[lag:] * rest[:-lag]).sum()) < 4.5 * n**0.5, lag
    counts = np.bincount(np.packbits(mask), minlength=256)
    ones = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1)
    wanted = n / 8 * (1 - p) ** ones * p ** (8 - ones)
    often = wanted > 5
    chi2 = ((counts - wanted) ** 2 / wanted)[often].sum()
    assert abs(chi2 - often.sum()) < 5 * (2 * often.sum()) ** 0.5


def test_embedding_backward(backend):
    dy, dtable = array([[1, 2], [10, 20], [100, 200], [1000, 2000]]), np.full((4, 2), np.nan)
    backend.embedding_backward(np.array([2, 0, 2, 2]), dy, dtable)
    np.testing.assert_array_equal(dtable, [[10, 20], [0, 0], [1101, 2202], [0, 0]])
    backend.embedding_backward(np.array([], np.int64), np.empty((0, 2)), dtable)
    np.testing.assert_array_equal(dtable, 0)
