"""Two-dimensional convolution, with no im2col matrix. Contract: ``conv_np.py``.

The columns of im2col are shifted copies of the image, so the tile can read them where they are. Each
image is first copied into *planes*: padded, and split by the phase of the stride, so that the pixel
(u, v) of all windows is one plane, shifted:

    plane[c, u % SH, v % SW][i + u//SH, j + v//SW] = x[c, i*SH + u - PH, j*SW + v - PW]

In a plane of width WP the window (i, j) stands at q = i*WP + j, and the pixel (c, u, v) of NR windows
in a row at ``offset[c,u,v] + q``: NR consecutive numbers, row k = (c, u, v) of a panel of B. Positions
q at which no window stands (j >= OW) are computed for nothing and dropped; they are few.

    forward   y[f, q]       = Σ_k w[f, k] · plane[offset[k] + q]            A: filters, B: the image
    weights   dw[f, k]      = Σ_q dz[f, q] · plane[offset[k] + q]           lanes along q
    input     dplane[c, q]  = Σ_{f,a,b} w[f, c, u, v] · dz[f, q - (a, b)]   A: filters, B: dz, padded

where (a, b) are the taps of one phase, u = pu + SH*a and v = pv + SW*b. The work is shared by images;
the weights' gradient by fixed groups of images, whose sums are added in order.
"""

from libc.string cimport memcpy, memset
from npdl._ext.activation cimport act_span, act_t, parse_act, pull_back_span
from npdl._ext.gemm cimport (
    MAX_NR,
    MR,
    NV,
    ceil_div,
    dot_tile,
    lanes,
    round_up,
    tile,
    tile_cols,
)
from npdl._ext.elementary cimport sum_of
from npdl._ext.simd cimport real, same_shape
from npdl._ext.threads cimport give, max_workers, run, scratch_t, take
from npdl._ext.winograd cimport (
    PLACES,
    correlate_3x3,
    pad_image,
    planes_size,
    transform_filters,
    winograd_plan,
    winograd_scratch,
    winograd_t,
)
from npdl._ext.winograd_weights cimport (
    add_products,
    sums_size,
    weight_gradients,
    weights_groups,
    weights_scratch,
)

cdef enum:
    GROUPS = 8  # of images, for the gradient of the weights
    PARTS = 4  # of an image, when there are few
    PASS_BYTES = 256 * 1024
    SLACK = 64  # numbers that the last vectors of a plane may read beyond it


ctypedef struct conv_t:
    bint single
    act_t act
    Py_ssize_t n, c, h, w, f, kh, kw, oh, ow, sh, sw, ph, pw
    Py_ssize_t taps_h, taps_w  # of one phase, at most
    Py_ssize_t phases_h, phases_w  # that a filter reaches
    Py_ssize_t plane_h, plane_w  # of the planes of one image
    Py_ssize_t image_step  # numbers in them, and as many more as a vector may read beyond
    Py_ssize_t span  # positions, rounded up to whole vectors
    Py_ssize_t dz_h, dz_w  # a plane of dz, padded by taps - 1 all round
    Py_ssize_t depth  # C*KH*KW
    Py_ssize_t parts  # forward: of an image
    Py_ssize_t group, together  # backward: images of a task, and of one pass of it
    const void* x
    const void* bias
    const void* dy
    void* y
    void* dx
    Py_ssize_t* offset  # [C*KH*KW], and NV more
    Py_ssize_t* dx_offset  # [F*taps], of the phase that is worked on
    void* packed  # filters
    void* dw  # [group][F][C*KH*KW], both rounded up
    void* db  # [group][F]
    char* scratch
    size_t scratch_step  # bytes of it to a worker
    winograd_t winograd


# Where the results of positions go: those with i0 <= i < i1, j0 <= j < j1, to
# out[m*plane + i*row + j*col].
ctypedef struct window_t:
    Py_ssize_t width, i0, i1, j0, j1, plane, row, col


