"""Accuracy of the elementary functions in every build, and their values at the extremes.

Errors are counted in units of the last place (ulp) of the exact result. The exact result of a
float32 is taken in float64, that of a float64 in long double (where there is none, nothing is
measured).
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from kernel_calls import built_isas
from kernel_calls import implementation as implementation_of

from npdl._ext import activation_np as twin
from npdl._ext.activation_np import (
    ELLIOT,
    ELU,
    EXPONENTIAL,
    FROM_INPUT,
    GELU,
    HARD_SIGMOID,
    HARD_TANH,
    LEAKY_RELU,
    LINEAR,
    LOGARITHMS,
    MISH,
    RELU,
    SELU,
    SIGMOID,
    SILU,
    SOFT_PLUS,
    SOFT_SIGN,
    SYMMETRIC_ELLIOT,
    TANH,
)

LOG, LOG1P = LOGARITHMS
BOUND = 3  # ulps, as elementary.pxd states
#: As smooth.pxd and the docs state, for the functions made of several.
BOUNDS = {ELU: 4, SELU: 4, EXPONENTIAL: 3, GELU: 7, SILU: 3, MISH: 5}
WIDER = {"float32": np.float64, "float64": np.longdouble}
#: Below it exp counts as 0; the logarithm of the largest number is on the other side.
LOWEST = {"float32": -86.6, "float64": -707.7}

EXACT = {
    TANH: np.tanh,
    SIGMOID: lambda x: 1 / (1 + np.exp(-x)),
    SOFT_PLUS: lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
}
FUNCTIONS = ("activation_forward", "activation_backward")
NAMES = {TANH: "tanh", SIGMOID: "sigmoid", SOFT_PLUS: "soft-plus"}
dtypes = pytest.mark.parametrize("dtype", WIDER)
codes = pytest.mark.parametrize("code", NAMES, ids=NAMES.get)


def apply(kernels, x, code, steepness=1.0):
    y = np.full_like(x, 7)
    kernels.activation_forward(x, y, (code, steepness))
    return y


def ulps(found, exact):
    """Largest error in ulps of the exact result."""
    dtype = found.dtype
    if np.finfo(exact.dtype).nmant <= np.finfo(dtype).nmant:
        pytest.skip("no wider format here to compare with")
    last_place = np.spacing(np.abs(exact).astype(dtype)).astype(exact.dtype)
    return float((np.abs(found.astype(exact.dtype) - exact) / last_place).max())


def samples(dtype, low, high, rng, n=200_000):
    """Numbers of every size between two bounds: evenly spread ones, and their logarithms'."""
    even = rng.uniform(low, high, n)
    small = np.exp(rng.uniform(np.log(1e-30), np.log(max(abs(low), abs(high))), n))
    small *= rng.choice([-1, 1], n)
    return np.concatenate([even, small[(small > low) & (small < high)]]).astype(dtype)


@dtypes
@codes
def test_error_in_ulps(compiled, code, dtype, rng):
    wider = WIDER[dtype]
    # tanh is 1 from about 20 on; the others have a tail, down to where exp underflows
    low, high = (-22, 22) if code == TANH else (LOWEST[dtype], -LOWEST[dtype])
    for bound in (low, 1.0):
        x = samples(dtype, -abs(bound), min(high, abs(bound)), rng)
        assert ulps(apply(compiled, x, code), EXACT[code](x.astype(wider))) <= BOUND


@dtypes
@pytest.mark.parametrize("code", BOUNDS)
def test_error_of_the_later_activations_in_ulps(compiled, code, dtype, rng):
    """Against the twin in the next wider dtype; test_activations.py has independent values."""
    wider, tails = WIDER[dtype], {GELU: (13.0, 37.0), ELU: (40.0, 40.0), SELU: (40.0, 40.0)}
    tail = tails.get(code, (86.0, 700.0))[dtype == "float64"]
    high = 86.0 if code == EXPONENTIAL else 200.0
    for low, top in ((-tail, high), (-1.0, 1.0)):
        x = samples(dtype, low, top, rng)
        x = x[x > low]
        assert (
            ulps(apply(compiled, x, code), twin.apply((code, 1.0), x.astype(wider))) <= BOUNDS[code]
        )


