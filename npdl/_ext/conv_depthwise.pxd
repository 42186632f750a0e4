"""Depthwise convolution: as many groups as there are channels.

Every channel is copied into *planes*, padded, and split by the phases of the stride, as in
``conv_direct.pxd``. Windows are at q = i*WP + j, and results beyond OW in a row are dropped:

    forward   y[m, q]              = b[m] + Σ_k w[m, k] · plane[offset[k] + q]
    input     plane[offset[k] + q] += w[m, k] · dz[m, q]      or, without a stride, as forward
    weights   dw[m, k]             = Σ_q dz[m, q] · plane[offset[k] + q]

A task is some channels of an image; for the gradients, of all images: no sum crosses tasks.
"""

from libc.string cimport memcpy, memset
from npdl._ext.activation cimport LINEAR, act_span, act_t, pull_back_span
from npdl._ext.conv cimport conv_t
from npdl._ext.conv_pulled cimport take_dz
from npdl._ext.conv_windows cimport interleave, part
from npdl._ext.simd cimport (
    add_product_f32, add_product_f64, f32v, f64v, fma_f32v, fma_f64v, opaque, real,
)
from npdl._ext.sums cimport sum_of
from npdl._ext.threads cimport aligned, give, max_workers, run, scratch_t, take, task_t
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


cdef inline bint _is_correlation(const conv_t* j) noexcept nogil:
    """Whether dx is the correlation of dz with the filters turned by 180 degrees.

    It then needs no sums in memory. The taps are added in the same order.
    """
    return (
        j.f == 1 and j.sh == 1 and j.sw == 1
        and (j.kh - 1) * j.dil_h >= j.ph and (j.kw - 1) * j.dil_w >= j.pw
    )


