"""Winograd's minimal filtering F(4x4, 3x3): a 3x3 correlation with a quarter of the products.

The output is divided into tiles of 4x4, each of which needs 6x6 pixels of the input. With the
matrices Bᵀ (6x6), G (6x3) and Aᵀ (4x6) of Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks" (2015), section 4.3, one tile of one pair of channels is

    y = Aᵀ [ (G g Gᵀ) ∘ (Bᵀ d B) ] A                      36 products instead of 144

and the sum over the channels is inside the bracket: for each of its 36 places, a matrix product of
the tiles with the filters,

    M[t, m] = Σ_k V[t, k] U[k, m],   V = Bᵀ d B,   U = G g Gᵀ

The channels are the lanes of all vectors: the image is first copied with the channels of a pixel
side by side (``pixels.pxd``), so that a transform of one tile is arithmetic on vectors. The tiles
that are processed together, a *chunk*, are some images, or some rows of tiles of one image: as many
as keep V in the level-2 cache.

If filters are dilated, the pixels of a tile are as far apart: tiles at neighbouring pixels, one for
each phase of the dilation, together cover a block of the output,

    tile t:  pixels  origin(t) + {0, 1, 2, 3} DIL,   origin(t) = 4 DIL (t // DIL) + t mod DIL

along each axis. Chunks divide an image between such blocks.

float32 only; the largest error is about 1e-5 of the largest output, ten times that of the direct
sum.
"""

from libc.string cimport memcpy, memset
from npdl._ext.activation cimport act_span, act_t
from npdl._ext.pixels cimport TOGETHER, area_of, area_size, area_t
from npdl._ext.simd cimport (
    EDGE_FORMS, LANES_F32, TALL, f32v, prefetch_w, scaled_f32, transpose, transpose4,
)
from npdl._ext.tile cimport (
    NARROW, SHORT, ceil_div, form_tiles, half_short_panel_t, narrow_panel_t, round_up,
    short_panel_t, tall_panel_t,
)

cdef enum:
    PLACES = 36
    CUT = 12  # rows of the tallest tile of any build; fixes the chunks over which dW is summed
    WIDE = 2 * LANES_F32  # channels in a panel, unless there is one panel of half the width
    V_BYTES = 384 * 1024  # V of a chunk, which stays in the level-2 cache

ctypedef struct winograd_t:
    Py_ssize_t n, m, k  # images; output channels, input channels
    Py_ssize_t h, w  # size of the input
    Py_ssize_t oh, ow  # size of the output
    Py_ssize_t ph, pw  # zeros above and to the left of the input
    Py_ssize_t dil_h, dil_w
    Py_ssize_t tiles_h, tiles_w
    Py_ssize_t ld  # elements per pixel
    Py_ssize_t images, rows  # images and rows of tiles per chunk
    Py_ssize_t strips, chunks  # chunks per image; of all images
    Py_ssize_t tiles  # tiles per chunk, in whole register tiles
    Py_ssize_t high  # rows of a register tile: TALL, SHORT, half of that, or NARROW
    Py_ssize_t panels  # panels of output channels
    const float* filters  # U, [panel][36][k][width]
    const float* bias  # [m] or NULL
    act_t act

# The tiles that are processed together.
ctypedef struct chunk_t:
    Py_ssize_t n, images  # first image, how many
    Py_ssize_t row, rows  # first row of tiles in each, how many


cdef inline Py_ssize_t tiles_along(Py_ssize_t size, Py_ssize_t dil) noexcept nogil:
    """Number of tiles along an axis of the output."""
    return size // (4 * dil) * dil + min(dil, size % (4 * dil))


