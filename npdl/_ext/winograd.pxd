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
from npdl._ext.simd cimport LANES_F32, NV, f32v, transpose4
from npdl._ext.tile cimport ceil_div, round_up, times_panel

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
    Py_ssize_t group  # images at a time
    const float* filters  # [36][m][k], transformed
    const float* bias  # [m] or NULL

# Where the same pixel of NR tiles stands: neighbours side by side, at most a vector of them.
ctypedef struct runs_t:
    Py_ssize_t count
    Py_ssize_t lane[NV * 16]
    Py_ssize_t at[NV * 16]


# Where NR tiles of the output go, and how much of each lies inside it.
ctypedef struct targets_t:
    Py_ssize_t at[NV * 16]
    Py_ssize_t rows[NV * 16]
    Py_ssize_t cols[NV * 16]
    Py_ssize_t whole[NV * 4]  # of four neighbours, how many lie inside as a whole


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
    p.plane_h, p.plane_w = 4 * p.tiles_h + 2, round_up(p.tiles_w + 1, 4)
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


cdef inline Py_ssize_t channel_size(winograd_t* p) noexcept nogil:
    """Numbers in the padded input of one channel."""
    return p.plane_h * 4 * p.plane_w


cdef inline Py_ssize_t planes_size(winograd_t* p) noexcept nogil:
    """Numbers in the padded input of one image, and those that the last vector reads beyond."""
    return p.k * channel_size(p) + 16


