"""Layers that reshape, reorder, resize, pad and crop; values of Keras are in `test_pooling.py`."""

from __future__ import annotations

import numpy as np
import pytest

import npdl
from npdl.layers import (
    Cropping,
    Cropping1D,
    Permute,
    RepeatVector,
    Reshape,
    UpSampling,
    UpSampling1D,
    ZeroPadding,
    ZeroPadding1D,
)
from npdl.testing import check_layer

MASK = np.array([[1, 1, 1, 0], [0, 1, 1, 1]], bool)


@pytest.mark.parametrize("size", [1, 2, (3, 1), (2, 5)], ids=str)
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 4, 5), (2, 3, 1, 1)], ids=str)
def test_up_sampling(size, interpolation, shape):
    check_layer((UpSampling, {"size": size, "interpolation": interpolation}), shape)


@pytest.mark.parametrize("sides", [0, 2, (1, 2), ((0, 2), (3, 1))], ids=str)
def test_padding_and_cropping(sides):
    check_layer((ZeroPadding, {"padding": sides}), (2, 3, 4, 5))
    check_layer((Cropping, {"cropping": sides}), (2, 3, 6, 7))
    check_layer((Cropping, {"cropping": sides}), (2, 6, 7), dtypes=("float64",))
    x = np.random.default_rng(0).random((2, 3, 4, 5))
    there = ZeroPadding(sides).forward(x)
    np.testing.assert_array_equal(Cropping(sides).forward(there), x)
    assert there.sum() == pytest.approx(x.sum())


@pytest.mark.parametrize("sides", [1, (0, 2)], ids=str)
def test_layers_of_steps(sides):
    check_layer((ZeroPadding1D, {"padding": sides}), (2, 3, 4))
    check_layer((Cropping1D, {"cropping": sides}), (2, 5, 4))
    check_layer((UpSampling1D, {"size": 3}), (3, 4, 2))


@pytest.mark.parametrize("shape", [-1, 12, (4, 3), (2, -1, 3), (-1, 12)], ids=str)
def test_reshape(shape):
    check_layer((Reshape, {"shape": shape}), (2, 3, 4))


@pytest.mark.parametrize("axes", [(2, 1, 3), (3, 1, 2), (1, 2, 3)], ids=str)
def test_permute(axes):
    check_layer((Permute, {"axes": axes}), (2, 3, 4, 5))
    x = np.random.default_rng(0).integers(9, size=(2, 3, 4, 5))
    y = Permute(axes).forward(x)
    np.testing.assert_array_equal(y, x.transpose(0, *axes))
    assert y.dtype == x.dtype


def test_repeat_vector():
    check_layer((RepeatVector, {"n": 3}), (2, 4))


def shape_after(layer, *shape):
    layer.connect_to(npdl.graph.Input((None, *shape)))
    return layer.out_shape


def test_open_axes():
    assert shape_after(Reshape((-1, 8)), None, 4) == (None, None, 8)
    assert shape_after(Reshape((3, -1)), 6, 4) == (None, 3, 8)
    assert shape_after(Reshape((2, 3)), None) == (None, 2, 3)
    assert Reshape((-1, 8)).forward(np.ones((2, 6, 4))).shape == (2, 3, 8)
    assert shape_after(Permute((2, 1)), None, 4) == (None, 4, None)
    assert shape_after(UpSampling((2, 3)), 1, None, 4) == (None, 1, None, 12)
    assert shape_after(UpSampling1D(2), None, 4) == (None, None, 4)
    assert shape_after(ZeroPadding(((1, 0), (2, 2))), 1, None, 4) == (None, 1, None, 8)
    assert shape_after(Cropping1D((1, 2)), None, 4) == (None, None, 4)
    assert shape_after(RepeatVector(5), 4) == (None, 5, 4)


def test_masks():
    x = np.ones((2, 4, 3))
    for layer, wanted in [
        (UpSampling1D(2), np.repeat(MASK, 2, axis=1)),
        (ZeroPadding1D((1, 2)), [[0, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0, 0]]),
        (Cropping1D((1, 0)), MASK[:, 1:]),
    ]:
        y = layer.forward(x)
        mask = layer.next_mask((MASK,), y)
        np.testing.assert_array_equal(mask, wanted)
        assert mask.shape == y.shape[:2]
        assert layer.next_mask((None,), y) is None
    for layer in (Reshape((4, 3)), Permute((1, 2))):  # the steps are no longer known
        assert layer.next_mask((MASK,), layer.forward(x)) is None
    assert RepeatVector(4).next_mask((None,), np.ones((2, 4, 3))) is None


def test_bilinear_is_exact_on_a_slope():
    x = np.arange(6.0).reshape(1, 1, 1, 6)
    y = UpSampling((1, 4), interpolation="bilinear").forward(x)
    np.testing.assert_allclose(y.ravel()[2:-2], np.arange(2, 22) / 4 - 0.375, rtol=1e-15)
    np.testing.assert_array_equal(y.ravel()[[0, 1, -2, -1]], [0, 0, 5, 5])


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: UpSampling(0), ["`size`", ">= 1", "(layer 'up_sampling')"]),
        (lambda: UpSampling(2, interpolation="cubic"), ["`interpolation`", "'bilinear'", "cubic"]),
        (lambda: ZeroPadding((1, 2, 3)), ["`padding`", "((top, bottom), (left, right))"]),
        (lambda: ZeroPadding1D(-1), ["`padding`", ">= 0", "-1"]),
        (lambda: Cropping(2).forward(np.ones((1, 4, 5))), ["must leave something", "(1, 4, 5)"]),
        (lambda: shape_after(Cropping1D(2), 4, 3), ["must leave something", "(2, 2)"]),
        (lambda: Reshape((-1, -1)), ["Only one size", "-1"]),
        (lambda: Reshape((2, 0)), ["`shape`", ">= 1"]),
        (lambda: shape_after(Reshape((5,)), 4), ["as many numbers", "(5,)", "(None, 4)"]),
        (lambda: Reshape((3, -1)).forward(np.ones((2, 4))), ["as many numbers", "(2, 4)"]),
        (lambda: Permute((1, 3)), ["`axes`", "each once", "(1, 3)"]),
        (lambda: Permute((0, 1)), ["`axes`", ">= 1"]),
        (lambda: shape_after(Permute((2, 1)), 4), ["3 axes", "(None, 4)"]),
        (lambda: shape_after(RepeatVector(2), 4, 3), ["2 axes", "(None, 4, 3)"]),
        (lambda: UpSampling(2).forward(np.ones((2, 3))), ["(N, C, H, W)", "(2, 3)"]),
        (lambda: UpSampling1D(2).forward(np.ones((2, 0, 3))), ["must not be empty"]),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError) as caught:
        make()
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, str(caught.value)
