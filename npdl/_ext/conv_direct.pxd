"""Convolution by direct sums, without an im2col matrix.

The columns of im2col are shifted copies of the image, so the tile can read them in the image.
Each image, or what some rows of windows reach, is first copied into *planes*: padded, and split by
the phase of the stride, so that the pixel (u, v) of all windows is one plane, shifted:

    plane[c, u % SH, v % SW][i + u//SH, j + v//SW] = x[c, i*SH + u - PH, j*SW + v - PW]

In a plane of width WP the window (i, j) is at q = i*WP + j, and the pixel (c, u, v) of NR windows
in a row at ``offset[c,u,v] + q``: NR consecutive elements, row k of a panel of B. Positions without
a window (j >= OW) are computed and dropped; there are few.

    y[f, q] = b[f] + Σ_k w[f, k] · plane[offset[k] + q]        A: filters, B: the image

where k stands for (c, u, v). This serves wide outputs of few channels; for all others, and for the
gradients, see ``conv_products.pxd``.
"""

from libc.string cimport memcpy, memset
from npdl._ext.activation cimport act_span
from npdl._ext.conv cimport FEW, conv_t
from npdl._ext.simd cimport MR, NV, TALL, real
from npdl._ext.tile cimport MAX_NR, ceil_div, lanes, round_up, tall_tile, tile

cdef enum:
    SMALL = 128  # pixels, and products, of an image that
    LIGHT = 1 << 18  # one thread computes faster than two

# Where results are written: those at positions i0 <= i < i1, j0 <= j < j1 go to
# out[m*plane + i*row + j].
ctypedef struct window_t:
    Py_ssize_t width, i0, i1, j0, j1, plane, row

# Results of a tile that are adjacent in one row of the output.
ctypedef struct segment_t:
    Py_ssize_t source, to, length


cdef inline Py_ssize_t _segments(
    window_t* win, Py_ssize_t source, Py_ssize_t i, Py_ssize_t j, Py_ssize_t count,
    segment_t* out,
) noexcept nogil:
    """Split `count` positions from (i, j) on at the ends of rows; return the number of pieces."""
    cdef Py_ssize_t pieces = 0, length, lo, hi
    while count > 0 and i < win.i1:
        length = min(count, win.width - j)
        lo, hi = max(j, win.j0), min(j + length, win.j1)
        if lo < hi:
            out[pieces].source, out[pieces].length = source + lo - j, hi - lo
            out[pieces].to = i * win.row + lo
            pieces += 1
        source += length
        count -= length
        i, j = i + 1, 0
    return pieces


cdef inline bint _lengthen(
    window_t* win, segment_t* piece, Py_ssize_t pieces, Py_ssize_t width
) noexcept nogil:
    """Extend the pieces to whole vectors, if what they overwrite is written again later.

    Returns whether all of them are whole vectors that are adjacent in the output.
    """
    cdef Py_ssize_t p, end = (win.i1 - 1) * win.row + win.j1
    cdef bint side_by_side = True
    if win.j1 - win.j0 == win.row:  # the rows of the output are contiguous
        for p in range(pieces):
            if piece[p].to + width <= end:
                piece[p].length = width
    for p in range(pieces):
        side_by_side &= (
            piece[p].length == width
            and piece[p].source == p * width
            and piece[p].to == piece[0].to + p * width
        )
    return side_by_side


cdef inline void _store(
    const real* block, Py_ssize_t rows, Py_ssize_t ld, const segment_t* piece, Py_ssize_t pieces,
    window_t* win, real* out,
) noexcept nogil:
    """Scatter the rows of a tile."""
    cdef Py_ssize_t _m, p, s
    cdef real* to
    cdef const real* source
    for _m in range(rows):
        for p in range(pieces):
            source, to = block + piece[p].source, out + piece[p].to
            if piece[p].length == lanes(out):  # the usual case, with a constant length
                memcpy(to, source, lanes(out) * sizeof(real))
            else:
                for s in range(piece[p].length):
                    to[s] = source[s]
        block += ld
        out += win.plane


cdef inline void _correlate(
    Py_ssize_t m,
    Py_ssize_t depth,
    const real* packed,
    const real* planes,
    const Py_ssize_t* offset,
    window_t* win,
    real* out,
    const real* bias,
) noexcept nogil:
    """out[m, q] = bias[m] + Σ_k packed[m, k] planes[offset[k] + q]  for all positions of `win`.

    The vectors of a tile either follow the rows or run through the positions between two rows too,
    whichever needs fewer. The tile is the one with fewer unused rows.
    """
    cdef real block[TALL * MAX_NR]
    cdef segment_t piece[MAX_NR]
    cdef Py_ssize_t at[NV]
    cdef Py_ssize_t a_at[TALL]
    cdef real shift[TALL]
    cdef Py_ssize_t width = lanes(out), rows = win.i1 - win.i0, cols = win.j1 - win.j0
    cdef Py_ssize_t per_row = ceil_div(cols, width), v, i, j, s, pieces
    cdef Py_ssize_t total = ceil_div((rows - 1) * win.width + cols, width)
    cdef bint by_row = per_row * rows <= total, tall = round_up(m, TALL) < round_up(m, MR), whole
    cdef Py_ssize_t high = TALL if tall else MR, wide = 2 if tall else NV
    cdef Py_ssize_t row = win.i0, col = win.j0  # position of the next vector
    cdef real* c
    cdef Py_ssize_t ldc
    if by_row:
        total = per_row * rows
    v = 0
    while v < total:
        pieces = 0
        for j in range(wide):
            at[j] = row * win.width + col
            if v + j < total:
                pieces += _segments(
                    win, j * width, row, col, min(width, win.j1 - col) if by_row else width,
                    piece + pieces,
                )
            if v + j < total - 1:  # else repeat the last one
                col += width
                if by_row and col >= win.j1:
                    row, col = row + 1, win.j0
                while col >= win.width:
                    row, col = row + 1, col - win.width
        whole = _lengthen(win, piece, pieces, width) and pieces == wide
        for i in range(ceil_div(m, high)):
            for s in range(high):
                j = min(i * high + s, m - 1)
                a_at[s] = j * depth
                shift[s] = 0 if bias == NULL else bias[j]
            c, ldc = block, wide * width
            if whole and (i + 1) * high <= m:
                c, ldc = out + i * high * win.plane + piece[0].to, win.plane
            if tall:
                tall_tile(depth, packed, a_at, planes, offset, at, c, ldc, shift)
            else:
                tile(depth, packed, a_at, planes, offset, at, c, ldc, shift)
            if c == block:
                _store(
                    block, min(high, m - i * high), ldc, piece, pieces, win,
                    out + i * high * win.plane,
                )
        v += wide


