"""Fixtures for the tests of the kernels: the available implementations."""

from __future__ import annotations

import contextlib
import importlib

import numpy as np
import pytest
from kernel_calls import PAIRS, Call, built_isas, run
from kernel_calls import implementation as kernel_of

from npdl import _ext
from npdl._ext.activation_np import LINEAR


class Implementation:
    """All kernels of one build, as attributes; `suffix` is "np" or an instruction set."""

    def __init__(self, suffix: str) -> None:
        self.suffix = suffix
        for names in PAIRS.values():
            for name in names:
                setattr(self, name, kernel_of(suffix, name))
        self._poison = [np.full(shape, -1, np.int32).view(np.float32) for shape in SHAPES]

    def run(self, call: Call):
        """The arrays that the kernel fills, by name."""
        if self.suffix != "np":
            self.poison_scratch()
        return run(getattr(self, call.function), call)

    @contextlib.contextmanager
    def precision(self, mode: str):
        """Set the precision of this build in a ``with`` block, like `npdl.set_precision`."""
        conv = importlib.import_module(f"npdl._ext.conv_{self.suffix}")
        conv.set_winograd(mode == "fast")
        try:
            yield
        finally:
            conv.set_winograd(_ext.get_precision() == "fast")

    def poison_scratch(self) -> None:
        """Fill the scratch memory that the next call gets with bits that are NaN in both dtypes."""
        x, w, b, y = self._poison
        self.dense_forward(x, w, b, y, (LINEAR, 1.0))


SHAPES = ((97, 256), (256, 2100), (2100,), (97, 2100))  # x, w, b, y: 2 MB of packed numbers


@pytest.fixture(scope="session", params=["np", *built_isas()])
def implementation(request):
    """The twins, then each compiled build that this CPU runs."""
    return Implementation(request.param)


@pytest.fixture(scope="session", params=built_isas())
def compiled(request):
    """Each compiled build that this CPU runs."""
    return Implementation(request.param)


@pytest.fixture(params=["cython", "numpy"])
def backend(request):
    """The active kernels of each backend."""
    if request.param not in _ext.available_backends():
        pytest.skip("needs the Cython kernels")
    with _ext.use_backend(request.param):
        yield _ext.kernels()