@dtypes
def test_error_of_logarithms_in_ulps(compiled, dtype, rng):
    info = np.finfo(dtype)
    powers = np.ldexp(1.0, np.arange(info.minexp - info.nmant, info.maxexp)).astype(dtype)
    sizes = rng.uniform(info.minexp, info.maxexp, 100_000)
    x = np.concatenate(
        [
            *(
                powers,
                np.nextafter(powers, 0, dtype=dtype)[1:],
                np.nextafter(powers, np.inf, dtype=dtype),
            ),
            *((2.0**sizes).astype(dtype), rng.uniform(0.5, 2, 100_000).astype(dtype)),
        ]
    )
    for code, exact in ((LOG, np.log), (LOG1P, np.log1p)):
        assert ulps(apply(compiled, x, code), exact(x.astype(WIDER[dtype]))) <= BOUND
    near = -np.concatenate([x[x < 1], rng.uniform(0, 1, 100_000).astype(dtype)])
    near = near[near > -1]
    assert ulps(apply(compiled, near, LOG1P), np.log1p(near.astype(WIDER[dtype]))) <= BOUND


@dtypes
def test_logarithms_at_the_extremes(implementation, dtype):
    x = np.array(
        [1, 0, -0.0, np.inf, np.nan, -1, -np.inf, np.finfo(dtype).smallest_subnormal], dtype
    )
    y = apply(implementation, x, LOG)
    np.testing.assert_array_equal(y[:7], [0, -np.inf, -np.inf, np.inf, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(y[7], np.log(x[7]), rtol=1e-6)
    x[:2] = 0, -2
    y = apply(implementation, x, LOG1P)
    np.testing.assert_array_equal(y[:7], [0, np.nan, 0, np.inf, np.nan, -np.inf, np.nan])
    assert y[7] == x[7] and np.signbit(y[2])


@dtypes
@pytest.mark.parametrize("code", FROM_INPUT)
def test_error_of_slopes(compiled, code, dtype, rng):
    x = samples(dtype, -45, 45, rng)
    ones, found = np.ones_like(x), np.full_like(x, 7)
    compiled.activation_backward(x, ones, found, (code, 1.0))
    wanted = twin.slope((code, 1.0), x.astype(WIDER[dtype]))
    if np.finfo(wanted.dtype).nmant <= np.finfo(dtype).nmant:
        pytest.skip("no wider format here to compare with")
    assert np.abs(found - wanted).max() <= 3 * np.finfo(dtype).eps
    assert found.min() > -0.2 and found.max() < 1.2


@dtypes
def test_error_of_exp_in_ulps(compiled, dtype, rng):
    """The softmax of (0, x) is e^x if that is too small to change the sum."""
    low, high = LOWEST[dtype], {"float32": -18.0, "float64": -38.0}[dtype]
    z = np.zeros((100_000, 2), dtype)
    z[:, 1] = rng.uniform(low, high, len(z))
    p = np.empty_like(z)
    compiled.softmax_forward(z, p)
    np.testing.assert_array_equal(p[:, 0], 1)
    assert ulps(p[:, 1], np.exp(z[:, 1].astype(WIDER[dtype]))) <= BOUND


@dtypes
def test_error_near_every_power_of_two_of_exp(compiled, dtype):
    """The reduced argument is largest half way between multiples of log 2."""
    n = np.arange(-120, 121) if dtype == "float32" else np.arange(-1020, 1021)
    middle = ((n + 0.5) * np.log(2)).astype(dtype)
    x = np.concatenate([np.nextafter(middle, -np.inf), middle, np.nextafter(middle, np.inf)])
    x = x[np.abs(x) < -LOWEST[dtype]].astype(dtype)
    for code in (SIGMOID, SOFT_PLUS):
        exact = EXACT[code](x.astype(WIDER[dtype]))
        assert ulps(apply(compiled, x, code), exact) <= BOUND


@dtypes
@codes
def test_monotone_where_it_is_steep(implementation, code, dtype):
    """A coarse grid, so that rounding can't change the order of two values."""
    x = np.linspace(-4, 4, 4001).astype(dtype)
    assert (np.diff(apply(implementation, x, code)) > 0).all()


LIMITS = {  # at -inf, the lowest number, the largest, inf
    (LINEAR, 1.0): (-np.inf, "-max", "max", np.inf),
    (RELU, 1.0): (0, 0, "max", np.inf),
    (TANH, 1.0): (-1, -1, 1, 1),
    (SIGMOID, 1.0): (0, 0, 1, 1),
    (SOFT_PLUS, 1.0): (0, 0, "max", np.inf),
    (SOFT_SIGN, 1.0): (np.nan, -1, 1, np.nan),
    (ELLIOT, 1.0): (np.nan, 0, 1, np.nan),
    (SYMMETRIC_ELLIOT, 1.0): (np.nan, -1, 1, np.nan),
    (LEAKY_RELU, 0.5): (-np.inf, "-max/2", "max", np.inf),
    (ELU, 1.5): (-1.5, -1.5, "max", np.inf),
    (HARD_SIGMOID, 1.0): (0, 0, 1, 1),
    (HARD_TANH, 1.0): (-1, -1, 1, 1),
    (EXPONENTIAL, 1.0): (0, 0, np.inf, np.inf),
    (GELU, 1.0): (0, 0, "max", np.inf),
    (SILU, 1.0): (0, 0, "max", np.inf),
    (MISH, 1.0): (0, 0, "max", np.inf),
}


SLOPES = {  # at the same places, where these are not 0 and 1
    (LINEAR, 1.0): (1, 1, 1, 1),
    (TANH, 1.0): (0, 0, 0, 0),
    (SIGMOID, 1.0): (0, 0, 0, 0),
    (LEAKY_RELU, 0.5): (0.5, 0.5, 1, 1),
    (HARD_SIGMOID, 1.0): (0, 0, 0, 0),
    (HARD_TANH, 1.0): (0, 0, 0, 0),
}


@dtypes
@pytest.mark.parametrize("act", LIMITS, ids=lambda act: f"code{act[0]}")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the twins' inf / inf
def test_extremes(implementation, act, dtype):
    largest = np.finfo(dtype).max
    names = {"max": largest, "-max": -largest, "-max/2": -largest / 2}
    x = np.array([-np.inf, -largest, largest, np.inf], dtype)
    wanted = [names.get(value, value) for value in LIMITS[act]]
    y = apply(implementation, x, *act)
    np.testing.assert_array_equal(y, np.array(wanted, dtype))
    source = x if act[0] in FROM_INPUT else y
    if act[0] not in (SOFT_SIGN, ELLIOT, SYMMETRIC_ELLIOT, EXPONENTIAL):
        slope = np.full_like(x, 7)
        implementation.activation_backward(source, np.ones_like(x), slope, act)
        np.testing.assert_array_equal(slope, SLOPES.get(act, [0, 0, 1, 1]))


@dtypes
@pytest.mark.parametrize("act", LIMITS, ids=lambda act: f"code{act[0]}")
def test_nan_stays_nan_and_does_not_spread(implementation, act, dtype):
    x = np.linspace(-2, 2, 41).astype(dtype)
    clean = apply(implementation, x, *act)
    x[::7] = np.nan
    y = apply(implementation, x, *act)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x))
    np.testing.assert_array_equal(y[~np.isnan(x)], clean[~np.isnan(x)])


