"""Convolution of 1 x 1 where each channel is a plane: products with the planes as they lie.

    forward   y[m, q]  = b[m] + Σ_k w[m, k] x[k, q]     A: filters, packed   B: x, in panels
    input     dx[m, q] = Σ_k w[k, m] dz[k, q]           the same
    weights   dw[f, c] = Σ_q dz[f, q] x[c, q]           A: dz                B: x turned, in panels

q runs over the pixels of an image, or in the last product over those of all images. A panel is some
pixels of all channels (or all pixels of some channels), so nothing is copied but one operand into
the panels. The weights' gradient is added up block by block, in at most GROUPS groups of blocks,
which the shapes alone decide.
"""

from libc.string cimport memset
from npdl._ext.activation cimport LINEAR, RELU, act_span, act_t
from npdl._ext.conv cimport GROUPS, MOST_BYTES, conv_t
from npdl._ext.conv_gradients cimport take_gradient
from npdl._ext.pack cimport pack_panels, pack_rows
from npdl._ext.panels cimport times_panel
from npdl._ext.simd cimport MR, TALL, real, transpose
from npdl._ext.sums cimport sum_of
from npdl._ext.threads cimport aligned, give, max_workers, of_worker, run, scratch_t, take
from npdl._ext.tile cimport MAX_NR, ceil_div, lanes, least_rows, panel_width, round_up, tile_cols

cdef enum:
    DEPTH = 512  # channels, or pixels, that are summed at once
    ROOM = 16384  # numbers of panels that are packed in one go
    LEAST = 64  # pixels of a block
    SPANS = 256  # blocks of a group that are added up one by one
    EACH = 8  # panels of a thread from which a smaller last one balances the threads
    ROWS = 96  # of the filters that a task packs; whole tiles of each form

ctypedef struct pointwise_t:
    conv_t* j
    act_t act
    const void* bias  # [m] or NULL
    const void* x
    void* y
    Py_ssize_t m, k  # channels out, in
    Py_ssize_t plane
    bint turned  # y is dx
    bint tall
    Py_ssize_t mr, nr, panels
    Py_ssize_t parts  # of the panels of an image
    Py_ssize_t pieces  # of the channels
    Py_ssize_t together  # panels that are packed in one go, so that rows are read far enough
    # the gradient of the filters
    Py_ssize_t count, blocks, groups  # pixels of a block; blocks; groups of them
    Py_ssize_t ldq  # numbers of a row of dz
    char* packed
    char* sums
    char* scratch
    size_t scratch_step


cdef inline bint is_pointwise(const conv_t* j) noexcept nogil:
    """Whether pixels are 1 x 1 windows, enough of them to fill panels."""
    cdef Py_ssize_t plane = j.h * j.w
    return (
        not j.last and j.groups == 1 and j.kh == 1 and j.kw == 1 and j.sh == 1 and j.sw == 1
        and j.ph == 0 and j.pw == 0 and j.oh == j.h and j.ow == j.w
        and 3 * round_up(plane, 32) <= 4 * plane
    )


