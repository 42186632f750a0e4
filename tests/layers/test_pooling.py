"""Pooling: every option keeps the contract; padding, masks, and bits that no batch changes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import npdl
from npdl import layers
from npdl.layers import (
    GlobalMaxPooling,
    GlobalMeanPooling,
    MaxPooling,
    MaxPooling1D,
    MeanPooling,
    MeanPooling1D,
)
from npdl.testing import check_layer

GOLDEN = Path(__file__).parents[1] / "golden"
MASK = np.array([[1, 1, 1, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0]])
ONE_D = [MaxPooling1D, MeanPooling1D]
GLOBAL = [GlobalMaxPooling, GlobalMeanPooling]


def distinct(*shape):
    """A batch whose values are further apart than the difference step: no ties, no kinks."""
    values = np.linspace(-2, 2, math.prod(shape))
    return np.random.default_rng(5).permutation(values).reshape(shape)


# ------------------------------------------------------------------------------- the contract


@pytest.mark.parametrize("cls", [MaxPooling, MeanPooling])
@pytest.mark.parametrize(
    "pool_size, stride, padding",
    [
        (2, None, "same"),
        ((2, 3), None, 1),
        ((3, 2), (1, 2), "same"),
        (3, 2, (1, 2)),
        ((3, 2), (2, 1), ((0, 2), (1, 0))),
        ((8, 6), 1, "same"),
    ],
    ids=str,
)
def test_padded_pooling(cls, pool_size, stride, padding):
    kwargs = {"pool_size": pool_size, "stride": stride, "padding": padding}
    check_layer((cls, kwargs), distinct(2, 3, 7, 5))
    check_layer((cls, kwargs), distinct(2, 7, 5), dtypes=("float64",))


@pytest.mark.parametrize("cls", ONE_D)
@pytest.mark.parametrize(
    "pool_size, stride, padding", [(2, None, "valid"), (3, 1, "same"), (3, 2, (2, 1)), (2, 3, 1)]
)
@pytest.mark.parametrize("mask", [None, MASK], ids=["", "mask"])
def test_pooling_of_steps(cls, pool_size, stride, padding, mask):
    kwargs = {"pool_size": pool_size, "stride": stride, "padding": padding}
    args = {} if mask is None else {"mask": mask}
    check_layer((cls, kwargs), distinct(3, 7, 2), forward_args=args)


@pytest.mark.parametrize("cls", GLOBAL)
def test_global_pooling(cls):
    check_layer(cls, distinct(3, 7, 2, 4))
    check_layer(cls, distinct(3, 7, 2))
    check_layer(cls, distinct(3, 7, 2), forward_args={"mask": MASK})


# -------------------------------------------------------------------------------------- values


def golden():
    for library in ("keras", "torch"):
        for case in json.loads((GOLDEN / f"images_{library}.json").read_text())["cases"]:
            if hasattr(layers, case["name"]):
                values = "-".join(map(str, case["kwargs"].values()))
                yield pytest.param(case, id=f"{library}-{case['name']}-{values}")


@pytest.mark.parametrize("case", [*golden()])
def test_values_of_keras_and_torch(case):
    x = np.random.default_rng(1).uniform(-2, 2, (1, 2, 5, 4)).round(3)
    weights = np.random.default_rng(2).uniform(-2, 2, 4000).round(3)
    kwargs = {k: v if not isinstance(v, list) else tuple(v) for k, v in case["kwargs"].items()}
    layer = getattr(layers, case["name"])(**kwargs)
    layer.connect_to(npdl.graph.Input((None, 2, 5, 4)))
    y = layer.forward(x)
    np.testing.assert_allclose(y.ravel(), case["output"], rtol=1e-8, atol=1e-9)
    assert layer.out_shape[1:] == y.shape[1:]
    dx = layer.backward(weights[: y.size].reshape(y.shape))
    np.testing.assert_allclose(dx.ravel(), case["gradient"], rtol=1e-8, atol=1e-9)


def test_masked_steps_are_left_out_with_any_content():
    x = distinct(3, 7, 2).astype("f4")
    real = MASK != 0
    for bad in (np.nan, np.inf, 1e30):
        x[~real] = bad
        for cls, reduced in ((GlobalMaxPooling, np.max), (GlobalMeanPooling, np.mean)):
            layer = cls()
            layer.connect_to(npdl.graph.Input((None, 7, 2)))
            y = layer.forward(x, mask=MASK)
            for row, steps, keep in zip(y[:2], x, real):
                np.testing.assert_allclose(row, reduced(steps[keep], axis=0), rtol=1e-6)
            np.testing.assert_array_equal(y[2], 0)  # no real step
            dx = layer.backward(np.ones_like(y))
            np.testing.assert_array_equal(dx[~real], 0)
            np.testing.assert_allclose(dx.sum(axis=1), [[1, 1], [1, 1], [0, 0]], rtol=1e-6)


def test_pooled_steps_have_a_mask():
    x = distinct(3, 7, 1)
    x[MASK == 0] = np.nan
    most, mean = MaxPooling1D(3, stride=2), MeanPooling1D(3, stride=2)
    for layer in (most, mean):
        y = layer.forward(x, mask=MASK)
        mask = layer.next_mask((MASK,), y)
        np.testing.assert_array_equal(mask, [[1, 1, 0], [1, 0, 1], [0, 0, 0]])
        np.testing.assert_array_equal(y[mask == 0], 0)
        assert layer.next_mask((None,), y) is None
    np.testing.assert_allclose(mean.forward(x, mask=MASK)[0, 1], x[0, 2:4].mean(axis=0))
    np.testing.assert_array_equal(most.forward(x, mask=MASK)[1, 2], x[1, 6])
    assert GlobalMaxPooling().next_mask((MASK,), np.ones((3, 1))) is None


@pytest.mark.parametrize("shape, cls", [((1, 1, 1024, 1024), MeanPooling), ((1, 1 << 20, 1), None)])
def test_mean_of_a_million_numbers(shape, cls):
    x = np.full(shape, 0.1, "f4")
    layer = MeanPooling(1024) if cls else MeanPooling1D(1 << 20)
    for one in (layer, GlobalMeanPooling()):
        assert one.forward(x, train=False).item() == np.float32(0.1)


# ---------------------------------------------------------------------------------------- bits


@pytest.mark.parametrize("make", [
    lambda: MeanPooling(2),
    lambda: MeanPooling(3, stride=2, padding="same"),
    lambda: MeanPooling((9, 20), stride=(1, 5)),
    GlobalMeanPooling,
    lambda: MaxPooling(3, stride=1, padding=1),
])  # fmt: skip
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_no_bit_depends_on_the_batch_or_on_threads(make, dtype):
    x = np.random.default_rng(3).standard_normal((19, 5, 9, 23)).astype(dtype)
    layer = make()
    whole = layer.forward(x, train=False)
    for i in range(0, 19, 3):
        np.testing.assert_array_equal(layer.forward(x[i : i + 1], train=False)[0], whole[i])
    layer.forward(x)
    dx = layer.backward(whole)
    threads = npdl.get_num_threads()
    try:
        npdl.set_num_threads(1)
        np.testing.assert_array_equal(layer.forward(x), whole)
        np.testing.assert_array_equal(layer.backward(whole), dx)
    finally:
        npdl.set_num_threads(threads)


# -------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: MaxPooling(2, padding="full"), ["`padding`", "'valid', 'same'", "'full'"]),
        (lambda: MaxPooling(2, padding=2), ["`padding`", "smaller than the window", "padding=2"]),
        (lambda: MaxPooling(2, padding=-1), ["`padding`", ">= 0", "-1"]),
        (lambda: MeanPooling(2, padding=(1, 2, 3)), ["`padding`", "(top, bottom)", "(1, 2, 3)"]),
        (lambda: MeanPooling1D(3, padding=((1, 2), 1)), ["`padding`", "(before, after)"]),
        (lambda: MaxPooling1D(3, stride=0), ["`stride`", "0", "(layer 'max_pooling1d')"]),
        (lambda: MaxPooling1D(3).forward(np.ones((1, 2, 3))), ["window must fit", "2 steps long"]),
        (lambda: MaxPooling1D(3).forward(np.ones((1, 2))), ["(N, T, D)", "(1, 2)"]),
        (lambda: GlobalMaxPooling().forward(np.ones((1, 2))), ["(N, C, H, W)", "(1, 2)"]),
        (lambda: GlobalMeanPooling().forward(np.ones((0, 2, 3))), ["must not be empty"]),
        (
            lambda: MaxPooling1D(2).forward(np.ones((1, 4, 3)), mask=np.ones((1, 3))),
            ["`mask`", "(1, 4)", "(1, 3)"],
        ),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError) as caught:
        make()
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, str(caught.value)
