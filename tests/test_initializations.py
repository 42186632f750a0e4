"""Bounds, spreads and fans of the initial values."""

from __future__ import annotations

import numpy as np
import pytest

from npdl import initializations
from npdl.initializations import Initializer, Normal, Orthogonal, Uniform, fans, get
from npdl.utils import get_dtype, get_rng, set_dtype, set_rng, set_seed

SHAPES = [(60, 90), (20, 6, 5, 4)]
FANS = {(60, 90): (60, 90), (20, 6, 5, 4): (120, 400)}
UNIFORM = {  # limit from the fans
    "lecun_uniform": lambda i, o: np.sqrt(3 / i),
    "glorot_uniform": lambda i, o: np.sqrt(6 / (i + o)),
    "he_uniform": lambda i, o: np.sqrt(6 / i),
    "uniform": lambda i, o: 0.05,
}
NORMAL = {  # standard deviation from the fans
    "glorot_normal": lambda i, o: np.sqrt(2 / (i + o)),
    "he_normal": lambda i, o: np.sqrt(2 / i),
    "normal": lambda i, o: 0.01,
}


@pytest.fixture(autouse=True)
def seed():
    rng, dtype = get_rng(), get_dtype()
    set_seed(0)
    yield
    set_rng(rng)
    set_dtype(dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_fans(shape):
    assert fans(shape) == FANS[shape]
    assert fans((7,)) == (7, 7)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", UNIFORM)
def test_uniform(name, shape):
    limit = UNIFORM[name](*FANS[shape])
    values = get(name)(shape)
    assert np.abs(values).max() <= np.float32(limit)
    assert values.min() == pytest.approx(-limit, rel=0.02)
    assert values.max() == pytest.approx(limit, rel=0.02)
    assert values.std() == pytest.approx(limit / np.sqrt(3), rel=0.1)
    assert abs(values.mean()) < 0.1 * limit


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NORMAL)
def test_normal(name, shape):
    std = NORMAL[name](*FANS[shape])
    values = get(name)(shape)
    assert values.std() == pytest.approx(std, rel=0.1)
    assert abs(values.mean()) < 0.1 * std
    assert np.abs(values).max() > 2.5 * std


def test_arguments():
    assert np.abs(Uniform(scale=3)((40, 40))).max() == pytest.approx(3, rel=0.02)
    values = Normal(std=2, mean=10)((40, 40))
    assert values.mean() == pytest.approx(10, abs=0.2)
    assert values.std() == pytest.approx(2, rel=0.1)
    assert get("zeros")((2, 3)).tolist() == [[0] * 3] * 2
    assert get("one")((2, 3)).tolist() == [[1] * 3] * 2


@pytest.mark.parametrize(
    "shape",
    [(5, 5), (7, 3), (3, 7), (4, 3, 2, 5), (40, 3, 2), (6,), (1, 1), (16, 17), (50, 33), (65, 65)],
)
def test_orthogonal(shape):
    set_dtype("float64")
    matrix = Orthogonal(gain=1.5)(shape).reshape(shape[0], -1)
    rows, cols = matrix.shape
    gram = matrix @ matrix.T if rows <= cols else matrix.T @ matrix
    np.testing.assert_allclose(gram, 2.25 * np.eye(min(rows, cols)), atol=1e-12)


@pytest.mark.parametrize("rows", [7, 40])
def test_orthogonal_is_the_q_of_a_decomposition(rows):
    set_dtype("float64")
    set_seed(4)
    normal = get_rng().normal(size=(max(rows, 35), min(rows, 35)))
    q, r = np.linalg.qr(normal)
    q = q * np.sign(np.diag(r))
    set_seed(4)
    found = Orthogonal()((rows, 35))
    np.testing.assert_allclose(found, q if rows > 35 else q.T, atol=1e-11)


def test_orthogonal_prefers_no_sign():
    signs = [np.sign(Orthogonal()((2, 2)).ravel()) for _ in range(400)]
    assert np.abs(np.mean(signs, axis=0)).max() < 0.2
    assert Orthogonal("relu").gain == pytest.approx(np.sqrt(2))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", initializations._registry.names)
def test_dtype_order_and_seed(name, dtype):
    set_dtype(dtype)
    set_seed(5)
    values = get(name)((3, 5, 2, 2))
    assert values.dtype == dtype
    assert values.shape == (3, 5, 2, 2)
    assert values.flags.c_contiguous
    assert values.flags.writeable
    set_seed(5)
    direct = get(name).call((3, 5, 2, 2))
    assert direct.dtype == dtype
    assert direct.flags.c_contiguous
    np.testing.assert_array_equal(values, direct)


def test_float32_rounds_the_draws_of_float64():
    set_seed(5)
    single = get("he_normal")((30, 40))
    set_dtype("float64")
    set_seed(5)
    np.testing.assert_array_equal(single, get("he_normal")((30, 40)).astype("float32"))


def test_users_own_initializer():
    class Identity(Initializer):
        def call(self, shape):
            return np.eye(*shape)

    assert get(Identity)((2, 2)).dtype == np.float32
    with pytest.raises(ValueError, match=r"Identity.call must return an array of shape \(3,\)"):
        Identity()(3)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"`shape` must be an integer >= 1. Received: shape=0"):
        get("zero")((3, 0))
    with pytest.raises(TypeError, match=r"`shape` must be an integer >= 1. Received: shape=2\.5"):
        get("zero")((3, 2.5))
    with pytest.raises(ValueError, match=r"`scale` must be a number in \[0, inf\)"):
        Uniform(-1)
    with pytest.raises(ValueError, match=r"`std` must be a number in \[0, inf\)"):
        Normal(std=-1)
    with pytest.raises(TypeError, match="`gain` must be a number"):
        Orthogonal("selu")
