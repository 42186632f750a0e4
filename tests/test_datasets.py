"""The digits: their shapes, values, split, licence and size."""

from importlib.resources import files

import numpy as np
import pytest

from npdl.datasets import load_digits


def test_digits_shapes_types_and_range():
    (x_train, y_train), (x_test, y_test) = load_digits()
    assert x_train.shape == (1438, 1, 8, 8) and x_test.shape == (359, 1, 8, 8)
    assert y_train.shape == (1438,) and y_test.shape == (359,)
    for x, y in [(x_train, y_train), (x_test, y_test)]:
        assert x.dtype == np.float32 and y.dtype == np.int64
        assert x.flags.c_contiguous
        assert x.min() == 0 and x.max() == 1
        assert set(y) == set(range(10))


def test_every_fifth_digit_is_held_out():
    (x_train, y_train), (x_test, y_test) = load_digits()
    datasets = pytest.importorskip("sklearn.datasets")
    images, labels = datasets.load_digits(return_X_y=True)
    np.testing.assert_array_equal(x_test.reshape(-1, 64), (images[4::5] / 16).astype(np.float32))
    np.testing.assert_array_equal(y_test, labels[4::5])
    rest = np.arange(len(labels)) % 5 != 4
    np.testing.assert_array_equal(x_train.reshape(-1, 64) * 16, images[rest])
    np.testing.assert_array_equal(y_train, labels[rest])


def test_each_call_returns_its_own_arrays():
    load_digits()[0][0][...] = -1
    assert load_digits()[0][0].min() == 0


def test_the_file_is_small_and_its_licence_is_beside_it():
    folder = files("npdl.datasets")
    assert len(folder.joinpath("digits.npz").read_bytes()) < 70_000
    licence = folder.joinpath("LICENSE-digits.txt").read_text()
    assert "CC BY 4.0" in licence and "10.24432/C50P49" in licence
    assert "CC BY 4.0" in (load_digits.__doc__ or "")
