"""Winograd's minimal filtering F(4x4, 3x3): a 3x3 correlation with a quarter of the products.

The output is cut into tiles of 4x4, each of which needs 6x6 pixels of the input. With the matrices
Bᵀ (6x6), G (6x3) and Aᵀ (4x6) of Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks" (2015), section 4.3, one tile of one pair of channels is

    y = Aᵀ [ (G g Gᵀ) ∘ (Bᵀ d B) ] A                      36 products in the place of 144

and the sum over the channels stands inside the bracket: for each of its 36 places, a matrix product
of the filters with the tiles. NR tiles at a time are the lanes of all vectors, so the transforms
are arithmetic on vectors, and the products are those of the register tile. float32 alone; the
greatest error is about 1e-5 of the largest output, ten times that of the direct sum.
"""

from libc.string cimport memcpy, memset
from npdl._ext.simd cimport LANES_F32, NV, f32v
from npdl._ext.tile cimport ceil_div, times_panel

cdef enum:
    PLACES = 36
    BLOCK = 16  # output channels at a time

ctypedef struct winograd_t:
    Py_ssize_t m, k  # channels out, in
    Py_ssize_t h, w  # of the input
    Py_ssize_t oh, ow  # of the output
    Py_ssize_t ph, pw  # zeros above and to the left of the input
    Py_ssize_t tiles_h, tiles_w
    Py_ssize_t plane_h, plane_w  # of the padded input; of its four phases
    Py_ssize_t unit  # neighbouring tiles that are copied as one: 1, 2, 4 or 8
    Py_ssize_t group  # images at a time
    const float* filters  # [36][m][k], transformed
    const float* bias  # [m] or NULL


cdef inline winograd_t winograd_plan(
    Py_ssize_t n, Py_ssize_t m, Py_ssize_t k, Py_ssize_t h, Py_ssize_t w, Py_ssize_t oh,
    Py_ssize_t ow, Py_ssize_t ph, Py_ssize_t pw,
) noexcept nogil:
    """Sizes, and the number of images whose tiles fill whole vectors best."""
    cdef winograd_t p
    cdef Py_ssize_t nr = NV * LANES_F32, g, tiles, waste, best = -1
    memset(&p, 0, sizeof(p))
    p.m, p.k, p.h, p.w, p.oh, p.ow, p.ph, p.pw = m, k, h, w, oh, ow, ph, pw
    p.tiles_h, p.tiles_w = ceil_div(oh, 4), ceil_div(ow, 4)
    if p.tiles_w % 8 == 7:  # one more, computed for nothing, lets eight be copied as one
        p.tiles_w += 1
    p.plane_h, p.plane_w = 4 * p.tiles_h + 2, p.tiles_w + 1
    p.unit = 1
    while p.unit < 8 and p.tiles_w % (2 * p.unit) == nr % (2 * p.unit) == 0:
        p.unit *= 2
    p.group = 1
    tiles = p.tiles_h * p.tiles_w
    for g in range(1, min(n, 8) + 1):
        # lanes computed for nothing, over all images
        waste = (ceil_div(g * tiles, nr) * nr - g * tiles) * ceil_div(n, g)
        if best < 0 or waste < best:
            best, p.group = waste, g
        if best * 20 <= n * tiles:  # the memory of more images is not worth the last lanes
            break
    return p


cdef inline Py_ssize_t planes_size(winograd_t* p) noexcept nogil:
    """Numbers in the padded input of one image."""
    return p.k * p.plane_h * 4 * p.plane_w


cdef inline size_t winograd_scratch(winograd_t* p) noexcept nogil:
    """Bytes of scratch that `correlate_3x3` needs."""
    return (PLACES * (p.k + BLOCK + 2) * NV * LANES_F32 + 4 * p.plane_w) * sizeof(float)