cdef inline Py_ssize_t place_step(Py_ssize_t numbers) noexcept nogil:
    """So many numbers, and some more: from one of the 36 places to the next.

    A transform writes to all of them in turn, so they must not share the sets of a cache: an odd
    number of lines of 64 bytes.
    """
    return (numbers // 16 | 1) * 16 + (32 if numbers % 16 else 0)


cdef inline size_t winograd_scratch(winograd_t* p) noexcept nogil:
    """Bytes of scratch that `correlate_3x3` needs."""
    cdef Py_ssize_t nr = NV * LANES_F32
    return PLACES * (place_step(p.k * nr) + (BLOCK + 2) * nr) * sizeof(float)


cdef inline void pad_channel(
    const float* x, Py_ssize_t h, Py_ssize_t w, Py_ssize_t ph, Py_ssize_t pw, Py_ssize_t plane_h,
    Py_ssize_t wide, float* planes, float* line,
) noexcept nogil:
    """Copy one channel into planes[row, column % 4, column // 4], zeros around it.

    So the same pixel of neighbouring tiles, four columns apart, lies side by side. `wide` is a
    multiple of 4; `line` is room for a row of the padded channel.
    """
    cdef Py_ssize_t i, q, cols = min(w, 4 * wide - pw), rows = min(h, plane_h - ph)
    memset(line, 0, 4 * wide * sizeof(float))
    memset(planes, 0, ph * 4 * wide * sizeof(float))
    planes += ph * 4 * wide
    for i in range(rows):
        memcpy(line + pw, x + i * w, cols * sizeof(float))
        q = 0
        while q < wide:
            transpose4(
                line + 4 * q, 4, 0, planes + q, planes + wide + q, planes + 2 * wide + q,
                planes + 3 * wide + q,
            )
            q += 4
        planes += 4 * wide
    memset(planes, 0, (plane_h - ph - rows) * 4 * wide * sizeof(float))


cdef inline void tile_runs(
    winograd_t* p, Py_ssize_t start, Py_ssize_t count, Py_ssize_t image, Py_ssize_t wide,
    runs_t* runs,
) noexcept nogil:
    """Where the tiles from `start` on begin in planes; beyond `count` the first ones again."""
    cdef Py_ssize_t tiles = p.tiles_h * p.tiles_w, l, t, at, length = 0, before = 0
    runs.count = 0
    for l in range(NV * LANES_F32):
        t = start + l % count
        at = t // tiles * image + t % tiles // p.tiles_w * 16 * wide + t % p.tiles_w
        if length == 0 or length == LANES_F32 or at != before + 1:
            runs.lane[runs.count], runs.at[runs.count] = l, at
            runs.count += 1
            length = 0
        before = at
        length += 1


cdef inline void gather(const float* pixel, const runs_t* runs, float* lanes) noexcept nogil:
    """lanes = the pixel of NR tiles; what a run writes too much, the next one writes again."""
    cdef Py_ssize_t r
    for r in range(runs.count):
        (<f32v*> (lanes + runs.lane[r]))[0] = (<const f32v*> (pixel + runs.at[r]))[0]


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


cdef inline void transform_input(
    winograd_t* p, const float* planes, const runs_t* runs, float* v, Py_ssize_t row,
    Py_ssize_t place, f32v* room,
) noexcept nogil:
    """v[e, k, :] = Bᵀ d B of NR tiles, every channel.

    There are `row` numbers from one k to the next, `place` from one e to the next.
    """
    cdef Py_ssize_t nr = NV * LANES_F32, c, e, i, j
    cdef f32v* half = room + PLACES * NV
    for c in range(p.k):
        for i in range(6):
            for j in range(6):
                gather(
                    planes + ((c * p.plane_h + i) * 4 + j % 4) * p.plane_w + j // 4, runs,
                    <float*> room + (6 * i + j) * nr,
                )
        for e in range(6):  # columns, then rows
            _input_line(room + e * NV, 6 * NV, half + e * NV, 6 * NV)
        for e in range(6):
            _input_line(
                half + 6 * e * NV, NV, <f32v*> (v + 6 * e * place + c * row), place // LANES_F32
            )


cdef inline void _transform_output(
    winograd_t* p, const f32v* products, Py_ssize_t step, const targets_t* to, float shift,
    float* out, f32v* room,
) noexcept nogil:
    """Aᵀ M A of one output channel, stored as far as the tiles lie inside the output."""
    cdef Py_ssize_t nr = NV * LANES_F32, e, i, j, l, u
    cdef f32v* half = room
    cdef f32v* whole = room + 24 * NV
    cdef const float* y = <const float*> whole
    cdef float* first
    for e in range(6):
        _output_line(products + e * step, 6 * step, half + e * NV, 6 * NV)
    for e in range(4):
        _output_line(half + 6 * e * NV, NV, whole + 4 * e * NV, NV)
    for l in range(nr // 4):
        if to.whole[l] == 4:
            for i in range(4):
                first = out + i * p.ow
                transpose4(
                    y + 4 * i * nr + 4 * l, nr, shift, first + to.at[4 * l],
                    first + to.at[4 * l + 1], first + to.at[4 * l + 2], first + to.at[4 * l + 3],
                )
        else:
            for u in range(4 * l, 4 * l + 4):
                for i in range(to.rows[u]):
                    for j in range(to.cols[u]):
                        out[to.at[u] + i * p.ow + j] = y[(4 * i + j) * nr + u] + shift


cdef inline void _targets(
    winograd_t* p, Py_ssize_t start, Py_ssize_t count, targets_t* to
) noexcept nogil:
    """The tiles from `start` on, `count` of them; the other lanes go nowhere."""
    cdef Py_ssize_t tiles = p.tiles_h * p.tiles_w, l, n, row, col
    memset(to, 0, sizeof(to[0]))
    for l in range(count):
        n, row = (start + l) // tiles, (start + l) % tiles // p.tiles_w * 4
        col = (start + l) % p.tiles_w * 4
        to.at[l] = n * p.m * p.oh * p.ow + row * p.ow + col
        to.rows[l], to.cols[l] = min(<Py_ssize_t> 4, p.oh - row), min(<Py_ssize_t> 4, p.ow - col)
        to.whole[l // 4] += to.rows[l] == 4 and to.cols[l] == 4


cdef inline void correlate_3x3(
    winograd_t* p, Py_ssize_t images, const float* planes, float* out, char* scratch
) noexcept nogil:
    """out = bias + filters * planes, for some images."""
    cdef runs_t runs
    cdef targets_t to
    cdef Py_ssize_t nr = NV * LANES_F32, tiles = p.tiles_h * p.tiles_w, area = p.oh * p.ow
    cdef Py_ssize_t start, count, e, m, m0, block, place = place_step(p.k * nr)
    cdef float* v = <float*> scratch
    cdef float* products = v + PLACES * place
    cdef f32v* room = <f32v*> (products + PLACES * BLOCK * nr)
    start = 0
    while start < images * tiles:
        count = min(nr, images * tiles - start)
        tile_runs(p, start, count, planes_size(p), p.plane_w, &runs)
        _targets(p, start, count, &to)
        transform_input(p, planes, &runs, v, nr, place, room)
        m0 = 0
        while m0 < p.m:
            block = min(<Py_ssize_t> BLOCK, p.m - m0)
            for e in range(PLACES):
                times_panel(
                    block, nr, p.k, p.filters + (e * p.m + m0) * p.k, p.k, False, v + e * place,
                    products + e * BLOCK * nr, nr, False,
                )
            for m in range(block):
                _transform_output(
                    p, <f32v*> products + m * NV, BLOCK * NV, &to,
                    0 if p.bias == NULL else p.bias[m0 + m], out + (m0 + m) * area, room,
                )
            m0 += BLOCK
        start += nr
