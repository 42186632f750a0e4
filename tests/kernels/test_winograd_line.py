"""Convolutions of sequences in Winograd's form, against the twin in float64 and the direct sums."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_calls import Call, Maker, implementation, run, wider
from test_winograd import TOLERANCE, bits, gap

from npdl import _ext


def sequence(n=3, c=16, f=16, steps=21, taps=3, pad=0, dilation=1, out=None, **options):
    """Options of `Maker.conv`."""
    shapes = {"x": (n, c, steps, 1), "w": (f, taps, 1), "out": out and (out, 1)}
    return dict(shapes, pad=(pad, 0), dilation=(dilation, 1), last=1, **options)


CASES = {
    "3 taps": sequence(c=17, f=33, pad=1),
    "4 taps": sequence(c=33, f=31, taps=4, pad=2),
    "5 taps": sequence(c=47, f=20, taps=5, pad=1),
    "shortest": sequence(n=1, steps=10),
    "causal": sequence(n=2, f=40, steps=100, pad=6, dilation=3, out=100),
    "4 causal taps": sequence(steps=60, taps=4, pad=15, dilation=5, out=60),
    "5 causal taps": sequence(steps=60, taps=5, pad=16, dilation=4, out=60),
    "far apart": sequence(n=2, steps=64, pad=32, dilation=16, out=64),
    "zeros around": sequence(steps=9, taps=5, pad=7),
    "outputs beyond": sequence(steps=5, out=30, pad=4),
    "steps that none reads": sequence(steps=60, out=11, pad=1),
    "many channels": sequence(n=1, c=300, f=100, steps=30, taps=5),
    "chunks": sequence(n=61, c=20, f=16, steps=30, taps=4),
    "long": sequence(n=1, steps=1200, pad=1, dilation=2),
}


@pytest.mark.parametrize("mode", TOLERANCE)
@pytest.mark.parametrize("case", CASES)
def test_values(compiled, case, mode):
    for call in Maker("float32").conv(**CASES[case]):
        wanted = run(implementation("np", call.function), wider(call))
        with compiled.precision(mode):
            found = compiled.run(call)
        gaps = {name: gap(found[name], wanted[name]) for name in wanted}
        assert max(gaps.values()) <= TOLERANCE[mode], gaps


def test_each_is_another_sum(compiled):
    for case in CASES.values():
        *sums, _ = zip(*(bits(compiled, Maker("float32").conv(**case), m) for m in TOLERANCE))
        assert all(one != other for one, other in sums)


@pytest.mark.parametrize(
    "other", [dict(c=15), dict(f=15), dict(taps=2), dict(taps=6), dict(dilation=9)]
)
def test_other_sequences_are_exact_in_both_modes(compiled, other):
    one, other = (bits(compiled, Maker("float32").conv(**sequence(**other)), m) for m in TOLERANCE)
    assert one == other


def test_gradients_that_are_left_out(compiled):
    (_, back) = Maker("float32").conv(**CASES["4 causal taps"])
    wanted = compiled.run(back)
    for names in (("dx",), ("dw",), ("db",), ("dw", "db")):
        found = compiled.run(Call(back.function, {**back.args, **dict.fromkeys(names)}))
        assert found.keys() == wanted.keys() - set(names)
        for name, array in found.items():
            np.testing.assert_array_equal(array, wanted[name])


@pytest.mark.parametrize("case", ["causal", "5 taps", "chunks", "many channels"])
def test_the_same_bits_for_any_number_of_threads(compiled, case):
    calls, before = Maker("float32").conv(**CASES[case]), _ext.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3, 5):
            _ext.set_num_threads(threads)
            found.append(bits(compiled, calls, "fast"))
    finally:
        _ext.set_num_threads(before)
    assert all(other == found[0] for other in found)
