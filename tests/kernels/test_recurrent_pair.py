"""Two calls of a recurrent kernel at once give the same bits as two separate calls."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_calls import Maker

from npdl._ext import get_num_threads, set_num_threads

FUNCTIONS = [f"{cell}_{way}" for cell in ("rnn", "lstm", "gru") for way in ("forward", "backward")]
SIZES = [(1, 2), (3, 3), (9, 4), (40, 5), (0, 3)]  # (N, T)


@pytest.fixture(params=[1, 2, 3, 8])
def threads(request):
    before = get_num_threads()
    set_num_threads(request.param)
    yield
    set_num_threads(before)


def copied(args):
    return tuple(a.copy() if isinstance(a, np.ndarray) else a for a in args)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_bits(implementation, threads, function, dtype, after):
    cell, way = function.split("_")
    if after and cell != "gru":
        pytest.skip("has one bias")
    make = Maker(dtype)
    calls = [
        make.recurrent(cell, n, t, 5, 19 - n % 2, "some", reverse=bool(i % 2), after=after)
        for i, (n, t) in enumerate(SIZES)
    ]
    calls = [copied(call[way == "backward"].args.values()) for call in calls]
    for one, other in zip(calls, [*calls[1:], calls[0]]):
        wanted, found = [copied(one), copied(other)], [copied(one), copied(other)]
        for args in wanted:
            getattr(implementation, function)(*args)
        implementation.recurrent_pair(function, *found)
        for a, b in zip(wanted[0] + wanted[1], found[0] + found[1]):
            np.testing.assert_array_equal(a, b)


def test_errors(implementation):
    make = Maker("float32")
    one = tuple(make.recurrent("rnn", 2, 3, 4, 5)[0].args.values())
    with pytest.raises((ValueError, KeyError)):
        implementation.recurrent_pair("conv_forward", one, one)
    with pytest.raises((ValueError, TypeError)):
        implementation.recurrent_pair("rnn_forward", one, one[:-4])


def test_both_calls_have_one_dtype(compiled):
    one, other = (
        tuple(Maker(dtype).recurrent("rnn", 2, 3, 4, 5)[0].args.values())
        for dtype in ("float32", "float64")
    )
    with pytest.raises(ValueError, match="one dtype"):
        compiled.recurrent_pair("rnn_forward", one, other)