cdef inline depthwise_t _plan(conv_t* j, const real* _) noexcept nogil:
    cdef depthwise_t p
    memset(&p, 0, sizeof(p))
    p.j, p.act.code, p.act.steepness = j, LINEAR, 1
    p.high = j.oh + (j.kh - 1) * j.dil_h // j.sh
    p.wide = j.ow + (j.kw - 1) * j.dil_w // j.sw
    p.plane = p.high * p.wide
    p.span = (j.oh - 1) * p.wide + j.ow
    p.room = round_up(p.span, max(<Py_ssize_t> LANES, AT_ONCE * lanes(_)))
    p.vectors = p.room // lanes(_)
    if not j.last and j.ow % lanes(_) == 0:
        p.vectors, p.per_row = j.oh * j.ow // lanes(_), j.ow // lanes(_)
    p.planes = round_up(j.sh * j.sw * p.plane + p.room - p.span, 16)  # with slack after the last
    p.channels = NEIGHBOURS
    if not j.last:  # copy several planes before reading any, so that loads don't wait for stores
        p.channels = max(<Py_ssize_t> 1, min(p.channels, ROOM // p.planes))
    p.channels = min(p.channels, j.groups)
    p.parts = ceil_div(j.groups, p.channels)
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


cdef inline void _take_gradient(
    const depthwise_t* p, Py_ssize_t n, Py_ssize_t f0, Py_ssize_t count, real* dz, real* row
) noexcept nogil:
    """dz[m, q] = f'(z) dy of `count` filters; nothing is written between the windows."""
    cdef conv_t* j = p.j
    cdef Py_ssize_t filters = j.groups * j.f, area = j.oh * j.ow, i, k, m, at
    for i in range(j.oh):
        if j.last:
            for k in range(j.ow):
                at = (n * area + i * j.ow + k) * filters + f0
                pull_back_span(
                    j.act, <const real*> j.y + at, <const real*> j.dy + at, row + k * count, count
                )
            part(row, count, count, j.ow, dz + i * p.wide, p.room, 1)
            continue
        for m in range(count):
            at = (n * filters + f0 + m) * area + i * j.ow
            pull_back_span(
                j.act, <const real*> j.y + at, <const real*> j.dy + at,
                dz + m * p.room + i * p.wide, j.ow,
            )


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


cdef inline void _spread_taps(
    const depthwise_t* p, const real* w, const real* dz, real* plane, vec* _
) noexcept nogil:
    """plane[offset[k] + q] += w[k] dz[q], tap by tap."""
    cdef Py_ssize_t q, k, taps = p.j.kh * p.j.kw
    cdef vec* to
    for k in range(taps):
        q = 0
        while q < p.room:
            to = <vec*> (plane + p.offset[k] + q)
            if real is float and vec is f32v:
                to[0] = add_product_f32(to[0], w[k], (<const vec*> (dz + q))[0])
            elif real is double and vec is f64v:
                to[0] = add_product_f64(to[0], w[k], (<const vec*> (dz + q))[0])
            q += lanes(w)


cdef inline void _add_products(
    const depthwise_t* p, const real* dz, const real* plane, real* sums, vec* _
) noexcept nogil:
    """sums[k, l] += Σ_i dz[l + i*LANES] plane[offset[k] + l + i*LANES]."""
    cdef vec acc[LANES]
    cdef Py_ssize_t q, k, i
    cdef const real* source
    for k in range(p.j.kh * p.j.kw):
        source = plane + p.offset[k]
        for i in range(LANES // lanes(dz)):
            acc[i] = (<const vec*> (sums + k * LANES))[i]
        q = 0
        while q < p.room:
            for i in range(LANES // lanes(dz)):
                if real is float and vec is f32v:
                    acc[i] = fma_f32v(
                        (<const vec*> (dz + q))[i], (<const vec*> (source + q))[i], acc[i]
                    )
                elif real is double and vec is f64v:
                    acc[i] = fma_f64v(
                        (<const vec*> (dz + q))[i], (<const vec*> (source + q))[i], acc[i]
                    )
            q += LANES
        for i in range(LANES // lanes(dz)):
            (<vec*> (sums + k * LANES))[i] = acc[i]


cdef inline Py_ssize_t _channels_of(
    const depthwise_t* p, Py_ssize_t task, Py_ssize_t* first
) noexcept nogil:
    first[0] = task % p.parts * p.channels
    return min(p.channels, p.j.groups - first[0])


cdef inline void _forward(
    depthwise_t* p, Py_ssize_t task, int worker, const real* _
) noexcept nogil:
    cdef conv_t* j = p.j
    cdef Py_ssize_t n = task // p.parts, c0, count = _channels_of(p, task, &c0), i, m, at
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


cdef inline void _forward_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef depthwise_t* p = <depthwise_t*> context
    if p.j.single:
        _forward(p, task, worker, <float*> NULL)
    else:
        _forward(p, task, worker, <double*> NULL)


cdef inline void _input(
    depthwise_t* p, Py_ssize_t task, int worker, const real* _
) noexcept nogil:
    cdef conv_t* j = p.j
    cdef Py_ssize_t n = task // p.parts, c0, count = _channels_of(p, task, &c0), m, c, k, q
    cdef Py_ssize_t area = j.h * j.w, step = 1 if j.last else area, taps = j.kh * j.kw
    cdef Py_ssize_t pixel = j.groups if j.last else 1
    cdef real* planes = <real*> (p.scratch + worker * p.scratch_step)
    cdef real* dz = planes + p.channels * p.planes
    cdef real* dx = <real*> j.dx + n * j.groups * area + c0 * step
    cdef const real* w = <const real*> j.filters + c0 * j.f * taps
    cdef real* plane
    memset(planes, 0, count * p.planes * sizeof(real))
    memset(dz, 0, count * j.f * p.room * sizeof(real))
    _take_gradient(p, n, c0 * j.f, count * j.f, dz, dz + p.channels * j.f * p.room)
    for m in range(count * j.f):
        plane = planes + m // j.f * p.planes
        if real is float:
            _spread_taps(p, w + m * taps, dz + m * p.room, plane, <f32v*> NULL)
        else:
            _spread_taps(p, w + m * taps, dz + m * p.room, plane, <f64v*> NULL)
    if p.high * j.sh < j.h + j.ph or p.wide * j.sw < j.w + j.pw:  # not every pixel is reached
        for c in range(count):
            for k in range(area):
                dx[c * step + k * pixel] = 0
    exchange(p, dx, count, planes, True)
    if p.bias == NULL and p.act.code == LINEAR:
        return
    for c in range(count):
        for k in range(area):
            q = c * step + k * pixel
            if p.bias != NULL:
                dx[q] += (<const real*> p.bias)[c0 + c]
            if j.last:
                act_span(p.act, dx + q, dx + q, 1)
        if not j.last:
            act_span(p.act, dx + c * step, dx + c * step, area)


cdef inline void _input_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef depthwise_t* p = <depthwise_t*> context
    if p.j.single:
        _input(p, task, worker, <float*> NULL)
    else:
        _input(p, task, worker, <double*> NULL)


cdef inline void _weights(
    depthwise_t* p, Py_ssize_t task, int worker, const real* _
) noexcept nogil:
    cdef conv_t* j = p.j
    cdef Py_ssize_t c0, count = _channels_of(p, task, &c0), n, m, k, taps = j.kh * j.kw
    cdef Py_ssize_t step = 1 if j.last else j.h * j.w, filters = count * j.f
    cdef real* planes = <real*> (p.scratch + worker * p.scratch_step)
    cdef real* dz = planes + p.channels * p.planes
    cdef real* sums = dz + p.channels * j.f * (p.room + round_up(j.ow, 2))
    cdef double* dw = <double*> (sums + p.channels * j.f * taps * LANES)
    cdef double* db = dw + filters * taps
    cdef Py_ssize_t added = 0
    memset(sums, 0, filters * taps * LANES * sizeof(real))
    memset(planes, 0, count * p.planes * sizeof(real))
    memset(dz, 0, filters * p.room * sizeof(real))
    for k in range(filters * (taps + 1)):
        dw[k] = 0
    for n in range(j.n):
        exchange(
            p, <real*> j.x + n * j.groups * j.h * j.w + c0 * step, count, planes, False
        )
        _take_gradient(p, n, c0 * j.f, filters, dz, dz + p.channels * j.f * p.room)
        for m in range(filters):
            if j.dw != NULL and real is float:
                _add_products(
                    p, dz + m * p.room, planes + m // j.f * p.planes, sums + m * taps * LANES,
                    <f32v*> NULL,
                )
            elif j.dw != NULL:
                _add_products(
                    p, dz + m * p.room, planes + m // j.f * p.planes, sums + m * taps * LANES,
                    <f64v*> NULL,
                )
            if j.db != NULL:
                db[m] += sum_of(dz + m * p.room, p.span)
        added += ceil_div(p.span, LANES)
        if added >= FOLD or n == j.n - 1:
            for k in range(filters * taps):
                dw[k] += sum_of(sums + k * LANES, LANES)
            memset(sums, 0, filters * taps * LANES * sizeof(real))
            added = 0
    for m in range(filters):
        for k in range(taps if j.dw != NULL else 0):
            (<real*> j.dw)[(c0 * j.f + m) * taps + k] = <real> dw[m * taps + k]
        if j.db != NULL:
            (<real*> j.db)[c0 * j.f + m] = <real> db[m]


cdef inline void _weights_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef depthwise_t* p = <depthwise_t*> context
    if p.j.single:
        _weights(p, task, worker, <float*> NULL)
    else:
        _weights(p, task, worker, <double*> NULL)


cdef inline void _compute(depthwise_t* p, task_t task, Py_ssize_t n, const real* _) except *:
    cdef conv_t* j = p.j
    cdef int workers = max_workers()
    cdef Py_ssize_t taps = j.kh * j.kw, filters = p.channels * j.f
    cdef size_t offsets = aligned((taps + workers) * sizeof(Py_ssize_t))
    cdef scratch_t s
    p.scratch_step = aligned(
        p.channels * p.planes * sizeof(real)
        + filters * (p.room + round_up(j.ow, 2) + taps * LANES) * sizeof(real)
        + filters * (taps + 1) * sizeof(double) + sizeof(double)
    )
    s = take(offsets + workers * p.scratch_step)
    p.offset, p.scratch = <Py_ssize_t*> s.data, s.data + offsets
    p.cleared = p.offset + taps
    memset(p.cleared, 0, workers * sizeof(Py_ssize_t))
    with nogil:
        _set_offsets(p)
        run(task, p, n, workers)
    give(s)


cdef inline void depthwise_forward(conv_t* j, const void* bias, act_t act, const real* _) except *:
    """y = f(b + w * x)."""
    cdef depthwise_t p = _plan(j, _)
    p.bias, p.act = bias, act
    _compute(&p, _forward_task, j.n * p.parts, _)


cdef inline void depthwise_input(conv_t* j, const void* bias, act_t act, const real* _) except *:
    """dx, or the output of the transposed convolution: f(b + dx)."""
    cdef depthwise_t p
    cdef conv_t turned
    cdef scratch_t s
    cdef bint own
    if not _is_correlation(j):
        p = _plan(j, _)
        p.bias, p.act = bias, act
        _compute(&p, _input_task, j.n * p.parts, _)
        return
    turned = j[0]
    own = take_dz(&turned, &s, _)
    turned.x, turned.y = turned.dy, j.dx
    turned.h, turned.w, turned.oh, turned.ow = j.oh, j.ow, j.h, j.w
    turned.ph, turned.pw = (j.kh - 1) * j.dil_h - j.ph, (j.kw - 1) * j.dil_w - j.pw
    p = _plan(&turned, _)
    p.bias, p.act, p.turned = bias, act, True
    _compute(&p, _forward_task, j.n * p.parts, _)
    if own:
        give(s)


cdef inline void depthwise_weights(conv_t* j, const real* _) except *:
    """dw and db, each if needed."""
    cdef depthwise_t p = _plan(j, _)
    p.channels = ceil_div(j.groups, round_up(p.parts, max_workers()))  # as many for each thread
    p.parts = ceil_div(j.groups, p.channels)
    _compute(&p, _weights_task, p.parts, _)
