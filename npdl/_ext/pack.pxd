"""Packing: the elements of a matrix in the order in which the register tiles read them."""

from libc.string cimport memcpy, memset
from npdl._ext.simd cimport LANES_F32, MR, TALL, opaque, real, transpose, transpose4
from npdl._ext.tile cimport ceil_div, lanes, panel_width, tile_cols

cdef enum:
    LINE = 4  # tiles of A packed together


cdef inline void _pack_columns(
    const float* b, Py_ssize_t b_col, Py_ssize_t depth, Py_ssize_t nr, float* out
) noexcept nogil:
    """Pack four columns, each contiguous."""
    cdef Py_ssize_t k = 0, j
    cdef float* to
    while k + 4 <= depth:
        to = out + k * nr
        transpose4(b + k, b_col, to, to + nr, to + 2 * nr, to + 3 * nr)
        k += 4
    while k < depth:
        for j in range(4):
            out[k * nr + j] = b[k + j * b_col]
        k += 1


cdef inline void _pack_block(
    const float* b, Py_ssize_t b_col, Py_ssize_t depth, Py_ssize_t nr, float* out
) noexcept nogil:
    """Pack as many columns as a vector has numbers, each contiguous."""
    cdef Py_ssize_t from_at[LANES_F32]
    cdef Py_ssize_t to_at[LANES_F32]
    cdef Py_ssize_t k = 0, j
    for j in range(LANES_F32):
        from_at[j], to_at[j] = j * b_col, j * nr
    while k + LANES_F32 <= depth:
        transpose(b + k, from_at, out + k * nr, to_at)
        k += LANES_F32
    while k < depth:
        for j in range(LANES_F32):
            out[k * nr + j] = b[k + j * b_col]
        k += 1


ctypedef void (*pack_t)(
    const float*, Py_ssize_t, Py_ssize_t, Py_ssize_t, float*
) noexcept nogil


cdef inline void _copy_row(const real* row, real* to, Py_ssize_t nr) noexcept nogil:
    if nr == tile_cols(to):  # as a constant
        memcpy(to, row, tile_cols(to) * sizeof(real))
    elif nr == lanes(to):
        memcpy(to, row, lanes(to) * sizeof(real))
    else:
        memcpy(to, row, 2 * lanes(to) * sizeof(real))


cdef inline void pack_panels(
    const real* b,
    Py_ssize_t b_row,
    Py_ssize_t b_col,
    Py_ssize_t depth,
    Py_ssize_t cols,
    Py_ssize_t nr,
    bint even,
    real* out,
) noexcept nogil:
    """b[k*b_row + j*b_col] for k < depth, j < cols, as panels one after another.

    A panel has depth x nr elements; the last one may be narrower (`panel_width`), unless `even`.
    The last column is followed by whatever follows it in b, or zeros.
    """
    cdef Py_ssize_t whole = cols // nr, rest = cols % nr, s, j, k, inside
    cdef Py_ssize_t last = nr if even else panel_width(rest, nr, out), wide
    cdef const real* row
    cdef real* to
    if b_col != 1:
        if rest:
            memset(out + whole * nr * depth, 0, depth * last * sizeof(real))
        j = 0
        while j < cols:
            to = out + j // nr * nr * depth + j % nr
            wide = nr if j < whole * nr else last
            if (
                real is float
                and LANES_F32 > 4
                and b_row == 1
                and j + LANES_F32 <= min(cols, j // nr * nr + nr)
            ):
                (<pack_t> opaque(<void*> &_pack_block))(b + j * b_col, b_col, depth, wide, to)
                j += LANES_F32
            elif real is float and b_row == 1 and j + 4 <= min(cols, j // nr * nr + nr):
                _pack_columns(b + j * b_col, b_col, depth, wide, to)
                j += 4
            else:
                for k in range(depth):
                    to[k * wide] = b[k * b_row + j * b_col]
                j += 1
        return
    inside = depth - ceil_div(last - rest, b_row)  # rows of which `last` elements can be read
    for k in range(depth):
        row, to = b + k * b_row, out + k * nr
        for s in range(whole):
            _copy_row(row + s * nr, to + s * nr * depth, nr)
        to = out + whole * nr * depth + k * last
        if rest and k < inside:
            _copy_row(row + whole * nr, to, last)
        elif rest:
            memset(to, 0, last * sizeof(real))
            memcpy(to, row + whole * nr, rest * sizeof(real))


cdef inline void pack_rows(
    const real* a, Py_ssize_t a_row, Py_ssize_t a_col, Py_ssize_t rows, Py_ssize_t depth,
    Py_ssize_t mr, real* out,
) noexcept nogil:
    """Pack a[i*a_row + k*a_col], mr rows at a time, with the elements of one k side by side."""
    cdef Py_ssize_t i, k, i0 = 0
    while a_row == 1 and i0 + LINE * mr <= rows:  # a cache line of A at a time
        for k in range(depth):
            for i in range(LINE):
                if mr == MR:  # as a constant
                    memcpy(
                        out + (i * depth + k) * MR, a + i0 + i * MR + k * a_col, MR * sizeof(real)
                    )
                else:
                    memcpy(
                        out + (i * depth + k) * TALL, a + i0 + i * TALL + k * a_col,
                        TALL * sizeof(real),
                    )
        out += LINE * mr * depth
        i0 += LINE * mr
    while i0 < rows:
        for i in range(min(mr, rows - i0)):
            for k in range(depth):
                out[k * mr + i] = a[(i0 + i) * a_row + k * a_col]
        out += mr * depth
        i0 += mr
