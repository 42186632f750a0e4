"""Convolution in Winograd's form: its tasks. For the arithmetic see ``winograd.pxd``."""

from libc.string cimport memset
from npdl._ext.activation cimport act_span, pull_back_span
from npdl._ext.conv cimport GROUPS, conv_t
from npdl._ext.sums cimport sum_of
from npdl._ext.threads cimport aligned, give, max_workers, run, scratch_t, take
from npdl._ext.tile cimport ceil_div, round_up
from npdl._ext.winograd cimport (
    PLACES,
    channel_size,
    correlate_3x3,
    pad_channel,
    planes_size,
    transform_filters,
    winograd_plan,
    winograd_scratch,
    winograd_t,
)
from npdl._ext.winograd_weights cimport (
    add_products,
    gradient_planes,
    gradient_width,
    sums_size,
    weight_gradients,
    weights_groups,
    weights_scratch,
)

cdef enum:
    WINOGRAD_IMAGES = 4  # fewer don't make up for the transform of the filters
    WINOGRAD_CHANNELS = 16  # in and out; with fewer the transforms cost more than they save


cdef inline bint winograd_pays(conv_t* j) noexcept nogil:
    """Whether this convolution can run in Winograd's form, and gains by it."""
    return (
        j.single and j.n >= WINOGRAD_IMAGES and j.kh == 3 and j.kw == 3 and j.sh == 1 and j.sw == 1
        and j.c >= WINOGRAD_CHANNELS and j.f >= WINOGRAD_CHANNELS and j.oh >= 4 and j.ow >= 4
        and j.ph <= 2 and j.pw <= 2
    )


cdef inline const float* _dz_channel(
    conv_t* j, Py_ssize_t n, Py_ssize_t f, float* room
) noexcept nogil:
    """dz of one filter and image, made from y and dy."""
    cdef Py_ssize_t size = j.oh * j.ow, at = (n * j.f + f) * size
    pull_back_span(j.act, <const float*> j.y + at, <const float*> j.dy + at, room, size)
    return room


cdef inline void _winograd_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    """Forward: some images, x to y. Backward: dz to dx."""
    cdef conv_t* j = <conv_t*> context
    cdef winograd_t* p = &j.winograd
    cdef Py_ssize_t n0 = task * p.group, count = min(p.group, j.n - n0), n, c
    cdef Py_ssize_t size = p.h * p.w, out = p.m * p.oh * p.ow
    cdef float* planes = <float*> (j.scratch + worker * j.scratch_step)
    cdef float* line = planes + p.group * planes_size(p)
    cdef float* room = line + 4 * p.plane_w
    cdef float* result = <float*> (j.y if j.dx == NULL else j.dx) + n0 * out
    cdef const float* source
    for n in range(count):
        for c in range(p.k):
            if j.dx == NULL:
                source = <const float*> j.x + ((n0 + n) * p.k + c) * size
            else:
                source = _dz_channel(j, n0 + n, c, room)
            pad_channel(
                source, p.h, p.w, p.ph, p.pw, p.plane_h, p.plane_w,
                planes + n * planes_size(p) + c * channel_size(p), line,
            )
    correlate_3x3(p, count, planes, result, <char*> (room + round_up(size, 16)))
    if j.dx == NULL:
        act_span(j.act, result, result, count * out)


cdef inline size_t _winograd_worker(winograd_t* p) noexcept nogil:
    """Bytes of scratch to a worker: planes, a line, a channel, and what `correlate_3x3` needs."""
    return aligned(
        (p.group * planes_size(p) + 4 * p.plane_w + round_up(p.h * p.w, 16)) * sizeof(float)
        + winograd_scratch(p)
    )


cdef inline void winograd_forward(conv_t* j, const float* w) except *:
    cdef size_t filters = aligned(PLACES * j.f * j.c * sizeof(float))
    cdef int workers = max_workers()
    cdef scratch_t s
    j.winograd = winograd_plan(j.n, j.f, j.c, j.h, j.w, j.oh, j.ow, j.ph, j.pw)
    j.winograd.bias = <const float*> j.bias
    j.scratch_step = _winograd_worker(&j.winograd)
    s = take(filters + workers * j.scratch_step)
    j.winograd.filters = <const float*> s.data
    j.scratch = s.data + filters
    with nogil:
        transform_filters(w, j.f, j.c, j.c * 9, 9, False, <float*> s.data)
        run(_winograd_task, j, ceil_div(j.n, j.winograd.group), workers)
    give(s)