cdef inline Py_ssize_t origin(Py_ssize_t t, Py_ssize_t dil) noexcept nogil:
    """The first pixel of tile t along an axis."""
    return 4 * t if dil == 1 else 4 * dil * (t // dil) + t % dil


cdef inline Py_ssize_t reach(Py_ssize_t tiles, Py_ssize_t dil) noexcept nogil:
    """Pixels of the input under so many tiles along an axis."""
    return origin(tiles - 1, dil) + 5 * dil + 1


cdef inline winograd_t winograd_plan(
    Py_ssize_t n, Py_ssize_t m, Py_ssize_t k, Py_ssize_t h, Py_ssize_t w, Py_ssize_t oh,
    Py_ssize_t ow, Py_ssize_t ph, Py_ssize_t pw, Py_ssize_t dil_h, Py_ssize_t dil_w,
    Py_ssize_t most,
) noexcept nogil:
    """Sizes, and chunks of at most about `most` tiles that fill the register tiles best."""
    cdef winograd_t p
    cdef Py_ssize_t tiles, images, cost, best = -1
    memset(&p, 0, sizeof(p))
    p.n, p.m, p.k, p.h, p.w, p.oh, p.ow, p.ph, p.pw = n, m, k, h, w, oh, ow, ph, pw
    p.dil_h, p.dil_w = dil_h, dil_w
    p.tiles_h, p.tiles_w = tiles_along(oh, dil_h), tiles_along(ow, dil_w)
    p.ld, p.panels = round_up(k, LANES_F32), ceil_div(m, WIDE)
    p.images, p.rows, p.strips = 1, p.tiles_h, 1
    tiles = p.tiles_h * p.tiles_w
    if tiles > most:
        p.rows = ceil_div(p.tiles_h, ceil_div(p.tiles_h, max(1, most // p.tiles_w)))
        p.rows = min(p.tiles_h, round_up(p.rows, dil_h))
        p.strips = ceil_div(p.tiles_h, p.rows)
    else:
        for images in range(1, min(n, most // tiles) + 1):
            cost = ceil_div(n, images) * round_up(images * tiles, CUT)
            if best < 0 or cost <= best:
                best, p.images = cost, images
    p.chunks = ceil_div(n, p.images) * p.strips
    p.high = rows_of_tile(p.images * p.rows * p.tiles_w, panel_of(p.m))
    p.tiles = round_up(p.images * p.rows * p.tiles_w, p.high)
    return p


cdef inline Py_ssize_t panel_of(Py_ssize_t channels) noexcept nogil:
    """Width of a panel of channels, of which there are 16 at least."""
    return LANES_F32 if LANES_F32 >= 16 and channels <= LANES_F32 else WIDE


cdef inline Py_ssize_t rows_of_tile(Py_ssize_t count, Py_ssize_t width) noexcept nogil:
    """The height of register tiles of so many columns that wastes fewer rows on `count` rows."""
    if width < WIDE:
        return NARROW
    if EDGE_FORMS and count <= SHORT // 2:
        return SHORT // 2
    return SHORT if 33 * round_up(count, SHORT) < 32 * round_up(count, TALL) else TALL


cdef inline void products_of(
    Py_ssize_t high, Py_ssize_t rows, Py_ssize_t depth, const float* a, Py_ssize_t a_row,
    Py_ssize_t a_step, const float* b, float* c, Py_ssize_t ldc, bint add,
) noexcept nogil:
    """c[i*ldc + j] (+)= Σ_k a[i*a_row + k*a_step] b[k*width + j]  for i < rows, rounded up.

    For panels as wide as tiles of `high` rows.
    """
    cdef Py_ssize_t a_at[NARROW]
    cdef Py_ssize_t i
    for i in range(high):
        a_at[i] = i * a_row
    if high == TALL:
        form_tiles(
            ceil_div(rows, TALL), depth, a, a_at, a_step, TALL * a_row, b, c, ldc,
            c if add else NULL, ldc, False,
            <tall_panel_t*> NULL,
        )
    elif LANES_F32 >= 16 and high == NARROW:
        form_tiles(
            ceil_div(rows, NARROW), depth, a, a_at, a_step, NARROW * a_row, b, c, ldc,
            c if add else NULL, ldc, False,
            <narrow_panel_t*> NULL,
        )
    elif EDGE_FORMS and high == SHORT // 2:
        form_tiles(
            ceil_div(rows, SHORT // 2), depth, a, a_at, a_step, SHORT // 2 * a_row, b, c, ldc,
            c if add else NULL, ldc, False,
            <half_short_panel_t*> NULL,
        )
    else:
        form_tiles(
            ceil_div(rows, SHORT), depth, a, a_at, a_step, SHORT * a_row, b, c, ldc,
            c if add else NULL, ldc, False,
            <short_panel_t*> NULL,
        )


cdef inline Py_ssize_t tiles_for(Py_ssize_t k) noexcept nogil:
    """Number of tiles whose V fits the level-2 cache."""
    cdef Py_ssize_t bytes_of_one = PLACES * round_up(k, LANES_F32) * sizeof(float)
    return max(<Py_ssize_t> (2 * TALL), V_BYTES // bytes_of_one)


cdef inline chunk_t chunk_of(winograd_t* p, Py_ssize_t number) noexcept nogil:
    cdef chunk_t c
    c.n, c.row = number // p.strips * p.images, number % p.strips * p.rows
    c.images, c.rows = min(p.images, p.n - c.n), min(p.rows, p.tiles_h - c.row)
    return c


cdef inline Py_ssize_t place_step(Py_ssize_t numbers) noexcept nogil:
    """The distance between two of the 36 places, each of `numbers` elements.

    A transform writes to all of them in turn, so they must not share the sets of a cache: the
    distance is an odd number of 64-byte lines.
    """
    return (numbers // 16 | 1) * 16 + (32 if numbers % 16 else 0)


cdef inline area_t input_area(winograd_t* p, chunk_t* c) noexcept nogil:
    return area_of(
        p.h, p.w, p.ph - 4 * c.row, p.pw, reach(c.rows, p.dil_h), reach(p.tiles_w, p.dil_w), p.ld
    )


cdef inline void _filter_line(
    const f32v* g, Py_ssize_t step, f32v* t, Py_ssize_t to
) noexcept nogil:
    # t = G g
    cdef float quarter = 0.25, sixth = 1.0 / 6, twelfth = 1.0 / 12, twentyfourth = 1.0 / 24
    cdef f32v a = sixth * (g[0] + g[2 * step]), b = sixth * g[step]
    cdef f32v c = scaled_f32(twentyfourth, g[0], sixth * g[2 * step]), d = twelfth * g[step]
    t[0] = quarter * g[0]
    t[to] = -a - b
    t[2 * to] = b - a
    t[3 * to] = c + d
    t[4 * to] = c - d
    t[5 * to] = g[2 * step]


cdef inline Py_ssize_t filters_size(winograd_t* p) noexcept nogil:
    """Number of elements in U."""
    return p.panels * PLACES * place_step(p.k * WIDE)


cdef inline void transform_filters(
    winograd_t* p, Py_ssize_t panel, const float* w, Py_ssize_t m_step, Py_ssize_t k_step,
    bint turned, float* out,
) noexcept nogil:
    """U of one panel, from the filters at w[m*m_step + k*k_step], turned by 180° if asked."""
    cdef f32v g[9]
    cdef f32v half[18]
    cdef Py_ssize_t place = place_step(p.k * WIDE), width = panel_of(p.m), m, k, h, e, l, count, q
    cdef Py_ssize_t step = -LANES_F32 if turned else LANES_F32
    cdef float* first
    cdef const float* source
    memset(g, 0, sizeof(g))
    out += panel * PLACES * place
    for k in range(p.k):
        for h in range(width // LANES_F32):
            m = panel * WIDE + h * LANES_F32
            count = max(<Py_ssize_t> 0, min(<Py_ssize_t> LANES_F32, p.m - m))
            first = <float*> g + (8 * LANES_F32 if turned else 0)
            source = w + m * m_step + k * k_step
            l = 0
            while l + 4 <= count:
                q = 0
                while q < 9:
                    q = min(q, <Py_ssize_t> 5)
                    transpose4(
                        source + l * m_step + q, m_step, first + q * step + l,
                        first + (q + 1) * step + l, first + (q + 2) * step + l,
                        first + (q + 3) * step + l,
                    )
                    q += 4
                l += 4
            while l < count:
                for e in range(9):
                    first[e * step + l] = source[l * m_step + e]
                l += 1
            for e in range(3):
                _filter_line(g + e, 3, half + e, 3)
            for e in range(6):
                _filter_line(
                    half + 3 * e, 1, <f32v*> (out + 6 * e * place + k * width + h * LANES_F32),
                    place // LANES_F32,
                )


cdef inline Py_ssize_t row_of(Py_ssize_t turn, Py_ssize_t second) noexcept nogil:
    """One of the two rows of places (of six) that are computed together in one of three turns."""
    return 5 * second if turn == 0 else 2 * turn - 1 + second


cdef inline void input_pair(
    const f32v* d, Py_ssize_t step, Py_ssize_t turn, f32v* first, f32v* second
) noexcept nogil:
    # two rows of t = Bᵀ d
    cdef float two = 2, four = 4, minus_four = -4, minus_five = -5
    cdef f32v d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], a, b
    if turn == 0:
        first[0] = scaled_f32(minus_five, d2, scaled_f32(four, d[0], d4))
        second[0] = scaled_f32(minus_five, d3, scaled_f32(four, d1, d[5 * step]))
        return
    if turn == 1:
        a, b = scaled_f32(minus_four, d2, d4), scaled_f32(minus_four, d1, d3)
    else:
        a, b = d4 - d2, two * (d3 - d1)
    first[0] = a + b
    second[0] = a - b


cdef inline void input_line(const f32v* d, f32v* t, Py_ssize_t to) noexcept nogil:
    # t = Bᵀ d
    cdef Py_ssize_t turn
    for turn in range(3):
        input_pair(d, 1, turn, t + row_of(turn, 0) * to, t + row_of(turn, 1) * to)


cdef inline void transform_input(
    winograd_t* p, chunk_t* c, const area_t* a, const float* pixels, float* v, Py_ssize_t row,
    Py_ssize_t panel, Py_ssize_t place,
) noexcept nogil:
    """V = Bᵀ d B of a chunk, for all channels; `pixels` are those from its first tile on.

    v[e, k, t] is at e*place + t*row + k//WIDE*panel + k%WIDE.
    """
    cdef f32v half[PLACES]
    cdef Py_ssize_t across = a.ld // LANES_F32, down = a.wide * across, _, r, s, l, e, turn, row_at
    cdef Py_ssize_t next_h = p.dil_h * down, next_w = p.dil_w * across
    cdef const f32v* d
    cdef float* to
    for _ in range(c.images):
        for r in range(c.rows):
            row_at = origin(r, p.dil_h)
            for s in range(p.tiles_w):
                for l in range(across):
                    d = <const f32v*> pixels + row_at * down + origin(s, p.dil_w) * across + l
                    to = v + l // 2 * panel + l % 2 * LANES_F32
                    for e in range(6):  # columns, then rows
                        for turn in range(3):
                            input_pair(
                                d + e * next_w, next_h, turn, half + 6 * row_of(turn, 0) + e,
                                half + 6 * row_of(turn, 1) + e,
                            )
                    for e in range(6):
                        input_line(
                            half + 6 * e, <f32v*> (to + 6 * e * place), place // LANES_F32
                        )
                v += row
        pixels += area_size(a)


cdef inline void _output_line(
    const f32v* m, Py_ssize_t step, f32v* y, Py_ssize_t to
) noexcept nogil:
    # y = Aᵀ m
    cdef float two = 2, four = 4, eight = 8
    cdef f32v a = m[step] + m[2 * step], b = m[step] - m[2 * step]
    cdef f32v c = m[3 * step] + m[4 * step], d = m[3 * step] - m[4 * step]
    y[0] = m[0] + a + c
    y[to] = scaled_f32(two, d, b)
    y[2 * to] = scaled_f32(four, c, a)
    y[3 * to] = scaled_f32(eight, d, b) + m[5 * step]


cdef inline void _store_row(
    winograd_t* p, const float* y, Py_ssize_t channels, Py_ssize_t rows, float* out
) noexcept nogil:
    """Write a row of tiles, y[tile, i, j, channel], to the output, cropped to its size.

    Only some channels at a time, because their planes may share the sets of a cache.
    """
    cdef Py_ssize_t y_at[TOGETHER]  # positions of elements that are adjacent in the output
    cdef Py_ssize_t out_at[LANES_F32]  # positions of the channels
    cdef Py_ssize_t area = p.oh * p.ow, whole = p.ow if p.dil_w > 1 else p.ow // 4 * 4, row, col
    cdef Py_ssize_t most = channels // LANES_F32 * LANES_F32, lines = rows, c = 0, i, j, l
    cdef bint one = whole == p.ow and p.dil_h == 1  # the rows are contiguous
    if one:
        lines, whole = 1, rows * whole
    for l in range(LANES_F32):
        out_at[l] = l * area
    while c < most:
        for i in range(lines):
            j, row, col = 0, i, 0
            while j + TOGETHER <= whole:
                for l in range(TOGETHER):
                    y_at[l] = _in_tiles(p, row, col)
                    col += 1
                    if col == p.ow:
                        row, col = row + 1, 0
                l = 0
                while l < TOGETHER:
                    transpose(
                        y + c, y_at + l, out + c * area + i * p.dil_h * p.ow + j + l, out_at
                    )
                    l += LANES_F32
                j += TOGETHER
            _store_rest(p, y, c, c + LANES_F32, row, col, rows if one else i + 1, out)
        c += LANES_F32
    _store_rest(p, y, most, channels, 0, 0, rows, out)


cdef inline Py_ssize_t _in_tiles(winograd_t* p, Py_ssize_t i, Py_ssize_t j) noexcept nogil:
    """Position of a pixel in a row of tiles."""
    cdef Py_ssize_t at = j % 4
    j //= 4
    if p.dil_w > 1:
        j = 4 * j + at
        at = j // p.dil_w % 4
        j = j // (4 * p.dil_w) * p.dil_w + j % p.dil_w
    return (16 * j + 4 * i + at) * panel_of(p.m)


cdef inline void _store_rest(
    winograd_t* p, const float* y, Py_ssize_t first, Py_ssize_t last, Py_ssize_t i, Py_ssize_t j,
    Py_ssize_t rows, float* out,
) noexcept nogil:
    """Write some channels from pixel (i, j) on, which is the first of a tile."""
    cdef float four[16]
    cdef float* to
    cdef Py_ssize_t area = p.oh * p.ow, width = panel_of(p.m), c, l, k
    while i < rows:
        while j < p.ow:
            c = first
            while c + 4 <= last and p.dil_w == 1:
                to = out + c * area + i * p.dil_h * p.ow + j
                if j + 4 <= p.ow:
                    transpose4(
                        y + _in_tiles(p, i, j) + c, width, to, to + area, to + 2 * area,
                        to + 3 * area,
                    )
                else:
                    transpose4(
                        y + _in_tiles(p, i, j) + c, width, four, four + 4, four + 8, four + 12
                    )
                    for l in range(4):
                        for k in range(p.ow - j):
                            to[l * area + k] = four[4 * l + k]
                c += 4
            while c < last:
                for k in range(min(<Py_ssize_t> 4, p.ow - j)):
                    out[c * area + i * p.dil_h * p.ow + j + k] = y[_in_tiles(p, i, j + k) + c]
                c += 1
            j += 4
        i, j = i + 1, 0


cdef inline void _transform_output(
    winograd_t* p, chunk_t* c, const float* products, Py_ssize_t place, Py_ssize_t panel,
    float* out, float* room,
) noexcept nogil:
    """f(Aᵀ M A + bias) of one panel; `room` holds a row of tiles."""
    cdef f32v half[24]
    cdef f32v shift[2]
    cdef const f32v* m
    cdef f32v* y
    cdef float* to
    cdef Py_ssize_t m0 = panel * WIDE, channels = min(<Py_ssize_t> WIDE, p.m - m0)
    cdef Py_ssize_t area = p.oh * p.ow, step = place // LANES_F32, i, r, s, l, e, row, rows
    cdef Py_ssize_t width = panel_of(p.m), vectors = width // LANES_F32
    memset(shift, 0, sizeof(shift))
    if p.bias != NULL:
        memcpy(shift, p.bias + m0, channels * sizeof(float))
    for i in range(c.images):
        for r in range(c.row, c.row + c.rows):
            y = <f32v*> room
            row = origin(r, p.dil_h)
            to = out + ((c.n + i) * p.m + m0) * area + row * p.ow
            rows = min(<Py_ssize_t> 4, ceil_div(p.oh - row, p.dil_h))
            for s in range(p.tiles_w):
                for l in range(s * channels // p.tiles_w, (s + 1) * channels // p.tiles_w):
                    e = 0
                    while e < rows * p.ow:
                        prefetch_w(to + l * area + e)
                        e += 16
                for l in range(vectors):
                    m = <const f32v*> products + l
                    for e in range(6):
                        _output_line(m + e * step, 6 * step, half + e, 6)
                    for e in range(4):
                        _output_line(half + 6 * e, 1, y + 4 * vectors * e + l, vectors)
                    for e in range(16):
                        y[vectors * e + l] = y[vectors * e + l] + shift[l]
                products += width
                y += 16 * vectors
            act_span(p.act, room, room, p.tiles_w * 16 * width)
            _store_row(p, room, channels, rows, to)


cdef inline Py_ssize_t v_step(winograd_t* p) noexcept nogil:
    """Number of elements in one place of V, for a chunk."""
    return place_step(p.tiles * p.ld)


cdef inline Py_ssize_t correlate_scratch(winograd_t* p) noexcept nogil:
    """Number of elements in V, in M of one panel, and in a row of tiles of the output."""
    return PLACES * (v_step(p) + place_step(p.tiles * WIDE)) + p.tiles_w * 16 * WIDE


cdef inline void correlate_3x3(
    winograd_t* p, chunk_t* c, const area_t* a, const float* pixels, Py_ssize_t first,
    Py_ssize_t last, float* v, float* out,
) noexcept nogil:
    """out = f(bias + filters * image), the panels from `first` to `last` of one chunk.

    `pixels` are those from its first tile on; `v` is scratch memory.
    """
    cdef Py_ssize_t tiles = c.images * c.rows * p.tiles_w, e, panel
    cdef Py_ssize_t place = place_step(p.tiles * WIDE), u_place = place_step(p.k * WIDE)
    cdef float* products = v + PLACES * v_step(p)
    transform_input(p, c, a, pixels, v, p.ld, WIDE, v_step(p))
    for panel in range(first, last):
        for e in range(PLACES):
            products_of(
                p.high, tiles, p.k, v + e * v_step(p), p.ld, 1,
                p.filters + (panel * PLACES + e) * u_place, products + e * place, panel_of(p.m),
                False,
            )
        _transform_output(p, c, products, place, panel, out, products + PLACES * place)