cdef inline void _store(
    const real* block, Py_ssize_t rows, Py_ssize_t q, Py_ssize_t count, window_t* win, real* out,
    const real* bias,
) noexcept nogil:
    """Scatter one vector of each row of a tile, positions q to q + count, and add the bias."""
    cdef Py_ssize_t nr = tile_cols(out), done = 0, i = q // win.width, j = q % win.width
    cdef Py_ssize_t m, s, lo, hi, length
    cdef real* to
    cdef const real* source
    cdef real shift
    while done < count and i < win.i1:
        length = min(count - done, win.width - j)
        lo, hi = max(j, win.j0), min(j + length, win.j1)
        for m in range(rows):
            to = out + m * win.plane + i * win.row + lo * win.col
            source = block + m * nr + done + lo - j
            shift = 0 if bias == NULL else bias[m]
            if win.col == 1:
                if hi - lo == lanes(out):  # the usual case, as a constant
                    for s in range(lanes(out)):
                        to[s] = source[s] + shift
                else:
                    for s in range(hi - lo):
                        to[s] = source[s] + shift
            else:
                for s in range(hi - lo):
                    to[s * win.col] = source[s] + shift
        done += length
        j = 0
        i += 1


cdef inline void _correlate(
    Py_ssize_t m,
    Py_ssize_t depth,
    const real* packed,
    const real* planes,
    const Py_ssize_t* offset,
    window_t* win,
    real* out,
    const real* bias,
) noexcept nogil:
    """out[m, q] = bias[m] + Σ_k packed[m, k] planes[offset[k] + q]  for all positions of `win`.

    The vectors of a tile go along the rows, or straight through the positions between two rows;
    whichever takes fewer.
    """
    cdef real block[MR * MAX_NR]
    cdef Py_ssize_t at[NV]
    cdef Py_ssize_t a_at[MR]
    cdef Py_ssize_t width = lanes(out), rows = win.i1 - win.i0, cols = win.j1 - win.j0
    cdef Py_ssize_t per_row = ceil_div(cols, width), v, i, j, s
    cdef Py_ssize_t total = ceil_div((rows - 1) * win.width + cols, width)
    cdef bint by_row = per_row * rows <= total
    if by_row:
        total = per_row * rows
    v = 0
    while v < total:
        for j in range(NV):
            s = min(v + j, total - 1)
            at[j] = win.i0 * win.width + win.j0 + (
                s // per_row * win.width + s % per_row * width if by_row else s * width
            )
        for i in range(ceil_div(m, MR)):
            for s in range(MR):
                a_at[s] = (i * MR + s) * depth
            tile(depth, packed, a_at, planes, offset, at, block, tile_cols(out), False)
            for j in range(min(<Py_ssize_t> NV, total - v)):
                _store(
                    block + j * width, min(<Py_ssize_t> MR, m - i * MR), at[j],
                    min(width, win.j1 - at[j] % win.width) if by_row else width,
                    win, out + i * MR * win.plane, NULL if bias == NULL else bias + i * MR,
                )
        v += NV


cdef inline void _split_image(conv_t* j, const real* x, real* planes) noexcept nogil:
    """Copy an image into its planes."""
    cdef Py_ssize_t c, pu, pv, i, k, row, col, size = j.plane_h * j.plane_w
    cdef Py_ssize_t k0, k1  # columns of the plane that lie in the image
    cdef real* to = planes
    cdef const real* source
    memset(planes, 0, j.image_step * sizeof(real))
    for c in range(j.c):
        for pu in range(j.phases_h):
            for pv in range(j.phases_w):
                k0 = max(0, ceil_div(j.pw - pv, j.sw)) if j.pw > pv else 0
                k1 = min(j.plane_w, ceil_div(j.w + j.pw - pv, j.sw)) if j.w + j.pw > pv else 0
                for i in range(j.plane_h):
                    row = i * j.sh + pu - j.ph
                    if row < 0 or row >= j.h or k1 <= k0:
                        continue
                    source = x + (c * j.h + row) * j.w + pv - j.pw
                    if j.sw == 1:
                        memcpy(to + i * j.plane_w + k0, source + k0, (k1 - k0) * sizeof(real))
                    else:
                        for k in range(k0, k1):
                            to[i * j.plane_w + k] = source[k * j.sw]
                to += size


