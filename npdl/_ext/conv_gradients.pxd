"""The gradients of a convolution as products of matrices. The plan: ``conv_products.pxd``."""

from libc.string cimport memset
from npdl._ext.activation cimport LINEAR, act_span, act_t, pull_back_span
from npdl._ext.conv cimport GROUPS, MOST_BYTES, conv_t
from npdl._ext.conv_products cimport (
    channel_step,
    choose_tile,
    cut,
    products_t,
    set_pieces,
    start_of,
    sum_tiles,
    windows_in,
)
from npdl._ext.conv_windows cimport (
    CHUNK,
    ROWS,
    block_of,
    block_t,
    interleave,
    positions,
    set_block,
    set_tables,
    tables_size,
    take_pixels,
    windows_of,
    windows_t,
)
from npdl._ext.simd cimport EDGE_FORMS, LANES_F32, NV, TALL, real
from npdl._ext.sums cimport sum_of
from npdl._ext.threads cimport aligned, give, max_workers, run, scratch_t, take
from npdl._ext.tile cimport (
    MAX_NR,
    SHORT,
    add_listed_tile,
    ceil_div,
    lanes,
    round_up,
    short_listed_t,
    tall_listed_t,
    tall_tile,
    tile,
)

cdef enum:
    FEWEST = 96  # the fewest windows per block, for the gradient of the weights
    PAGE = 4096  # bytes; rows as far apart have the same place in a cache
    SPAN = 512  # windows per sum
    COPIED = 6  # products of vectors that take as long as copying a part of a window
    SPANS = 256  # sums added one by one, in a group of blocks
    OF_INPUT = 32768  # elements of windows whose gradient is added to dx at once
    CHANNELS = 32  # about as many channels of dx are computed together


cdef inline void take_gradient(
    conv_t* j, Py_ssize_t g, Py_ssize_t q, Py_ssize_t count, real* dz, Py_ssize_t ldq, real* room
) noexcept nogil:
    """dz[f, 0:count] = f'(z) dy of the windows from number q on, counted over all images.

    `room` holds the filters of an image if these are the last axis.
    """
    cdef Py_ssize_t plane = j.oh * j.ow, filters = j.groups * j.f, n, i, f, s, at, length
    cdef const real* y = <const real*> j.y
    cdef const real* dy = <const real*> j.dy
    while count > 0:
        n, i = q // plane, q % plane
        length = min(count, plane - i)
        if j.last:
            for s in range(length):
                at = (q + s) * filters + g * j.f
                pull_back_span(j.act, y + at, dy + at, room, j.f)
                for f in range(j.f):
                    dz[f * ldq + s] = room[f]
        else:
            for f in range(j.f):
                at = (n * filters + g * j.f + f) * plane + i
                pull_back_span(j.act, y + at, dy + at, dz + f * ldq, length)
        q += length
        dz += length
        count -= length


cdef inline void _add_weights(
    products_t* p, Py_ssize_t first, Py_ssize_t count, const real* dz, Py_ssize_t ldq,
    const real* windows, real* dw, Py_ssize_t f0, Py_ssize_t f1,
) noexcept nogil:
    """dw[f, k] += Σ_q dz[f, q] window[q, k] over `count` windows q from `first` on."""
    cdef real block[TALL * MAX_NR]
    cdef Py_ssize_t a_at[TALL]
    cdef Py_ssize_t wide = 2 if p.tall else NV, v = 0, f, i, s
    cdef Py_ssize_t* rows = (p.index if p.w.whole else p.w.at) + first
    cdef real* to
    while v < p.vectors:
        f = f0
        while f < f1:
            for i in range(p.mr):
                a_at[i] = min(f + i, f1 - 1) * ldq + first
            if p.tall:
                tall_tile(count, dz, a_at, windows, rows, p.vector_at + v, block, p.nr, NULL)
            else:
                tile(count, dz, a_at, windows, rows, p.vector_at + v, block, p.nr, NULL)
            for i in range(min(p.mr, f1 - f)):
                to = dw + (f + i) * p.ldw + v * lanes(dz)
                for s in range(p.nr):
                    to[s] += block[i * p.nr + s]
            f += p.mr
        v += wide


