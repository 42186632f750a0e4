"""Rows of A times a packed panel of B: tiles below one another, and smaller ones at the edges.

The last tile has half the rows if that is enough, and the last panel of a matrix has only as many
vectors as it needs. So little is computed beyond the edges.
"""

from npdl._ext.simd cimport MR, TALL, f32v, opaque, real
from npdl._ext.tile cimport (
    MAX_NR,
    form_tiles,
    half_lone_panel_t,
    half_panel_t,
    half_short_panel_t,
    half_tall_panel_t,
    has_edge_forms,
    lanes,
    lone_panel_t,
    packing_panel_t,
    panel_f32,
    panel_sums,
    panel_t,
    panel_width,
    short_panel_t,
    tall_panel_t,
    tile_cols,
)


cdef inline void _some_tiles(
    bint tall,
    bint half,
    Py_ssize_t width,
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
) noexcept nogil:
    """Tiles of any form, `width` elements wide."""
    if has_edge_forms(c) and tall and half:
        form_tiles(
            tiles, depth, a, a_at, a_step, a_tile, b, c, ldc, start, start_row,
            relu, <half_tall_panel_t*> NULL,
        )
    elif tall:
        form_tiles(
            tiles, depth, a, a_at, a_step, a_tile, b, c, ldc, start, start_row,
            relu, <tall_panel_t*> NULL,
        )
    elif has_edge_forms(c) and width == tile_cols(c) and half:
        form_tiles(
            tiles, depth, a, a_at, a_step, a_tile, b, c, ldc, start, start_row,
            relu, <half_panel_t*> NULL,
        )
    elif not has_edge_forms(c) or width == tile_cols(c):
        form_tiles(
            tiles, depth, a, a_at, a_step, a_tile, b, c, ldc, start, start_row,
            relu, <panel_t*> NULL,
        )
    elif width == 2 * lanes(c) and half:
        form_tiles(
            tiles, depth, a, a_at, a_step, a_tile, b, c, ldc, start, start_row,
            relu, <half_short_panel_t*> NULL,
        )
    elif width == 2 * lanes(c):
        form_tiles(
            tiles, depth, a, a_at, a_step, a_tile, b, c, ldc, start, start_row,
            relu, <short_panel_t*> NULL,
        )
    elif half:
        form_tiles(
            tiles, depth, a, a_at, a_step, a_tile, b, c, ldc, start, start_row,
            relu, <half_lone_panel_t*> NULL,
        )
    else:
        form_tiles(
            tiles, depth, a, a_at, a_step, a_tile, b, c, ldc, start, start_row,
            relu, <lone_panel_t*> NULL,
        )


cdef inline void times_panel(
    bint tall,
    Py_ssize_t m,
    Py_ssize_t cols,
    Py_ssize_t depth,
    const real* a,
    Py_ssize_t a_row,
    Py_ssize_t a_step,
    Py_ssize_t a_tile,
    const real* b,
    real* c,
    Py_ssize_t ldc,
    const real* start,
    Py_ssize_t start_row,
    bint relu,
) noexcept nogil:
    """c[i*ldc + j] = s + Σ_k a[i, k] · b[k*width + j]  for i < m, j < cols, of one form of tiles.

    With `relu`, which only float32 may ask for, c is at least 0.
    Panel b has `panel_width` columns. a[i, k] is at i*a_row + k*a_step, and the tile below is
    `a_tile` elements further. (If A is packed, this is not a_row times the rows of a tile.)
    """
    cdef real out[TALL * MAX_NR]
    cdef Py_ssize_t a_at[TALL]
    cdef Py_ssize_t high = TALL if tall else MR, rest, j, i = 0, tiles, ld
    cdef Py_ssize_t width = panel_width(cols, 2 * lanes(c) if tall else tile_cols(c), c)
    cdef bint half
    cdef const real* begin
    cdef const real* added
    cdef real* to
    for j in range(high):
        a_at[j] = j * a_row
    while i < m:
        rest = m - i
        half = has_edge_forms(c) and rest <= high // 2
        begin = NULL if start == NULL else start + i * start_row
        to, ld, added, tiles = c + i * ldc, ldc, begin, rest // high
        if cols < width or not (tiles or half and 2 * rest == high):  # partly outside C
            for j in range(high):
                a_at[j] = min(j, rest - 1) * a_row  # a short tile repeats its last row
            to, ld, added, tiles = out, width, NULL, 0
        # One call, since the compiler copies all forms of tiles for each.
        _some_tiles(
            tall, half, width, max(tiles, 1), depth, a + i // high * a_tile, a_at, a_step, a_tile,
            b, to, ld, added, start_row, relu and to != out,
        )
        if to == out:
            _store_rows(
                out, width, c + i * ldc, ldc, min(high, rest), cols, begin, start_row, relu
            )
        i += max(tiles, 1) * high


cdef inline void _store_rows(
    const real* tile_out, Py_ssize_t nr, real* c, Py_ssize_t ldc, Py_ssize_t rows, Py_ssize_t cols,
    const real* start, Py_ssize_t start_row, bint relu,
) noexcept nogil:
    cdef Py_ssize_t i, j
    cdef real value, zero = 0
    for i in range(rows):
        for j in range(cols):
            value = tile_out[i * nr + j]
            if start != NULL:
                value = start[i * start_row + j] + value
            c[i * ldc + j] = zero if relu and value < 0 else value


cdef inline void packing_tile(
    Py_ssize_t depth, const float* a, Py_ssize_t a_row, Py_ssize_t a_step, const float* b,
    Py_ssize_t b_row, float* packed, float* c, Py_ssize_t ldc, const float* start,
    Py_ssize_t start_row, bint relu,
) noexcept nogil:
    """One tile of the form `panel_t`, with row k of b at b + k*b_row; it packs the panel."""
    cdef Py_ssize_t a_at[MR]
    cdef Py_ssize_t i
    for i in range(MR):
        a_at[i] = i * a_row
    (<panel_f32> opaque(<void*> &panel_sums[float, f32v, packing_panel_t]))(
        1, depth, a, a_at, a_step, 0, b, c, ldc, start, start_row, NULL, NULL, NULL, b_row, relu,
        packed,
    )
