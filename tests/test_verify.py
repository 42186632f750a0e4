"""`npdl.verify`: its cases, its comparison, its table, its exit codes."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest

from npdl import verify
from npdl._ext import PAIRS, available_backends, kernels, use_backend

DTYPES = ("float32", "float64")
FUNCTIONS = {name for names in PAIRS.values() for name in names}


@pytest.fixture
def twins():
    with use_backend("numpy"):
        yield kernels()


@pytest.mark.parametrize("size", ["odd", "usual"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cases_cover_every_kernel(size, dtype):
    found = list(verify.cases(dtype, size))
    assert {case.function for case in found} == FUNCTIONS
    if size == "usual":
        assert len(found) == len(FUNCTIONS)
    for case in found:
        arrays = list(verify.arrays_of(case.args))
        assert all(a.flags.c_contiguous for a in arrays)
        assert {a.dtype for a in arrays if a.dtype.kind == "f"} == {np.dtype(dtype)}
        assert len({id(a) for a in arrays}) == len(arrays)


def unfilled(array):
    """Whether an array has entries that a kernel should have filled."""
    return (array == 255 if array.dtype == np.uint8 else ~np.isfinite(array)).any()


def test_every_case_has_something_to_fill_and_the_twin_fills_all_of_it(twins):
    for case in verify.cases("float64", "odd"):
        args = copy.deepcopy(case.args)
        arrays = list(verify.arrays_of(args))
        blank = any(map(unfilled, arrays))
        assert blank != (case.function in PAIRS["optimizer"]), case.function
        getattr(twins, case.function)(*args)
        assert not any(map(unfilled, arrays)), case.function
        if not blank:  # changed in place
            kept = list(verify.arrays_of(case.args))
            changed = [(a != b).any() for a, b in zip(arrays, kept)]
            assert changed == [index != 1 for index in range(len(arrays))], case.function


def test_difference_is_relative_to_the_largest_value(twins):
    case = next(c for c in verify.cases("float64", "usual") if c.function == "softmax_forward")

    def off(z, p):
        twins.softmax_forward(z, p)
        p[0, 0] += 1e-3 * p.max()

    def lazy(z, p):
        pass

    def vandal(z, p):
        twins.softmax_forward(z, p)
        z[0, 0] += 10 * np.abs(z).max()

    right = twins.softmax_forward
    assert verify.difference(case, right, right) == 0
    assert verify.difference(case, off, right) == pytest.approx(1e-3, rel=1e-2)
    assert verify.difference(case, lazy, right) == np.inf
    assert verify.difference(case, vandal, right) > 0.5


def test_size_must_be_known():
    with pytest.raises(ValueError, match="Received: size='big'"):
        list(verify.cases("float32", "big"))


@pytest.fixture
def two_backends(monkeypatch):
    """A stand-in for the compiled backend: the twins again, which tests can wrap; small cases."""
    small = {dtype: {c.function: c for c in verify.cases(dtype, "odd")} for dtype in DTYPES}
    monkeypatch.setattr(verify, "cases", lambda dtype, size: small[dtype].values())
    with use_backend("numpy"):
        twins = vars(kernels())
    fake = SimpleNamespace(**twins)
    monkeypatch.setattr(verify, "QUIET", 0)
    monkeypatch.setattr("npdl._ext._backends", {"numpy": SimpleNamespace(**twins), "cython": fake})
    return fake


def test_table_and_exit_code(two_backends, capsys):
    assert verify.run(budget=0) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.endswith("ok")]
    assert len(rows) == 2 * len(FUNCTIONS)
    assert len({len(row) for row in rows}) == 1  # aligned
    assert "Every kernel agrees" in out


def test_mismatch_exits_with_1(two_backends, capsys):
    right = two_backends.dense_forward

    def wrong(x, w, b, y, act):
        right(x, w, b, y, act)
        y *= 1.001

    two_backends.dense_forward = wrong
    assert verify.run(budget=0) == 1
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if line.endswith(" MISMATCH")] == [
        "dense_forward"
    ] * 2


def test_without_cython_it_exits_with_2(monkeypatch, capsys):
    monkeypatch.setattr("npdl.verify.available_backends", lambda: ("numpy",))
    assert verify.run() == 2
    assert "without its Cython kernels" in capsys.readouterr().err


@pytest.mark.skipif("cython" not in available_backends(), reason="needs the Cython kernels")
def test_the_kernels_of_this_build_agree(capsys):
    assert verify.run(budget=0) == 0, capsys.readouterr().out