cdef inline void _forward(conv_t* j, Py_ssize_t task, int worker, const real* _) noexcept nogil:
    """One part of one image."""
    cdef Py_ssize_t n = task // j.parts, part = task % j.parts, nr = tile_cols(_)
    cdef Py_ssize_t rows0 = part * j.oh // j.parts, rows1 = (part + 1) * j.oh // j.parts, m
    cdef real* planes = <real*> (j.scratch + worker * j.scratch_step)
    cdef real* y = <real*> j.y + n * j.f * j.oh * j.ow
    cdef window_t win
    if rows0 == rows1:
        return
    win.width, win.plane, win.row, win.col = j.plane_w, j.oh * j.ow, j.ow, 1
    win.i0, win.i1, win.j0, win.j1 = rows0, rows1, 0, j.ow
    _split_image(j, <const real*> j.x + n * j.c * j.h * j.w, planes)
    _correlate(
        j.f, j.depth, <const real*> j.packed, planes, j.offset, &win, y, <const real*> j.bias
    )
    for m in range(j.f):
        act_span(
            j.act, y + m * win.plane + rows0 * j.ow, y + m * win.plane + rows0 * j.ow,
            (rows1 - rows0) * j.ow,
        )


cdef void _forward_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef conv_t* j = <conv_t*> context
    if j.single:
        _forward(j, task, worker, <float*> NULL)
    else:
        _forward(j, task, worker, <double*> NULL)


cdef inline void _spread_dz(conv_t* j, const real* dz, real* spread, real* db) noexcept nogil:
    """Lay dz out by position, zero where no window stands, and add it to db."""
    cdef Py_ssize_t f, i, k
    cdef real* to
    memset(spread, 0, round_up(j.f, MR) * j.span * sizeof(real))
    for f in range(j.f):
        for i in range(j.oh):
            to = spread + f * j.span + i * j.plane_w
            for k in range(j.ow):
                to[k] = dz[k]
            dz += j.ow
        db[f] += sum_of(spread + f * j.span, j.span)


cdef inline void _backward_weights(
    conv_t* j, Py_ssize_t count, const real* planes, const real* spread, real* dw
) noexcept nogil:
    """dw[f, k] += Σ_q dz[f, q] plane[offset[k] + q], of some images."""
    cdef Py_ssize_t f, k, ldw = round_up(j.depth, NV)
    for f in range(ceil_div(j.f, MR)):
        for k in range(ceil_div(j.depth, NV)):
            dot_tile(
                count, j.span, spread + f * MR * j.span, j.span, round_up(j.f, MR) * j.span,
                planes, j.offset + k * NV, j.image_step, dw + f * MR * ldw + k * NV, ldw,
            )