cdef inline void _add_taps(
    products_t* p, Py_ssize_t s, Py_ssize_t count, const float* dz, Py_ssize_t ldq, float* panel,
    const float* pixels, float* dw,
) noexcept nogil:
    """dw[s, k, f] += Σ_q window[q, k] dz[f, q] of a panel of filters, over a block.

    `panel` is scratch memory for dz with the filters side by side.
    """
    cdef Py_ssize_t f = s * p.nr, cols = min(p.nr, p.j.f - f), q = 0, i, depth
    cdef const Py_ssize_t* at
    if cols < p.nr:
        memset(panel, 0, count * p.nr * sizeof(float))
    interleave(dz + f * ldq, ldq, 1, cols, count, panel, p.nr)
    dw += f * p.rows
    while q < count:
        depth, at, i = min(count - q, <Py_ssize_t> SPAN), p.w.at + q, 0
        while i < p.rows:
            if i < p.short_rows:
                add_listed_tile(
                    depth, pixels, p.vector_at + i, at, panel, dw + i * p.nr, p.nr,
                    <short_listed_t*> NULL,
                )
                i += SHORT
            else:
                add_listed_tile(
                    depth, pixels, p.vector_at + i, at, panel, dw + i * p.nr, p.nr,
                    <tall_listed_t*> NULL,
                )
                i += TALL
        panel += depth * p.nr
        q += depth


cdef inline bint _is_in_place(const windows_t* w, const real* _) noexcept nogil:
    """Whether dz is read in dy: planes of one image, whose rows don't all share a cache set."""
    cdef conv_t* j = w.j
    return (
        j.act.code == LINEAR and not j.last and w.images == 1
        and j.oh * j.ow * sizeof(real) % PAGE
    )


