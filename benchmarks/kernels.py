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
    cases = list(verify.cases("float32", "usual"))
    times = [verify.median_times(cases, namespace, seconds) for namespace in pair]
    return [
        KernelRow(case.function, 1e3 * cython, 1e3 * numpy)
        for case, cython, numpy in zip(cases, *times, strict=True)
    ]


def kernels_table(rows: list[KernelRow]) -> str:
    """Times in microseconds and their ratio."""
    lines = [
        (r.kernel, f"{r.cython * 1e3:,.0f}", f"{r.numpy * 1e3:,.0f}", f"{r.numpy / r.cython:.1f}")
        for r in rows
    ]
    text = table(["kernel", "Cython, µs", "NumPy twin, µs", "times as fast"], lines)
    slow = [row.kernel for row in rows if row.cython >= row.numpy]
    return text + (f"\n\nSlower than the twin: {', '.join(slow)}" if slow else "")
