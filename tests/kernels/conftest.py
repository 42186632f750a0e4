"""Fixtures for the tests of the kernels: which implementations there are."""

from __future__ import annotations

import pytest
from kernel_calls import PAIRS, Call, built_isas, run
from kernel_calls import implementation as kernel_of

from npdl import _ext


class Implementation:
    """All kernels of one build, as attributes; `suffix` is "np" or an instruction set."""

    def __init__(self, suffix: str) -> None:
        self.suffix = suffix
        for names in PAIRS.values():
            for name in names:
                setattr(self, name, kernel_of(suffix, name))

    def run(self, call: Call):
        """What the kernel fills, by name."""
        return run(getattr(self, call.function), call)


@pytest.fixture(
    scope="session", params=["np", *built_isas()], ids=lambda s: "numpy" * (s == "np") or s
)
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