cdef inline void _backward_input(conv_t* j, const real* dz, real* padded, real* dx) noexcept nogil:
    """dx of one image, phase by phase."""
    cdef Py_ssize_t size = j.dz_h * j.dz_w, f, i, pu, pv, taps_h, taps_w, depth
    cdef const real* packed = <const real*> j.packed
    cdef const Py_ssize_t* offset = j.dx_offset
    cdef window_t win
    memset(padded, 0, (j.f * size + SLACK) * sizeof(real))
    for f in range(j.f):
        for i in range(j.oh):
            memcpy(
                padded + f * size + (i + j.taps_h - 1) * j.dz_w + j.taps_w - 1,
                dz + (f * j.oh + i) * j.ow, j.ow * sizeof(real),
            )
    memset(dx, 0, j.c * j.h * j.w * sizeof(real))  # windows need not reach every pixel
    win.width, win.plane, win.row, win.col = j.dz_w, j.h * j.w, j.sh * j.w, j.sw
    for pu in range(j.phases_h):
        for pv in range(j.phases_w):
            taps_h, taps_w = ceil_div(j.kh - pu, j.sh), ceil_div(j.kw - pv, j.sw)
            depth = j.f * taps_h * taps_w
            # the pixels i*SH + pu - PH, j*SW + pv - PW that lie inside the image
            win.i0 = ceil_div(j.ph - pu, j.sh) if j.ph > pu else 0
            win.j0 = ceil_div(j.pw - pv, j.sw) if j.pw > pv else 0
            win.i1 = min(j.plane_h, ceil_div(j.h + j.ph - pu, j.sh)) if j.h + j.ph > pu else 0
            win.j1 = min(j.plane_w, ceil_div(j.w + j.pw - pv, j.sw)) if j.w + j.pw > pv else 0
            if win.i0 < win.i1 and win.j0 < win.j1:
                _correlate(
                    j.c, depth, packed, padded, offset, &win,
                    dx + (pu - j.ph) * j.w + pv - j.pw, NULL,
                )
            packed += round_up(j.c, MR) * depth
            offset += depth


cdef inline void _backward(conv_t* j, Py_ssize_t group, int worker, const real* _) noexcept nogil:
    """All gradients of one group of images."""
    cdef Py_ssize_t out = j.f * j.oh * j.ow, spread_step = round_up(j.f, MR) * j.span, n, s, count
    cdef Py_ssize_t last = min(j.n, (group + 1) * j.group)
    cdef real* dz = <real*> (j.scratch + worker * j.scratch_step)
    cdef real* planes = dz + out
    cdef real* spread = planes + j.together * j.image_step
    cdef real* padded = spread + j.together * spread_step
    cdef real* dw = <real*> j.dw + group * round_up(j.f, MR) * round_up(j.depth, NV)
    cdef real* db = <real*> j.db + group * j.f
    memset(dw, 0, round_up(j.f, MR) * round_up(j.depth, NV) * sizeof(real))
    memset(db, 0, j.f * sizeof(real))
    n = group * j.group
    while n < last:
        count = min(j.together, last - n)
        for s in range(count):
            pull_back_span(
                j.act, <const real*> j.y + n * out, <const real*> j.dy + n * out, dz, out
            )
            if j.dx != NULL:
                _backward_input(j, dz, padded, <real*> j.dx + n * j.c * j.h * j.w)
            _spread_dz(j, dz, spread + s * spread_step, db)
            _split_image(j, <const real*> j.x + n * j.c * j.h * j.w, planes + s * j.image_step)
            n += 1
        _backward_weights(j, count, planes, spread, dw)


cdef void _backward_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef conv_t* j = <conv_t*> context
    if j.single:
        _backward(j, task, worker, <float*> NULL)
    else:
        _backward(j, task, worker, <double*> NULL)


cdef inline void _pack_for_input(conv_t* j, const real* w, real* packed) noexcept nogil:
    """The filters of every phase, taps turned round, and the offsets that they meet in dz."""
    cdef Py_ssize_t pu, pv, a, b, f, c, k, depth, at, taps_h, taps_w
    cdef Py_ssize_t* offset = j.dx_offset
    for pu in range(j.phases_h):
        for pv in range(j.phases_w):
            taps_h, taps_w = ceil_div(j.kh - pu, j.sh), ceil_div(j.kw - pv, j.sw)
            depth = j.f * taps_h * taps_w
            memset(packed, 0, round_up(j.c, MR) * depth * sizeof(real))
            k = 0
            for f in range(j.f):
                for a in range(taps_h):
                    for b in range(taps_w):
                        offset[k] = (
                            (f * j.dz_h + j.taps_h - 1 - a) * j.dz_w + j.taps_w - 1 - b
                        )
                        for c in range(j.c):
                            at = ((f * j.c + c) * j.kh + pu + j.sh * a) * j.kw + pv + j.sw * b
                            packed[c * depth + k] = w[at]
                        k += 1
            packed += round_up(j.c, MR) * depth
            offset += depth


