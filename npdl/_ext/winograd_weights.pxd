"""The gradient of 3x3 filters in Winograd's form: the transpose of ``winograd.pxd``.

From y = Aᵀ [ U ∘ V ] A with U = G g Gᵀ and V = Bᵀ d B follows, for one pair of channels,

    Z = A dy Aᵀ,   dU = Σ_tiles Z ∘ V,   dg = Gᵀ dU G

so each of the 36 places is again a matrix product, Z Vᵀ, whose sum runs over the tiles. The lanes
of a vector are tiles, hence terms of that sum.
"""

from libc.string cimport memset
from npdl._ext.simd cimport LANES_F32, MR, NV, f32v
from npdl._ext.tile cimport ceil_div, dot_tile, round_up
from npdl._ext.winograd cimport (
    PLACES,
    gather,
    place_step,
    planes_size,
    runs_t,
    tile_runs,
    transform_input,
    winograd_t,
)

cdef enum:
    TILES = 192  # to a pass, at least: enough terms for a sum to be worth its end
    MOST_BYTES = 64 * 1024 * 1024  # for dU of all groups
    LD = NV * LANES_F32  # dU has rows of whole tiles and whole vectors


cdef inline Py_ssize_t sums_size(winograd_t* p) noexcept nogil:
    """Numbers in dU, with whole tiles of it."""
    return PLACES * round_up(p.m, MR) * round_up(p.k, LD)


cdef inline Py_ssize_t weights_groups(winograd_t* p, Py_ssize_t n, Py_ssize_t most) noexcept nogil:
    """Into how many groups to cut the images, and set how many of one go to a pass."""
    cdef Py_ssize_t tiles = p.tiles_h * p.tiles_w, groups = most, size
    while groups > 2 and (
        n // groups * tiles < TILES
        or groups * sums_size(p) * <Py_ssize_t> sizeof(float) > MOST_BYTES
    ):
        groups //= 2
    groups = min(groups, n)
    size = ceil_div(n, groups)
    p.group = ceil_div(size, ceil_div(size * tiles, 2 * TILES))
    return groups


cdef inline Py_ssize_t pass_tiles(winograd_t* p) noexcept nogil:
    return round_up(p.group * p.tiles_h * p.tiles_w, NV * LANES_F32)


cdef inline Py_ssize_t gradient_width(winograd_t* p) noexcept nogil:
    """Columns of the planes of dy."""
    return round_up(p.tiles_w, 4)


cdef inline Py_ssize_t gradient_planes(winograd_t* p) noexcept nogil:
    """Numbers in the padded dy of one image, and those that the last vector reads beyond."""
    return p.m * 16 * p.tiles_h * gradient_width(p) + 16


cdef inline size_t weights_scratch(winograd_t* p) noexcept nogil:
    """Bytes of scratch that `add_products` needs."""
    return (
        PLACES * (place_step(p.k * pass_tiles(p)) + place_step(p.m * pass_tiles(p)))
        + MR * pass_tiles(p) + 2 * PLACES * NV * LANES_F32
    ) * sizeof(float)


cdef inline void _gradient_line(
    const f32v* y, Py_ssize_t step, f32v* z, Py_ssize_t to
) noexcept nogil:
    # z = A y
    cdef float two = 2, four = 4, eight = 8
    cdef f32v a, b, y0, y1, y2, y3
    cdef Py_ssize_t v
    for v in range(NV):
        y0, y1, y2, y3 = y[v], y[step + v], y[2 * step + v], y[3 * step + v]
        z[v] = y0
        a, b = y0 + y2, y1 + y3
        z[to + v] = a + b
        z[2 * to + v] = a - b
        a, b = y0 + four * y2, two * y1 + eight * y3
        z[3 * to + v] = a + b
        z[4 * to + v] = a - b
        z[5 * to + v] = y3