@dtypes
@pytest.mark.parametrize("act", LIMITS, ids=lambda act: f"code{act[0]}")
def test_zero_and_the_smallest_numbers(implementation, act, dtype):
    info = np.finfo(dtype)
    x = np.array([0, info.smallest_subnormal, 9 * info.smallest_subnormal, info.tiny], dtype)
    x = np.concatenate([-x, x])
    at_zero = {
        **{SIGMOID: 0.5, ELLIOT: 0.5, SOFT_PLUS: np.log(2), HARD_SIGMOID: 0.5, EXPONENTIAL: 1},
    }.get(act[0], 0)
    y = apply(implementation, x, *act)
    if at_zero:
        np.testing.assert_allclose(y, at_zero, rtol=4 * info.eps)
    else:  # the slope is 1, except for these
        below = {RELU: 0, LEAKY_RELU: 0.5, ELU: 1.5, GELU: 0.5, SILU: 0.5, MISH: 0.6}.get(act[0], 1)
        above = {GELU: 0.5, SILU: 0.5, MISH: 0.6}.get(act[0], 1)
        wanted = np.where(x < 0, below, above).astype(dtype) * x
        np.testing.assert_allclose(y, wanted, rtol=0, atol=info.smallest_subnormal)


@dtypes
def test_tanh_is_odd(implementation, dtype, rng):
    x = samples(dtype, -30, 30, rng, 10_000)
    np.testing.assert_array_equal(apply(implementation, -x, TANH), -apply(implementation, x, TANH))
    zeros = apply(implementation, np.array([0.0, -0.0], dtype), TANH)
    assert np.signbit(zeros).tolist() == [False, True]