# ------------------------------------------------------------------------------------- Winograd's form

cdef bint winograd_allowed = True

cdef enum:
    WINOGRAD_CHANNELS = 16  # in and out; with fewer the transforms cost more than they save


def set_winograd(bint allowed):
    """Whether 3x3 convolutions of float32 may run in Winograd's form."""
    global winograd_allowed
    winograd_allowed = allowed


cdef bint _winograd_pays(conv_t* j) noexcept nogil:
    return (
        winograd_allowed and j.single and j.kh == 3 and j.kw == 3 and j.sh == 1 and j.sw == 1
        and j.c >= WINOGRAD_CHANNELS and j.f >= WINOGRAD_CHANNELS and j.oh >= 4 and j.ow >= 4
        and j.ph <= 2 and j.pw <= 2
    )


cdef void _winograd_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    """Forward: some images, x to y. Backward: dz, made from y and dy, to dx."""
    cdef conv_t* j = <conv_t*> context
    cdef winograd_t* p = &j.winograd
    cdef Py_ssize_t n0 = task * p.group, count = min(p.group, j.n - n0), n
    cdef Py_ssize_t size = p.k * p.h * p.w, out = p.m * p.oh * p.ow
    cdef float* planes = <float*> (j.scratch + worker * j.scratch_step)
    cdef float* dz = planes + p.group * planes_size(p)
    cdef float* result = <float*> (j.y if j.dx == NULL else j.dx) + n0 * out
    cdef char* room = <char*> (dz + (0 if j.dx == NULL else size))
    for n in range(count):
        if j.dx == NULL:
            pad_image(
                p, <const float*> j.x + (n0 + n) * size, planes + n * planes_size(p), <float*> room
            )
        else:
            pull_back_span(
                j.act, <const float*> j.y + (n0 + n) * size, <const float*> j.dy + (n0 + n) * size,
                dz, size,
            )
            pad_image(p, dz, planes + n * planes_size(p), <float*> room)
    correlate_3x3(p, count, planes, result, room)
    if j.dx == NULL:
        act_span(j.act, result, result, count * out)


cdef size_t _winograd_worker(winograd_t* p, bint backward) noexcept nogil:
    """Bytes of scratch to a worker."""
    return _aligned(
        (p.group * planes_size(p) + (p.k * p.h * p.w if backward else 0)) * sizeof(float)
        + winograd_scratch(p)
    )


cdef void _winograd_forward(conv_t* j, const float* w) except *:
    cdef size_t filters = _aligned(PLACES * j.f * j.c * sizeof(float))
    cdef int workers = max_workers()
    cdef scratch_t s
    j.winograd = winograd_plan(j.n, j.f, j.c, j.h, j.w, j.oh, j.ow, j.ph, j.pw)
    j.winograd.bias = <const float*> j.bias
    j.scratch_step = _winograd_worker(&j.winograd, False)
    s = take(filters + workers * j.scratch_step)
    j.winograd.filters = <const float*> s.data
    j.scratch = s.data + filters
    with nogil:
        transform_filters(w, j.f, j.c, j.c * 9, 9, False, <float*> s.data)
        run(_winograd_task, j, ceil_div(j.n, j.winograd.group), workers)
    give(s)


cdef void _winograd_input(conv_t* j, const float* w) except *:
    """dx: the correlation of dz with the filters turned round."""
    cdef size_t filters = _aligned(PLACES * j.f * j.c * sizeof(float))
    cdef int workers = max_workers()
    cdef scratch_t s
    j.winograd = winograd_plan(j.n, j.c, j.f, j.oh, j.ow, j.h, j.w, 2 - j.ph, 2 - j.pw)
    j.scratch_step = _winograd_worker(&j.winograd, True)
    s = take(filters + workers * j.scratch_step)
    j.winograd.filters = <const float*> s.data
    j.scratch = s.data + filters
    with nogil:
        transform_filters(w, j.c, j.f, 9, j.c * 9, True, <float*> s.data)
        run(_winograd_task, j, ceil_div(j.n, j.winograd.group), workers)
    give(s)


