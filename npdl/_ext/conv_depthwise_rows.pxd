"""Depthwise convolution with 3 x 3 filters, where the rows of an image lie: nothing is copied.

Each row is read once for all outputs that it is part of, which wait in registers. The vectors of
its left, middle and right columns are one vector, moved by a lane; the number that moves in is the
next one of the row, or 0 beside the image. With a stride of 2, they are the even and odd numbers of
two vectors, one of them moved.

The gradient of the input without a stride is the same with turned filters. Planes are then read
from the last number to the first, so that the taps are added in the order of the filters as they
are.
"""

from libc.math cimport INFINITY
from libc.string cimport memcpy, memset
from npdl._ext.activation cimport RELU
from npdl._ext.conv cimport conv_t
from npdl._ext.simd cimport (
    EDGE_FORMS,
    HALF_F32,
    LANES_F32,
    add_product_f32,
    add_product_f32h,
    at_least_f32h,
    at_least_f32v,
    down_f32h,
    down_f32v,
    even_f32h,
    even_f32v,
    f32h,
    f32v,
    odd_f32h,
    odd_f32v,
    up_f32h,
    up_f32v,
)

cdef enum:
    WIDEST = 32  # the most numbers of a row that are read at once

ctypedef fused row_t:
    f32v
    f32h

# Where a column of vectors is read in a plane.
ctypedef struct column_t:
    Py_ssize_t row, rows  # the next row, and how many there are
    Py_ssize_t lanes, stride, pad
    bint turned
    Py_ssize_t step, step_before, step_after
    const float* source
    const float* before  # the number to the left, and
    const float* after  # to the right
    const float* zeros  # [WIDEST], for what is beside the image


cdef inline bint has_rows(const conv_t* j) noexcept nogil:
    """Whether vectors of outputs need no number beside the image but one in the first and last."""
    return (
        EDGE_FORMS and j.single and not j.last and j.kh == 3 and j.kw == 3
        and j.dil_h == 1 and j.dil_w == 1 and j.sh == j.sw and j.pw <= 1 and j.ow >= HALF_F32
        and (j.sw == 1 and j.ow < j.w + j.pw or j.sw == 2 and 2 * j.ow <= j.w)
    )


cdef inline column_t column_of(
    const float* x, Py_ssize_t high, Py_ssize_t wide, Py_ssize_t stride, Py_ssize_t ph,
    Py_ssize_t pw, Py_ssize_t col, Py_ssize_t lanes, const float* zeros,
) noexcept nogil:
    """Of a plane, for the vector of outputs from column `col` on."""
    cdef column_t c
    cdef Py_ssize_t at = col * stride + (1 - pw if stride == 1 else 0)
    c.row, c.rows, c.lanes, c.stride, c.pad, c.turned = -ph, high, lanes, stride, pw, False
    c.source, c.step, c.zeros = x + at - ph * wide, wide, zeros
    c.before = c.after = zeros
    c.step_before = c.step_after = 0
    if at > 0:
        c.before, c.step_before = c.source - 1, wide
    if at + stride * lanes < wide:
        c.after, c.step_after = c.source + stride * lanes, wide
    return c


cdef inline void next_row(column_t* c, row_t* v) noexcept nogil:
    """The vectors of the left, middle and right columns of the next row; turned, the reverse."""
    cdef bint inside = 0 <= c.row < c.rows
    cdef const float* source = c.source if inside else c.zeros
    cdef const float* before = c.before if inside else c.zeros
    cdef const float* after = c.after if inside else c.zeros
    cdef row_t low = (<const row_t*> source)[0], high
    if c.stride == 1:
        v[1] = low
        if row_t is f32v:
            v[0], v[2] = up_f32v(low, before[0]), down_f32v(low, after[0])
        else:
            v[0], v[2] = up_f32h(low, before[0]), down_f32h(low, after[0])
        if c.turned:
            v[0], v[2] = v[2], v[0]
    else:
        high = (<const row_t*> (source + c.lanes))[0]
        if row_t is f32v:
            v[0], v[1] = even_f32v(low, high), odd_f32v(low, high)
        else:
            v[0], v[1] = even_f32h(low, high), odd_f32h(low, high)
        if c.pad:
            v[2], v[1] = v[1], v[0]
            if row_t is f32v:
                v[0] = up_f32v(v[2], before[0])
            else:
                v[0] = up_f32h(v[2], before[0])
        elif row_t is f32v:
            v[2] = down_f32v(v[0], after[0])
        else:
            v[2] = down_f32h(v[0], after[0])
    c.row += 1
    c.source += c.step
    c.before += c.step_before
    c.after += c.step_after


