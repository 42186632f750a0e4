"""The gradient of 3x3 filters in Winograd's form: the transpose of ``winograd.pxd``.

From y = Aᵀ [ U ∘ V ] A with U = G g Gᵀ and V = Bᵀ d B follows, for one pair of channels,

    Z = A dy Aᵀ,   dU = Σ_tiles Z ∘ V,   dg = Gᵀ dU G

so each of the 36 places is again a matrix product, dU[m, k] = Σ_t Z[t, m] V[t, k].
"""

from npdl._ext.pixels cimport area_size, area_t
from npdl._ext.simd cimport LANES_F32, TALL, f32v, scaled_f32
from npdl._ext.tile cimport round_up
from npdl._ext.winograd cimport (
    PLACES,
    WIDE,
    chunk_t,
    input_line,
    input_pair,
    origin,
    panel_of,
    place_step,
    products_of,
    row_of,
    rows_of_tile,
    winograd_t,
)

cdef enum:
    TILES = 128  # per chunk: enough terms to outweigh reading and writing dU
    MOST_BYTES = 64 * 1024 * 1024  # the most memory for dU of all groups
    MOST_CHUNKS = 256  # the most chunks whose sums are added in float32


cdef inline Py_ssize_t _rows(winograd_t* p) noexcept nogil:
    return round_up(p.m, rows_of_tile(p.m, panel_of(p.k)))


cdef inline Py_ssize_t _cols(winograd_t* p) noexcept nogil:
    return round_up(p.k, panel_of(p.k))


cdef inline Py_ssize_t sums_size(winograd_t* p) noexcept nogil:
    """Number of elements in dU, in whole tiles."""
    return PLACES * _rows(p) * _cols(p)


