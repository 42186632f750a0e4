"""Every kernel against its twin: names, signatures, docstrings, and values over awkward shapes.

The reference is the twin itself, run in the next wider format (float64 for float32, long double for
float64) on the same numbers, so that the twin in its own format is a candidate like the others.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from case_values import ELEMENTWISE
from cases import CASES
from kernel_calls import (
    FILLED,
    PAIRS,
    STEM,
    TWINS,
    Call,
    Maker,
    implementation,
    parameters,
    run,
    wider,
)

from npdl._ext.activation_np import RELU, SIGMOID, TANH

#: Largest difference allowed, relative to the largest value of the array. Sums of up to 2000
#: products lose about sqrt(2000) halves of a last place: 3e-6, and 5e-15.
TOLERANCE = {"float32": 5e-6, "float64": 1e-14}

FUNCTIONS = sorted(FILLED)
ROOT = Path(__file__).parents[2]

# ------------------------------------------------------------ names and docstrings


def test_table_of_pairs_is_complete():
    assert set(STEM) == set(FILLED)
    for stem, names in PAIRS.items():
        public = {
            name
            for name, thing in vars(TWINS[stem]).items()
            if inspect.isfunction(thing) and thing.__module__ == TWINS[stem].__name__
            if name.endswith(("_forward", "_backward", "_step", "_answers", "_pair"))
        }
        assert public == set(names)


@pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the source tree")
def test_pairs_are_what_setup_builds():
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    stems = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id in ("KERNELS", "SHARED")
    }
    assert sorted(stems["KERNELS"]) == sorted(PAIRS)
    sources = {path.stem for path in (ROOT / "npdl/_ext").glob("*.pyx")}
    assert sources == {*stems["KERNELS"], *stems["SHARED"]}
    assert {path.stem for path in (ROOT / "npdl/_ext").glob("*_np.py")} == {
        f"{stem}_np" for stem in PAIRS
    }


@pytest.mark.parametrize("function", FUNCTIONS)
def test_signatures_agree(compiled, function):
    kernel = inspect.signature(getattr(compiled, function)).parameters.values()
    twin = inspect.signature(getattr(TWINS[STEM[function]], function)).parameters.values()
    assert [(p.name, p.kind, p.default) for p in kernel] == [
        (p.name, p.kind, p.default) for p in twin
    ]
    assert set(FILLED[function]) <= set(parameters(function))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_twin_describes_every_argument(function):
    doc = inspect.getdoc(getattr(TWINS[STEM[function]], function))
    section = doc.split("Parameters\n----------\n")[1]
    heads = [line.split(" : ")[0] for line in section.splitlines() if line and line[0] != " "]
    described = [name for head in heads for name in re.split(r",\s*", head)]
    assert described == parameters(function)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_kernel_says_what_it_does(compiled, function):
    assert re.search(r"\w.*\.$", (getattr(compiled, function).__doc__ or "").strip())


# ------------------------------------------------------------ values


@functools.cache
def calls_and_references(case: str, dtype: str) -> list[tuple[Call, dict[str, np.ndarray]]]:
    kind, options = CASES[case]
    make = getattr(Maker(dtype), "recurrent" if "cell" in options else kind)
    return [
        (call, run(implementation("np", call.function), wider(call))) for call in make(**options)
    ]


def assert_close(found: np.ndarray, wanted: np.ndarray, tolerance: float, what: str = "") -> None:
    """Differences are counted relative to the largest value of the array; integers are equal."""
    assert found.shape == wanted.shape
    if found.dtype.kind in "iu":
        np.testing.assert_array_equal(found, wanted)
        return
    assert np.isfinite(wanted).all(), what
    assert not np.isnan(found).any(), f"{what} has holes"
    gap = np.abs(found.astype(wanted.dtype) - wanted).max(initial=0)
    scale = np.abs(wanted).max(initial=0)
    assert gap <= tolerance * scale, f"{what}: {gap / scale:.2g}"


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", CASES)
def test_values_agree(implementation, case, dtype):
    for call, wanted in calls_and_references(case, dtype):
        found = implementation.run(call)
        assert found.keys() == wanted.keys()
        for name in wanted:
            assert_close(found[name], wanted[name], TOLERANCE[dtype], f"{call.function}: {name}")


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_cases_meet_every_kernel(dtype):
    assert {call.function for call in Maker(dtype).one_of_each()} == set(FILLED)


# ------------------------------------------------------------ promises of the twins


@pytest.mark.parametrize(
    "function, source, target",
    [
        ("activation_forward", "x", "y"),
        ("activation_backward", "dy", "dx"),
        ("softmax_forward", "z", "p"),
        ("softmax_backward", "dp", "dz"),
        ("log_softmax_forward", "z", "y"),
        ("log_softmax_backward", "dy", "dz"),
    ],
)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_output_may_be_the_input(implementation, function, source, target, dtype):
    make = Maker(dtype)
    calls = [*make.softmax(7, 19), *make.log_softmax(7, 19)]
    for act in ELEMENTWISE.values():
        calls += make.activation(77, act)
    for call in (c for c in calls if c.function == function):
        wanted = implementation.run(call)[target]
        args = {name: v.copy() if isinstance(v, np.ndarray) else v for name, v in call.args.items()}
        args[target] = args[source]
        getattr(implementation, function)(*args.values())
        np.testing.assert_array_equal(args[target], wanted)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_nan_is_the_largest_in_a_window(implementation, size, step, dtype):
    x = np.arange(2 * 7 * 23, dtype=dtype).reshape(1, 2, 7, 23) % 11
    x[0, 0, 3, 4:9] = x[0, 1, 0, 0] = x[0, 1, 6, 22] = np.nan
    out = [(side - size) // step + 1 for side in (7, 23)]
    y, where = np.zeros((1, 2, *out), dtype), np.zeros((1, 2, *out), np.int32)
    args = x, y, where, size, size, step, step, 0, 0
    call = Call("maxpool_forward", dict(zip(parameters("maxpool_forward"), args)))
    results = []
    for kernel in (implementation.maxpool_forward, TWINS["pool"].maxpool_forward):
        y[...], where[...] = 0, -1
        kernel(*call.args.values())
        results.append((y.copy(), where.copy()))
    for found, wanted in zip(*results):
        np.testing.assert_array_equal(found, wanted)
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))
    windows = windows[:, :, ::step, ::step]
    np.testing.assert_array_equal(y, windows.max(axis=(4, 5)))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_optimizers_take_any_number_as_their_twins_do(compiled, dtype):
    """NaN, infinity, the largest and the least numbers, in every array; others are unaffected."""
    limits = np.finfo(dtype)
    strange = [np.nan, np.inf, -np.inf, limits.max / 10, limits.min / 10]
    strange += [limits.tiny, limits.smallest_subnormal, 0.0, -0.0]
    for call in Maker(dtype).optimizer(16384 + 37):
        places = np.r_[3 : 3 + len(strange), -len(strange) : 0]
        others = np.delete(np.arange(16384 + 37), places)
        clean = compiled.run(call)
        for name in (n for n, value in call.args.items() if isinstance(value, np.ndarray)):
            array = call.args[name].copy()
            array[places] = strange * 2
            spoilt = Call(call.function, {**call.args, name: array})
            with np.errstate(all="ignore"):
                wanted = run(implementation("np", call.function), spoilt)
            found = compiled.run(spoilt)
            for slot in wanted:
                what = f"{call.function}: {slot} for strange {name}"
                np.testing.assert_allclose(
                    found[slot], wanted[slot], 2 * TOLERANCE[dtype], TOLERANCE[dtype], err_msg=what
                )
                np.testing.assert_array_equal(found[slot][others], clean[slot][others], what)


@pytest.mark.parametrize("code", [SIGMOID, TANH, RELU])
def test_steepness_is_read_only_by_elliot(implementation, code):
    make = Maker("float64")
    one, other = (implementation.run(make_call) for make_call in _with_steepness(make, code))
    np.testing.assert_array_equal(one["y"], other["y"])


def _with_steepness(make, code):
    x = make.random(31)
    for steepness in (1.0, 2.5):
        yield make.call("activation_forward", x, make.empty(31), (code, steepness))