cdef inline void winograd_input(conv_t* j, const float* w) except *:
    """dx: the correlation of dz with the filters turned round."""
    cdef size_t filters = aligned(PLACES * j.f * j.c * sizeof(float))
    cdef int workers = max_workers()
    cdef scratch_t s
    j.winograd = winograd_plan(j.n, j.c, j.f, j.oh, j.ow, j.h, j.w, 2 - j.ph, 2 - j.pw)
    j.scratch_step = _winograd_worker(&j.winograd)
    s = take(filters + workers * j.scratch_step)
    j.winograd.filters = <const float*> s.data
    j.scratch = s.data + filters
    with nogil:
        transform_filters(w, j.c, j.f, 9, j.c * 9, True, <float*> s.data)
        run(_winograd_task, j, ceil_div(j.n, j.winograd.group), workers)
    give(s)


cdef inline void _winograd_weights_task(void* context, Py_ssize_t group, int worker) noexcept nogil:
    """dU and db of one group of images."""
    cdef conv_t* j = <conv_t*> context
    cdef winograd_t* p = &j.winograd
    cdef Py_ssize_t n = group * j.group, last = min(j.n, n + j.group), count, i, c
    cdef Py_ssize_t wide = gradient_width(p)
    cdef float* sums = <float*> j.dw + group * sums_size(p)
    cdef float* db = <float*> j.db + group * j.f
    cdef float* planes = <float*> (j.scratch + worker * j.scratch_step)
    cdef float* gradients = planes + p.group * planes_size(p)
    cdef float* line = gradients + p.group * gradient_planes(p)
    cdef float* room = line + 4 * p.plane_w
    cdef const float* dz
    memset(sums, 0, sums_size(p) * sizeof(float))
    memset(db, 0, j.f * sizeof(float))
    while n < last:
        count = min(p.group, last - n)
        for i in range(count):
            for c in range(j.c):
                pad_channel(
                    <const float*> j.x + ((n + i) * j.c + c) * j.h * j.w, j.h, j.w, j.ph, j.pw,
                    p.plane_h, p.plane_w, planes + i * planes_size(p) + c * channel_size(p), line,
                )
            for c in range(j.f):
                dz = _dz_channel(j, n + i, c, room)
                db[c] += <float> sum_of(dz, j.oh * j.ow)
                pad_channel(
                    dz, j.oh, j.ow, 0, 0, 4 * p.tiles_h, wide,
                    gradients + i * gradient_planes(p) + c * 16 * p.tiles_h * wide, line,
                )
        add_products(
            p, count, planes, gradients, sums, <char*> (room + round_up(j.oh * j.ow, 16))
        )
        n += count


cdef inline void _winograd_finish_task(void* context, Py_ssize_t f, int worker) noexcept nogil:
    """dw and db of one filter."""
    cdef conv_t* j = <conv_t*> context
    cdef Py_ssize_t groups = ceil_div(j.n, j.group), g
    cdef float total = 0
    weight_gradients(&j.winograd, <const float*> j.dw, groups, f, <float*> j.y)
    for g in range(groups):
        total += (<const float*> j.db)[g * j.f + f]
    (<float*> j.dx)[f] = total


cdef inline void winograd_weights(conv_t* j, float* dw, float* db) except *:
    cdef winograd_t* p = &j.winograd
    cdef int workers = max_workers()
    cdef Py_ssize_t groups
    cdef size_t sums, biases
    cdef scratch_t s
    p[0] = winograd_plan(j.n, j.f, j.c, j.h, j.w, j.oh, j.ow, j.ph, j.pw)
    j.group = ceil_div(j.n, weights_groups(p, j.n, GROUPS))
    groups = ceil_div(j.n, j.group)
    sums = aligned(groups * sums_size(p) * sizeof(float))
    biases = aligned(groups * j.f * sizeof(float))
    j.scratch_step = aligned(
        (
            p.group * (planes_size(p) + gradient_planes(p)) + 4 * p.plane_w
            + round_up(j.oh * j.ow, 16)
        ) * sizeof(float) + weights_scratch(p)
    )
    s = take(sums + biases + workers * j.scratch_step)
    j.dw, j.db, j.scratch = s.data, s.data + sums, s.data + sums + biases
    with nogil:
        run(_winograd_weights_task, j, groups, workers)
        j.y, j.dx = dw, db
        run(_winograd_finish_task, j, j.f, workers)
    give(s)