cdef void _winograd_weights_task(void* context, Py_ssize_t group, int worker) noexcept nogil:
    """dU and db of one group of images."""
    cdef conv_t* j = <conv_t*> context
    cdef winograd_t* p = &j.winograd
    cdef Py_ssize_t out = j.f * j.oh * j.ow, n = group * j.group, count, f
    cdef Py_ssize_t last = min(j.n, n + j.group)
    cdef float* sums = <float*> j.dw + group * sums_size(p)
    cdef float* db = <float*> j.db + group * j.f
    cdef float* dz = <float*> (j.scratch + worker * j.scratch_step)
    memset(sums, 0, sums_size(p) * sizeof(float))
    memset(db, 0, j.f * sizeof(float))
    while n < last:
        count = min(p.group, last - n)
        pull_back_span(
            j.act, <const float*> j.y + n * out, <const float*> j.dy + n * out, dz, count * out
        )
        for f in range(count * j.f):
            db[f % j.f] += sum_of(dz + f * j.oh * j.ow, j.oh * j.ow)
        add_products(
            p, count, <const float*> j.x + n * j.c * j.h * j.w, dz, sums,
            <char*> (dz + p.group * out),
        )
        n += count


cdef void _winograd_finish_task(void* context, Py_ssize_t f, int worker) noexcept nogil:
    """dw and db of one filter."""
    cdef conv_t* j = <conv_t*> context
    cdef Py_ssize_t groups = ceil_div(j.n, j.group), g
    cdef float total = 0
    weight_gradients(&j.winograd, <const float*> j.dw, groups, f, <float*> j.y)
    for g in range(groups):
        total += (<const float*> j.db)[g * j.f + f]
    (<float*> j.dx)[f] = total


cdef void _winograd_weights(conv_t* j, float* dw, float* db) except *:
    cdef winograd_t* p = &j.winograd
    cdef int workers = max_workers()
    cdef Py_ssize_t groups
    cdef size_t sums, biases
    cdef scratch_t s
    p[0] = winograd_plan(j.n, j.f, j.c, j.h, j.w, j.oh, j.ow, j.ph, j.pw)
    j.group = ceil_div(j.n, weights_groups(p, j.n, GROUPS))
    groups = ceil_div(j.n, j.group)
    sums = _aligned(groups * sums_size(p) * sizeof(float))
    biases = _aligned(groups * j.f * sizeof(float))
    j.scratch_step = _aligned(p.group * j.f * j.oh * j.ow * sizeof(float) + weights_scratch(p))
    s = take(sums + biases + workers * j.scratch_step)
    j.dw, j.db, j.scratch = s.data, s.data + sums, s.data + sums + biases
    with nogil:
        run(_winograd_weights_task, j, groups, workers)
        j.y, j.dx = dw, db
        run(_winograd_finish_task, j, j.f, workers)
    give(s)


# -------------------------------------------------------------------------------------------- the calls