cdef inline void _split_image(
    conv_t* j, const real* x, real* planes, Py_ssize_t row, Py_ssize_t rows
) noexcept nogil:
    """Copy what some rows of windows of an image reach into its planes, zeros around it."""
    cdef Py_ssize_t c, pu, pv, i, k, at, size = j.plane_h * j.plane_w, high = rows + j.taps_h - 1
    cdef Py_ssize_t used = j.c * j.phases_h * j.phases_w * size
    # whole vectors reach into the rows below
    cdef Py_ssize_t cleared = min(j.plane_h - row, high + MAX_NR // j.plane_w + 1)
    cdef Py_ssize_t k0, k1  # columns of the plane that are inside the image
    cdef real* to = planes
    cdef const real* source
    memset(planes + used, 0, (j.image_step - used) * sizeof(real))
    for c in range(j.c):
        for pu in range(j.phases_h):
            for pv in range(j.phases_w):
                k0 = max(0, ceil_div(j.pw - pv, j.sw)) if j.pw > pv else 0
                k1 = min(j.plane_w, ceil_div(j.w + j.pw - pv, j.sw)) if j.w + j.pw > pv else 0
                memset(to + row * j.plane_w, 0, cleared * j.plane_w * sizeof(real))
                for i in range(row, row + high):
                    at = i * j.sh + pu - j.ph
                    if at < 0 or at >= j.h or k1 <= k0:
                        continue
                    source = x + (c * j.h + at) * j.w + pv - j.pw
                    if j.sw == 1:
                        memcpy(to + i * j.plane_w + k0, source + k0, (k1 - k0) * sizeof(real))
                    elif j.sw == 2:  # a constant, for the compiler
                        for k in range(k0, k1):
                            to[i * j.plane_w + k] = source[2 * k]
                    else:
                        for k in range(k0, k1):
                            to[i * j.plane_w + k] = source[k * j.sw]
                to += size


cdef inline void set_parts(conv_t* j, int workers) noexcept nogil:
    """Few images are divided by rows.

    Then a thread copies only what it reads, and the next layer finds its rows in the same cache.
    """
    cdef Py_ssize_t parts = 1, pixels = j.oh * j.ow
    cdef bint small = pixels < SMALL and pixels * j.f * j.depth < LIGHT
    if workers > 1 and j.n < FEW and not (small and j.n == 1):
        parts = workers if j.n == 1 else ceil_div(2 * workers, max(<Py_ssize_t> 1, j.n))
    j.part_rows = ceil_div(j.oh, parts)
    j.row_parts = ceil_div(j.oh, j.part_rows)


cdef inline void _forward(conv_t* j, Py_ssize_t task, int worker, const real* _) noexcept nogil:
    """Some rows of one image."""
    cdef Py_ssize_t n = task // j.row_parts, row = task % j.row_parts * j.part_rows, f
    cdef real* planes = <real*> (j.scratch + worker * j.scratch_step)
    cdef real* y = <real*> j.y + n * j.f * j.oh * j.ow
    cdef window_t win
    win.width, win.plane, win.row = j.plane_w, j.oh * j.ow, j.ow
    win.i0, win.i1, win.j0, win.j1 = row, min(j.oh, row + j.part_rows), 0, j.ow
    _split_image(j, <const real*> j.x + n * j.c * j.h * j.w, planes, row, win.i1 - row)
    _correlate(
        j.f, j.depth, <const real*> j.filters, planes, j.offset, &win, y, <const real*> j.bias
    )
    y += row * j.ow
    for f in range(j.f):
        act_span(j.act, y + f * win.plane, y + f * win.plane, (win.i1 - row) * j.ow)


cdef inline void forward_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef conv_t* j = <conv_t*> context
    if j.single:
        _forward(j, task, worker, <float*> NULL)
    else:
        _forward(j, task, worker, <double*> NULL)


cdef inline void set_offsets(conv_t* j) noexcept nogil:
    cdef Py_ssize_t u, v, k = 0, plane, taps = j.kh * j.kw
    cdef Py_ssize_t per_channel = j.phases_h * j.phases_w * j.plane_h * j.plane_w
    for u in range(j.kh):
        for v in range(j.kw):
            plane = u % j.sh * j.phases_w + v % j.sw
            j.offset[k] = (plane * j.plane_h + u // j.sh) * j.plane_w + v // j.sw
            k += 1
    for k in range(taps, j.depth):
        j.offset[k] = j.offset[k - taps] + per_channel