cdef inline void _weights(products_t* p, Py_ssize_t task, int worker, const real* _) noexcept nogil:
    """The gradients of some filters of a group, from a group of blocks."""
    cdef conv_t* j = p.j
    cdef windows_t* w = &p.w
    cdef Py_ssize_t turn = task % p.parts, g = task // p.parts % j.groups
    cdef Py_ssize_t group = task // p.parts // j.groups, number, f, q, s
    cdef Py_ssize_t step = p.nr if p.by_taps else p.mr, tiles = ceil_div(j.f, step)
    cdef Py_ssize_t s0 = turn * tiles // p.parts, s1 = (turn + 1) * tiles // p.parts
    cdef Py_ssize_t f0 = s0 * step, f1 = min(j.f, s1 * step), plane = j.oh * j.ow
    cdef bint in_place = _is_in_place(w, _)
    cdef Py_ssize_t ldq = plane if in_place else p.ldq, ldw = p.rows if p.by_taps else p.ldw
    cdef block_t b
    cdef real* room = <real*> (p.scratch + worker * p.scratch_step)
    cdef real* own = room + w.pixels + w.windows
    cdef const real* dz = own
    cdef real* dw = <real*> p.sums + (group * j.groups + g) * p.of_group
    cdef real* db = dw + p.of_group - j.f
    cdef const real* windows
    memset(dw + f0 * ldw, 0, ((s1 * step if p.by_taps else f1) - f0) * ldw * sizeof(real))
    for f in range(f0, f1):
        db[f] = 0
    for number in range(group * w.blocks // p.groups, (group + 1) * w.blocks // p.groups):
        b = block_of(w, number)
        if in_place:
            dz = <const real*> j.dy + start_of(j, b.n, j.groups * j.f, g * j.f, plane)
            dz += b.row * j.ow
        else:
            take_gradient(j, g, b.first, b.count, own, ldq, own + j.f * ldq)
        if j.db != NULL:
            for f in range(f0, f1):
                db[f] += <real> sum_of(dz + f * ldq, b.count)
        if j.dw == NULL or f0 >= f1:
            continue
        windows = windows_in(w, &b, g, <const real*> j.x, room)
        if real is float and EDGE_FORMS and p.by_taps:
            for s in range(s0, s1):
                _add_taps(p, s, b.count, dz, ldq, own + j.f * (p.ldq + 1), windows, dw)
            continue
        q = 0
        while q < b.count:
            _add_weights(p, q, min(b.count - q, <Py_ssize_t> SPAN), dz, ldq, windows, dw, f0, f1)
            q += SPAN


cdef inline void _weights_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef products_t* p = <products_t*> context
    if p.j.single:
        _weights(p, task, worker, <float*> NULL)
    else:
        _weights(p, task, worker, <double*> NULL)


cdef inline void _add_panels(
    products_t* p, Py_ssize_t filter, real* total, Py_ssize_t step
) noexcept nogil:
    """dw of a panel of filters, from `filter` on."""
    cdef Py_ssize_t cols = min(p.nr, p.j.f - filter % p.j.f), i, f, k
    cdef real* dw
    for i in range(1, p.groups):
        for k in range(p.w.k * p.nr):
            total[k] += total[i * step + k]
    for f in range(cols):
        dw = <real*> p.j.dw + (filter + f) * p.w.k
        for k in range(p.w.k):
            dw[p.w.order[k]] = total[k * p.nr + f]


cdef inline void _choose_rows(products_t* p) noexcept nogil:
    """Whether the transposed product fills its tiles better, and these tiles."""
    cdef conv_t* j = p.j
    cdef Py_ssize_t s, rows, nr = 2 * LANES_F32, k = p.w.k
    p.rows = round_up(k, TALL)
    for s in range(3):
        rows = s * SHORT + round_up(max(<Py_ssize_t> 0, k - s * SHORT), TALL)
        if rows < p.rows:
            p.rows, p.short_rows = rows, s * SHORT
    p.by_taps = 10 * p.rows * round_up(j.f, nr) < 9 * round_up(j.f, p.mr) * p.ldw


cdef inline void _add_groups(products_t* p, Py_ssize_t filter, const real* _) noexcept nogil:
    """dw and db of one filter: the sum over all groups of blocks."""
    cdef conv_t* j = p.j
    cdef windows_t* w = &p.w
    cdef Py_ssize_t g = filter // j.f, f = filter % j.f, i, r, k
    cdef Py_ssize_t step = j.groups * p.of_group, of_run = p.ldw
    cdef real* sums = <real*> p.sums + g * p.of_group
    cdef real* total = sums + f * p.ldw
    cdef real* dw
    if j.db != NULL:
        sums += p.of_group - j.f + f
        for i in range(1, p.groups):
            sums[0] += sums[i * step]
        (<real*> j.db)[filter] = sums[0]
    if j.dw == NULL:
        return
    if p.by_taps:
        if f % p.nr == 0:
            _add_panels(p, filter, <real*> p.sums + g * p.of_group + f * p.rows, step)
        return
    for i in range(1, p.groups):
        for k in range(p.ldw):
            total[k] += total[i * step + k]
    dw = <real*> j.dw + filter * w.k
    if w.whole:
        for k in range(w.k):
            dw[w.order[k]] = total[k]
        return
    of_run = round_up(w.run, lanes(_))
    for r in range(w.runs):
        for k in range(w.run):
            dw[w.order[r * w.run + k]] = total[r * of_run + k]


cdef inline void _add_groups_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef products_t* p = <products_t*> context
    if p.j.single:
        _add_groups(p, task, <float*> NULL)
    else:
        _add_groups(p, task, <double*> NULL)


cdef inline Py_ssize_t _tiles(products_t* p, Py_ssize_t vectors, const real* _) noexcept nogil:
    """Choose the tile for windows of so many vectors; return the products of a window."""
    p.vectors = vectors
    choose_tile(p, p.j.f, vectors * lanes(_), _)
    return round_up(p.j.f, p.mr) * p.panels * p.nr // lanes(_)


cdef inline void products_weights(conv_t* j, const real* _) except *:
    """dw and db, each if needed."""
    cdef products_t p
    cdef windows_t* w = &p.w
    cdef int workers = max_workers()
    cdef size_t sums, tables
    cdef Py_ssize_t i, r, of_run, of_copy, copying, most
    cdef scratch_t s
    memset(&p, 0, sizeof(p))
    p.j = j
    p.w = windows_of(j, j.c, False)
    set_block(w, j.f, FEWEST, GROUPS)
    # the form that takes less time; the sums are the same
    of_run, of_copy = ceil_div(w.run, lanes(_)), ceil_div(w.k, lanes(_))
    copying = COPIED * w.runs * ceil_div(w.run, CHUNK)
    w.whole = _tiles(&p, of_copy, _) + copying < _tiles(&p, of_run * w.runs, _)
    if w.whole:
        of_run = of_copy
        w.windows = round_up(positions(w) * w.k + 2 * ROWS, ROWS)
        _tiles(&p, of_copy, _)
    p.ldw = p.panels * p.nr
    p.of_group = j.f * (p.ldw + 1)
    p.ldq = round_up(positions(w), 16) + 16
    most = MOST_BYTES // (j.groups * j.f * (w.k + 1) * sizeof(real))  # the same in every build
    p.groups = max(w.blocks // SPANS, j.n * j.oh * j.ow // (SPAN * SPANS), <Py_ssize_t> GROUPS)
    p.groups = min(w.blocks, max(<Py_ssize_t> 1, min(p.groups, most)))
    if real is float and EDGE_FORMS:
        _choose_rows(&p)
    if p.by_taps:
        w.whole, w.windows, p.nr = False, 0, 2 * LANES_F32
        p.of_group = round_up(j.f, p.nr) * p.rows + j.f
    p.parts = ceil_div(j.f, p.nr if p.by_taps else p.mr)
    p.parts = min(p.parts, ceil_div(<Py_ssize_t> GROUPS, p.groups * j.groups))
    sums = aligned(p.groups * j.groups * p.of_group * sizeof(real))
    tables = aligned(
        (tables_size(w) + max(p.panels * NV + NV, p.rows) + positions(w)) * sizeof(Py_ssize_t)
    )
    p.scratch_step = w.pixels + w.windows + j.f * (p.ldq + 1)
    if p.by_taps:
        p.scratch_step += positions(w) * p.nr
    p.scratch_step = aligned(p.scratch_step * sizeof(real))
    s = take(sums + tables + workers * p.scratch_step)
    p.sums, p.scratch = s.data, s.data + sums + tables
    set_tables(w, <Py_ssize_t*> (s.data + sums))
    p.vector_at = <Py_ssize_t*> (s.data + sums) + tables_size(w)
    p.index = p.vector_at + max(p.panels * NV + NV, p.rows)
    for i in range(positions(w)):
        p.index[i] = i * w.k
    if p.by_taps:
        for i in range(p.rows):  # the last tile may repeat the last element
            r = min(i, w.k - 1)
            p.vector_at[i] = w.run_at[r // w.run] + r % w.run
    else:
        for r in range(1 if w.whole else w.runs):
            for i in range(of_run):
                p.vector_at[r * of_run + i] = (0 if w.whole else w.run_at[r]) + i * lanes(_)
        for i in range(p.vectors, p.panels * p.nr // lanes(_)):
            p.vector_at[i] = 0  # the last tile may be short
    with nogil:
        run(_weights_task, &p, p.groups * j.groups * p.parts, workers)
        run(_add_groups_task, &p, j.groups * j.f, workers)
    give(s)


# -------------------------------------------------------------------------------------- dx

cdef inline void _pack_turned(products_t* p, Py_ssize_t task, const real* _) noexcept nogil:
    """The filters of a section of channels, as panels [F][nr] of the elements of a window."""
    cdef conv_t* j = p.j
    cdef windows_t* w = &p.w
    cdef Py_ssize_t g = task // p.sections, c0 = task % p.sections * w.c, taps = j.kh * j.kw
    cdef Py_ssize_t s, f, i, n
    cdef bint full = c0 + w.c <= j.c  # the last section may lack channels
    cdef real* out = <real*> p.packed + task * j.f * p.panels * p.nr
    cdef const real* filters
    cdef const Py_ssize_t* order
    for s in range(p.panels):
        order, n = w.order + s * p.nr, min(p.nr, w.k - s * p.nr)
        for f in range(j.f):
            filters = <const real*> j.filters + ((g * j.f + f) * j.c + c0) * taps
            for i in range(n):
                if full or c0 + (s * p.nr + i) % w.c < j.c:
                    out[i] = filters[order[i]]
                else:
                    out[i] = 0
            for i in range(n, p.nr):
                out[i] = 0
            out += p.nr


cdef inline void _pack_turned_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef products_t* p = <products_t*> context
    if p.j.single:
        _pack_turned(p, task, <float*> NULL)
    else:
        _pack_turned(p, task, <double*> NULL)


cdef inline void _input(products_t* p, Py_ssize_t task, int worker, const real* _) noexcept nogil:
    """Some sections of the channels of dx, of some images."""
    cdef conv_t* j = p.j
    cdef Py_ssize_t turn = task % p.parts, g = task // p.parts % j.groups, section
    cdef block_t b = block_of(&p.w, task // p.parts // j.groups)
    cdef real* pixels = <real*> (p.scratch + worker * p.scratch_step)
    cdef real* dz = pixels + p.w.pixels + p.high * p.panels * p.nr
    cdef bint once = b.count <= p.high  # the gradient serves all sections
    if once:
        take_gradient(j, g, b.first, b.count, dz, p.ldq, dz + j.f * p.ldq)
    for section in range(turn * p.sections // p.parts, (turn + 1) * p.sections // p.parts):
        _section(p, &b, g, section, once, pixels, dz)


cdef inline void _section(
    products_t* p, const block_t* b, Py_ssize_t g, Py_ssize_t section, bint once, real* pixels,
    real* dz,
) noexcept nogil:
    cdef conv_t* j = p.j
    cdef windows_t* w = &p.w
    cdef Py_ssize_t ldk = p.panels * p.nr, q = 0, count, s, i, r, k, c0 = section * w.c
    cdef Py_ssize_t plane = j.h * j.w, channels = j.groups * j.c, c = min(w.c, j.c - c0)
    cdef Py_ssize_t step = channel_step(j, plane)
    cdef real* sums = pixels + w.pixels
    cdef const real* packed = <const real*> p.packed + (g * p.sections + section) * j.f * ldk
    cdef const real* bias = <const real*> p.bias
    cdef const real* source
    cdef real* to
    memset(pixels, 0, b.images * w.image_step * sizeof(real))
    while q < b.count:
        count = min(p.high, b.count - q)
        if not once:
            take_gradient(j, g, b.first + q, count, dz, p.ldq, dz + j.f * p.ldq)
        for s in range(p.panels):
            sum_tiles(
                p, count, dz, p.index, p.ldq, packed + s * p.nr * j.f, sums + s * p.nr, ldk, NULL
            )
        for i in range(count):
            source = sums + i * ldk
            for r in range(w.runs):
                to = pixels + w.at[q + i] + w.run_at[r]
                for k in range(w.run):
                    to[k] += source[k]
                source += w.run
        q += count
    for i in range(b.images):
        to = <real*> j.dx + start_of(j, b.n + i, channels, g * j.c + c0, plane)
        take_pixels(w, pixels + i * w.image_step, to, c, step, channels if j.last else 1)
        if bias == NULL and p.act.code == LINEAR:
            continue
        if j.last:
            for q in range(plane):
                if bias != NULL:
                    for k in range(c):
                        to[q * channels + k] += bias[g * j.c + c0 + k]
                act_span(p.act, to + q * channels, to + q * channels, c)
        else:
            for k in range(c):
                if bias != NULL:
                    for q in range(plane):
                        to[k * plane + q] += bias[g * j.c + c0 + k]
                act_span(p.act, to + k * plane, to + k * plane, plane)


cdef inline void _input_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef products_t* p = <products_t*> context
    if p.j.single:
        _input(p, task, worker, <float*> NULL)
    else:
        _input(p, task, worker, <double*> NULL)


cdef inline void input_plan(
    products_t* p, conv_t* j, const void* bias, act_t act, int workers, const real* _
) noexcept nogil:
    """Set all sizes for dx, with this number of threads."""
    cdef windows_t* w = &p.w
    cdef Py_ssize_t ldk
    memset(p, 0, sizeof(products_t))
    p.j, p.act, p.bias = j, act, bias
    p.sections = ceil_div(j.c, CHANNELS)
    p.w = windows_of(j, ceil_div(j.c, p.sections), False)
    w.whole = False
    # whole images, whose windows are computed strip by strip
    w.rows, w.strips, w.images = j.oh, 1, min(j.n, ceil_div(ROWS, j.oh * j.ow))
    w.blocks = ceil_div(j.n, w.images)
    p.parts = min(p.sections, ceil_div(4 * workers, w.blocks * j.groups))
    w.image_step = ((j.oh - 1) * w.step_h + w.reach_h) * w.ld
    w.pixels = round_up(w.images * w.image_step, ROWS)
    choose_tile(p, positions(w), w.k, _)
    ldk = p.panels * p.nr
    p.high = min(round_up(positions(w), ROWS), ROWS * max(<Py_ssize_t> 1, OF_INPUT // (ROWS * ldk)))
    p.ldq = p.high + 16
    p.pieces = cut(j.f, 1)
    p.packed_bytes = aligned(j.groups * p.sections * j.f * ldk * sizeof(real))
    p.tables_bytes = aligned((tables_size(w) + 3 * p.pieces + p.high) * sizeof(Py_ssize_t))
    p.scratch_step = aligned((w.pixels + p.high * ldk + j.f * (p.ldq + 1)) * sizeof(real))


cdef inline void input_pack(products_t* p, char* at, int workers) noexcept nogil:
    """Fill the memory from `at` on with packed filters and tables."""
    cdef Py_ssize_t* tables = <Py_ssize_t*> (at + p.packed_bytes)
    cdef Py_ssize_t i
    p.packed = at
    set_tables(&p.w, tables)
    p.piece = tables + tables_size(&p.w)
    p.index = p.piece + 3 * p.pieces
    for i in range(p.high):
        p.index[i] = i
    set_pieces(p, p.j.f, 1, NULL, p.ldq)
    run(_pack_turned_task, p, p.j.groups * p.sections, workers)


cdef inline void input_multiply(products_t* p, char* scratch, int workers) noexcept nogil:
    """dx, or the output of the transposed convolution: f(b + dx)."""
    p.scratch = scratch
    run(_input_task, p, p.w.blocks * p.j.groups * p.parts, workers)