@dtypes
@codes
def test_results_stay_in_their_range(implementation, code, dtype, rng):
    x = samples(dtype, -200, 200, rng, 10_000)
    y = apply(implementation, x, code)
    low, high = {TANH: (-1, 1), SIGMOID: (0, 1), SOFT_PLUS: (0, np.inf)}[code]
    assert y.min() >= low and y.max() <= high


@dtypes
def test_the_same_number_gives_the_same_bits_in_every_place(compiled, dtype, rng):
    """The rest of a loop that fills no vector uses the same arithmetic."""
    x = samples(dtype, -20, 20, rng, 50)
    for act in ((code, 1.7) for code in (*range(MISH + 1), *LOGARITHMS)):
        whole = apply(compiled, x, *act)
        slopes = _slopes(compiled, x if act[0] in FROM_INPUT else whole, act)
        for start, stop in [(0, 1), (1, 2), (3, 8), (5, 22), (0, 33), (17, 50)]:
            part = x[start:stop].copy()
            found = apply(compiled, part, *act)
            assert found.tobytes() == whole[start:stop].tobytes()
            found = _slopes(compiled, part if act[0] in FROM_INPUT else found, act)
            assert found.tobytes() == slopes[start:stop].tobytes()


def _slopes(kernels, source, act):
    if act[0] in LOGARITHMS:  # they have none
        return source[:0]
    dx = np.full_like(source, 7)
    kernels.activation_backward(source, np.cos(np.arange(len(dx), dtype=dx.dtype) * 0 + 1), dx, act)
    return dx


@dtypes
@pytest.mark.skipif(not {"v3", "v4"} <= set(built_isas()), reason="needs the builds v3 and v4")
def test_v3_and_v4_give_the_same_bits(dtype, rng):
    x = samples(dtype, -60, 60, rng, 20_000)
    v3, v4 = (
        SimpleNamespace(**{f: implementation_of(isa, f) for f in FUNCTIONS}) for isa in ("v3", "v4")
    )
    for act in ((code, 1.7) for code in (*range(MISH + 1), *LOGARITHMS)):
        y = apply(v3, x, *act)
        assert y.tobytes() == apply(v4, x, *act).tobytes(), act
        source = x if act[0] in FROM_INPUT else y
        assert _slopes(v3, source, act).tobytes() == _slopes(v4, source, act).tobytes(), act


@dtypes
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the twins' inf - inf
def test_softmax_of_extremes(implementation, dtype):
    z = np.array(
        [
            [-np.inf, 0, 0],
            [np.finfo(dtype).max, 0, -np.finfo(dtype).max],
            [-1e30, -1e30, -1e30],
            [np.nan, 0, 1],
            [0, 1, np.nan],
            [np.inf, 0, 0],
            [-np.inf, -np.inf, -np.inf],
        ],
        dtype,
    )
    p = np.empty_like(z)
    implementation.softmax_forward(z, p)
    np.testing.assert_array_equal(p[:2], [[0, 0.5, 0.5], [1, 0, 0]])
    np.testing.assert_allclose(p[2], 1 / 3, rtol=1e-6)
    assert np.isnan(p[3:5]).all() and np.isnan(p[5]).any() and np.isnan(p[6]).any()


@dtypes
@pytest.mark.parametrize("k", [1, 2, 15, 16, 17, 31, 32, 33, 50])
def test_softmax_finds_the_largest_at_any_position(implementation, k, dtype):
    """If the maximum were wrong, exponentials would overflow."""
    wanted = np.eye(k, dtype=dtype)
    z = 2e4 * wanted - 1e4
    p = np.empty_like(z)
    implementation.softmax_forward(z.astype(dtype), p)
    np.testing.assert_array_equal(p, wanted)