cdef inline Py_ssize_t weights_groups(winograd_t* p, Py_ssize_t most) noexcept nogil:
    """Number of groups of images. The same in every build, because dW is the sum over them."""
    cdef Py_ssize_t tiles = p.tiles_h * p.tiles_w, groups
    groups = max(most, p.n * tiles // (TILES * MOST_CHUNKS))
    while groups > 2 and (
        p.n // groups * tiles < TILES
        or groups * PLACES * p.m * p.k * <Py_ssize_t> sizeof(float) > MOST_BYTES
    ):
        groups //= 2
    return min(groups, p.n)


cdef inline Py_ssize_t _v_step(winograd_t* p) noexcept nogil:
    """Number of elements in one place of V, in panels."""
    return place_step(p.tiles * _cols(p))


cdef inline Py_ssize_t _z_step(winograd_t* p) noexcept nogil:
    """Number of elements in one place of Z, and those beyond it that the last tile reads."""
    return place_step(p.tiles * round_up(p.m, LANES_F32) + TALL)


cdef inline Py_ssize_t weights_scratch(winograd_t* p) noexcept nogil:
    """Number of elements in V and Z of a chunk, for two rows of places."""
    return 12 * (_v_step(p) + _z_step(p))


cdef inline void _transform_input_rows(
    winograd_t* p, chunk_t* c, const area_t* a, const float* pixels, float* v, Py_ssize_t panel,
    Py_ssize_t place, Py_ssize_t turn,
) noexcept nogil:
    """`transform_input` for two of the six rows of places, in panels of channels."""
    cdef f32v half[12]
    cdef Py_ssize_t across = a.ld // LANES_F32, down = a.wide * across, width = panel_of(p.k)
    cdef Py_ssize_t _, r, s, l, e, row_at
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
                    for e in range(6):
                        input_pair(d + e * next_w, next_h, turn, half + e, half + 6 + e)
                    for e in range(2):
                        input_line(
                            half + 6 * e, <f32v*> (to + 6 * e * place), place // LANES_F32
                        )
                v += width
        pixels += area_size(a)


cdef inline void _gradient_pair(
    const f32v* y, Py_ssize_t step, Py_ssize_t turn, f32v* first, f32v* second
) noexcept nogil:
    # two rows of z = A y
    cdef float two = 2, four = 4, eight = 8
    cdef f32v y0 = y[0], y1 = y[step], y2 = y[2 * step], y3 = y[3 * step], a, b
    if turn == 0:
        first[0], second[0] = y0, y3
        return
    if turn == 1:
        a, b = y0 + y2, y1 + y3
    else:
        a, b = scaled_f32(four, y2, y0), scaled_f32(eight, y3, two * y1)
    first[0] = a + b
    second[0] = a - b


cdef inline void _transform_gradient_rows(
    winograd_t* p, chunk_t* c, const area_t* a, const float* pixels, float* z, Py_ssize_t turn
) noexcept nogil:
    """z[e, t, m] = A dy Aᵀ of a chunk, for all channels and two of the six rows of places e.

    `pixels` are those from its first tile on.
    """
    cdef f32v half[8]
    cdef Py_ssize_t across = a.ld // LANES_F32, down = a.wide * across
    cdef Py_ssize_t place = _z_step(p) // LANES_F32, _, r, s, l, e, t, row
    cdef Py_ssize_t next_h = p.dil_h * down, next_w = p.dil_w * across
    cdef const f32v* y
    cdef f32v* to = <f32v*> z
    for _ in range(c.images):
        for r in range(c.rows):
            row = origin(r, p.dil_h)
            for s in range(p.tiles_w):
                for l in range(across):
                    y = <const f32v*> pixels + row * down + origin(s, p.dil_w) * across + l
                    for e in range(4):  # columns, then rows
                        _gradient_pair(y + e * next_w, next_h, turn, half + e, half + 4 + e)
                    for e in range(2):
                        for t in range(3):
                            _gradient_pair(
                                half + 4 * e, 1, t, to + (6 * e + row_of(t, 0)) * place,
                                to + (6 * e + row_of(t, 1)) * place,
                            )
                    to += 1
        pixels += area_size(a)


cdef inline void add_products(
    winograd_t* p, chunk_t* c, const area_t* x, const float* pixels, const area_t* dz,
    const float* gradients, float* sums, bint add, float* v,
) noexcept nogil:
    """sums[e, m, k] (+)= Σ_t Z[e, t, m] V[e, t, k] of a chunk.

    The pixels of x and dz are those from its first tile on; `v` is scratch memory. Twelve of the 36
    places are computed at once, so that V and Z stay in the level-2 cache.
    """
    cdef Py_ssize_t tiles = c.images * c.rows * p.tiles_w, panel = p.tiles * WIDE, turn, e, k
    cdef Py_ssize_t width = panel_of(p.k)
    cdef Py_ssize_t rows = _rows(p), cols = _cols(p)
    cdef float* z = v + 12 * _v_step(p)
    cdef float* to
    for turn in range(3):
        _transform_input_rows(p, c, x, pixels, v, panel, _v_step(p), turn)
        _transform_gradient_rows(p, c, dz, gradients, z, turn)
        for e in range(12):
            to = sums + (6 * row_of(turn, e // 6) + e % 6) * rows * cols
            for k in range(cols // width):
                products_of(
                    rows_of_tile(p.m, width), rows, tiles, z + e * _z_step(p), 1, dz.ld,
                    v + e * _v_step(p) + k * panel, to + k * WIDE, cols, add,
                )


cdef inline void _weight_line(
    const f32v* u, Py_ssize_t step, f32v* w, Py_ssize_t to
) noexcept nogil:
    # w = Gᵀ u
    cdef float quarter = 0.25, sixth = 1.0 / 6, twelfth = 1.0 / 12, twentyfourth = 1.0 / 24
    cdef f32v a = u[step] + u[2 * step], b = u[3 * step] + u[4 * step]
    w[0] = scaled_f32(twentyfourth, b, quarter * u[0] - sixth * a)
    w[to] = scaled_f32(twelfth, u[3 * step] - u[4 * step], sixth * (u[2 * step] - u[step]))
    w[2 * to] = scaled_f32(sixth, b - a, u[5 * step])


cdef inline void weight_gradients(
    winograd_t* p, const float* sums, Py_ssize_t groups, Py_ssize_t m, float* dw
) noexcept nogil:
    """dw[m] = Gᵀ dU G, where dU is the sum over the groups; the lanes are input channels."""
    cdef f32v full[PLACES]
    cdef f32v half[18]
    cdef f32v whole[9]
    cdef Py_ssize_t rows = _rows(p), cols = _cols(p), k = 0, e, g, l
    while k < p.k:
        for e in range(PLACES):
            full[e] = (<const f32v*> (sums + (e * rows + m) * cols + k))[0]
            for g in range(1, groups):
                full[e] = full[e] + (
                    <const f32v*> (sums + g * sums_size(p) + (e * rows + m) * cols + k)
                )[0]
        for e in range(6):
            _weight_line(full + e, 6, half + e, 6)
        for e in range(3):
            _weight_line(half + 6 * e, 1, whole + 3 * e, 1)
        for l in range(min(<Py_ssize_t> LANES_F32, p.k - k)):
            for e in range(9):
                dw[(m * p.k + k + l) * 9 + e] = (<float*> whole)[e * LANES_F32 + l]
        k += LANES_F32
