"""The register tiles: the innermost loops of every product.

A tile computes MR x NR numbers, each a sum over k, and keeps them in registers:

                    b   row k: NR numbers (NV vectors)
                  +-----------+
        a col k   |           |      for k:  load the NV vectors of b[k]
        MR        | acc[i][j] |              for i:  acc[i] += a[i,k] * b[k]
        numbers   |           |
                  +-----------+

`form_tiles` reads b from a *packed panel*, in which row k follows row k-1. `tile` reads the
positions of the rows of b, and of the vectors in them, from two short tables, so it can read the
shifted pixels of an image. Tiles of the form `tall_panel_t` have TALL rows and two vectors, which
fit matrices of 16, 32 or 64 columns better; `short_panel_t` has SHORT rows, for matrices with few
rows, and `narrow_panel_t` twice as many of one vector. `add_listed_tile` reads b from a panel, and
the columns of a at positions from a table. The other forms are for the edges of a matrix.
"""

from libc.string cimport memset
from npdl._ext.simd cimport (
    EDGE_FORMS,
    LANES_F32,
    LANES_F64,
    MR,
    NV,
    TALL,
    add_product_f32,
    add_product_f64,
    at_least_f32v,
    f32v,
    f64v,
    opaque,
    prefetch,
    prefetch_far,
    prefetch_w,
    real,
)

ctypedef fused vec:
    f32v
    f64v

# The forms of a tile (how it reads b, and its size) are types, so that each is compiled separately.
ctypedef struct shifted_t:
    char _
ctypedef struct tall_shifted_t:
    char _
ctypedef struct panel_t:
    char _
ctypedef struct tall_panel_t:
    char _
ctypedef struct short_panel_t:
    char _
ctypedef struct fetching_panel_t:  # prefetches other memory
    char _
ctypedef struct packing_panel_t:  # reads a matrix in place, and packs it
    char _
ctypedef struct narrow_panel_t:  # of one vector, twice as many rows
    char _
ctypedef struct lone_panel_t:  # of one vector
    char _
ctypedef struct tall_listed_t:  # reads a at the positions of a table
    char _
ctypedef struct short_listed_t:
    char _
ctypedef struct half_panel_t:
    char _
ctypedef struct half_tall_panel_t:
    char _
ctypedef struct half_short_panel_t:
    char _
ctypedef struct half_lone_panel_t:
    char _
ctypedef fused panels_t:
    panel_t
    fetching_panel_t
    packing_panel_t
    tall_panel_t
    short_panel_t
    narrow_panel_t
    lone_panel_t
    tall_listed_t
    short_listed_t
    half_panel_t
    half_tall_panel_t
    half_short_panel_t
    half_lone_panel_t
ctypedef fused listed_t:
    tall_listed_t
    short_listed_t
ctypedef fused form_t:
    shifted_t
    tall_shifted_t
    panel_t
    fetching_panel_t
    packing_panel_t
    tall_panel_t
    short_panel_t
    narrow_panel_t
    lone_panel_t
    tall_listed_t
    short_listed_t
    half_panel_t
    half_tall_panel_t
    half_short_panel_t
    half_lone_panel_t

cdef enum:
    EACH = 4  # values of k for which a tile prefetches one line of other memory
    AHEAD = 8  # rows of a panel between what a tile reads and what it prefetches,
    FAR = 24  # or rows of a matrix that is read in place
    LINE = 64  # bytes of a cache line
    MAX_NR = 64  # the largest NR of all builds
    SHORT = 2 * TALL // 3  # rows of the shorter tile of two vectors
    NARROW = 2 * SHORT  # rows of the tile of one vector
    WIDEST = 32  # the most numbers in two vectors


cdef inline Py_ssize_t tile_cols(const real* _) noexcept nogil:
    """NR: columns of the register tile."""
    if real is float:
        return NV * LANES_F32
    else:
        return NV * LANES_F64


