"""Depthwise convolution: as many groups as there are channels.

Every channel is copied into *planes*, padded, and split by the phases of the stride, as in
``conv_direct.pxd``. Windows are at q = i*WP + j, and results beyond OW in a row are dropped:

    forward   y[m, q]              = b[m] + Σ_k w[m, k] · plane[offset[k] + q]
    input     plane[offset[k] + q] += w[m, k] · dz[m, q]      or, without a stride, as forward
    weights   dw[m, k]             = Σ_q dz[m, q] · plane[offset[k] + q]

A task is some channels of an image; for the gradients, of all images: no sum crosses tasks. Outputs
of 3 x 3 filters are computed without planes, if the shapes allow (``conv_depthwise_rows.pxd``).
"""

from libc.string cimport memcpy, memset
from npdl._ext.activation cimport LINEAR, RELU, act_span, act_t
from npdl._ext.conv cimport conv_t
from npdl._ext.conv_depthwise_rows cimport has_rows, plane_sums
from npdl._ext.conv_windows cimport interleave, part
from npdl._ext.simd cimport add_product_f32, add_product_f64, f32v, f64v, opaque, real
from npdl._ext.threads cimport (
    aligned, give, max_workers, of_worker, run, scratch_t, take, task_t,
)
from npdl._ext.tile cimport ceil_div, lanes, round_up, vec

cdef enum:
    AT_ONCE = 4  # vectors of windows computed at once
    WHOLE = 16  # elements of a row copied at once,
    QUARTER = 4  # and of its rest
    LANES = 32  # partial sums per tap, the same in all builds
    FOLD = 64  # terms of a partial sum, before it is added to the total
    NEIGHBOURS = 16  # the most channels per task
    ROOM = 16384  # the most elements in their planes
    PHASES = 4  # the largest stride

ctypedef struct depthwise_t:
    conv_t* j
    act_t act  # activation of the output
    const void* bias
    Py_ssize_t channels  # channels per task
    Py_ssize_t parts  # tasks per image
    Py_ssize_t high, wide  # size of a plane
    Py_ssize_t plane, planes  # elements of a plane, and of all planes of a channel
    Py_ssize_t span  # positions from the first window to the last
    Py_ssize_t room  # the same, rounded up to whole blocks of vectors
    Py_ssize_t vectors, per_row  # vectors of results; those of a row, if rows consist of whole ones
    bint turned  # the taps are those of the filters turned by 180 degrees
    Py_ssize_t* offset  # offset of each tap
    Py_ssize_t* cleared  # [worker], whether there are zeros around its planes
    char* scratch
    size_t scratch_step


cdef inline bint is_depthwise(const conv_t* j) noexcept nogil:
    return j.c == 1 and j.groups > 1 and j.sh <= PHASES and j.sw <= PHASES