cdef inline void pad_planes(
    const float* x, Py_ssize_t channels, Py_ssize_t h, Py_ssize_t w, Py_ssize_t ph, Py_ssize_t pw,
    Py_ssize_t plane_h, Py_ssize_t wide, float* planes, float* line,
) noexcept nogil:
    """Copy an image into planes[c, row, column % 4, column // 4], zeros around it.

    So the same pixel of neighbouring tiles, four columns apart, lies side by side. `line` is room
    for a row of the padded image.
    """
    cdef Py_ssize_t c, i, q, cols = min(w, 4 * wide - pw), rows = min(h, plane_h - ph)
    cdef float* to
    memset(line, 0, 4 * wide * sizeof(float))
    for c in range(channels):
        to = planes + c * plane_h * 4 * wide
        memset(to, 0, ph * 4 * wide * sizeof(float))
        to += (ph + rows) * 4 * wide
        memset(to, 0, (plane_h - ph - rows) * 4 * wide * sizeof(float))
        for i in range(rows):
            memcpy(line + pw, x + (c * h + i) * w, cols * sizeof(float))
            to = planes + (c * plane_h + ph + i) * 4 * wide
            for q in range(wide):
                to[q] = line[4 * q]
                to[wide + q] = line[4 * q + 1]
                to[2 * wide + q] = line[4 * q + 2]
                to[3 * wide + q] = line[4 * q + 3]


cdef inline void pad_image(
    winograd_t* p, const float* x, float* planes, float* line
) noexcept nogil:
    """The padded planes of one input image."""
    pad_planes(x, p.k, p.h, p.w, p.ph, p.pw, p.plane_h, p.plane_w, planes, line)


cdef inline void tile_places(
    winograd_t* p, Py_ssize_t start, Py_ssize_t count, Py_ssize_t image, Py_ssize_t wide,
    Py_ssize_t* at,
) noexcept nogil:
    """Where the tiles from `start` on begin in planes; beyond `count` the last unit again."""
    cdef Py_ssize_t tiles = p.tiles_h * p.tiles_w, l, t
    for l in range(NV * LANES_F32):
        t = start + (l if l < count else count - p.unit + l % p.unit)
        at[l] = t // tiles * image + t % tiles // p.tiles_w * 16 * wide + t % p.tiles_w


cdef inline void _filter_line(
    const f32v* g, Py_ssize_t step, f32v* t, Py_ssize_t to
) noexcept nogil:
    # t = G g
    cdef float quarter = 0.25, sixth = 1.0 / 6, twelfth = 1.0 / 12, twentyfourth = 1.0 / 24
    cdef f32v a, b, c, d
    cdef Py_ssize_t v
    for v in range(NV):
        a, b = sixth * (g[v] + g[2 * step + v]), sixth * g[step + v]
        c = twentyfourth * g[v] + sixth * g[2 * step + v]
        d = twelfth * g[step + v]
        t[v] = quarter * g[v]
        t[to + v] = -a - b
        t[2 * to + v] = b - a
        t[3 * to + v] = c + d
        t[4 * to + v] = c - d
        t[5 * to + v] = g[2 * step + v]


cdef inline void transform_filters(
    const float* w, Py_ssize_t m, Py_ssize_t k, Py_ssize_t m_step, Py_ssize_t k_step, bint turned,
    float* out,
) noexcept nogil:
    """out[:, i, j] = G g Gᵀ of the filter at w[i*m_step + j*k_step], turned by 180° if asked."""
    cdef f32v g[9 * NV]
    cdef f32v half[18 * NV]
    cdef f32v full[PLACES * NV]
    cdef Py_ssize_t nr = NV * LANES_F32, i, j, e, l, count
    memset(g, 0, sizeof(g))
    for i in range(m):
        j = 0
        while j < k:
            count = min(nr, k - j)
            for e in range(9):
                for l in range(count):
                    (<float*> g)[e * nr + l] = w[
                        i * m_step + (j + l) * k_step + (8 - e if turned else e)
                    ]
            for e in range(3):
                _filter_line(g + e * NV, 3 * NV, half + e * NV, 3 * NV)
            for e in range(6):
                _filter_line(half + 3 * e * NV, NV, full + 6 * e * NV, NV)
            for e in range(PLACES):
                memcpy(
                    out + (e * m + i) * k + j, <float*> full + e * nr, count * sizeof(float)
                )
            j += nr