cdef conv_t _plan(
    const real[:, :, :, ::1] x,
    const real[:, :, :, ::1] w,
    const real[:, :, :, ::1] y,
    Py_ssize_t stride_h,
    Py_ssize_t stride_w,
    Py_ssize_t pad_h,
    Py_ssize_t pad_w,
    act,
) except *:
    """The sizes of a convolution, checked."""
    cdef conv_t j
    memset(&j, 0, sizeof(j))
    if y.shape[0] != x.shape[0] or w.shape[1] != x.shape[1] or w.shape[0] != y.shape[1]:
        raise ValueError("conv2d: the shapes of x, w and y do not fit.")
    if min(stride_h, stride_w) < 1 or min(pad_h, pad_w) < 0:
        raise ValueError("conv2d: strides must be at least 1, padding at least 0.")
    if max(stride_h, stride_w, pad_h, pad_w) > 0x7FFFFFFF:
        raise ValueError("conv2d: strides and padding must be below 2^31.")
    if 0 in w.shape[:4] or 0 in x.shape[1:4] or 0 in y.shape[1:4]:
        raise ValueError("conv2d: only the batch may be empty.")
    j.single, j.act = real is float, parse_act(act)
    j.n, j.c, j.h, j.w = x.shape[0], x.shape[1], x.shape[2], x.shape[3]
    j.f, j.kh, j.kw, j.oh, j.ow = w.shape[0], w.shape[2], w.shape[3], y.shape[2], y.shape[3]
    j.sh, j.sw, j.ph, j.pw = stride_h, stride_w, pad_h, pad_w
    j.taps_h, j.taps_w = (j.kh - 1) // j.sh + 1, (j.kw - 1) // j.sw + 1
    j.plane_h, j.plane_w = j.oh + j.taps_h - 1, j.ow + j.taps_w - 1
    j.phases_h, j.phases_w = min(j.sh, j.kh), min(j.sw, j.kw)
    j.image_step = round_up(j.c * j.phases_h * j.phases_w * j.plane_h * j.plane_w, 16) + SLACK
    j.span = round_up((j.oh - 1) * j.plane_w + j.ow, lanes(&w[0, 0, 0, 0]))
    j.dz_h, j.dz_w = j.oh + 2 * (j.taps_h - 1), j.ow + 2 * (j.taps_w - 1)
    j.depth = j.c * j.kh * j.kw
    return j


