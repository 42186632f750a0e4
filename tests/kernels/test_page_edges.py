"""No kernel reads out of bounds, not even values that it ignores.

Each array ends where a page ends, then starts where one starts, and the pages around it are
protected: a read out of bounds ends the process. So the calls run in a separate process.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import CASES
from kernel_calls import FILLED, Call, Maker, built_isas, implementation
from test_conv_forms import FORMS

import npdl

HERE = Path(__file__).parent


def between_pages(array: np.ndarray, at_end: bool) -> np.ndarray:
    """A copy of `array` at one end of its pages, between two inaccessible pages."""
    page = mmap.PAGESIZE
    pages = max(1, -(-array.nbytes // page))
    memory = mmap.mmap(-1, (pages + 2) * page)
    first = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    for border in (first, first + (pages + 1) * page):
        no_access = 0
        if libc.mprotect(ctypes.c_void_p(border), ctypes.c_size_t(page), no_access):
            raise OSError(ctypes.get_errno(), "mprotect")
    start = (pages + 1) * page - array.nbytes if at_end else page
    copy = np.frombuffer(memory, array.dtype, array.size, start).reshape(array.shape)
    copy[...] = array
    return copy


def call_all(suffix: str) -> None:
    """Every case, forward and backward, in both formats and at both ends of a page."""
    forms = {label: ("conv", options) for label, options in FORMS.items()}
    for label, (kind, options) in {**CASES, **forms}.items():
        for dtype in ("float32", "float64"):
            make = getattr(Maker(dtype), "recurrent" if "cell" in options else kind)
            for call in make(**options):
                print(call.function, label, dtype, flush=True)
                call_once(suffix, call)


def call_once(suffix: str, call: Call) -> None:
    kernel = implementation(suffix, call.function)
    for at_end in (True, False):
        args = {
            name: between_pages(value, at_end) if isinstance(value, np.ndarray) else value
            for name, value in call.args.items()
        }
        for name in set(args) - set(FILLED[call.function]):
            if isinstance(args[name], np.ndarray):
                args[name].flags.writeable = False
        kernel(*args.values())


def in_a_process(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    paths = [str(Path(npdl.__file__).parents[1]), str(HERE), str(HERE.parent)]
    return subprocess.run(
        [sys.executable, "-c", f"import test_page_edges as edges; {code}"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | variables,
        capture_output=True,
        text=True,
        timeout=600,
    )


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")


@pytest.mark.parametrize("suffix", built_isas())
def test_kernels_read_nothing_beside_their_arrays(suffix):
    done = in_a_process(f"edges.call_all({suffix!r})")
    calls = done.stdout.splitlines()
    assert done.returncode == 0, f"{calls[-1:]} {done.stderr}"
    assert len(calls) > 2 * len(CASES)


@pytest.mark.parametrize("at_end, index", [(True, 8), (False, -1)])
def test_a_read_beside_an_array_ends_the_process(at_end, index):
    code = f"a = edges.between_pages(edges.np.ones(8), {at_end}); import ctypes; "
    code += f"ctypes.c_double.from_address(a.ctypes.data + 8 * {index}).value"
    left_to_the_system = "handle_segv=0:detect_leaks=0"  # not a finding
    assert in_a_process(code, ASAN_OPTIONS=left_to_the_system).returncode < 0
