"""A single row times columns of B: as many sums at once as registers hold.

Each element of B is used once, so B is read in place; a tile would have to pack it first.
"""

from libc.string cimport memcpy, memset
from npdl._ext.simd cimport (
    NV,
    add_product_f32,
    add_product_f64,
    f32v,
    f64v,
    fma,
    prefetch_w,
    real,
)
from npdl._ext.tile cimport MAX_NR, ceil_div, lanes, tile_cols, vec

cdef enum:
    MOST = 9 // NV * NV  # the most vectors at once: whole panels


cdef inline void _row_sums(
    Py_ssize_t wide,
    Py_ssize_t depth,
    const real* a,
    const real* b,
    Py_ssize_t b_row,
    Py_ssize_t b_panel,
    const real* start,
    real* c,
    vec* _,
) noexcept nogil:
    """As `row_sums`, for vectors of one type."""
    cdef vec acc[9]
    cdef vec zero
    cdef vec* out = <vec*> c
    cdef const real* column
    cdef Py_ssize_t j, k
    memset(&zero, 0, sizeof(zero))
    for j in range(wide):
        acc[j] = zero
    if start != NULL:
        for j in range(wide):
            acc[j] = (<const vec*> start)[j]
    for k in range(depth):
        for j in range(wide):
            column = b + j // NV * b_panel + j % NV * lanes(a)
            if real is float and vec is f32v:
                acc[j] = add_product_f32(acc[j], a[k], (<const vec*> column)[0])
            elif real is double and vec is f64v:
                acc[j] = add_product_f64(acc[j], a[k], (<const vec*> column)[0])
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
    const real* start,
    real* c,
) noexcept nogil:
    """c[j] = s + Σ_k a[k] b[k, j] for `wide` vectors, a constant, so they stay in registers.

    The sums begin with `start`, or with 0 if it is NULL.
    """
    if real is float:
        _row_sums(wide, depth, a, b, b_row, b_panel, start, c, <f32v*> NULL)
    else:
        _row_sums(wide, depth, a, b, b_row, b_panel, start, c, <f64v*> NULL)


cdef inline void some_row_sums(
    Py_ssize_t wide,
    Py_ssize_t depth,
    const real* a,
    const real* b,
    Py_ssize_t b_row,
    Py_ssize_t b_panel,
    const real* start,
    real* c,
) noexcept nogil:
    """As `row_sums`, for 1 to 9 vectors."""
    if wide == 9:
        row_sums(9, depth, a, b, b_row, b_panel, start, c)
    elif wide == 8:
        row_sums(8, depth, a, b, b_row, b_panel, start, c)
    elif wide == 7:
        row_sums(7, depth, a, b, b_row, b_panel, start, c)
    elif wide == 6:
        row_sums(6, depth, a, b, b_row, b_panel, start, c)
    elif wide == 5:
        row_sums(5, depth, a, b, b_row, b_panel, start, c)
    elif wide == 4:
        row_sums(4, depth, a, b, b_row, b_panel, start, c)
    elif wide == 3:
        row_sums(3, depth, a, b, b_row, b_panel, start, c)
    elif wide == 2:
        row_sums(2, depth, a, b, b_row, b_panel, start, c)
    else:
        row_sums(1, depth, a, b, b_row, b_panel, start, c)


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

    b[k, j] is at k*b_row + j//NR*b_panel + j%NR, and b has n columns. The sums start from the old
    values of c, so that the result is one unbroken sum.
    """
    cdef real out[MAX_NR]
    cdef Py_ssize_t nr = tile_cols(c), width, whole, at, i, k
    cdef const real* first
    cdef const real* start
    i = j
    while add and i < j1:
        prefetch_w(c + i)
        i += 64 // sizeof(real)
    while j < j1:
        at, whole = j, (j1 - j) // lanes(c)
        first = b + j // nr * b_panel + j % nr
        start = c + j if add else NULL
        # all that are left: with few vectors, each sum would wait for the one before
        if whole:
            width = min(whole, <Py_ssize_t> MOST) * lanes(c)
            some_row_sums(width // lanes(c), depth, a, first, b_row, b_panel, start, c + j)
        elif n >= lanes(c):
            width = min(lanes(c), j1 - j)
            if b_panel == nr and at + lanes(c) > n:  # to stay inside the row, repeat some columns
                at = n - lanes(c)
                first = b + at
            if start != NULL:
                memset(out, 0, lanes(c) * sizeof(real))
                memcpy(out + j - at, start, width * sizeof(real))
                start = out
            row_sums(1, depth, a, first, b_row, b_panel, start, out)
            memcpy(c + j, out + j - at, width * sizeof(real))
        else:  # a vector reads into the next row, if there is one
            width = j1 - j
            memset(out, 0, lanes(c) * sizeof(real))
            if start != NULL:
                memcpy(out, start, width * sizeof(real))
            k = max(<Py_ssize_t> 0, depth - ceil_div(lanes(c), b_row))
            row_sums(1, k, a, first, b_row, b_panel, out, out)
            while k < depth:
                for i in range(width):
                    out[i] = fma(a[k], first[k * b_row + i], out[i])
                k += 1
            memcpy(c + j, out, width * sizeof(real))
        j += width
