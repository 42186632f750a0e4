"""Every activation against its closed form and against central differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

from npdl import activations
from npdl._ext import activation_np
from npdl.activations import (
    ELU,
    Activation,
    Elliot,
    Exponential,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    Sigmoid,
    Softmax,
    SymmetricElliot,
    Tanh,
    get,
)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def normal(x):
    """The distribution function of the normal distribution."""
    return np.vectorize(lambda t: 0.5 * math.erfc(-t / math.sqrt(2)))(x)


def mish(x):
    return x * np.tanh(np.log1p(np.exp(x)))


LAMBDA, ALPHA = 1.0507009873554805, 1.6732632423543772  # of SELU


CLOSED_FORMS = {  # value, derivative
    "sigmoid": (sigmoid, lambda x: sigmoid(x) * (1 - sigmoid(x))),
    "tanh": (np.tanh, lambda x: 1 / np.cosh(x) ** 2),
    "relu": (lambda x: np.maximum(0, x), lambda x: 1.0 * (x > 0)),
    "linear": (lambda x: x, np.ones_like),
    "soft_plus": (lambda x: np.log(1 + np.exp(x)), sigmoid),
    "soft_sign": (lambda x: x / (1 + abs(x)), lambda x: 1 / (1 + abs(x)) ** 2),
    "elliot": (lambda x: 0.5 * x / (1 + abs(x)) + 0.5, lambda x: 0.5 / (1 + abs(x)) ** 2),
    "symmetric_elliot": (lambda x: x / (1 + abs(x)), lambda x: 1 / (1 + abs(x)) ** 2),
    "leaky_relu": (lambda x: np.where(x > 0, x, 0.2 * x), lambda x: np.where(x > 0, 1, 0.2)),
    "elu": (lambda x: np.where(x > 0, x, np.expm1(x)), lambda x: np.where(x > 0, 1, np.exp(x))),
    "selu": (
        lambda x: LAMBDA * np.where(x > 0, x, ALPHA * np.expm1(x)),
        lambda x: LAMBDA * np.where(x > 0, 1, ALPHA * np.exp(x)),
    ),
    "gelu": (
        lambda x: x * normal(x),
        lambda x: normal(x) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi),
    ),
    "silu": (lambda x: x * sigmoid(x), lambda x: sigmoid(x) * (1 + x * (1 - sigmoid(x)))),
    "mish": (mish, lambda x: difference(mish, x)),
    "hard_sigmoid": (lambda x: np.clip(x + 3, 0, 6) / 6, lambda x: (abs(x) < 3) / 6),
    "hard_tanh": (lambda x: np.clip(x, -1, 1), lambda x: 1.0 * (abs(x) < 1)),
    "exponential": (np.exp, np.exp),
}
STEEP = [Elliot(2.5), SymmetricElliot(0.5), SymmetricElliot(-2), LeakyReLU(0.01), ELU(0.3)]
ALL = [get(name) for name in CLOSED_FORMS] + STEEP
READABLE = {  # at -1, 0, 1
    "sigmoid": [0.26894142, 0.5, 0.73105858],
    "tanh": [-0.76159416, 0, 0.76159416],
    "relu": [0, 0, 1],
    "linear": [-1, 0, 1],
    "soft_plus": [0.31326169, 0.69314718, 1.31326169],
    "soft_sign": [-0.5, 0, 0.5],
    "elliot": [0.25, 0.5, 0.75],
    "symmetric_elliot": [-0.5, 0, 0.5],
    "leaky_relu": [-0.2, 0, 1],
    "elu": [-0.63212056, 0, 1],
    "selu": [-1.11133074, 0, 1.05070099],
    "gelu": [-0.15865525, 0, 0.84134475],
    "silu": [-0.26894142, 0, 0.73105858],
    "swish": [-0.26894142, 0, 0.73105858],
    "mish": [-0.30340146, 0, 0.86509839],
    "hard_sigmoid": [1 / 3, 0.5, 2 / 3],
    "hard_tanh": [-1, 0, 1],
    "exponential": [0.36787944, 1, 2.71828183],
    "log_softmax": [-2.40760596, -1.40760596, -0.40760596],
}


def label(activation):
    return "".join(map(str, [type(activation).__name__, *activation.get_config().values()]))


def points(dtype=np.float64):
    """Points of both signs, none within 0.05 of the kink of relu."""
    x = np.linspace(-6, 6, 42).reshape(2, 3, 7)
    return (x + np.sign(x) * 0.05).astype(dtype)


def difference(f, x, step=1e-3):
    """Derivative by central differences of order four."""
    near, far = f(x + step) - f(x - step), f(x + 2 * step) - f(x - 2 * step)
    return (8 * near - far) / (12 * step)


@pytest.mark.parametrize("name", READABLE)
def test_values_by_eye(name):
    np.testing.assert_allclose(get(name).forward([-1, 0, 1]), READABLE[name], atol=1e-7)


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_closed_forms(name, dtype):
    value, derivative = CLOSED_FORMS[name]
    x, rtol = points(dtype), {np.float32: 2e-5, np.float64: 1e-10}[dtype]
    y, slope = get(name).forward(x), get(name).derivative(x)
    assert y.dtype == slope.dtype == dtype
    np.testing.assert_allclose(y, value(x.astype(float)), rtol=rtol, atol=rtol / 10)
    np.testing.assert_allclose(slope, derivative(x.astype(float)), rtol=rtol, atol=rtol / 10)


@pytest.mark.parametrize("activation", ALL, ids=label)
def test_derivative_against_differences(activation):
    x = points()
    slope = activation.derivative(x)
    np.testing.assert_allclose(slope, difference(activation.forward, x), rtol=1e-6, atol=1e-9)
    dy = np.random.default_rng(1).normal(size=x.shape)
    source = x if activation.kernel_code is None else None
    np.testing.assert_allclose(activation.backward(source, activation.forward(x), dy), dy * slope)


@pytest.mark.parametrize("s", [1.0, 2.5, -0.5])
def test_steepness(s):
    x = points()
    np.testing.assert_allclose(Elliot(s).forward(x), 0.5 * s * x / (1 + abs(s * x)) + 0.5)
    np.testing.assert_allclose(Elliot(s).derivative(x), 0.5 * s / (1 + abs(s * x)) ** 2)
    np.testing.assert_allclose(SymmetricElliot(s).forward(x), s * x / (1 + abs(s * x)))
    np.testing.assert_allclose(SymmetricElliot(s).derivative(x), s / (1 + abs(s * x)) ** 2)
    assert Elliot(s).kernel_code == (activation_np.ELLIOT, s)
    assert Elliot(s).get_config() == {"steepness": s}


BOUNDED = [a for a in [*ALL, Softmax(), LogSoftmax()] if not isinstance(a, Exponential)]


@pytest.mark.parametrize("activation", BOUNDED, ids=label)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extremes_neither_overflow_nor_warn(activation, dtype):
    x = np.array([[-1e30, -1e3, -90, 0, 90, 1e3, 1e30]], dtype)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert np.isfinite(activation.forward(x)).all()
        assert np.isfinite(activation.derivative(x)).all()


@pytest.mark.parametrize(
    ("name", "limits"),
    [("sigmoid", (0, 1)), ("tanh", (-1, 1)), ("relu", (0, np.inf)), ("soft_plus", (0, np.inf))],
)
def test_infinities(name, limits):
    np.testing.assert_array_equal(get(name).forward([-np.inf, np.inf]), limits)


def test_relu_at_zero():
    assert ReLU().derivative(np.array([-0.0, 0.0])).tolist() == [0, 0]


@pytest.mark.parametrize("activation", [*ALL, Softmax()], ids=label)
def test_input_of_any_layout_is_read_only(activation):
    x = points(np.float32)
    want, slope = activation.forward(x), activation.derivative(x)
    before = x.copy()
    x.flags.writeable = False
    wide = np.zeros((*x.shape[:-1], 14), np.float32)
    wide[..., ::2] = x
    for same in (x, np.asfortranarray(x), wide[..., ::2]):
        np.testing.assert_array_equal(activation.forward(same), want)
        np.testing.assert_array_equal(activation.derivative(), slope)
        dy = np.asfortranarray(np.ones_like(x))
        got = activation.backward(same, np.asfortranarray(want), dy)
        np.testing.assert_array_equal(got, activation.backward(same, want, np.ones_like(x)))
    assert np.array_equal(x, before)


@pytest.mark.parametrize("activation", ALL, ids=label)
def test_shapes_empty_and_scalar(activation):
    assert activation.forward(np.zeros((0, 3))).shape == (0, 3)
    assert activation.forward(1.5).shape == ()
    assert activation.forward([1, 2]).dtype == np.float32


def test_derivative_without_input_is_at_the_last_forward():
    for activation in (Tanh(), Softmax()):
        with pytest.raises(ValueError, match=r"derivative\(\) must follow a forward\(\)"):
            activation.derivative()
        x = points()
        want = activation.derivative(x)
        activation.forward(x)
        x += 1  # later changes by the caller have no effect
        np.testing.assert_array_equal(activation.derivative(), want)


def test_softmax_values_by_eye():
    z = np.log([[1.0, 2.0, 5.0], [3.0, 3.0, 2.0]])
    want = [[0.125, 0.25, 0.625], [0.375, 0.375, 0.25]]
    np.testing.assert_allclose(Softmax().forward(z), want)
    np.testing.assert_allclose(Softmax().forward(z + 1e3), want)
    np.testing.assert_allclose(Softmax().forward([[1000, 0]]), [[1, 0]])


def test_none_is_linear():
    assert isinstance(get(None), activations.Linear)


def test_softmax_along_an_axis():
    z = points()
    for cls in (Softmax, LogSoftmax):
        for axis in (0, 1, -2):
            turned = cls().forward(np.moveaxis(z, axis, -1))
            np.testing.assert_array_equal(cls(axis).forward(z), np.moveaxis(turned, -1, axis))
        assert cls(1).get_config() == {"axis": 1}
    np.testing.assert_allclose(LogSoftmax(1).forward(z), np.log(Softmax(1).forward(z)))
    assert LogSoftmax().forward([1000.0, 0]).tolist() == [0, -1000]


@pytest.mark.parametrize("softmax", [Softmax(), LogSoftmax()], ids=label)
def test_softmax_jacobian(softmax):
    z = points()
    jacobian = softmax.derivative(z)
    assert jacobian.shape == (2, 3, 7, 7)
    rng = np.random.default_rng(2)
    for _ in range(3):
        v, dp = rng.normal(size=(2, *z.shape))
        along = difference(lambda t: softmax.forward(z + t * v), np.float64(0), 1e-3)  # noqa: B023
        np.testing.assert_allclose((jacobian @ v[..., None])[..., 0], along, rtol=1e-6, atol=1e-10)
        dz = softmax.backward(z, softmax.forward(z), dp)
        assert np.vdot(dz, v) == pytest.approx(np.vdot(dp, along), rel=1e-8)
    for shape in ((), (3, 0)):
        with pytest.raises(ValueError, match=r"softmax must have shape \(..., K\), K >= 1"):
            softmax.forward(np.zeros(shape))


def test_backward_wants_equal_shapes():
    for activation in (Sigmoid(), Softmax()):
        with pytest.raises(ValueError, match=r"`dy` must have the shape of `y`, \(2, 3\)"):
            activation.backward(None, np.ones((2, 3)), np.ones((2, 4)))


def test_kernel_codes():
    for name, code in vars(activation_np).items():
        if not name.isupper() or not isinstance(code, int):
            continue
        activation, pair = get(name), (code, 0.2 if name == "LEAKY_RELU" else 1.0)
        assert activation.elementwise_code == pair
        if code in activation_np.FROM_INPUT:
            assert activation.kernel_code is None
            assert activations.activation_argument(activation) is activation
        else:
            assert activation.kernel_code == activations.activation_argument(activation) == pair
    softmax = Softmax()
    assert softmax.elementwise_code is None
    assert softmax.kernel_code is None
    assert activations.activation_argument(softmax) is softmax


def test_users_own_activation():
    class Square(Activation):
        def forward(self, input):
            return input * input

        def derivative(self, input=None):
            return 2 * input

    class Leaky(ReLU):
        def forward(self, input):
            return np.where(input > 0, input, 0.1 * input)

        def derivative(self, input=None):
            return np.where(input > 0, 1, 0.1)

    x, dy = points(), np.ones_like(points())
    for activation, slope in ((Square(), 2 * x), (Leaky(), np.where(x > 0, 1, 0.1))):
        assert activation.kernel_code is None
        np.testing.assert_array_equal(activation.backward(x, activation.forward(x), dy), slope)
        assert get(activation) is activation


def test_base_class_says_what_to_define():
    with pytest.raises(NotImplementedError, match=r"must define forward\(input\)"):
        Activation().forward([1])
    with pytest.raises(NotImplementedError, match="must define derivative"):
        Activation().derivative([1])


def test_bad_input():
    with pytest.raises(TypeError, match="`input` must be an array of numbers"):
        Tanh().forward("abc")
    with pytest.raises(ValueError, match=r"`steepness` must be a number in \(-inf, inf\)"):
        Elliot(np.inf)