cdef inline Py_ssize_t _work_of(
    Py_ssize_t rows, Py_ssize_t n, Py_ssize_t nr, Py_ssize_t images, int workers, const real* _
) noexcept nogil:
    """What the busiest thread computes: whole panels, if there are few."""
    cdef Py_ssize_t panels = images * ceil_div(n, nr)
    if workers > 1 and panels < EACH * workers:
        return rows * nr * ceil_div(panels, workers)
    return rows * (n // nr * nr + panel_width(n % nr, nr, _)) * images // workers


cdef inline void _choose_tile(
    pointwise_t* p, Py_ssize_t m, Py_ssize_t n, Py_ssize_t images, int workers, const real* _
) noexcept nogil:
    """The form of tiles that computes less beside m rows and n columns, or divides them better."""
    cdef Py_ssize_t nr = tile_cols(_), square
    square = _work_of(round_up(m, least_rows(_)), n, nr, images, workers, _)
    p.mr, p.nr = MR, nr
    p.tall = (
        _work_of(round_up(m, TALL // 2), n, 2 * lanes(_), images, workers, _)
        < square - square // 32
    )
    if p.tall:
        p.mr, p.nr = TALL, 2 * lanes(_)
    p.panels = ceil_div(n, p.nr)


cdef inline Py_ssize_t _start(Py_ssize_t piece, Py_ssize_t pieces, Py_ssize_t k) noexcept nogil:
    return k * piece // pieces


# ------------------------------------------------------------------------- forward, and the input

cdef inline void _pack_filters(pointwise_t* p, Py_ssize_t task, const real* _) noexcept nogil:
    """Some rows of A, piece after piece; the first task packs the bias too."""
    cdef Py_ssize_t i0 = task * ROWS, rows = min(<Py_ssize_t> ROWS, p.m - i0), s, k0, k1, i
    cdef Py_ssize_t high = round_up(p.m, p.mr), across = p.k
    cdef const real* w = <const real*> p.j.filters
    cdef real* bias = <real*> p.packed + high * p.k
    for s in range(p.pieces):
        k0, k1 = _start(s, p.pieces, p.k), _start(s + 1, p.pieces, p.k)
        if p.turned:
            pack_rows(
                w + i0 + k0 * p.m, 1, p.m, rows, k1 - k0, p.mr,
                <real*> p.packed + high * k0 + i0 * (k1 - k0),
            )
        else:
            pack_rows(
                w + i0 * across + k0, across, 1, rows, k1 - k0, p.mr,
                <real*> p.packed + high * k0 + i0 * (k1 - k0),
            )
    if p.bias != NULL:  # a tile reads it as it reads C
        for i in range(i0, i0 + rows):
            for s in range(p.nr):
                bias[i * p.nr + s] = (<const real*> p.bias)[i]


cdef inline void _pack_filters_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef pointwise_t* p = <pointwise_t*> context
    if p.j.single:
        _pack_filters(p, task, <float*> NULL)
    else:
        _pack_filters(p, task, <double*> NULL)


cdef inline void _multiply(
    pointwise_t* p, Py_ssize_t task, int worker, const real* _
) noexcept nogil:
    """Some panels of an image."""
    cdef Py_ssize_t n = task // p.parts, turn = task % p.parts, s, t, piece, k0, depth, q, cols, m
    cdef Py_ssize_t s0 = turn * p.panels // p.parts, s1 = (turn + 1) * p.panels // p.parts
    cdef Py_ssize_t high = round_up(p.m, p.mr), start_row
    cdef bint relu = real is float and p.act.code == RELU  # done by the tiles
    cdef real* panels = <real*> (p.scratch + worker * p.scratch_step)
    cdef const real* x = <const real*> p.x + n * p.k * p.plane
    cdef real* y = <real*> p.y + n * p.m * p.plane
    cdef const real* start
    s = s0
    while s < s1:
        s0 = s
        s = min(s + p.together, s1)
        cols = min(s * p.nr, p.plane) - s0 * p.nr
        for piece in range(p.pieces):
            k0 = _start(piece, p.pieces, p.k)
            depth = _start(piece + 1, p.pieces, p.k) - k0
            pack_panels(
                x + k0 * p.plane + s0 * p.nr, p.plane, 1, depth, cols, p.nr, False, panels
            )
            for t in range(s0, s):
                q = t * p.nr
                start, start_row = y + q, p.plane
                if piece == 0:
                    start, start_row = NULL, 0
                    if p.bias != NULL:
                        start, start_row = <const real*> p.packed + high * p.k, p.nr
                times_panel(
                    p.tall, p.m, min(p.nr, p.plane - q), depth,
                    <const real*> p.packed + high * k0, 1, p.mr, p.mr * depth,
                    panels + (t - s0) * depth * p.nr, y + q, p.plane, start, start_row,
                    relu and piece == p.pieces - 1,
                )
        if p.act.code != LINEAR and not relu:
            for m in range(p.m):
                q = m * p.plane + s0 * p.nr
                act_span(p.act, y + q, y + q, cols)


cdef inline void _multiply_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef pointwise_t* p = <pointwise_t*> context
    if p.j.single:
        _multiply(p, task, worker, <float*> NULL)
    else:
        _multiply(p, task, worker, <double*> NULL)


cdef inline void pointwise_plan(
    pointwise_t* p, conv_t* j, const void* bias, act_t act, bint turned, int workers, const real* _
) noexcept nogil:
    """The sizes of everything, for so many threads."""
    memset(p, 0, sizeof(pointwise_t))
    p.j, p.bias, p.act, p.turned, p.plane = j, bias, act, turned, j.h * j.w
    p.m, p.k = j.f, j.c
    if turned:
        p.m, p.k = j.c, j.f
    _choose_tile(p, p.m, p.plane, j.n, workers, _)
    p.pieces = ceil_div(p.k, DEPTH)
    p.parts = min(p.panels, ceil_div(4 * workers, j.n))
    p.together = max(<Py_ssize_t> 1, ROOM // (ceil_div(p.k, p.pieces) * p.nr))
    p.scratch_step = of_worker(
        p.together * ceil_div(p.k, p.pieces) * p.nr * sizeof(real), workers
    )


cdef inline size_t pointwise_kept(const pointwise_t* p) noexcept nogil:
    """Bytes of the packed filters, and the bias beside them."""
    cdef Py_ssize_t numbers = p.k + (0 if p.bias == NULL else p.nr)
    return aligned(
        round_up(p.m, p.mr) * numbers * (sizeof(float) if p.j.single else sizeof(double))
    )


cdef inline void pointwise_pack(pointwise_t* p, char* at, int workers) noexcept nogil:
    p.packed = at
    run(_pack_filters_task, p, ceil_div(p.m, ROWS), workers)


cdef inline void pointwise_multiply(
    pointwise_t* p, const void* x, void* y, char* scratch, int workers
) noexcept nogil:
    p.x, p.y, p.scratch = x, y, scratch
    run(_multiply_task, p, p.j.n * p.parts, workers)


cdef inline void pointwise_input(
    conv_t* j, const void* bias, act_t act, const real* _
) except *:
    """dx, or the output of the transposed convolution: f(b + dx); from dz in the place of dy."""
    cdef pointwise_t p
    cdef int workers = max_workers()
    cdef scratch_t s
    pointwise_plan(&p, j, bias, act, True, workers, _)
    s = take(pointwise_kept(&p) + workers * p.scratch_step)
    with nogil:
        pointwise_pack(&p, s.data, workers)
        pointwise_multiply(&p, j.dy, j.dx, s.data + pointwise_kept(&p), workers)
    give(s)


# -------------------------------------------------------------------------- the gradient of filters

cdef inline void _turn(
    const real* x, Py_ssize_t plane, Py_ssize_t count, Py_ssize_t channels, Py_ssize_t nr,
    Py_ssize_t panel, real* out,
) noexcept nogil:
    """out[c//nr*panel + q*nr + c%nr] = x[c*plane + q]  for q < count, c < channels."""
    cdef Py_ssize_t x_at[MAX_NR]
    cdef Py_ssize_t out_at[MAX_NR]
    cdef Py_ssize_t c = 0, q, i, l, width = lanes(x)
    cdef real* to
    for l in range(width):
        x_at[l], out_at[l] = l * plane, l * nr
    while c < channels:
        to = out + c // nr * panel + c % nr
        q = 0
        if real is float:
            while c + width <= channels and q + width <= count:
                transpose(x + c * plane + q, x_at, to + q * nr, out_at)
                q += width
        for l in range(min(width, channels - c)):
            for i in range(q, count):
                to[i * nr + l] = x[(c + l) * plane + i]
        c += width


cdef inline void _weights(
    pointwise_t* p, Py_ssize_t group, int worker, const real* _
) noexcept nogil:
    """The gradients of a group of blocks."""
    cdef conv_t* j = p.j
    cdef Py_ssize_t ldw = p.panels * p.nr, total = j.n * p.plane, number, q, count, at, some, f, s
    cdef Py_ssize_t panel = p.count * p.nr
    cdef real* b = <real*> (p.scratch + worker * p.scratch_step)
    cdef real* dz = b + p.panels * panel
    cdef real* dw = <real*> p.sums + group * j.f * (ldw + 1)
    cdef real* db = dw + j.f * ldw
    for f in range(j.f):
        db[f] = 0
    for number in range(group * p.blocks // p.groups, (group + 1) * p.blocks // p.groups):
        q = number * p.count
        count = min(p.count, total - q)
        take_gradient(j, 0, q, count, dz, p.ldq, dz + j.f * p.ldq)
        if j.db != NULL:
            for f in range(j.f):
                db[f] += <real> sum_of(dz + f * p.ldq, count)
        if j.dw == NULL:
            continue
        at = 0
        while at < count:
            some = min(count - at, p.plane - (q + at) % p.plane)
            _turn(
                <const real*> j.x + (q + at) // p.plane * j.c * p.plane + (q + at) % p.plane,
                p.plane, some, j.c, p.nr, panel, b + at * p.nr,
            )
            at += some
        for s in range(p.panels):  # whole panels: what stands beside the last channel is not read
            times_panel(
                p.tall, j.f, p.nr, count, dz, p.ldq, 1, p.mr * p.ldq, b + s * panel,
                dw + s * p.nr, ldw, NULL if number == group * p.blocks // p.groups
                else dw + s * p.nr, ldw, False,
            )


cdef inline void _weights_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef pointwise_t* p = <pointwise_t*> context
    if p.j.single:
        _weights(p, task, worker, <float*> NULL)
    else:
        _weights(p, task, worker, <double*> NULL)


cdef inline void _add_groups(pointwise_t* p, Py_ssize_t f, const real* _) noexcept nogil:
    """dw and db of one filter."""
    cdef conv_t* j = p.j
    cdef Py_ssize_t ldw = p.panels * p.nr, step = j.f * (ldw + 1), g, c
    cdef const real* sums = <const real*> p.sums
    cdef real* dw = <real*> j.dw + f * j.c
    cdef real total = 0
    if j.db != NULL:
        for g in range(p.groups):
            total += sums[g * step + j.f * ldw + f]
        (<real*> j.db)[f] = total
    if j.dw == NULL:
        return
    for c in range(j.c):
        dw[c] = sums[f * ldw + c]
    for g in range(1, p.groups):
        for c in range(j.c):
            dw[c] += sums[g * step + f * ldw + c]


cdef inline void _add_groups_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef pointwise_t* p = <pointwise_t*> context
    if p.j.single:
        _add_groups(p, task, <float*> NULL)
    else:
        _add_groups(p, task, <double*> NULL)


cdef inline void pointwise_weights(conv_t* j, const real* _) except *:
    """dw and db, each where it is asked for."""
    cdef pointwise_t p
    cdef int workers = max_workers()
    cdef Py_ssize_t total = j.n * j.h * j.w, most
    cdef size_t sums
    cdef scratch_t s
    memset(&p, 0, sizeof(p))
    p.j, p.plane = j, j.h * j.w
    _choose_tile(&p, j.f, j.c, 1, 1, _)
    p.count = round_up(ceil_div(total, GROUPS), 16)
    p.count = min(<Py_ssize_t> DEPTH, max(<Py_ssize_t> LEAST, p.count))
    p.blocks = ceil_div(total, p.count)
    most = MOST_BYTES // <Py_ssize_t> (j.f * (j.c + 64) * sizeof(real))
    p.groups = max(p.blocks // SPANS, <Py_ssize_t> GROUPS)
    p.groups = min(p.blocks, max(<Py_ssize_t> 1, min(p.groups, most)))
    p.ldq = round_up(p.count, 16) + 16
    p.scratch_step = aligned((p.panels * p.nr * p.count + j.f * (p.ldq + 1)) * sizeof(real))
    sums = aligned(p.groups * j.f * (p.panels * p.nr + 1) * sizeof(real))
    s = take(sums + workers * p.scratch_step)
    p.sums, p.scratch = s.data, s.data + sums
    with nogil:
        run(_weights_task, &p, p.groups, workers)
        run(_add_groups_task, &p, j.f, workers)
    give(s)
