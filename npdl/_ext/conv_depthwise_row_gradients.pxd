"""Gradients of depthwise 3 x 3 filters, where rows lie, as in ``conv_depthwise_rows.pxd``.

*Weights.* The nine sums of a column of vectors stay in registers, while each row of the image meets
the rows of dz that it was a part of. Numbers of column j add up in lane j mod BLOCK, row by row and
block by block, whatever the length of a vector. Numbers of the last block that is not whole have
lanes of their own. Its last vector may overlap the one before: only its new lanes count.

*Input, stride 2.* Pixels of even and odd rows and columns have different taps: 4, 2, 2 and 1. Their
vectors come from a row of dz and from the one above, and are mixed into rows of dx. The taps are
added in the order of ``conv_depthwise_gradients.pxd``, so both give the same bits.
"""

from libc.string cimport memcpy, memset
from npdl._ext.conv cimport conv_t
from npdl._ext.conv_depthwise_rows cimport WIDEST, column_of, column_t, has_rows, next_row, row_t
from npdl._ext.simd cimport (
    HALF_F32,
    LANES_F32,
    add_product_f32,
    add_product_f32h,
    f32h,
    f32v,
    fma_f32h,
    fma_f32v,
    mix_f32h,
    mix_f32v,
)

cdef enum:
    BLOCK = 16  # columns whose products have sums of their own
    SUMS = 3 * BLOCK  # of a tap: whole blocks, the last block, and its last vector if it overlaps
    LEAST_COLUMNS = 8  # of dz: with fewer, builds would differ in their form, and so in their bits


cdef inline bint has_row_weights(const conv_t* j) noexcept nogil:
    return has_rows(j) and j.ow >= LEAST_COLUMNS


cdef inline bint has_row_input(const conv_t* j) noexcept nogil:
    """Whether each two columns of dx belong to one of dz."""
    return has_rows(j) and j.sh == 2 and j.f == 1 and j.w == 2 * j.ow


# --------------------------------------------------------------------------------------- weights

cdef inline void _add_three(row_t* acc, row_t dz, const row_t* v) noexcept nogil:
    cdef int k
    for k in range(3):
        if row_t is f32v:
            acc[k] = fma_f32v(dz, v[k], acc[k])
        else:
            acc[k] = fma_f32h(dz, v[k], acc[k])


cdef inline void _add_column(
    column_t c, Py_ssize_t count, Py_ssize_t across, const float* dz, float* sums, row_t* _
) noexcept nogil:
    """sums[k] += Σ_i dz[i] x[i, k] over `count` rows i of dz, for the vectors of a column."""
    cdef row_t acc[9]
    cdef row_t v[3]
    cdef row_t above, middle, last
    cdef Py_ssize_t i
    cdef int k
    for k in range(9):
        acc[k] = (<const row_t*> (sums + k * SUMS))[0]
    memset(&above, 0, sizeof(above))
    middle = last = above
    for i in range(count + 3 - c.stride):
        above, middle = middle, last
        next_row(&c, v)
        if i < count:
            last = (<const row_t*> (dz + i * across))[0]
            _add_three(&acc[0], last, v)
        if c.stride == 1:
            if 0 < i <= count:
                _add_three(&acc[3], middle, v)
            if i > 1:
                _add_three(&acc[6], above, v)
        else:
            if i > 0:
                _add_three(&acc[6], middle, v)
            if i < count:
                next_row(&c, v)
                _add_three(&acc[3], last, v)
    for k in range(9):
        (<row_t*> (sums + k * SUMS))[0] = acc[k]


cdef inline Py_ssize_t _lanes_for(Py_ssize_t columns) noexcept nogil:
    """Lanes of the vectors of rows of so many numbers."""
    return LANES_F32 if columns >= LANES_F32 else HALF_F32


