"""Convolution in Winograd's form: its tasks. For the arithmetic see ``winograd.pxd``."""

from libc.string cimport memset
from npdl._ext.activation cimport LINEAR, pull_back_span
from npdl._ext.conv cimport GROUPS, conv_t
from npdl._ext.pixels cimport CHANNELS, area_size, area_t, clear_border, lay_out
from npdl._ext.simd cimport LANES_F32
from npdl._ext.sums cimport sum_of
from npdl._ext.threads cimport aligned, give, max_workers, run, scratch_t, take
from npdl._ext.tile cimport ceil_div
from npdl._ext.winograd cimport (
    PLACES,
    chunk_of,
    chunk_t,
    correlate_3x3,
    filters_size,
    input_area,
    place_step,
    products_size,
    tiles_for,
    transform_filters,
    transform_input,
    winograd_plan,
    winograd_t,
)
from npdl._ext.winograd_weights cimport (
    TILES,
    add_products,
    gradient_area,
    sums_size,
    v_place,
    weight_gradients,
    weights_groups,
    z_place,
)

cdef enum:
    WINOGRAD_TILES = 4  # fewer don't make up for the transform of the filters
    WINOGRAD_CHANNELS = 16  # in and out; with fewer the transforms cost more than they save


cdef inline bint winograd_pays(conv_t* j) noexcept nogil:
    """Whether this convolution can run in Winograd's form, and gains by it."""
    return (
        j.single and j.kh == 3 and j.kw == 3 and j.sh == 1 and j.sw == 1
        and j.c >= WINOGRAD_CHANNELS and j.f >= WINOGRAD_CHANNELS and j.oh >= 4 and j.ow >= 4
        and j.ph <= 2 and j.pw <= 2 and j.n * (j.oh // 4) * (j.ow // 4) >= WINOGRAD_TILES
    )


cdef inline void _lay_out_image(
    conv_t* j, const area_t* a, Py_ssize_t n, bint gradient, float* pixels, float* room, float* db
) noexcept nogil:
    """The pixels of a chunk of one image: of x, or of dz, whose sums are added to db if given."""
    cdef Py_ssize_t channels = j.f if gradient else j.c, w = j.ow if gradient else j.w
    cdef Py_ssize_t size = w * (j.oh if gradient else j.h), step = size, c = 0, count, l, at
    cdef const float* source
    clear_border(a, pixels)
    while c < a.ld:
        count = max(<Py_ssize_t> 0, min(<Py_ssize_t> CHANNELS, channels - c))
        at = (n * channels + c) * size + a.first * w
        if gradient:
            source, step = room, a.rows * w
            for l in range(count):
                pull_back_span(
                    j.act, <const float*> j.y + at + l * size, <const float*> j.dy + at + l * size,
                    room + l * step, step,
                )
                if db != NULL:
                    db[c + l] += <float> sum_of(room + l * step, step)
        else:
            source = <const float*> j.x + at
        lay_out(a, source, count, step, w, c, pixels)
        c += CHANNELS


cdef inline Py_ssize_t _room(conv_t* j) noexcept nogil:
    """Numbers in the channels of dz that are laid out together."""
    return CHANNELS * j.oh * j.ow


# --------------------------------------------------------------------- y, and the gradient of x

cdef inline void _filters_task(void* context, Py_ssize_t panel, int worker) noexcept nogil:
    cdef conv_t* j = <conv_t*> context
    cdef const float* w = <const float*> j.filters
    cdef float* out = <float*> j.packed
    if j.dx == NULL:
        transform_filters(&j.winograd, panel, w, j.c * 9, 9, False, out)
    else:
        transform_filters(&j.winograd, panel, w, 9, j.c * 9, True, out)


cdef inline void _correlate_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    """Forward: x to y. Backward: dz to dx. Some output channels of a chunk."""
    cdef conv_t* j = <conv_t*> context
    cdef winograd_t* p = &j.winograd
    cdef chunk_t c = chunk_of(p, task // j.filter_parts)
    cdef area_t a = input_area(p, &c)
    cdef Py_ssize_t part = task % j.filter_parts, place = place_step(p.tiles * p.ld), i
    cdef float* v = <float*> (j.scratch + worker * j.scratch_step)
    cdef float* products = v + PLACES * place
    cdef float* pixels = products + products_size(p)
    cdef float* room = pixels + c.images * area_size(&a)
    for i in range(c.images):
        _lay_out_image(j, &a, c.n + i, j.dx != NULL, pixels + i * area_size(&a), room, NULL)
    transform_input(p, &c, pixels, v, p.ld, 2 * LANES_F32, place)
    for i in range(part * p.panels // j.filter_parts, (part + 1) * p.panels // j.filter_parts):
        correlate_3x3(p, &c, v, i, products, <float*> (j.y if j.dx == NULL else j.dx))


cdef inline void _correlate(conv_t* j) except *:
    cdef winograd_t* p = &j.winograd
    cdef int workers = max_workers()
    cdef size_t filters = aligned(filters_size(p) * sizeof(float))
    cdef chunk_t c = chunk_of(p, 0)
    cdef area_t a = input_area(p, &c)
    cdef scratch_t s
    # where the chunks don't go round, their output channels are shared
    j.filter_parts = min(p.panels, ceil_div(2 * workers, p.chunks)) if p.chunks < 2 * workers else 1
    j.scratch_step = aligned(
        (
            PLACES * place_step(p.tiles * p.ld) + products_size(p) + p.images * area_size(&a)
            + _room(j)
        ) * sizeof(float)
    )
    s = take(filters + workers * j.scratch_step)
    p.filters = <const float*> s.data
    j.packed, j.scratch = s.data, s.data + filters
    with nogil:
        run(_filters_task, j, p.panels, workers)
        run(_correlate_task, j, p.chunks * j.filter_parts, workers)
    give(s)


cdef inline void winograd_forward(conv_t* j) except *:
    j.winograd = winograd_plan(
        j.n, j.f, j.c, j.h, j.w, j.oh, j.ow, j.ph, j.pw, tiles_for(j.c)
    )
    j.winograd.bias, j.winograd.act = <const float*> j.bias, j.act
    _correlate(j)


cdef inline void winograd_input(conv_t* j) except *:
    """dx: the correlation of dz with the filters turned round."""
    j.winograd = winograd_plan(
        j.n, j.c, j.f, j.oh, j.ow, j.h, j.w, 2 - j.ph, 2 - j.pw, tiles_for(j.f)
    )
    j.winograd.act.code = LINEAR
    _correlate(j)


# ---------------------------------------------------------------------- the gradient of the filters

cdef inline void _weights_task(void* context, Py_ssize_t group, int worker) noexcept nogil:
    """dU and db of one group of images."""
    cdef conv_t* j = <conv_t*> context
    cdef winograd_t p = j.winograd
    cdef chunk_t c
    cdef area_t x, dz
    cdef Py_ssize_t number, i
    cdef float* sums = <float*> j.dw + group * sums_size(&p)
    cdef float* db = <float*> j.db + group * j.f
    cdef float* v = <float*> (j.scratch + worker * j.scratch_step)
    cdef float* pixels = v + PLACES * (v_place(&p) + z_place(&p))
    cdef float* gradients
    cdef float* room
    memset(db, 0, j.f * sizeof(float))
    p.n = min(j.group, j.n - group * j.group)
    for number in range(ceil_div(p.n, p.images) * p.strips):
        c = chunk_of(&p, number)
        x, dz = input_area(&p, &c), gradient_area(&p, &c)
        gradients = pixels + c.images * area_size(&x)
        room = gradients + c.images * area_size(&dz)
        for i in range(c.images):
            _lay_out_image(
                j, &x, group * j.group + c.n + i, False, pixels + i * area_size(&x), room, NULL
            )
            _lay_out_image(
                j, &dz, group * j.group + c.n + i, True, gradients + i * area_size(&dz), room, db
            )
        add_products(&p, &c, pixels, gradients, sums, number > 0, v)


cdef inline void _finish_task(void* context, Py_ssize_t f, int worker) noexcept nogil:
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
    cdef chunk_t c
    cdef area_t x, dz
    cdef scratch_t s
    p[0] = winograd_plan(j.n, j.f, j.c, j.h, j.w, j.oh, j.ow, j.ph, j.pw, TILES)
    j.group = ceil_div(j.n, weights_groups(p, GROUPS))
    groups = ceil_div(j.n, j.group)
    p[0] = winograd_plan(j.group, j.f, j.c, j.h, j.w, j.oh, j.ow, j.ph, j.pw, TILES)
    c = chunk_of(p, 0)
    x, dz = input_area(p, &c), gradient_area(p, &c)
    sums = aligned(groups * sums_size(p) * sizeof(float))
    biases = aligned(groups * j.f * sizeof(float))
    j.scratch_step = aligned(
        (
            PLACES * (v_place(p) + z_place(p)) + p.images * (area_size(&x) + area_size(&dz))
            + _room(j)
        ) * sizeof(float)
    )
    s = take(sums + biases + workers * j.scratch_step)
    j.dw, j.db, j.scratch = s.data, s.data + sums, s.data + sums + biases
    with nogil:
        run(_weights_task, j, groups, workers)
        j.y, j.dx = dw, db
        run(_finish_task, j, j.f, workers)
    give(s)
