"""Winograd's minimal filtering along one axis, for sequences of steps of channels.

The output is divided into tiles of M steps, each of which needs 6 steps of the input. M + R = 7 for
filters over R steps: F(4, 3), F(3, 4) and F(2, 5) share their six points 0, 1, -1, 2, -2 and
infinity, and so the matrix Bᵀ of ``winograd.pxd``:

    y = Aᵀ [ (G g) ∘ (Bᵀ d) ]                          6 products instead of 12, 12 and 10

The sum over the channels is inside the bracket: a matrix product for each of the six places,

    M[t, m] = Σ_k V[t, k] U[k, m],   V = Bᵀ d,   U = G g

and the gradient of the filters is the transpose of this, dg = Gᵀ Σ_tiles (A dy) ∘ V. The channels
of a step are side by side and are the lanes of all vectors. With dilation D, every D-th step
belongs to one of D separate sequences. float32 only; the error is at most that of ``winograd.pxd``.
"""

from libc.string cimport memcpy, memset
from npdl._ext.activation cimport act_span, act_t
from npdl._ext.simd cimport LANES_F32, TALL, f32v, scaled_f32
from npdl._ext.tile cimport ceil_div, round_up
from npdl._ext.winograd cimport WIDE, input_pair, place_step, products_of, row_of, rows_of_tile

cdef enum:
    STEPS = 6  # of the input of a tile, and places
    LINE_BYTES = 384 * 1024  # V of a chunk, which stays in the level-2 cache
    LEAST = 12  # the fewest tiles per chunk
    LARGE = 96  # tiles of a chunk that outweigh reading U

ctypedef struct line_t:
    Py_ssize_t n, m, k  # sequences; output channels, input channels
    Py_ssize_t h, oh  # steps of the input, of the output
    Py_ssize_t before  # zeros before the input; if negative, steps to leave out
    Py_ssize_t dilation, taps
    Py_ssize_t high  # steps of a tile
    Py_ssize_t across, tiles  # tiles of every D-th step, and of a sequence
    Py_ssize_t chunk, chunks  # tiles of a chunk; chunks of all sequences
    Py_ssize_t ld, panels  # elements of a row of V; panels of output channels
    const float* x
    float* y
    const float* filters  # U, [panel][6][k][WIDE]
    const float* bias  # [m] or NULL
    act_t act

# The steps that a tile reads: rows of channels, some of which may be in scratch memory.
ctypedef struct rows_t:
    const float* zeros
    const float* last  # the last row of all, copied with slack behind it
    const float* end  # where that row begins in the array


