"""Fixtures for all tests."""

from __future__ import annotations

import os

# NumPy reads it at import. Its BLAS keeps a core busy waiting for the next product of the twins,
# which costs a busy machine a quarter of the time. Another value is kept.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest

from npdl import _registry, utils


@pytest.fixture(autouse=True)
def _fresh_state():
    """Each test starts from one seed and in float32, and leaves nothing behind."""
    utils.set_seed(1)
    utils.set_dtype("float32")
    known = dict(_registry._registered)
    yield
    utils.set_dtype("float32")
    _registry._registered.clear()
    _registry._registered.update(known)


@pytest.fixture
def float64():
    """New parameters have dtype float64."""
    utils.set_dtype("float64")


@pytest.fixture
def rng():
    """A generator for the test."""
    return np.random.default_rng(3)