cdef inline void _transform_gradient(
    winograd_t* p, const float* planes, const runs_t* runs, Py_ssize_t count, float* z,
    Py_ssize_t row, Py_ssize_t place, f32v* room,
) noexcept nogil:
    """z[e, m, :] = A dy Aᵀ of NR tiles, every channel; zero from the lane `count` on."""
    cdef Py_ssize_t nr = NV * LANES_F32, c, e, i, j, l, wide = gradient_width(p)
    cdef f32v* half = room + 16 * NV
    cdef float* out
    for c in range(p.m):
        for i in range(4):
            for j in range(4):
                gather(
                    planes + ((c * 4 * p.tiles_h + i) * 4 + j) * wide, runs,
                    <float*> room + (4 * i + j) * nr,
                )
        for e in range(4):  # columns, then rows
            _gradient_line(room + e * NV, 4 * NV, half + e * NV, 4 * NV)
        for e in range(6):
            _gradient_line(
                half + 4 * e * NV, NV, <f32v*> (z + 6 * e * place + c * row), place // LANES_F32
            )
        if count < nr:
            for e in range(PLACES):
                out = z + e * place + c * row
                for l in range(count, nr):
                    out[l] = 0


cdef inline void add_products(
    winograd_t* p, Py_ssize_t images, const float* planes, const float* gradients, float* sums,
    char* scratch,
) noexcept nogil:
    """sums[e, m, k] += Σ_tiles Z[e, m] V[e, k], over some images, given as planes of x and dz."""
    cdef runs_t runs
    cdef Py_ssize_t b_at[NV]
    cdef Py_ssize_t nr = NV * LANES_F32, tiles = p.tiles_h * p.tiles_w, row = pass_tiles(p)
    cdef Py_ssize_t span = round_up(images * tiles, nr), start, count, e, m, k, i
    cdef Py_ssize_t ld = round_up(p.k, LD), rows = round_up(p.m, MR)
    cdef Py_ssize_t v_place = place_step(p.k * row), z_place = place_step(p.m * row)
    cdef float* v = <float*> scratch
    cdef float* z = v + PLACES * v_place
    cdef float* room = z + PLACES * z_place + MR * row
    start = 0
    while start < span:
        count = min(nr, images * tiles - start)
        tile_runs(p, start, count, planes_size(p), p.plane_w, &runs)
        transform_input(p, planes, &runs, v + start, row, v_place, <f32v*> room)
        tile_runs(p, start, count, gradient_planes(p), gradient_width(p), &runs)
        _transform_gradient(p, gradients, &runs, count, z + start, row, z_place, <f32v*> room)
        start += nr
    for e in range(PLACES):
        for m in range(ceil_div(p.m, MR)):
            for k in range(ceil_div(p.k, NV)):
                for i in range(NV):
                    b_at[i] = min(k * NV + i, p.k - 1) * row
                dot_tile(
                    1, span, z + e * z_place + m * MR * row, row, 0, v + e * v_place, b_at, 0,
                    sums + (e * rows + m * MR) * ld + k * NV, ld,
                )


cdef inline void _weight_line(
    const f32v* u, Py_ssize_t step, f32v* w, Py_ssize_t to
) noexcept nogil:
    # w = Gᵀ u
    cdef float quarter = 0.25, sixth = 1.0 / 6, twelfth = 1.0 / 12, twentyfourth = 1.0 / 24
    cdef f32v a = u[step] + u[2 * step], b = u[3 * step] + u[4 * step]
    w[0] = quarter * u[0] - sixth * a + twentyfourth * b
    w[to] = sixth * (u[2 * step] - u[step]) + twelfth * (u[3 * step] - u[4 * step])
    w[2 * to] = sixth * (b - a) + u[5 * step]


cdef inline void weight_gradients(
    winograd_t* p, const float* sums, Py_ssize_t groups, Py_ssize_t m, float* dw
) noexcept nogil:
    """dw[m] = Gᵀ dU G, dU being the sum over the groups; the lanes are input channels."""
    cdef f32v full[PLACES]
    cdef f32v half[18]
    cdef f32v whole[9]
    cdef Py_ssize_t ld = round_up(p.k, LD), rows = round_up(p.m, MR), k = 0, e, g, l
    while k < p.k:
        for e in range(PLACES):
            full[e] = (<const f32v*> (sums + (e * rows + m) * ld + k))[0]
            for g in range(1, groups):
                full[e] = full[e] + (
                    <const f32v*> (sums + g * sums_size(p) + (e * rows + m) * ld + k)
                )[0]
        for e in range(6):
            _weight_line(full + e, 6, half + e, 6)
        for e in range(3):
            _weight_line(half + 6 * e, 1, whole + 3 * e, 1)
        for l in range(min(<Py_ssize_t> LANES_F32, p.k - k)):
            for e in range(9):
                dw[(m * p.k + k + l) * 9 + e] = (<float*> whole)[e * LANES_F32 + l]
        k += LANES_F32
