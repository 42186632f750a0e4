"""Random numbers, dtype, labels."""

from __future__ import annotations

import numpy as np
import pytest

from npdl import utils
from npdl.initializations import GlorotUniform
from npdl.utils import get_dtype, get_rng, one_hot, set_dtype, set_rng, set_seed, unhot


@pytest.fixture(autouse=True)
def restore():
    rng, dtype = get_rng(), get_dtype()
    yield
    set_rng(rng)
    set_dtype(dtype)


def test_modules_of_old_scripts():
    assert utils.random.get_rng is get_rng
    assert utils.random.set_dtype is set_dtype
    assert utils.data.one_hot is one_hot


def test_same_seed_same_bits():
    set_seed(7)
    first = get_rng().normal(size=5), GlorotUniform()((3, 4))
    set_seed(7)
    second = get_rng().normal(size=5), GlorotUniform()((3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, second))
    set_seed(8)
    assert not np.array_equal(first[0], get_rng().normal(size=5))


def test_global_state_of_numpy_is_untouched():
    before = np.random.get_state(legacy=False)  # noqa: NPY002
    set_seed(7)
    GlorotUniform()((3, 4))
    set_rng(np.random)
    get_rng().normal(size=5)
    after = np.random.get_state(legacy=False)  # noqa: NPY002
    assert np.array_equal(before["state"]["key"], after["state"]["key"])
    assert before["state"]["pos"] == after["state"]["pos"]


def test_set_rng_takes_a_generator_as_it_is():
    rng = np.random.default_rng(3)
    set_rng(rng)
    assert get_rng() is rng


def test_set_rng_copies_a_random_state():
    old = np.random.RandomState(3)
    set_rng(old)
    first = get_rng().uniform(size=3)
    set_rng(old)
    assert np.array_equal(first, get_rng().uniform(size=3))
    assert np.array_equal(first, np.random.RandomState(3).uniform(size=3))
    with pytest.raises(TypeError, match=r"`rng` must be a numpy.random.Generator. Received: rng=3"):
        set_rng(3)


@pytest.mark.parametrize("spelling", [np.float64, "float64", "f8", float, np.dtype("d")])
def test_dtype(spelling):
    assert get_dtype() == np.float32
    set_dtype(spelling)
    assert get_dtype() == np.dtype("float64")
    assert GlorotUniform()((2, 2)).dtype == one_hot([1]).dtype == np.float64


@pytest.mark.parametrize("wrong", ["float16", np.int64, None, "decimal", ">f4"])
def test_other_dtypes_are_errors(wrong):
    with pytest.raises(ValueError, match=r"`dtype` must be float32 or float64. Received: dtype="):
        set_dtype(wrong)
    assert get_dtype() == np.float32


def test_one_hot_column_is_label():
    assert one_hot([0, 2], 3).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert one_hot([1, 0]).tolist() == [[0, 1], [1, 0]]
    assert one_hot(np.array([2.0])).tolist() == [[0, 0, 1]]
    assert one_hot([[0], [1]]).shape == (2, 1, 2)
    assert one_hot([], 3).shape == (0, 3)
    assert one_hot([1]).dtype == np.float32


def test_one_hot_errors():
    with pytest.raises(ValueError, match=r"`labels` must lie in \[0, 3\). Received: label=3"):
        one_hot([0, 3], 3)
    with pytest.raises(ValueError, match=r"`labels` must lie in \[0, inf\). Received: label=-1"):
        one_hot([0, -1])
    for bad in (0.5, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"`labels` must be whole numbers. Received: label="):
            one_hot([0, bad])
    with pytest.raises(TypeError, match="`labels` must be whole numbers"):
        one_hot(["a"])
    with pytest.raises(ValueError, match="`nb_classes` must be given"):
        one_hot([])
    with pytest.raises(ValueError, match="`nb_classes` must be an integer >= 1"):
        one_hot([0], 0)


def test_unhot():
    labels = np.array([[2, 0], [1, 1]])
    assert np.array_equal(unhot(one_hot(labels)), labels)
    assert unhot([[0.2, 0.7, 0.1]]).tolist() == [1]
    for bad in ([1, 0], np.zeros((3, 0))):
        with pytest.raises(ValueError, match=r"must have shape \(N, K\), K >= 1. Received: shape="):
            unhot(bad)