cdef inline Py_ssize_t ceil_div(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return (a + b - 1) // b


cdef inline Py_ssize_t round_up(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return ceil_div(a, b) * b


cdef inline Py_ssize_t lanes(const real* _) noexcept nogil:
    """Number of elements in a vector."""
    if real is float:
        return LANES_F32
    else:
        return LANES_F64


cdef inline void _sums(
    Py_ssize_t tiles,
    Py_ssize_t depth,
    const real* a,
    const Py_ssize_t* a_at,
    Py_ssize_t a_step,
    Py_ssize_t a_tile,
    const real* b,
    const Py_ssize_t* b_row,
    const Py_ssize_t* b_at,
    real* c,
    Py_ssize_t ldc,
    const real* start,
    Py_ssize_t start_row,
    const void* const* lines,
    Py_ssize_t ahead,
    bint relu,
    real* packed,
    vec* _,
    form_t* form,
) noexcept nogil:
    """Compute tiles, one below the other.

    The loop over tiles is here and not around calls, because gcc unrolls the loops over the
    accumulators early enough to keep these in registers only inside another loop.
    """
    cdef vec acc[NARROW][NV]
    cdef vec row[NV]
    cdef vec zero
    cdef real a_i
    cdef const real* a_k
    cdef const real* b_k
    cdef const real* far  # of what lies ahead, each tile prefetches a part
    cdef Py_ssize_t far_step = NV * lanes(a) // max(tiles, <Py_ssize_t> 1) if ahead else 0
    cdef Py_ssize_t i, j, k, t, step, rows = MR, wide = NV
    if form_t is tall_shifted_t or form_t is tall_panel_t or form_t is tall_listed_t:
        rows, wide = TALL, 2
    elif form_t is half_tall_panel_t:
        rows, wide = TALL // 2, 2
    elif form_t is short_panel_t or form_t is short_listed_t:
        rows, wide = SHORT, 2
    elif form_t is narrow_panel_t:
        rows, wide = NARROW, 1
    elif form_t is half_short_panel_t:
        rows, wide = SHORT // 2, 2
    elif form_t is half_panel_t:
        rows = MR // 2
    elif form_t is lone_panel_t:
        wide = 1
    elif form_t is half_lone_panel_t:
        rows, wide = MR // 2, 1
    for t in range(tiles):
        memset(&zero, 0, sizeof(zero))
        for i in range(rows):
            if form_t in panels_t and form_t is not narrow_panel_t:  # c may not be in the cache
                prefetch_w(c + i * ldc)
                prefetch_w(c + i * ldc + wide * lanes(a) - 1)
            for j in range(wide):
                acc[i][j] = zero
        a_k, b_k, far = a, b, b + ahead + t * depth * far_step
        if form_t is packing_panel_t:
            far = b + FAR * ahead
        k = 0
        if form_t is fetching_panel_t:  # EACH steps at a time
            while k + EACH <= depth:
                prefetch_far(lines[0])
                for step in range(EACH):
                    for j in range(wide):
                        row[j] = (<const vec*> (b_k + (step * wide + j) * lanes(a)))[0]
                        if (step * wide + j) * sizeof(vec) % LINE == 0:
                            prefetch(b_k + ((AHEAD + step) * wide + j) * lanes(a))
                    for i in range(rows):
                        a_i = a_k[(a_at[i] if i else 0) + step]
                        for j in range(wide):
                            if real is float and vec is f32v:
                                acc[i][j] = add_product_f32(acc[i][j], a_i, row[j])
                    prefetch_far(far)
                    far += far_step
                lines, k = lines + 1, k + EACH
                a_k, b_k = a_k + EACH, b_k + EACH * wide * lanes(a)
        for k in range(k, depth):
            if form_t in listed_t:
                a_k = a + b_row[k]
            for j in range(wide):
                if form_t in panels_t:
                    row[j] = (<const vec*> (b_k + j * lanes(a)))[0]
                    if form_t is packing_panel_t:
                        (<vec*> (packed + j * lanes(a)))[0] = row[j]
                        prefetch(far + j * lanes(a))
                    elif sizeof(vec) == LINE:  # long panels come from the level-2 cache
                        prefetch(b_k + (AHEAD * wide + j) * lanes(a))
                else:
                    row[j] = (<const vec*> (b + b_row[k] + b_at[j]))[0]
            for i in range(rows):
                if form_t is packing_panel_t:  # registers are few
                    a_i = a_k[a_at[i] if i else 0]
                else:
                    a_i = a_k[a_at[i]]
                for j in range(wide):
                    if real is float and vec is f32v:
                        acc[i][j] = add_product_f32(acc[i][j], a_i, row[j])
                    elif real is double and vec is f64v:
                        acc[i][j] = add_product_f64(acc[i][j], a_i, row[j])
            a_k += a_step
            if form_t is packing_panel_t:
                packed, b_k, far = packed + wide * lanes(a), b_k + ahead, far + ahead
            else:
                b_k += wide * lanes(a)
        if start != NULL:
            for i in range(rows):
                for j in range(wide):
                    if form_t in panels_t:
                        acc[i][j] = (<const vec*> (start + i * start_row))[j] + acc[i][j]
                    elif (real is float and vec is f32v) or (real is double and vec is f64v):
                        acc[i][j] = acc[i][j] + start[i]  # one value for each row
            start += rows * start_row
        if form_t in panels_t and form_t is not fetching_panel_t:
            if real is float and vec is f32v and relu:
                for i in range(rows):
                    for j in range(wide):
                        acc[i][j] = at_least_f32v(acc[i][j], 0)
        for i in range(rows):
            for j in range(wide):
                (<vec*> (c + i * ldc))[j] = acc[i][j]
        a, c = a + a_tile, c + rows * ldc


cdef inline void _tile(
    Py_ssize_t depth,
    const real* a,
    const Py_ssize_t* a_at,
    const real* b,
    const Py_ssize_t* b_row,
    const Py_ssize_t* b_at,
    real* c,
    Py_ssize_t ldc,
    const real* bias,
    vec* _,
) noexcept nogil:
    _sums(
        1, depth, a, a_at, 1, 0, b, b_row, b_at, c, ldc, bias, 0, NULL, 0, False, NULL, _,
        <shifted_t*> NULL,
    )


cdef inline void _tall_tile(
    Py_ssize_t depth,
    const real* a,
    const Py_ssize_t* a_at,
    const real* b,
    const Py_ssize_t* b_row,
    const Py_ssize_t* b_at,
    real* c,
    Py_ssize_t ldc,
    const real* bias,
    vec* _,
) noexcept nogil:
    _sums(
        1, depth, a, a_at, 1, 0, b, b_row, b_at, c, ldc, bias, 0, NULL, 0, False, NULL, _,
        <tall_shifted_t*> NULL,
    )


cdef inline void panel_sums(
    Py_ssize_t tiles,
    Py_ssize_t depth,
    const real* a,
    const Py_ssize_t* a_at,
    Py_ssize_t a_step,
    Py_ssize_t a_tile,
    const real* b,
    real* c,
    Py_ssize_t ldc,
    const real* start,
    Py_ssize_t start_row,
    vec* _,
    panels_t* form,
    const void* const* lines,
    Py_ssize_t ahead,
    bint relu,
    real* packed,
) noexcept nogil:
    _sums(
        tiles, depth, a, a_at, a_step, a_tile, b, NULL, NULL, c, ldc, start, start_row, lines,
        ahead, relu, packed, _, form,
    )


cdef inline void _listed_sums(
    Py_ssize_t depth,
    const real* a,
    const Py_ssize_t* a_at,
    const real* b,
    const Py_ssize_t* at,
    const Py_ssize_t* b_at,
    real* c,
    Py_ssize_t ldc,
    const real* start,
    vec* _,
    listed_t* form,
) noexcept nogil:
    _sums(
        1, depth, a, a_at, 0, 0, b, at, b_at, c, ldc, start, ldc, NULL, 0, False, NULL, _, form,
    )


ctypedef void (*tile_f32)(
    Py_ssize_t, const float*, const Py_ssize_t*, const float*, const Py_ssize_t*,
    const Py_ssize_t*, float*, Py_ssize_t, const float*, f32v*
) noexcept nogil
ctypedef void (*tile_f64)(
    Py_ssize_t, const double*, const Py_ssize_t*, const double*, const Py_ssize_t*,
    const Py_ssize_t*, double*, Py_ssize_t, const double*, f64v*
) noexcept nogil
ctypedef void (*panel_f32)(
    Py_ssize_t, Py_ssize_t, const float*, const Py_ssize_t*, Py_ssize_t, Py_ssize_t, const float*,
    float*, Py_ssize_t, const float*, Py_ssize_t, f32v*, void*, const void* const*, Py_ssize_t,
    bint, float*
) noexcept nogil
ctypedef void (*panel_f64)(
    Py_ssize_t, Py_ssize_t, const double*, const Py_ssize_t*, Py_ssize_t, Py_ssize_t, const double*,
    double*, Py_ssize_t, const double*, Py_ssize_t, f64v*, void*, const void* const*, Py_ssize_t,
    bint, double*
) noexcept nogil


cdef inline void tile(
    Py_ssize_t depth,
    const real* a,
    const Py_ssize_t* a_at,
    const real* b,
    const Py_ssize_t* b_row,
    const Py_ssize_t* b_at,
    real* c,
    Py_ssize_t ldc,
    const real* bias,
) noexcept nogil:
    """c[i*ldc + j*LANES + l] = bias[i] + Σ_k a[a_at[i] + k] · b[b_row[k] + b_at[j] + l].

    For all MR x NV vectors of the tile; l is the lane. Reads and writes whole vectors. The bias
    may be NULL.
    """
    if real is float:
        (<tile_f32> opaque(<void*> &_tile[float, f32v]))(
            depth, a, a_at, b, b_row, b_at, c, ldc, bias, NULL
        )
    else:
        (<tile_f64> opaque(<void*> &_tile[double, f64v]))(
            depth, a, a_at, b, b_row, b_at, c, ldc, bias, NULL
        )


cdef inline void tall_tile(
    Py_ssize_t depth,
    const real* a,
    const Py_ssize_t* a_at,
    const real* b,
    const Py_ssize_t* b_row,
    const Py_ssize_t* b_at,
    real* c,
    Py_ssize_t ldc,
    const real* bias,
) noexcept nogil:
    """As `tile`, for TALL x 2 vectors."""
    if real is float:
        (<tile_f32> opaque(<void*> &_tall_tile[float, f32v]))(
            depth, a, a_at, b, b_row, b_at, c, ldc, bias, NULL
        )
    else:
        (<tile_f64> opaque(<void*> &_tall_tile[double, f64v]))(
            depth, a, a_at, b, b_row, b_at, c, ldc, bias, NULL
        )


cdef inline void form_tiles(
    Py_ssize_t tiles,
    Py_ssize_t depth,
    const real* a,
    const Py_ssize_t* a_at,
    Py_ssize_t a_step,
    Py_ssize_t a_tile,
    const real* b,
    real* c,
    Py_ssize_t ldc,
    const real* start,
    Py_ssize_t start_row,
    bint relu,
    panels_t* form,
) noexcept nogil:
    """c[i*ldc + j] = s + Σ_k a[a_at[i] + k*a_step] · b[k*width + j], for all of a tile.

    Then the same for all `tiles` below it, whose a are `a_tile` elements apart. Panels are as wide
    as tiles of the form. With `relu`, which only float32 may ask for, c is at least 0.
    """
    if real is float:
        (<panel_f32> opaque(<void*> &panel_sums[float, f32v, panels_t]))(
            tiles, depth, a, a_at, a_step, a_tile, b, c, ldc, start, start_row, NULL, NULL, NULL, 0,
            relu, NULL,
        )
    else:
        (<panel_f64> opaque(<void*> &panel_sums[double, f64v, panels_t]))(
            tiles, depth, a, a_at, a_step, a_tile, b, c, ldc, start, start_row, NULL, NULL, NULL, 0,
            relu, NULL,
        )


cdef inline void add_listed_tile(
    Py_ssize_t depth,
    const float* a,
    const Py_ssize_t* a_at,
    const Py_ssize_t* at,
    const float* b,
    float* c,
    Py_ssize_t ldc,
    listed_t* form,
) noexcept nogil:
    """c[i*ldc + j] += Σ_k a[a_at[i] + at[k]] · b[k*width + j], for all of a tile."""
    (<tile_f32> opaque(<void*> &_listed_sums[float, f32v, listed_t]))(
        depth, a, a_at, b, at, NULL, c, ldc, c, NULL
    )


cdef inline void fetching_tiles(
    Py_ssize_t tiles, Py_ssize_t depth, const float* a, const Py_ssize_t* a_at, Py_ssize_t a_tile,
    const float* b, float* c, Py_ssize_t ldc, const float* start, const void* const* lines,
    Py_ssize_t ahead,
) noexcept nogil:
    """As `form_tiles`, and prefetch the panel `ahead` of b, and depth // EACH `lines` per tile."""
    (<panel_f32> opaque(<void*> &panel_sums[float, f32v, fetching_panel_t]))(
        tiles, depth, a, a_at, 1, a_tile, b, c, ldc, start, ldc, NULL, NULL, lines, ahead,
        False, NULL,
    )


cdef inline bint has_edge_forms(const real* _) noexcept nogil:
    """Whether tiles at the edges of a matrix have forms of their own, which cost code.

    Not in float64, and not in the build for CPUs without fused multiply-adds.
    """
    if real is float:
        return EDGE_FORMS
    else:
        return False


cdef inline Py_ssize_t least_rows(const real* _) noexcept nogil:
    """Rows of the shortest tile of NV vectors."""
    return MR // 2 if has_edge_forms(_) else MR


cdef inline Py_ssize_t panel_width(Py_ssize_t cols, Py_ssize_t nr, const real* _) noexcept nogil:
    """Elements per row of a packed panel of which `cols` columns are used: nr, or fewer."""
    if has_edge_forms(_) and cols <= 2 * lanes(_) and nr == tile_cols(_) and SHORT == MR:
        return round_up(cols, lanes(_))
    return nr