cdef inline line_t line_plan(
    Py_ssize_t n, Py_ssize_t m, Py_ssize_t k, Py_ssize_t h, Py_ssize_t oh, Py_ssize_t before,
    Py_ssize_t dilation, Py_ssize_t taps, int workers,
) noexcept nogil:
    cdef line_t p
    cdef Py_ssize_t most
    memset(&p, 0, sizeof(p))
    p.n, p.m, p.k, p.h, p.oh, p.before, p.dilation, p.taps = n, m, k, h, oh, before, dilation, taps
    p.high = STEPS + 1 - taps
    p.across = ceil_div(ceil_div(oh, dilation), p.high)
    p.tiles = min(dilation, oh) * p.across
    p.ld, p.panels = round_up(k, LANES_F32), ceil_div(m, WIDE)
    most = LINE_BYTES // (STEPS * p.ld * <Py_ssize_t> sizeof(float)) // LEAST * LEAST
    # as many chunks for each thread, and more than one if they are large
    p.chunks = ceil_div(n * p.tiles, max(<Py_ssize_t> LEAST, most))
    p.chunks = round_up(max(p.chunks, min(2 * workers, n * p.tiles // LARGE)), workers)
    p.chunk = max(<Py_ssize_t> LEAST, ceil_div(n * p.tiles, p.chunks))
    if p.chunk >= LARGE:  # whole register tiles
        p.chunk = round_up(p.chunk, LEAST)
    p.chunks = ceil_div(n * p.tiles, p.chunk)
    return p


cdef inline Py_ssize_t first_step(const line_t* p, Py_ssize_t tile) noexcept nogil:
    """Steps of the output of a tile."""
    tile %= p.tiles
    return tile // p.across + tile % p.across * p.high * p.dilation


cdef inline rows_t rows_of(
    const float* x, Py_ssize_t count, Py_ssize_t channels, float* room
) noexcept nogil:
    """The rows read in place of missing ones and of the last one; `room` holds both."""
    cdef rows_t r
    cdef Py_ssize_t ld = round_up(channels, LANES_F32)
    memset(room, 0, 2 * ld * sizeof(float))
    r.zeros, r.last, r.end = room, room + ld, x + (count - 1) * channels
    memcpy(room + ld, r.end, channels * sizeof(float))
    return r


cdef inline void find_rows(
    const rows_t* r, const float* x, Py_ssize_t channels, Py_ssize_t steps, Py_ssize_t first,
    Py_ssize_t dilation, Py_ssize_t count, const float** row
) noexcept nogil:
    """Rows first, first + dilation, ... of one sequence."""
    cdef Py_ssize_t i
    for i in range(count):
        row[i] = r.zeros
        if 0 <= first < steps:
            row[i] = x + first * channels
            if row[i] == r.end:
                row[i] = r.last
        first += dilation


cdef inline void _input_rows(
    const line_t* p, const rows_t* r, Py_ssize_t tile, const float** row
) noexcept nogil:
    find_rows(
        r, p.x + tile // p.tiles * p.h * p.k, p.k, p.h, first_step(p, tile) - p.before, p.dilation,
        STEPS, row,
    )


# ------------------------------------------------------------------------------------- the matrices

cdef inline void _filter_line(
    const f32v* g, Py_ssize_t taps, float* u, Py_ssize_t place
) noexcept nogil:
    # u = G g; zeros follow the taps
    cdef float quarter = 0.25, sixth = 1.0 / 6, twentyfourth = 1.0 / 24
    cdef float two = 2, four = 4, eight = 8, sixteen = 16
    cdef f32v a = sixth * (g[0] + g[2] + g[4]), b = sixth * (g[1] + g[3])
    cdef f32v c = twentyfourth * scaled_f32(sixteen, g[4], scaled_f32(four, g[2], g[0]))
    cdef f32v d = twentyfourth * scaled_f32(eight, g[3], two * g[1])
    (<f32v*> u)[0] = quarter * g[0]
    (<f32v*> (u + place))[0] = -a - b
    (<f32v*> (u + 2 * place))[0] = b - a
    (<f32v*> (u + 3 * place))[0] = c + d
    (<f32v*> (u + 4 * place))[0] = c - d
    (<f32v*> (u + 5 * place))[0] = g[taps - 1]


cdef inline void _output_line(
    const float* m, Py_ssize_t place, Py_ssize_t high, f32v shift, f32v* y
) noexcept nogil:
    # y = Aᵀ m + shift, two vectors apart
    cdef float two = 2, four = 4, eight = 8
    cdef f32v m1 = (<const f32v*> (m + place))[0], m2 = (<const f32v*> (m + 2 * place))[0]
    cdef f32v m3 = (<const f32v*> (m + 3 * place))[0], m4 = (<const f32v*> (m + 4 * place))[0]
    cdef f32v a = m1 + m2, b = m1 - m2, c = m3 + m4, d = m3 - m4
    cdef f32v y1 = scaled_f32(two, d, b), y2 = scaled_f32(four, c, a), y3 = scaled_f32(eight, d, b)
    cdef f32v last = (<const f32v*> (m + 5 * place))[0]
    y[0] = (<const f32v*> m)[0] + a + c + shift
    if high == 2:
        y[2] = y1 + last + shift
        return
    y[2] = y1 + shift
    if high == 3:
        y[4] = y2 + last + shift
        return
    y[4], y[6] = y2 + shift, y3 + last + shift


cdef inline void _gradient_pair(
    const f32v* y, Py_ssize_t high, Py_ssize_t turn, f32v* first, f32v* second
) noexcept nogil:
    # two places of z = A y; zeros follow the steps
    cdef float two = 2, four = 4, eight = 8
    cdef f32v a, b
    if turn == 0:
        first[0], second[0] = y[0], y[high - 1]
        return
    if turn == 1:
        a, b = y[0] + y[2], y[1] + y[3]
    else:
        a, b = scaled_f32(four, y[2], y[0]), scaled_f32(eight, y[3], two * y[1])
    first[0] = a + b
    second[0] = a - b


cdef inline void _weight_line(const f32v* u, Py_ssize_t taps, f32v* w) noexcept nogil:
    # w = Gᵀ u
    cdef float quarter = 0.25, sixth = 1.0 / 6, twelfth = 1.0 / 12, twentyfourth = 1.0 / 24
    cdef float third = 1.0 / 3, two_thirds = 2.0 / 3
    cdef f32v a = -sixth * (u[1] + u[2]), b = sixth * (u[2] - u[1])
    cdef f32v c = u[3] + u[4], d = u[3] - u[4]
    w[0] = scaled_f32(quarter, u[0], scaled_f32(twentyfourth, c, a))
    w[1] = scaled_f32(twelfth, d, b)
    w[2] = scaled_f32(sixth, c, a)
    w[3] = scaled_f32(third, d, b)
    w[4] = scaled_f32(two_thirds, c, a)
    w[taps - 1] = w[taps - 1] + u[5]


# ---------------------------------------------------------------------------------- the correlation

cdef inline Py_ssize_t line_filters(const line_t* p) noexcept nogil:
    """Number of elements in U."""
    return p.panels * STEPS * place_step(p.k * WIDE)


cdef inline void transform_line_filters(
    const line_t* p, Py_ssize_t panel, const float* w, Py_ssize_t m_step, Py_ssize_t k_step,
    bint turned, float* out,
) noexcept nogil:
    """U of one panel, from the filters at w[m*m_step + k*k_step]; `turned` reverses the taps."""
    cdef f32v g[STEPS]
    cdef float* lane = <float*> g
    cdef Py_ssize_t place = place_step(p.k * WIDE), half, k, m, l, q, count
    memset(g, 0, sizeof(g))
    out += panel * STEPS * place
    for half in range(2):
        m = panel * WIDE + half * LANES_F32
        count = max(<Py_ssize_t> 0, min(<Py_ssize_t> LANES_F32, p.m - m))
        if count < LANES_F32:
            memset(g, 0, sizeof(g))
        for k in range(p.k):
            for l in range(count):
                for q in range(p.taps):
                    lane[(p.taps - 1 - q if turned else q) * LANES_F32 + l] = w[
                        (m + l) * m_step + k * k_step + q
                    ]
            _filter_line(g, p.taps, out + k * WIDE + half * LANES_F32, place)


cdef inline Py_ssize_t _v_step(const line_t* p) noexcept nogil:
    return place_step(round_up(p.chunk, TALL) * p.ld)


cdef inline Py_ssize_t _m_step(const line_t* p) noexcept nogil:
    return place_step(round_up(p.chunk, TALL) * WIDE)


cdef inline Py_ssize_t line_scratch(const line_t* p) noexcept nogil:
    """Number of elements in V, in M of one panel, and in two rows of x."""
    return STEPS * (_v_step(p) + _m_step(p)) + 2 * p.ld


cdef inline void _transform_input(
    const line_t* p, Py_ssize_t first, Py_ssize_t count, const rows_t* r, float* v
) noexcept nogil:
    """V of a chunk, with a row for each tile."""
    cdef const float* row[STEPS]
    cdef f32v d[STEPS]
    cdef Py_ssize_t place = _v_step(p), t, c, e, turn
    for t in range(first, first + count):
        _input_rows(p, r, t, row)
        c = 0
        while c < p.k:
            for e in range(STEPS):
                d[e] = (<const f32v*> (row[e] + c))[0]
            for turn in range(3):
                input_pair(
                    d, 1, turn, <f32v*> (v + row_of(turn, 0) * place + c),
                    <f32v*> (v + row_of(turn, 1) * place + c),
                )
            c += LANES_F32
        v += p.ld


cdef inline void _transform_output(
    const line_t* p, Py_ssize_t first, Py_ssize_t count, Py_ssize_t panel, const float* products
) noexcept nogil:
    """f(Aᵀ M + bias) of one panel."""
    cdef f32v y[8]
    cdef f32v shift[2]
    cdef Py_ssize_t m0 = panel * WIDE, channels = min(<Py_ssize_t> WIDE, p.m - m0), t, i, l, step
    cdef float* to
    memset(shift, 0, sizeof(shift))
    if p.bias != NULL:
        memcpy(shift, p.bias + m0, channels * sizeof(float))
    for t in range(first, first + count):
        for l in range(2):
            _output_line(products + l * LANES_F32, _m_step(p), p.high, shift[l], y + l)
        products += WIDE
        act_span(p.act, <float*> y, <float*> y, p.high * WIDE)
        step = first_step(p, t)
        to = p.y + (t // p.tiles * p.oh + step) * p.m + m0
        for i in range(p.high):
            if step < p.oh:
                if channels == WIDE:  # as a constant
                    memcpy(to, <float*> y + i * WIDE, WIDE * sizeof(float))
                else:
                    memcpy(to, <float*> y + i * WIDE, channels * sizeof(float))
            step += p.dilation
            to += p.dilation * p.m


cdef inline void correlate_line(const line_t* p, Py_ssize_t chunk, float* v) noexcept nogil:
    """y = f(bias + filters * x), the tiles of one chunk; `v` is scratch."""
    cdef Py_ssize_t first = chunk * p.chunk, count = min(p.chunk, p.n * p.tiles - first), panel, e
    cdef Py_ssize_t u_place = place_step(p.k * WIDE)
    cdef float* products = v + STEPS * _v_step(p)
    cdef rows_t r = rows_of(p.x, p.n * p.h, p.k, products + STEPS * _m_step(p))
    _transform_input(p, first, count, &r, v)
    for panel in range(p.panels):
        for e in range(STEPS):
            products_of(
                rows_of_tile(count, WIDE), count, p.k, v + e * _v_step(p), p.ld, 1,
                p.filters + (panel * STEPS + e) * u_place, products + e * _m_step(p), WIDE, False,
            )
        _transform_output(p, first, count, panel, products)


# ---------------------------------------------------------------------- the gradient of the filters

cdef inline Py_ssize_t _rows(const line_t* p) noexcept nogil:
    return round_up(p.m, rows_of_tile(p.m, WIDE))


cdef inline Py_ssize_t _cols(const line_t* p) noexcept nogil:
    return round_up(p.k, WIDE)


cdef inline Py_ssize_t line_sums(const line_t* p) noexcept nogil:
    """Number of elements in dU, in whole tiles."""
    return STEPS * _rows(p) * _cols(p)


cdef inline Py_ssize_t _panels_step(const line_t* p, Py_ssize_t most) noexcept nogil:
    """Number of elements in one place of V, in panels."""
    return place_step(most * _cols(p))


cdef inline Py_ssize_t _z_step(const line_t* p, Py_ssize_t most) noexcept nogil:
    """Number of elements in one place of Z, and those beyond it that the last tile reads."""
    return place_step(most * round_up(p.m, LANES_F32) + TALL)


cdef inline Py_ssize_t line_weights_scratch(const line_t* p, Py_ssize_t most) noexcept nogil:
    """Number of elements in two places of V and Z of `most` tiles, and in two rows of x and dz."""
    return (
        2 * (_panels_step(p, most) + _z_step(p, most)) + 2 * (p.ld + round_up(p.m, LANES_F32))
    )


cdef inline void add_line_products(
    const line_t* p, const float* dz, Py_ssize_t first, Py_ssize_t last, Py_ssize_t most,
    Py_ssize_t turn, float* sums, float* v,
) noexcept nogil:
    """sums[e, m, k] = Σ_t Z[e, t, m] V[e, t, k]  over the tiles from first to last.

    For two of the six places; `v` is scratch.
    """
    cdef const float* row[STEPS]
    cdef f32v d[STEPS]
    cdef Py_ssize_t v_place = _panels_step(p, most), z_place = _z_step(p, most)
    cdef Py_ssize_t ldz = round_up(p.m, LANES_F32), start = first, count, t, c, e, i
    cdef float* z = v + 2 * v_place
    cdef float* to
    cdef rows_t x = rows_of(p.x, p.n * p.h, p.k, z + 2 * z_place)
    cdef rows_t y = rows_of(dz, p.n * p.oh, p.m, z + 2 * z_place + 2 * p.ld)
    memset(d, 0, sizeof(d))
    while start < last:
        count = min(most, last - start)
        for t in range(count):
            _input_rows(p, &x, start + t, row)
            c = 0
            while c < p.k:
                for e in range(STEPS):
                    d[e] = (<const f32v*> (row[e] + c))[0]
                to = v + (c // WIDE * most + t) * WIDE + c % WIDE
                input_pair(d, 1, turn, <f32v*> to, <f32v*> (to + v_place))
                c += LANES_F32
        memset(d, 0, sizeof(d))
        for t in range(count):
            find_rows(
                &y, dz + (start + t) // p.tiles * p.oh * p.m, p.m, p.oh,
                first_step(p, start + t), p.dilation, p.high, row,
            )
            to = z + t * ldz
            c = 0
            while c < p.m:
                for i in range(p.high):
                    d[i] = (<const f32v*> (row[i] + c))[0]
                _gradient_pair(d, p.high, turn, <f32v*> (to + c), <f32v*> (to + z_place + c))
                c += LANES_F32
        for e in range(2):
            to = sums + row_of(turn, e) * _rows(p) * _cols(p)
            for c in range(_cols(p) // WIDE):
                products_of(
                    rows_of_tile(p.m, WIDE), _rows(p), count, z + e * z_place, 1, ldz,
                    v + e * v_place + c * most * WIDE, to + c * WIDE, _cols(p), start > first,
                )
        start += count


cdef inline void line_weights(
    const line_t* p, const float* sums, Py_ssize_t groups, Py_ssize_t m, float* dw
) noexcept nogil:
    """dw[m] = Gᵀ dU, where dU is the sum over the groups; the lanes are input channels."""
    cdef f32v u[STEPS]
    cdef f32v w[STEPS]
    cdef Py_ssize_t k = 0, e, g, l, at
    while k < p.k:
        for e in range(STEPS):
            at = (e * _rows(p) + m) * _cols(p) + k
            u[e] = (<const f32v*> (sums + at))[0]
            for g in range(1, groups):
                u[e] = u[e] + (<const f32v*> (sums + g * line_sums(p) + at))[0]
        _weight_line(u, p.taps, w)
        for l in range(min(<Py_ssize_t> LANES_F32, p.k - k)):
            for e in range(p.taps):
                dw[(m * p.k + k + l) * p.taps + e] = (<float*> w)[e * LANES_F32 + l]
        k += LANES_F32