cdef inline void _input_line(
    const f32v* d, Py_ssize_t step, f32v* t, Py_ssize_t to
) noexcept nogil:
    # t = Bᵀ d
    cdef float two = 2, four = 4, five = 5
    cdef f32v d0, d1, d2, d3, d4, d5, a, b
    cdef Py_ssize_t v
    for v in range(NV):
        d0, d1, d2 = d[v], d[step + v], d[2 * step + v]
        d3, d4, d5 = d[3 * step + v], d[4 * step + v], d[5 * step + v]
        t[v] = four * d0 - five * d2 + d4
        t[5 * to + v] = four * d1 - five * d3 + d5
        a, b = d4 - four * d2, d3 - four * d1
        t[to + v] = a + b
        t[2 * to + v] = a - b
        a, b = d4 - d2, two * (d3 - d1)
        t[3 * to + v] = a + b
        t[4 * to + v] = a - b


cdef inline void _output_line(
    const f32v* m, Py_ssize_t step, f32v* y, Py_ssize_t to
) noexcept nogil:
    # y = Aᵀ m
    cdef float two = 2, four = 4, eight = 8
    cdef f32v a, b, c, d
    cdef Py_ssize_t v
    for v in range(NV):
        a, b = m[step + v] + m[2 * step + v], m[step + v] - m[2 * step + v]
        c, d = m[3 * step + v] + m[4 * step + v], m[3 * step + v] - m[4 * step + v]
        y[v] = m[v] + a + c
        y[to + v] = b + two * d
        y[2 * to + v] = a + four * c
        y[3 * to + v] = b + eight * d + m[5 * step + v]