cdef inline depthwise_t plan_of(conv_t* j, const real* _) noexcept nogil:
    cdef depthwise_t p
    cdef Py_ssize_t filters, taps
    memset(&p, 0, sizeof(p))
    p.j, p.act.code, p.act.steepness = j, LINEAR, 1
    p.high = j.oh + (j.kh - 1) * j.dil_h // j.sh
    p.wide = j.ow + (j.kw - 1) * j.dil_w // j.sw
    p.plane = p.high * p.wide
    p.span = (j.oh - 1) * p.wide + j.ow
    p.room = round_up(p.span, <Py_ssize_t> LANES)  # the same in every build
    p.vectors = p.room // lanes(_)
    if not j.last and j.ow % lanes(_) == 0:
        p.vectors, p.per_row = j.oh * j.ow // lanes(_), j.ow // lanes(_)
    p.planes = round_up(j.sh * j.sw * p.plane + p.room - p.span, 16)  # with slack after the last
    p.channels = NEIGHBOURS
    if not j.last:  # copy several planes before reading any, so that loads don't wait for stores
        p.channels = max(<Py_ssize_t> 1, min(p.channels, ROOM // p.planes))
    p.channels = min(p.channels, j.groups)
    p.parts = ceil_div(j.groups, p.channels)
    filters, taps = p.channels * j.f, j.kh * j.kw
    p.scratch_step = aligned(
        p.channels * p.planes * sizeof(real)
        + filters * (p.room + round_up(j.ow, 2) + taps * LANES) * sizeof(real)
        + filters * (taps + 1) * sizeof(double) + sizeof(double)
    )
    return p


cdef inline void _set_offsets(depthwise_t* p) noexcept nogil:
    cdef conv_t* j = p.j
    cdef Py_ssize_t u, v, r, c
    for u in range(j.kh):
        for v in range(j.kw):
            r, c = u * j.dil_h, v * j.dil_w
            if p.turned:
                r, c = (j.kh - 1) * j.dil_h - r, (j.kw - 1) * j.dil_w - c
            p.offset[u * j.kw + v] = (
                (r % j.sh * j.sw + c % j.sw) * p.plane + r // j.sh * p.wide + c // j.sw
            )


cdef inline void _copy(const real* x, Py_ssize_t step, real* to, Py_ssize_t n) noexcept nogil:
    """to[k] = x[k*step]. Rows are short, so one call of memcpy would take longer."""
    cdef Py_ssize_t k = 0
    if step == 1:
        while k + WHOLE <= n:
            memcpy(to + k, x + k, WHOLE * sizeof(real))
            k += WHOLE
        while k + QUARTER <= n:
            memcpy(to + k, x + k, QUARTER * sizeof(real))
            k += QUARTER
        while k < n:
            to[k] = x[k]
            k += 1
    elif step == 2:  # a constant, for the compiler
        for k in range(n):
            to[k] = x[2 * k]
    else:
        for k in range(n):
            to[k] = x[k * step]


cdef inline void _exchange(
    const depthwise_t* p, real* x, Py_ssize_t count, real* planes, bint back
) noexcept nogil:
    """Copy `count` channels of an image, from x on, into their planes, or back."""
    cdef conv_t* j = p.j
    cdef Py_ssize_t step = 1 if j.last else j.h * j.w, pixel = j.groups if j.last else 1
    cdef Py_ssize_t i, pv, c, k, k0, k1, phase, at
    cdef real* plane
    cdef real* line
    for pv in range(j.sw):
        k0 = ceil_div(j.pw - pv, j.sw) if j.pw > pv else 0
        k1 = min(p.wide, ceil_div(j.w + j.pw - pv, j.sw)) if j.w + j.pw > pv else 0
        phase, at = j.ph % j.sh, j.ph // j.sh * p.wide + k0  # of the first row
        for i in range(j.h if k1 > k0 else 0):
            if at >= p.plane:
                break
            plane = planes + (phase * j.sw + pv) * p.plane + at
            line = x + (i * j.w + k0 * j.sw + pv - j.pw) * pixel
            phase += 1
            if phase == j.sh:
                phase, at = 0, at + p.wide
            if j.last and j.sw == 1 and back:
                interleave(plane, p.planes, 1, count, k1 - k0, line, pixel)
            elif j.last and j.sw == 1:
                part(line, pixel, count, k1 - k0, plane, p.planes, 1)
            elif back:
                for c in range(count):
                    for k in range(k1 - k0):
                        line[c * step + k * j.sw * pixel] = plane[c * p.planes + k]
            else:
                for c in range(count):
                    _copy(line + c * step, j.sw * pixel, plane + c * p.planes, k1 - k0)


ctypedef void (*exchange_f32)(const depthwise_t*, float*, Py_ssize_t, float*, bint) noexcept nogil
ctypedef void (*exchange_f64)(const depthwise_t*, double*, Py_ssize_t, double*, bint) noexcept nogil


cdef inline void exchange(
    const depthwise_t* p, real* x, Py_ssize_t count, real* planes, bint back
) noexcept nogil:
    """`_exchange`, compiled once."""
    if real is float:
        (<exchange_f32> opaque(<void*> &_exchange[float]))(p, x, count, planes, back)
    else:
        (<exchange_f64> opaque(<void*> &_exchange[double]))(p, x, count, planes, back)


cdef inline void _sum_taps(
    const depthwise_t* p, const real* w, const real* plane, real bias, real* out, vec* _
) noexcept nogil:
    """out[q] = bias + Σ_k w[k] plane[offset[k] + q], vector by vector.

    The vectors are those of the output, if rows consist of whole ones, else all from the first
    position to the last.
    """
    cdef vec acc[AT_ONCE]
    cdef vec zero
    cdef const real* at[AT_ONCE]
    cdef Py_ssize_t v = 0, across = 0, i, k, taps = p.j.kh * p.j.kw
    cdef const real* source
    memset(&zero, 0, sizeof(zero))
    while v < p.vectors:
        for i in range(AT_ONCE):
            acc[i] = zero
            at[i] = plane
            if v + i < p.vectors - 1:  # else repeat the last one
                plane += lanes(w)
                across += 1
                if across == p.per_row:
                    across = 0
                    plane += p.wide - p.j.ow
        for k in range(taps):
            for i in range(AT_ONCE):
                source = at[i] + p.offset[k]
                if real is float and vec is f32v:
                    acc[i] = add_product_f32(acc[i], w[k], (<const vec*> source)[0])
                elif real is double and vec is f64v:
                    acc[i] = add_product_f64(acc[i], w[k], (<const vec*> source)[0])
        for i in range(AT_ONCE):
            if v + i == p.vectors:
                break
            if (real is float and vec is f32v) or (real is double and vec is f64v):
                (<vec*> out)[0] = acc[i] + bias
            out += lanes(w)
        v += AT_ONCE


cdef inline Py_ssize_t channels_of(
    const depthwise_t* p, Py_ssize_t task, Py_ssize_t* first
) noexcept nogil:
    first[0] = task % p.parts * p.channels
    return min(p.channels, p.j.groups - first[0])


cdef inline void _forward(
    depthwise_t* p, Py_ssize_t task, int worker, const real* _
) noexcept nogil:
    cdef conv_t* j = p.j
    cdef Py_ssize_t n = task // p.parts, c0, count = channels_of(p, task, &c0), i, m, at
    cdef Py_ssize_t step = 1 if j.last else j.h * j.w, filters = j.groups * j.f
    cdef Py_ssize_t taps = j.kh * j.kw
    cdef real* planes = <real*> (p.scratch + worker * p.scratch_step)
    cdef real* out = planes + p.channels * p.planes
    cdef const real* w = <const real*> j.filters + c0 * j.f * taps
    cdef const real* plane
    cdef real* y = <real*> j.y
    cdef real bias = 0
    if not p.cleared[worker]:
        p.cleared[worker] = True
        memset(planes, 0, p.channels * p.planes * sizeof(real))
    exchange(
        p, <real*> j.x + n * j.groups * j.h * j.w + c0 * step, count, planes, False
    )
    for m in range(count * j.f):
        if p.per_row:
            out = y + (n * filters + c0 * j.f + m) * j.oh * j.ow
        if p.bias != NULL:
            bias = (<const real*> p.bias)[c0 * j.f + m]
        plane = planes + m // j.f * p.planes
        if real is float:
            _sum_taps(p, w + m * taps, plane, bias, out, <f32v*> NULL)
        else:
            _sum_taps(p, w + m * taps, plane, bias, out, <f64v*> NULL)
        if p.per_row:
            act_span(p.act, out, out, j.oh * j.ow)
            continue
        act_span(p.act, out, out, p.span)
        out += p.room
    if p.per_row:
        return
    out = planes + p.channels * p.planes
    for i in range(j.oh):
        if j.last:
            at = (n * j.oh + i) * j.ow * filters + c0 * j.f
            interleave(out + i * p.wide, p.room, 1, count * j.f, j.ow, y + at, filters)
            continue
        for m in range(count * j.f):
            at = ((n * filters + c0 * j.f + m) * j.oh + i) * j.ow
            _copy(out + m * p.room + i * p.wide, 1, y + at, j.ow)


cdef inline void channels_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef depthwise_t* p = <depthwise_t*> context
    if p.j.single:
        _forward(p, task, worker, <float*> NULL)
    else:
        _forward(p, task, worker, <double*> NULL)


cdef inline void rows_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef depthwise_t* p = <depthwise_t*> context
    cdef conv_t* j = p.j
    cdef Py_ssize_t n = task // p.parts, c0, count = channels_of(p, task, &c0), m
    cdef float bias = 0
    cdef float* y
    for m in range(c0 * j.f, (c0 + count) * j.f):
        if p.bias != NULL:
            bias = (<const float*> p.bias)[m]
        y = <float*> j.y + (n * j.groups * j.f + m) * j.oh * j.ow
        plane_sums(
            j, <const float*> j.x + (n * j.groups + m // j.f) * j.h * j.w,
            <const float*> j.filters + m * j.kh * j.kw, bias, y, p.turned,
        )
        if p.act.code != RELU:
            act_span(p.act, y, y, j.oh * j.ow)


cdef inline size_t depthwise_kept(const depthwise_t* p) noexcept nogil:
    return aligned(p.j.kh * p.j.kw * sizeof(Py_ssize_t))


cdef inline void depthwise_pack(depthwise_t* p, char* at) noexcept nogil:
    """Fill the memory from `at` on with the offsets of the taps."""
    p.offset = <Py_ssize_t*> at
    _set_offsets(p)


cdef inline size_t depthwise_scratch(const depthwise_t* p, int workers) noexcept nogil:
    return workers * p.scratch_step + workers * sizeof(Py_ssize_t)


cdef inline void _work(
    depthwise_t* p, task_t task, Py_ssize_t n, char* scratch, int workers
) noexcept nogil:
    p.scratch, p.cleared = scratch, <Py_ssize_t*> (scratch + workers * p.scratch_step)
    memset(p.cleared, 0, workers * sizeof(Py_ssize_t))
    run(task, p, n, workers)


cdef inline void run_tasks(depthwise_t* p, task_t task, Py_ssize_t n) except *:
    cdef int workers = max_workers()
    cdef scratch_t s = take(depthwise_kept(p) + depthwise_scratch(p, workers))
    with nogil:
        depthwise_pack(p, s.data)
        _work(p, task, n, s.data + depthwise_kept(p), workers)
    give(s)


cdef inline void plan_rows(depthwise_t* p, int workers) noexcept nogil:
    """Set the sizes of tasks that need no planes."""
    p.channels = ceil_div(p.j.groups, ceil_div(4 * workers, p.j.n))
    p.parts, p.scratch_step = ceil_div(p.j.groups, p.channels), 0


cdef inline void depthwise_plan(
    depthwise_t* p, conv_t* j, int workers, const real* _
) noexcept nogil:
    """Set all sizes of a forward pass."""
    p[0] = plan_of(j, _)
    p.bias, p.act = j.bias, j.act
    p.scratch_step = of_worker(p.scratch_step, workers)
    if has_rows(j):
        plan_rows(p, workers)


cdef inline void depthwise_multiply(depthwise_t* p, char* scratch, int workers) noexcept nogil:
    """y = f(b + w * x)."""
    if has_rows(p.j):
        run(rows_task, p, p.j.n * p.parts, workers)
    else:
        _work(p, channels_task, p.j.n * p.parts, scratch, workers)
