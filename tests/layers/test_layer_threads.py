"""Several threads predict with one layer at once, with the results of a single thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from npdl.layers import LSTM, BatchNormal, Convolution, Dense, MaxPooling


@pytest.mark.parametrize(
    "layer, shape",
    [
        (Dense(6, activation="softmax"), (4, 5)),
        (Convolution(3, 3), (2, 2, 8, 8)),
        (MaxPooling(2), (2, 2, 8, 8)),
        (BatchNormal(), (4, 5)),
        (LSTM(n_out=4), (3, 5, 2)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_threads(layer, shape, rng):
    before = Dense(1)
    before.out_shape = (None, *shape[1:])
    layer.connect_to(before)
    batches = rng.normal(size=(20, *shape)).astype(np.float32)
    expected = [layer.forward(x, train=False) for x in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            got = list(pool.map(lambda x: layer.forward(x, train=False), batches))
            for a, b in zip(got, expected):
                np.testing.assert_array_equal(a, b)
