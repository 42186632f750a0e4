"""Depthwise convolution: the gradients. The planes and the tasks: ``conv_depthwise.pxd``."""

from libc.string cimport memset
from npdl._ext.activation cimport LINEAR, act_span, act_t, pull_back_span
from npdl._ext.conv cimport conv_t
from npdl._ext.conv_depthwise cimport (
    FOLD, LANES, channels_of, channels_task, depthwise_t, exchange, plan_of, plan_rows, rows_task,
    run_tasks,
)
from npdl._ext.conv_depthwise_row_gradients cimport (
    BLOCK, SUMS, add_plane, has_row_input, has_row_weights, join_lanes, plane_spread,
)
from npdl._ext.conv_depthwise_rows cimport has_rows
from npdl._ext.conv_pulled cimport take_dz
from npdl._ext.conv_windows cimport part
from npdl._ext.simd cimport add_product_f32, add_product_f64, f32v, f64v, fma_f32v, fma_f64v, real
from npdl._ext.sums cimport fold, sum_of
from npdl._ext.threads cimport aligned, give, max_workers, scratch_t
from npdl._ext.tile cimport ceil_div, lanes, round_up, vec


cdef inline bint _is_correlation(const conv_t* j) noexcept nogil:
    """Whether dx is the correlation of dz with the filters turned by 180 degrees.

    It then needs no sums in memory. The taps are added in the same order.
    """
    return (
        j.f == 1 and j.sh == 1 and j.sw == 1
        and (j.kh - 1) * j.dil_h >= j.ph and (j.kw - 1) * j.dil_w >= j.pw
    )


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


cdef inline void _input(
    depthwise_t* p, Py_ssize_t task, int worker, const real* _
) noexcept nogil:
    cdef conv_t* j = p.j
    cdef Py_ssize_t n = task // p.parts, c0, count = channels_of(p, task, &c0), m, c, k, q
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
    cdef Py_ssize_t c0, count = channels_of(p, task, &c0), n, m, k, taps = j.kh * j.kw
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


cdef inline const float* _dz_plane(const conv_t* j, Py_ssize_t m, float* room) noexcept nogil:
    """f'(z) dy of a plane, counted over all images: where it lies, or in `room`."""
    cdef Py_ssize_t area = j.oh * j.ow
    cdef const float* dy = <const float*> j.dy + m * area
    if j.act.code == LINEAR:
        return dy
    pull_back_span(j.act, <const float*> j.y + m * area, dy, room, area)
    return room


cdef inline void _rows_input_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef depthwise_t* p = <depthwise_t*> context
    cdef conv_t* j = p.j
    cdef Py_ssize_t n = task // p.parts, c0, count = channels_of(p, task, &c0), c, k
    cdef float* room = <float*> (p.scratch + worker * p.scratch_step)
    cdef float* dx
    for c in range(c0, c0 + count):
        dx = <float*> j.dx + (n * j.groups + c) * j.h * j.w
        plane_spread(
            j, _dz_plane(j, n * j.groups + c, room), <const float*> j.filters + 9 * c, dx
        )
        for k in range(j.h * j.w if p.bias != NULL else 0):
            dx[k] += (<const float*> p.bias)[c]
        act_span(p.act, dx, dx, j.h * j.w)


cdef inline void _rows_weights_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef depthwise_t* p = <depthwise_t*> context
    cdef conv_t* j = p.j
    cdef Py_ssize_t c0, count = channels_of(p, task, &c0), n, m, k, f0 = c0 * j.f
    cdef Py_ssize_t filters = count * j.f, added = 0
    cdef double* dw = <double*> (p.scratch + worker * p.scratch_step)
    cdef double* db = dw + filters * 9
    cdef float* sums = <float*> (db + filters)
    cdef float* room = sums + filters * 9 * SUMS
    cdef const float* dz
    memset(sums, 0, filters * 9 * SUMS * sizeof(float))
    for k in range(filters * 10):
        dw[k] = 0
    for n in range(j.n):
        for m in range(filters):
            dz = _dz_plane(j, n * j.groups * j.f + f0 + m, room)
            if j.dw != NULL:
                add_plane(
                    j, <const float*> j.x + (n * j.groups + c0 + m // j.f) * j.h * j.w, dz,
                    sums + m * 9 * SUMS,
                )
            if j.db != NULL:
                db[m] += sum_of(dz, j.oh * j.ow)
        added += j.oh * ceil_div(j.ow, BLOCK)
        if j.dw != NULL and (added >= FOLD or n == j.n - 1):
            for k in range(filters * 9):
                join_lanes(j, sums + k * SUMS)
                dw[k] += fold(sums + k * SUMS)
            memset(sums, 0, filters * 9 * SUMS * sizeof(float))
            added = 0
    for k in range(filters * 9 if j.dw != NULL else 0):
        (<float*> j.dw)[f0 * 9 + k] = <float> dw[k]
    for m in range(filters if j.db != NULL else 0):
        (<float*> j.db)[f0 + m] = <float> db[m]


cdef inline void depthwise_input(conv_t* j, const void* bias, act_t act, const real* _) except *:
    """dx, or the output of the transposed convolution: f(b + dx)."""
    cdef depthwise_t p
    cdef conv_t turned
    cdef scratch_t s
    cdef bint own
    if not _is_correlation(j):
        p = plan_of(j, _)
        p.bias, p.act = bias, act
        if has_row_input(j):
            plan_rows(&p, max_workers())
            p.scratch_step = aligned(j.oh * j.ow * sizeof(real))
            run_tasks(&p, _rows_input_task, j.n * p.parts)
        else:
            run_tasks(&p, _input_task, j.n * p.parts)
        return
    turned = j[0]
    own = take_dz(&turned, &s, _)
    turned.x, turned.y = turned.dy, j.dx
    turned.h, turned.w, turned.oh, turned.ow = j.oh, j.ow, j.h, j.w
    turned.ph, turned.pw = (j.kh - 1) * j.dil_h - j.ph, (j.kw - 1) * j.dil_w - j.pw
    p = plan_of(&turned, _)
    p.bias, p.act, p.turned = bias, act, True
    if has_rows(&turned):
        turned.act = act
        plan_rows(&p, max_workers())
        run_tasks(&p, rows_task, j.n * p.parts)
    else:
        run_tasks(&p, channels_task, j.n * p.parts)
    if own:
        give(s)


cdef inline void depthwise_weights(conv_t* j, const real* _) except *:
    """dw and db, each if needed."""
    cdef depthwise_t p = plan_of(j, _)
    p.channels = ceil_div(j.groups, round_up(p.parts, max_workers()))  # as many for each thread
    p.parts = ceil_div(j.groups, p.channels)
    if has_row_weights(j):
        p.scratch_step = aligned(
            p.channels * j.f * (9 * SUMS * sizeof(float) + 10 * sizeof(double))
            + j.oh * j.ow * sizeof(float)
        )
        run_tasks(&p, _rows_weights_task, p.parts)
    else:
        run_tasks(&p, _weights_task, p.parts)