cdef inline void _gather(
    const float* pixel, const Py_ssize_t* at, Py_ssize_t unit, float* lanes
) noexcept nogil:
    """lanes = the pixel of NR tiles, `unit` of them at a time."""
    cdef Py_ssize_t l, u
    for l in range(NV * LANES_F32 // unit):
        for u in range(unit):
            lanes[l * unit + u] = pixel[at[l * unit] + u]


cdef inline void _gather_unit(
    const float* pixel, const Py_ssize_t* at, Py_ssize_t unit, float* lanes
) noexcept nogil:
    """`_gather` with each size as a constant."""
    if unit == 8:
        _gather(pixel, at, 8, lanes)
    elif unit == 4:
        _gather(pixel, at, 4, lanes)
    elif unit == 2:
        _gather(pixel, at, 2, lanes)
    else:
        _gather(pixel, at, 1, lanes)


cdef inline void transform_input(
    winograd_t* p, const float* planes, const Py_ssize_t* at, float* v, Py_ssize_t row, f32v* room
) noexcept nogil:
    """v[e, k, :] = Bᵀ d B of NR tiles that start at `at`, every channel; `row` numbers to a row."""
    cdef Py_ssize_t nr = NV * LANES_F32, c, e, i, j
    cdef f32v* half = room + PLACES * NV
    for c in range(p.k):
        for i in range(6):
            for j in range(6):
                _gather_unit(
                    planes + ((c * p.plane_h + i) * 4 + j % 4) * p.plane_w + j // 4, at, p.unit,
                    <float*> room + (6 * i + j) * nr,
                )
        for e in range(6):  # columns, then rows
            _input_line(room + e * NV, 6 * NV, half + e * NV, 6 * NV)
        for e in range(6):
            _input_line(
                half + 6 * e * NV, NV, <f32v*> (v + (6 * e * p.k + c) * row),
                p.k * row // LANES_F32,
            )


cdef inline void _scatter(
    const float* y, Py_ssize_t unit, float shift, float* out, Py_ssize_t row
) noexcept nogil:
    """Store `unit` whole tiles, side by side."""
    cdef Py_ssize_t nr = NV * LANES_F32, i, j, u
    for i in range(4):
        for u in range(unit):
            for j in range(4):
                out[i * row + 4 * u + j] = y[(4 * i + j) * nr + u] + shift


cdef inline void _transform_output(
    winograd_t* p, const f32v* products, Py_ssize_t step, const Py_ssize_t* to,
    const Py_ssize_t* rows, const Py_ssize_t* cols, Py_ssize_t count, float shift, float* out,
    f32v* room,
) noexcept nogil:
    """Aᵀ M A of one output channel, stored as far as the tiles lie inside the output."""
    cdef Py_ssize_t nr = NV * LANES_F32, e, i, j, l = 0, u
    cdef f32v* half = room
    cdef f32v* whole = room + 24 * NV
    cdef const float* y = <const float*> whole
    for e in range(6):
        _output_line(products + e * step, 6 * step, half + e * NV, 6 * NV)
    for e in range(4):
        _output_line(half + 6 * e * NV, NV, whole + 4 * e * NV, NV)
    while l < count:
        if rows[l] == 4 and cols[l + p.unit - 1] == 4:
            if p.unit == 8:
                _scatter(y + l, 8, shift, out + to[l], p.ow)
            elif p.unit == 4:
                _scatter(y + l, 4, shift, out + to[l], p.ow)
            elif p.unit == 2:
                _scatter(y + l, 2, shift, out + to[l], p.ow)
            else:
                _scatter(y + l, 1, shift, out + to[l], p.ow)
        else:
            for u in range(l, l + p.unit):
                if rows[u] == 4 and cols[u] == 4:
                    _scatter(y + u, 1, shift, out + to[u], p.ow)
                    continue
                for i in range(rows[u]):
                    for j in range(cols[u]):
                        out[to[u] + i * p.ow + j] = y[(4 * i + j) * nr + u] + shift
        l += p.unit


cdef inline void correlate_3x3(
    winograd_t* p, Py_ssize_t images, const float* planes, float* out, char* scratch
) noexcept nogil:
    """out = bias + filters * planes, for some images."""
    cdef Py_ssize_t at[NV * 16]
    cdef Py_ssize_t to[NV * 16]
    cdef Py_ssize_t rows[NV * 16]
    cdef Py_ssize_t cols[NV * 16]
    cdef Py_ssize_t nr = NV * LANES_F32, tiles = p.tiles_h * p.tiles_w, area = p.oh * p.ow
    cdef Py_ssize_t start, count, l, t, n, e, m, m0, block
    cdef float* v = <float*> scratch
    cdef float* products = v + PLACES * p.k * nr
    cdef f32v* room = <f32v*> (products + PLACES * BLOCK * nr)
    start = 0
    while start < images * tiles:
        count = min(nr, images * tiles - start)
        tile_places(p, start, count, planes_size(p), p.plane_w, at)
        for l in range(nr):
            t = start + min(l, count - 1)
            n, t = t // tiles, t % tiles
            to[l] = n * p.m * area + (t // p.tiles_w * p.ow + t % p.tiles_w) * 4
            rows[l] = min(<Py_ssize_t> 4, p.oh - t // p.tiles_w * 4)
            cols[l] = min(<Py_ssize_t> 4, p.ow - t % p.tiles_w * 4)
        transform_input(p, planes, at, v, nr, room)
        m0 = 0
        while m0 < p.m:
            block = min(<Py_ssize_t> BLOCK, p.m - m0)
            for e in range(PLACES):
                times_panel(
                    block, nr, p.k, p.filters + (e * p.m + m0) * p.k, p.k, False, v + e * p.k * nr,
                    products + e * BLOCK * nr, nr, False,
                )
            for m in range(block):
                _transform_output(
                    p, <f32v*> products + m * NV, BLOCK * NV, to, rows, cols, count,
                    0 if p.bias == NULL else p.bias[m0 + m], out + (m0 + m) * area, room,
                )
            m0 += BLOCK
        start += nr