cdef inline void add_plane(
    const conv_t* j, const float* x, const float* dz, float* sums
) noexcept nogil:
    """Add the products of a plane of x and one of dz to sums, [9][SUMS]."""
    cdef column_t c
    cdef float zeros[WIDEST]
    cdef Py_ssize_t lanes = _lanes_for(j.ow), col = 0, at
    memset(zeros, 0, sizeof(zeros))
    while col < j.ow:
        if col > j.ow - lanes:
            col = j.ow - lanes
            at = 2 * BLOCK
        else:
            at = col % BLOCK if col < j.ow // BLOCK * BLOCK else BLOCK + col % BLOCK
        c = column_of(x, j.h, j.w, j.sw, j.ph, j.pw, col, lanes, zeros)
        if lanes == LANES_F32:
            _add_column[f32v](c, j.oh, j.ow, dz + col, sums + at, NULL)
        elif HALF_F32 < LANES_F32:
            _add_column[f32h](c, j.oh, j.ow, dz + col, sums + at, NULL)
        col += lanes


cdef inline void join_lanes(const conv_t* j, float* sums) noexcept nogil:
    """Put the new lanes of the overlapping vector of a tap beside those of the last block."""
    cdef Py_ssize_t lanes = _lanes_for(j.ow), rest = j.ow % lanes
    memcpy(
        sums + BLOCK + j.ow % BLOCK - rest, sums + 2 * BLOCK + lanes - rest, rest * sizeof(float)
    )


# ----------------------------------------------------------------------------------------- input

cdef inline void _add_taps(
    row_t* even, row_t* odd, const float* w, const row_t* dz, bint pad
) noexcept nogil:
    """Add the products of a row of dz and a row of the filter: columns of two and of one tap."""
    if row_t is f32v:
        odd[0] = add_product_f32(odd[0], w[1], dz[1])
        even[0] = add_product_f32(even[0], w[0], dz[1 + pad])
        even[0] = add_product_f32(even[0], w[2], dz[pad])
    else:
        odd[0] = add_product_f32h(odd[0], w[1], dz[1])
        even[0] = add_product_f32h(even[0], w[0], dz[1 + pad])
        even[0] = add_product_f32h(even[0], w[2], dz[pad])


cdef inline void _put(row_t even, row_t odd, bint pad, float* to) noexcept nogil:
    if pad:
        even, odd = odd, even
    if row_t is f32v:
        mix_f32v(even, odd, <row_t*> to)
    else:
        mix_f32h(even, odd, <row_t*> to)


cdef inline void _spread_column(
    column_t c, Py_ssize_t high, Py_ssize_t wide, Py_ssize_t ph, bint pad, const float* w,
    float* dx, row_t* _
) noexcept nogil:
    """The pixels of dx that belong to a column of vectors of dz."""
    cdef row_t above[3]
    cdef row_t v[3]
    cdef row_t even, odd, zero
    cdef float k[9]
    cdef Py_ssize_t i = -ph
    memcpy(k, w, sizeof(k))
    memset(&zero, 0, sizeof(zero))
    v[0] = v[1] = v[2] = zero
    while i < high:
        above[0], above[1], above[2] = v[0], v[1], v[2]
        next_row(&c, v)
        even = odd = zero
        if i >= 0:
            _add_taps(&even, &odd, k, v, pad)
            _add_taps(&even, &odd, k + 6, above, pad)
            _put(even, odd, pad, dx + i * wide)
        even = odd = zero
        if 0 <= i + 1 < high:
            _add_taps(&even, &odd, k + 3, v, pad)
            _put(even, odd, pad, dx + (i + 1) * wide)
        i += 2


cdef inline void plane_spread(
    const conv_t* j, const float* dz, const float* w, float* dx
) noexcept nogil:
    """A plane of dx, for a stride of 2."""
    cdef column_t c
    cdef float zeros[WIDEST]
    cdef Py_ssize_t lanes = _lanes_for(j.ow), col = 0
    memset(zeros, 0, sizeof(zeros))
    while col < j.ow:
        col = min(col, j.ow - lanes)
        c = column_of(dz, j.oh, j.ow, 1, 0, 1, col, lanes, zeros)
        if lanes == LANES_F32:
            _spread_column[f32v](c, j.h, j.w, j.ph, j.pw, w, dx + 2 * col, NULL)
        elif HALF_F32 < LANES_F32:
            _spread_column[f32h](c, j.h, j.w, j.ph, j.pw, w, dx + 2 * col, NULL)
        col += lanes