cdef inline void turn(column_t* c, Py_ssize_t down) noexcept nogil:
    """Read from the bottom; the first and the last row of the reach lie `down` rows further apart
    than those of the plane.
    """
    cdef Py_ssize_t last = c.rows - 1 + down
    c.source += last * c.step
    c.before += last * c.step_before
    c.after += last * c.step_after
    c.step, c.step_before, c.step_after = -c.step, -c.step_before, -c.step_after
    c.row, c.turned = -down - c.row, True


cdef inline row_t _add(row_t total, const float* w, const row_t* v) noexcept nogil:
    cdef int k
    for k in range(3):
        if row_t is f32v:
            total = add_product_f32(total, w[k], v[k])
        else:
            total = add_product_f32h(total, w[k], v[k])
    return total


cdef inline void _column(
    column_t c, Py_ssize_t count, Py_ssize_t across, const float* w, float bias, float least,
    float* y, row_t* _
) noexcept nogil:
    """`count` vectors of outputs below one another, from y on, `across` apart."""
    cdef row_t v[3]
    cdef row_t zero, upper, middle, lower
    cdef float k[9]
    cdef Py_ssize_t i
    memcpy(k, w, sizeof(k))  # a copy, which no store to y can change, stays in registers
    memset(&zero, 0, sizeof(zero))
    upper = middle = lower = zero
    for i in range(c.stride - 2, count + 1):
        next_row(&c, v)
        if c.stride == 1:
            upper, middle = middle, lower
        else:
            upper = middle
        upper = _add(upper, k + 6, v)
        if i > 0:
            if row_t is f32v:
                (<row_t*> y)[0] = at_least_f32v(upper + bias, least)
            else:
                (<row_t*> y)[0] = at_least_f32h(upper + bias, least)
            y += across
        if c.stride == 1:
            middle = _add(middle, k + 3, v)
            lower = _add(zero, k, v)
        else:
            middle = _add(zero, k, v)
            next_row(&c, v)
            middle = _add(middle, k + 3, v)


cdef inline void plane_sums(
    const conv_t* j, const float* x, const float* w, float bias, float* y, bint turned
) noexcept nogil:
    """A plane of outputs, with RELU if that is the activation.

    The last vector of a row may overlap the one before.
    """
    cdef column_t c
    cdef float zeros[WIDEST]
    cdef Py_ssize_t lanes = LANES_F32 if j.ow >= LANES_F32 else HALF_F32, col = 0
    cdef Py_ssize_t across = j.ow, down = j.oh + 2 - j.h
    cdef float least = 0 if j.act.code == RELU else -INFINITY
    memset(zeros, 0, sizeof(zeros))
    if turned:  # from the last row on
        y += (j.oh - 1) * j.ow
        across = -across
    while col < j.ow:
        col = min(col, j.ow - lanes)
        c = column_of(x, j.h, j.w, j.sw, j.ph, j.pw, col, lanes, zeros)
        if turned:
            turn(&c, down)
        if lanes == LANES_F32:
            _column[f32v](c, j.oh, across, w, bias, least, y + col, NULL)
        elif HALF_F32 < LANES_F32:
            _column[f32h](c, j.oh, across, w, bias, least, y + col, NULL)
        col += lanes
