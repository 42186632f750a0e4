"""A whole matrix B, packed once for many products."""

from npdl._ext.gemm cimport FEW_SMALL, pack_task, pack_tasks, product_of, product_t
from npdl._ext.simd cimport real
from npdl._ext.threads cimport run


cdef inline void pack_all(
    Py_ssize_t n, Py_ssize_t k, const real* b, Py_ssize_t b_row, Py_ssize_t b_col, real* out,
    int workers,
) noexcept nogil:
    """Pack all of B, b[k*b_row + j*b_col], for products of few rows that share it."""
    _pack_whole(n, k, b, b_row, b_col, out, True, workers)


cdef inline void pack_tiles(
    Py_ssize_t n, Py_ssize_t k, const real* b, Py_ssize_t b_row, Py_ssize_t b_col, real* out,
    int workers,
) noexcept nogil:
    """As `pack_all`, for `times_panel`: the last panel may be narrower."""
    _pack_whole(n, k, b, b_row, b_col, out, False, workers)


cdef inline void _pack_whole(
    Py_ssize_t n, Py_ssize_t k, const real* b, Py_ssize_t b_row, Py_ssize_t b_col, real* out,
    bint even, int workers,
) noexcept nogil:
    cdef product_t p = product_of(1, n, k, b, 0, 1, b, b_row, b_col, out, 0, False)
    p.packed_b, p.even = out, even
    p.k0, p.k1 = 0, k
    run(pack_task, &p, pack_tasks(&p), 1 if n * k < FEW_SMALL else workers)
