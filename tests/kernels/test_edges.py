"""Products whose tiles reach beyond the edges of the matrix: every number of rows and vectors."""

from __future__ import annotations

import numpy as np
import pytest

from npdl._ext import get_num_threads, set_num_threads
from npdl._ext.activation_np import LINEAR

DEPTH = 3
ROWS = (*range(1, 14), 20, 25)
COLUMNS = (1, 3, 4, 5, 8, 9, 12, 16, 17, 24, 31, 32, 33, 40, 47, 48, 49, 60, 65, 80, 100)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_small_tiles_at_the_edges(compiled, dtype):
    rng = np.random.default_rng(0)

    def whole(*shape):  # whole numbers, of which every sum is exact
        return rng.integers(-9, 10, shape).astype(dtype)

    for m in ROWS:
        for n in COLUMNS:
            x, w, b, dy = whole(m, DEPTH), whole(DEPTH, n), whole(n), whole(m, n)
            y, dx, dw, db = (np.full_like(a, np.nan) for a in (dy, x, w, b))
            compiled.dense_forward(x, w, b, y, (LINEAR, 1.0))
            compiled.dense_backward(x, w, y, dy, dx, dw, db, (LINEAR, 1.0))
            where = f"{m} rows, {n} columns"
            np.testing.assert_array_equal(y, x @ w + b, where)
            np.testing.assert_array_equal(dx, dy @ w.T, where)
            np.testing.assert_array_equal(dw, x.T @ dy, where)
            np.testing.assert_array_equal(db, dy.sum(0), where)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_many_rows_and_panels(compiled, dtype, threads):
    """Products in which each task packs a panel, for all rows of A or for a part of them."""
    rng = np.random.default_rng(0)
    before = get_num_threads()
    set_num_threads(threads)
    try:
        for m, k, n in [(97, 5, 700), (193, 600, 210), (3, 200, 790)]:
            x, w, b, dy = (
                rng.integers(-9, 10, shape).astype(dtype) for shape in ((m, k), (k, n), n, (m, n))
            )
            y, dx, dw, db = (np.full_like(a, np.nan) for a in (dy, x, w, b))
            compiled.dense_forward(x, w, b, y, (LINEAR, 1.0))
            compiled.dense_backward(x, w, y, dy, dx, dw, db, (LINEAR, 1.0))
            np.testing.assert_array_equal(y, x @ w + b)
            np.testing.assert_array_equal(dx, dy @ w.T)
            np.testing.assert_array_equal(dw, x.T @ dy)
    finally:
        set_num_threads(before)
