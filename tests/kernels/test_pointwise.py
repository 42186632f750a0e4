"""Convolutions of 1 x 1 over planes, against the twin."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_calls import Maker, implementation, run, wider
from test_winograd import gap

from npdl import _ext

#: Options of `Maker.conv`: tiles that are full and that are not, blocks of several images.
CASES = {
    "5x5": dict(x=(7, 13, 5, 5), w=(50, 1, 1)),
    "8x8": dict(x=(20, 64, 8, 8), w=(48, 1, 1)),
    "7x14": dict(x=(3, 33, 7, 14), w=(7, 1, 1)),
    "one row": dict(x=(30, 5, 1, 24), w=(12, 1, 1)),
    "one channel": dict(x=(5, 1, 9, 30), w=(17, 1, 1)),
    "one filter": dict(x=(5, 18, 9, 11), w=(1, 1, 1)),
    "pieces": dict(x=(2, 530, 8, 8), w=(20, 1, 1)),
    "pieces of dx": dict(x=(2, 20, 8, 8), w=(530, 1, 1)),
    "without a bias": dict(x=(9, 24, 16, 16), w=(25, 1, 1), without=("b", "db")),
    "large": dict(x=(1, 40, 50, 70), w=(30, 1, 1)),
}
TOLERANCE = {"float32": 2e-6, "float64": 5e-15}


@pytest.mark.parametrize("transposed", [False, True], ids=["", "transposed"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", CASES)
def test_values(compiled, case, dtype, transposed):
    for call in Maker(dtype).conv(**CASES[case], transposed=transposed):
        wanted = run(implementation("np", call.function), wider(call))
        for name, array in compiled.run(call).items():
            assert gap(array, wanted[name]) <= TOLERANCE[dtype], name


@pytest.mark.parametrize("case", ["5x5", "7x14", "large"])
def test_the_same_bits_for_any_number_of_threads(compiled, case):
    calls, before = Maker("float32").conv(**CASES[case]), _ext.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 5):
            _ext.set_num_threads(threads)
            found.append([array for call in calls for array in compiled.run(call).values()])
    finally:
        _ext.set_num_threads(before)
    for arrays in found[1:]:
        for one, other in zip(arrays, found[0], strict=True):
            np.testing.assert_array_equal(one, other)
