"""Convolution as products of matrices, whose rows are windows (``conv_windows.pxd``).

    forward   y[q, f]       = b[f] + Σ_k window[q, k] · w[f, k]   A: windows, B: filters, packed
    weights   dw[f, k]      = Σ_q dz[f, q] · window[q, k]         A: dz, B: windows in place
    input     dwindow[q, k] = Σ_f dz[f, q] · w[f, k]              A: dz, B: filters, packed

and dx adds up each pixel's share in all windows. All three serve the transposed convolution too,
whose output is `input`, and whose gradient of the input is `forward`. The gradients are in
``conv_gradients.pxd``.

No sum depends on the form of the tile or on the number of threads, and only the gradient of the
weights depends on the rest of the batch. The forward pass adds up a window run by run, in pieces of
at most DEPTH elements; a pixel of dx adds its windows in order; the gradient of the weights is
summed block by block, in groups of blocks that depend only on the shapes.
"""

from libc.string cimport memset
from npdl._ext.activation cimport act_span, act_t
from npdl._ext.conv cimport conv_t
from npdl._ext.conv_windows cimport (
    block_of,
    block_t,
    copy_windows,
    lay_out,
    part,
    positions,
    set_block,
    set_tables,
    tables_size,
    windows_of,
    windows_t,
)
from npdl._ext.simd cimport MR, TALL, real
from npdl._ext.threads cimport aligned, of_worker, run
from npdl._ext.tile cimport (
    NARROW,
    ceil_div,
    form_tiles,
    lanes,
    narrow_panel_t,
    panel_t,
    round_up,
    tall_panel_t,
    tile_cols,
)

cdef enum:
    DEPTH = 512  # elements of a window summed at once
    FEWEST = 24  # the fewest windows per block
    PACKED = 64  # elements of each filter of a panel that are packed at a time

ctypedef struct products_t:
    windows_t w
    conv_t* j
    act_t act  # activation of the output
    const void* bias
    bint tall, narrow
    bint turned  # the gradient of the input: filters turned, their two axes of channels exchanged
    Py_ssize_t mr, nr, panels
    Py_ssize_t pieces  # pieces into which a sum is divided
    Py_ssize_t* piece  # [pieces][3]: start in a window or in dz, start in the filter, length
    Py_ssize_t parts  # parts of the panels of a block, or of the filters
    # gradients
    Py_ssize_t groups  # groups of blocks
    Py_ssize_t ldq  # elements of a row of dz
    bint by_taps  # dw is computed transposed: rows are elements of a window, columns filters
    Py_ssize_t short_rows, rows  # rows of short tiles, and of all tiles, if by taps
    Py_ssize_t vectors, ldw  # vectors and elements of a row of dw
    Py_ssize_t of_group  # elements of dw and db of a group
    Py_ssize_t* vector_at  # position of each vector in a window; of each element, if by taps
    Py_ssize_t* index  # 0, 1, 2, ...: rows of dz
    Py_ssize_t high  # windows of dx computed at once
    Py_ssize_t sections  # sections of the channels
    char* packed
    char* sums
    char* scratch
    size_t scratch_step
    size_t packed_bytes, tables_bytes


cdef inline Py_ssize_t channel_step(const conv_t* j, Py_ssize_t plane) noexcept nogil:
    return 1 if j.last else plane


cdef inline Py_ssize_t start_of(
    const conv_t* j, Py_ssize_t n, Py_ssize_t channels, Py_ssize_t channel, Py_ssize_t plane
) noexcept nogil:
    """Position of a channel of image n, in an array with this number of channels."""
    return n * channels * plane + channel * channel_step(j, plane)


cdef inline void choose_tile(
    products_t* p, Py_ssize_t m, Py_ssize_t n, const real* _
) noexcept nogil:
    """Choose the form of tiles that wastes less on m rows and n columns."""
    cdef Py_ssize_t square = round_up(m, MR) * round_up(n, tile_cols(_))
    p.mr, p.nr = MR, tile_cols(_)
    p.tall = round_up(m, TALL) * round_up(n, 2 * lanes(_)) < square - square // 32
    if p.tall:
        p.mr, p.nr = TALL, 2 * lanes(_)
    p.panels = ceil_div(n, p.nr)


cdef inline Py_ssize_t cut(Py_ssize_t length, Py_ssize_t runs) noexcept nogil:
    """Number of pieces of at most DEPTH elements, for `runs` runs of this length."""
    return runs * ceil_div(length, DEPTH)


cdef inline void set_pieces(
    products_t* p, Py_ssize_t length, Py_ssize_t runs, const Py_ssize_t* run_at, Py_ssize_t step
) noexcept nogil:
    cdef Py_ssize_t r, i, each = ceil_div(length, DEPTH)
    cdef Py_ssize_t* piece = p.piece
    for r in range(runs):
        for i in range(each):
            piece[1] = length * i // each
            piece[2] = length * (i + 1) // each - piece[1]
            piece[0] = (0 if run_at == NULL else run_at[r]) + piece[1] * step
            piece[1] += r * length
            piece += 3


