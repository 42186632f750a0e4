"""A row by itself, times columns of B: as many sums at once as registers hold.

With so few products to a number of B, it is read where it is; the tile would have to pack it.
"""

from libc.string cimport memset
from npdl._ext.simd cimport NV, f32v, f64v, real
from npdl._ext.tile cimport MAX_NR, lanes, tile_cols, vec

cdef enum:
    PANELS = 3  # of NV vectors, at once


cdef inline void _row_sums(
    Py_ssize_t wide,
    Py_ssize_t depth,
    const real* a,
    const real* b,
    Py_ssize_t b_row,
    Py_ssize_t b_panel,
    real* c,
    vec* _,
) noexcept nogil:
    """c[j] = Σ_k a[k] b[k, j] for `wide` vectors, a constant: they are kept in registers."""
    cdef vec acc[PANELS * NV]
    cdef vec zero
    cdef vec* out = <vec*> c
    cdef Py_ssize_t j, k
    memset(&zero, 0, sizeof(zero))
    for j in range(wide):
        acc[j] = zero
    for k in range(depth):
        for j in range(wide):
            if (real is float and vec is f32v) or (real is double and vec is f64v):
                acc[j] = acc[j] + a[k] * (
                    <const vec*> (b + j // NV * b_panel + j % NV * lanes(a))
                )[0]
        b += b_row
    for j in range(wide):
        out[j] = acc[j]


cdef inline void row_sums(
    Py_ssize_t wide,
    Py_ssize_t depth,
    const real* a,
    const real* b,
    Py_ssize_t b_row,
    Py_ssize_t b_panel,
    real* c,
) noexcept nogil:
    if real is float:
        _row_sums(wide, depth, a, b, b_row, b_panel, c, <f32v*> NULL)
    else:
        _row_sums(wide, depth, a, b, b_row, b_panel, c, <f64v*> NULL)


cdef inline void row_times_columns(
    Py_ssize_t n,
    Py_ssize_t j,
    Py_ssize_t j1,
    Py_ssize_t depth,
    const real* a,
    const real* b,
    Py_ssize_t b_row,
    Py_ssize_t b_panel,
    real* c,
    bint add,
) noexcept nogil:
    """c[j:j1] (+)= Σ_k a[k] b[k, j:j1], one row; j is the first column of a panel.

    b[k, j] stands at k*b_row + j//NR*b_panel + j%NR, and has n columns.
    """
    cdef real out[PANELS * MAX_NR]
    cdef Py_ssize_t nr = tile_cols(c), width, at, i, k
    cdef const real* first
    while j < j1:
        at = j
        first = b + j // nr * b_panel + j % nr
        if j + PANELS * nr <= j1:
            width = PANELS * nr
            row_sums(PANELS * NV, depth, a, first, b_row, b_panel, out)
        elif j + nr <= j1:
            width = nr
            row_sums(NV, depth, a, first, b_row, b_panel, out)
        elif n >= lanes(c):
            width = min(lanes(c), j1 - j)
            if b_panel == nr and at + lanes(c) > n:  # not beyond the row: some columns once more
                at = n - lanes(c)
                first = b + at
            row_sums(1, depth, a, first, b_row, b_panel, out)
        else:
            width = j1 - j
            for i in range(width):
                out[i] = 0
            for k in range(depth):
                for i in range(width):
                    out[i] += a[k] * first[k * b_row + i]
        for i in range(width):
            if add:
                c[j + i] += out[j - at + i]
            else:
                c[j + i] = out[j - at + i]
        j += width
