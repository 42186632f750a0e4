"""Fixtures for all tests."""

from __future__ import annotations

import numpy as np
import pytest

from npdl import utils


@pytest.fixture(autouse=True)
def _fresh_state():
    """Each test starts from one seed and in float32, and leaves nothing behind."""
    utils.set_seed(1)
    utils.set_dtype("float32")
    yield
    utils.set_dtype("float32")


@pytest.fixture
def float64():
    """New parameters are of float64."""
    utils.set_dtype("float64")


@pytest.fixture
def rng():
    """A generator of the test's own."""
    return np.random.default_rng(3)