cdef void _set_offsets(conv_t* j) noexcept nogil:
    cdef Py_ssize_t c, u, v, k = 0, plane
    for c in range(j.c):
        for u in range(j.kh):
            for v in range(j.kw):
                plane = (c * j.phases_h + u % j.sh) * j.phases_w + v % j.sw
                j.offset[k] = (plane * j.plane_h + u // j.sh) * j.plane_w + v // j.sw
                k += 1
    memset(j.offset + k, 0, NV * sizeof(Py_ssize_t))  # the last tile may be short


cdef size_t _aligned(size_t size) noexcept nogil:
    return (size + 63) // 64 * 64


def conv2d_forward(
    const real[:, :, :, ::1] x not None,
    const real[:, :, :, ::1] w not None,
    const real[::1] b not None,
    real[:, :, :, ::1] y not None,
    Py_ssize_t stride_h,
    Py_ssize_t stride_w,
    Py_ssize_t pad_h,
    Py_ssize_t pad_w,
    act,
):
    """y = f(b + w * x)."""
    cdef conv_t j = _plan(x, w, y, stride_h, stride_w, pad_h, pad_w, act)
    cdef size_t offsets = _aligned((j.depth + NV) * sizeof(Py_ssize_t))
    cdef size_t filters = _aligned(round_up(j.f, MR) * j.depth * sizeof(real))
    cdef int workers = max_workers()
    cdef scratch_t s
    cdef Py_ssize_t i
    if b.shape[0] != j.f:
        raise ValueError("conv2d_forward: b must have one number for each filter.")
    if j.n == 0:
        return
    j.x, j.bias, j.y = &x[0, 0, 0, 0], &b[0], &y[0, 0, 0, 0]
    if _winograd_pays(&j):
        _winograd_forward(&j, <const float*> &w[0, 0, 0, 0])
        return
    j.parts = 1 if j.n >= PARTS else PARTS
    j.scratch_step = _aligned(j.image_step * sizeof(real))
    s = take(offsets + filters + workers * j.scratch_step)
    j.offset = <Py_ssize_t*> s.data
    j.packed = s.data + offsets
    j.scratch = s.data + offsets + filters
    with nogil:
        _set_offsets(&j)
        memcpy(j.packed, &w[0, 0, 0, 0], j.f * j.depth * sizeof(real))
        run(_forward_task, &j, j.n * j.parts, workers)
    give(s)


def conv2d_backward(
    const real[:, :, :, ::1] x not None,
    const real[:, :, :, ::1] w not None,
    const real[:, :, :, ::1] y not None,
    const real[:, :, :, ::1] dy not None,
    real[:, :, :, ::1] dx,
    real[:, :, :, ::1] dw not None,
    real[::1] db not None,
    Py_ssize_t stride_h,
    Py_ssize_t stride_w,
    Py_ssize_t pad_h,
    Py_ssize_t pad_w,
    act,
):
    """Gradients of `conv2d_forward`."""
    cdef conv_t j = _plan(x, w, y, stride_h, stride_w, pad_h, pad_w, act)
    cdef Py_ssize_t groups, g, k, f, ldw = round_up(j.depth, NV), rows = round_up(j.f, MR)
    cdef Py_ssize_t depth_dx = j.f * j.kh * j.kw
    cdef Py_ssize_t one_image
    cdef size_t offsets, filters, partial_w, partial_b
    cdef int workers = max_workers()
    cdef scratch_t s
    cdef const real* part
    cdef real total
    if not (
        same_shape(dy.shape, y.shape, 4)
        and same_shape(dw.shape, w.shape, 4)
        and (dx is None or same_shape(dx.shape, x.shape, 4))
    ):
        raise ValueError("conv2d_backward: an array and its gradient must have one shape.")
    if db.shape[0] != j.f:
        raise ValueError("conv2d_backward: db must have one number for each filter.")
    if j.n == 0:
        dw[...] = 0
        db[...] = 0
        return
    j.x, j.y, j.dy = &x[0, 0, 0, 0], <void*> &y[0, 0, 0, 0], &dy[0, 0, 0, 0]
    j.dx = NULL if dx is None else <void*> &dx[0, 0, 0, 0]
    if _winograd_pays(&j):
        if j.dx != NULL:
            _winograd_input(&j, <const float*> &w[0, 0, 0, 0])
        _winograd_weights(&j, <float*> &dw[0, 0, 0, 0], <float*> &db[0])
        return
    j.group = ceil_div(j.n, GROUPS)
    groups = ceil_div(j.n, j.group)
    # as many images to a pass as the level-2 cache holds, so that small ones add up to long sums
    one_image = j.image_step + rows * j.span
    j.together = max(1, min(j.group, PASS_BYTES // (j.image_step * <Py_ssize_t> sizeof(real))))
    offsets = _aligned((j.depth + NV + depth_dx) * sizeof(Py_ssize_t))
    filters = _aligned(round_up(j.c, MR) * depth_dx * sizeof(real))
    partial_w = _aligned(groups * rows * ldw * sizeof(real))
    partial_b = _aligned(groups * j.f * sizeof(real))
    j.scratch_step = _aligned(
        (j.f * j.oh * j.ow + j.together * one_image + j.f * j.dz_h * j.dz_w + SLACK) * sizeof(real)
    )
    s = take(offsets + filters + partial_w + partial_b + workers * j.scratch_step)
    j.offset = <Py_ssize_t*> s.data
    j.dx_offset = j.offset + j.depth + NV
    j.packed = s.data + offsets
    j.dw = s.data + offsets + filters
    j.db = s.data + offsets + filters + partial_w
    j.scratch = s.data + offsets + filters + partial_w + partial_b
    with nogil:
        _set_offsets(&j)
        if j.dx != NULL:
            _pack_for_input(&j, &w[0, 0, 0, 0], <real*> j.packed)
        run(_backward_task, &j, groups, workers)
        part = <const real*> j.dw
        for f in range(j.f):
            for k in range(j.depth):
                total = 0
                for g in range(groups):
                    total += part[(g * rows + f) * ldw + k]
                (&dw[0, 0, 0, 0])[f * j.depth + k] = total
            total = 0
            for g in range(groups):
                total += (<const real*> j.db)[g * j.f + f]
            db[f] = total
    give(s)