cdef inline void sum_tiles(
    products_t* p, Py_ssize_t count, const real* a, const Py_ssize_t* a_at, Py_ssize_t a_step,
    const real* panel, real* c, Py_ssize_t ldc, const real* start,
) noexcept nogil:
    """c[q, :nr] = start + Σ a[a_at[q] + k*a_step] panel[k], for `count` rows, rounded up."""
    cdef Py_ssize_t rows[TALL + NARROW]  # those of a short tile; the last one is repeated
    cdef Py_ssize_t s, i, r, row
    cdef const Py_ssize_t* piece = p.piece
    cdef const Py_ssize_t* at
    cdef const real* from_
    for r in range(p.mr):
        rows[r] = a_at[min(count // p.mr * p.mr + r, count - 1)]
    for s in range(p.pieces):
        i = 0
        row = 0 if s == 0 else ldc
        while i < count:
            at = a_at + i if i + p.mr <= count else rows
            from_ = start if s == 0 else c + i * ldc
            if real is float and p.narrow:
                form_tiles(
                    1, piece[2], a + piece[0], at, a_step, 0, panel + piece[1] * p.nr,
                    c + i * ldc, ldc, from_, row, False,
                    <narrow_panel_t*> NULL,
                )
            elif p.tall:
                form_tiles(
                    1, piece[2], a + piece[0], at, a_step, 0, panel + piece[1] * p.nr,
                    c + i * ldc, ldc, from_, row, False,
                    <tall_panel_t*> NULL,
                )
            else:
                form_tiles(
                    1, piece[2], a + piece[0], at, a_step, 0, panel + piece[1] * p.nr,
                    c + i * ldc, ldc, from_, row, False,
                    <panel_t*> NULL,
                )
            i += p.mr
        piece += 3


cdef inline const real* windows_in(
    const windows_t* w, const block_t* b, Py_ssize_t g, const real* x, real* room
) noexcept nogil:
    """The windows of a block, for group g: in x itself, laid out, or copied whole."""
    cdef conv_t* j = w.j
    cdef Py_ssize_t i, plane = j.h * j.w, channels = j.groups * j.c
    cdef Py_ssize_t step = channel_step(j, plane)
    x += start_of(j, b.n, channels, g * j.c, plane)
    if w.in_place:
        return x + b.row * w.step_h * w.ld
    for i in range(b.images):
        lay_out(
            w, x + i * channels * plane, step, channels if j.last else 1, b.row, b.rows,
            room + i * w.image_step,
        )
    if w.whole:
        copy_windows(w, room, b.count, room + w.pixels)
        return room + w.pixels
    return room


# ------------------------------------------------------------------------------------------ forward

cdef inline void _pack_filters(products_t* p, Py_ssize_t task, const real* _) noexcept nogil:
    """Pack a panel of the filters of a group: elements in the order of windows, filters side by
    side.

    The panels of a group are followed by its bias, or by zeros.
    """
    cdef conv_t* j = p.j
    cdef windows_t* w = &p.w
    cdef Py_ssize_t g = task // p.panels, s = task % p.panels, f0 = s * p.nr, i, k, k0 = 0, k1
    cdef Py_ssize_t cols = min(p.nr, j.f - f0), across = p.panels * p.nr
    cdef real* out = <real*> p.packed + g * across * (w.k + 1)
    cdef real* shift = out + across * w.k + f0
    cdef const real* filters = <const real*> j.filters + (g * j.f + f0) * w.k
    cdef Py_ssize_t taps = j.kh * j.kw
    cdef const real* bias = <const real*> p.bias
    out += f0 * w.k
    for i in range(p.nr):
        shift[i] = bias[g * j.f + f0 + i] if bias != NULL and i < cols else 0
    if cols < p.nr:
        memset(out, 0, p.nr * w.k * sizeof(real))
    while k0 < w.k:  # in steps that keep the written lines in the level-1 cache
        k1 = min(w.k, k0 + PACKED)
        for i in range(cols):
            if p.turned:
                filters = <const real*> j.filters + (g * j.c * j.f + f0 + i + 1) * taps - 1
                for k in range(k0, k1):
                    out[k * p.nr + i] = filters[
                        w.order[k] // taps * j.f * taps - w.order[k] % taps
                    ]
                continue
            for k in range(k0, k1):
                out[k * p.nr + i] = filters[i * w.k + w.order[k]]
        k0 = k1


cdef inline void _pack_filters_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef products_t* p = <products_t*> context
    if p.j.single:
        _pack_filters(p, task, <float*> NULL)
    else:
        _pack_filters(p, task, <double*> NULL)


cdef inline void _forward(products_t* p, Py_ssize_t task, int worker, const real* _) noexcept nogil:
    """Some filters of a group on a block."""
    cdef conv_t* j = p.j
    cdef windows_t* w = &p.w
    cdef Py_ssize_t turn = task % p.parts, g = task // p.parts % j.groups, i, f, s
    cdef block_t b = block_of(w, task // p.parts // j.groups)
    cdef Py_ssize_t s0 = turn * p.panels // p.parts, s1 = (turn + 1) * p.panels // p.parts
    cdef Py_ssize_t f0 = s0 * p.nr, f1 = min(j.f, s1 * p.nr), ldc = (s1 - s0) * p.nr
    cdef Py_ssize_t plane = j.oh * j.ow, filters = j.groups * j.f, count = b.rows * j.ow
    cdef real* room = <real*> (p.scratch + worker * p.scratch_step)
    cdef real* c = room + w.pixels + w.windows
    cdef const real* packed = <const real*> p.packed + g * p.panels * p.nr * (w.k + 1)
    cdef const real* bias = packed + p.panels * p.nr * w.k
    cdef const real* a = windows_in(w, &b, g, <const real*> j.x, room)
    cdef const Py_ssize_t* at = p.index if w.whole else w.at
    cdef real* y
    if s0 >= s1:
        return
    for s in range(s0, s1):
        sum_tiles(
            p, b.count, a, at, 1, packed + s * p.nr * w.k, c + s * p.nr - f0, ldc, bias + s * p.nr
        )
    for i in range(b.images):
        y = <real*> j.y + start_of(j, b.n + i, filters, g * j.f + f0, plane)
        y += b.row * j.ow * (filters if j.last else 1)
        part(
            c + i * count * ldc, ldc, f1 - f0, count, y, channel_step(j, plane),
            filters if j.last else 1,
        )
        if j.last:
            for s in range(count):
                act_span(p.act, y + s * filters, y + s * filters, f1 - f0)
        else:
            for f in range(f1 - f0):
                act_span(p.act, y + f * plane, y + f * plane, count)


cdef inline void _forward_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef products_t* p = <products_t*> context
    if p.j.single:
        _forward(p, task, worker, <float*> NULL)
    else:
        _forward(p, task, worker, <double*> NULL)


cdef inline void products_plan(
    products_t* p, conv_t* j, const void* bias, act_t act, int workers, const real* _
) noexcept nogil:
    """Set all sizes, for this number of threads."""
    cdef windows_t* w = &p.w
    cdef Py_ssize_t sums
    memset(p, 0, sizeof(products_t))
    p.j, p.act, p.bias = j, act, bias
    p.w = windows_of(j, j.c, True)
    set_block(w, j.f, FEWEST, ceil_div(2 * workers, j.groups))
    if w.strips == 1 and j.groups == 1 and round_up(w.blocks, workers) <= j.n:
        set_block(w, j.f, FEWEST, round_up(w.blocks, workers))  # as many for each thread
    choose_tile(p, positions(w), j.f, _)
    if real is float and j.f <= lanes(_):  # two vectors would be half empty
        p.narrow, p.mr, p.nr = True, NARROW, lanes(_)
    p.parts = min(p.panels, ceil_div(2 * workers, w.blocks * j.groups))
    p.pieces = cut(w.k, 1) if w.whole else cut(w.run, w.runs)
    p.packed_bytes = aligned(j.groups * p.panels * p.nr * (w.k + 1) * sizeof(real))
    p.tables_bytes = aligned(
        (tables_size(w) + 3 * p.pieces + positions(w)) * sizeof(Py_ssize_t)
    )
    sums = round_up(positions(w), p.mr) * p.panels * p.nr
    p.scratch_step = of_worker((w.pixels + w.windows + sums) * sizeof(real), workers)


cdef inline void products_pack(products_t* p, char* at, int workers) noexcept nogil:
    """Fill the memory from `at` on with packed filters and tables."""
    cdef windows_t* w = &p.w
    cdef Py_ssize_t* tables = <Py_ssize_t*> (at + p.packed_bytes)
    cdef Py_ssize_t i
    p.packed = at
    set_tables(w, tables)
    p.piece = tables + tables_size(w)
    p.index = p.piece + 3 * p.pieces
    if w.whole:
        set_pieces(p, w.k, 1, NULL, 1)
        for i in range(positions(w)):
            p.index[i] = i * w.k
    else:
        set_pieces(p, w.run, w.runs, w.run_at, 1)
    run(_pack_filters_task, p, p.j.groups * p.panels, workers)


cdef inline void products_multiply(products_t* p, char* scratch, int workers) noexcept nogil:
    p.scratch = scratch
    run(_forward_task, p, p.w.blocks * p.j.groups * p.parts, workers)
