"""Every kernel against its NumPy twin: the cases of ``python -m npdl verify``, float32, timed."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.report import table


@dataclass
class KernelRow:
    """Times of one call, ms."""

    kernel: str
    cython: float
    numpy: float


def kernels(seconds: float) -> list[KernelRow]:
    """Time all pairs in turn, in this process."""
    from npdl import _ext, verify

    pair = []
    for backend in ("cython", "numpy"):
        with _ext.use_backend(backend):
            pair.append(_ext.kernels())
    rows = []
    for case in verify.cases("float32", "usual"):
        cython, numpy = (
            1e3 * verify.median_time(case, getattr(namespace, case.function), seconds)
            for namespace in pair
        )
        rows.append(KernelRow(case.function, cython, numpy))
    return rows


def kernels_table(rows: list[KernelRow]) -> str:
    """Times in microseconds and their ratio."""
    lines = [
        (r.kernel, f"{r.cython * 1e3:,.0f}", f"{r.numpy * 1e3:,.0f}", f"{r.numpy / r.cython:.1f}")
        for r in rows
    ]
    text = table(["kernel", "Cython, µs", "NumPy twin, µs", "times as fast"], lines)
    slow = [row.kernel for row in rows if row.cython >= row.numpy]
    return text + (f"\n\nSlower than the twin: {', '.join(slow)}" if slow else "")
