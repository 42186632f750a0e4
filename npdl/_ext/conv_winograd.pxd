"""Convolution in Winograd's form: its tasks. For the arithmetic see ``winograd.pxd``."""

from libc.string cimport memset
from npdl._ext.activation cimport LINEAR, pull_back_span
from npdl._ext.conv cimport GROUPS, conv_t
from npdl._ext.pixels cimport CHANNELS, area_of, area_size, area_t, clear_border, lay_out
from npdl._ext.sums cimport sum_of
from npdl._ext.threads cimport aligned, give, max_workers, of_worker, run, scratch_t, take
from npdl._ext.tile cimport ceil_div
from npdl._ext.winograd cimport (
    chunk_of,
    chunk_t,
    correlate_3x3,
    correlate_scratch,
    filters_size,
    input_area,
    reach,
    tiles_along,
    tiles_for,
    transform_filters,
    winograd_plan,
    winograd_t,
)
from npdl._ext.winograd_weights cimport (
    TILES,
    add_products,
    sums_size,
    weight_gradients,
    weights_groups,
    weights_scratch,
)

cdef enum:
    LEAST = 12  # the fewest tiles per chunk
    MOST_TILES = 512  # the most tiles of a row of blocks, if dilated
    WINOGRAD_CHANNELS = 16  # in and out; with fewer, the transforms cost more than they save


cdef inline bint winograd_pays(conv_t* j) noexcept nogil:
    """Whether Winograd's form can compute this convolution, and is faster.

    This must not depend on the size of the batch: the other form rounds differently, and the result
    of a sample must not depend on the samples beside it. (A few small images are not worth the
    transform of the filters; large batches of them gain most.)
    """
    return (
        j.single and j.kh == 3 and j.kw == 3 and j.sh == 1 and j.sw == 1
        and j.c >= WINOGRAD_CHANNELS and j.f >= WINOGRAD_CHANNELS and j.oh >= 4 and j.ow >= 4
        and j.ph <= 2 * j.dil_h and j.pw <= 2 * j.dil_w and _fits_dilation(j)
    )


cdef inline bint _fits_dilation(const conv_t* j) noexcept nogil:
    """Whether tiles have few pixels beyond the output, and a row of blocks has few tiles."""
    cdef Py_ssize_t across = tiles_along(j.ow, j.dil_w)
    if j.dil_h == 1 and j.dil_w == 1:
        return True
    return (
        5 * 16 * tiles_along(j.oh, j.dil_h) * across <= 9 * j.oh * j.ow
        and min(j.dil_h, j.oh) * across <= MOST_TILES
    )


cdef inline void _lay_out_image(
    conv_t* j, const area_t* a, Py_ssize_t n, float* pixels
) noexcept nogil:
    """Lay out the pixels of a chunk, for one image of x."""
    cdef Py_ssize_t size = j.h * j.w, c = 0
    clear_border(a, pixels)
    while c < a.ld:
        lay_out(
            a, <const float*> j.x + (n * j.c + c) * size + a.first * j.w, j.c - c, size, j.w, c,
            pixels,
        )
        c += CHANNELS


cdef inline void _lay_out_gradient(
    conv_t* j, const area_t* a, const chunk_t* k, Py_ssize_t n, float* pixels, float* room,
    double* db,
) noexcept nogil:
    """Lay out the pixels of dz of a chunk, for one image; add its own rows to db."""
    cdef Py_ssize_t size = j.oh * j.ow, step = a.rows * j.ow, c = 0, l, at
    cdef Py_ssize_t before = max(<Py_ssize_t> 0, 4 * k.row - a.first)
    cdef Py_ssize_t own = min(a.rows, 4 * (k.row + k.rows) - a.first) - before
    clear_border(a, pixels)
    while c < a.ld:
        for l in range(min(<Py_ssize_t> CHANNELS, j.f - c)):
            at = (n * j.f + c + l) * size + a.first * j.ow
            pull_back_span(
                j.act, <const float*> j.y + at, <const float*> j.dy + at, room + l * step, step
            )
            db[c + l] += sum_of(room + l * step + before * j.ow, own * j.ow)
        lay_out(a, room, j.f - c, step, j.ow, c, pixels)
        c += CHANNELS


cdef inline Py_ssize_t _room(conv_t* j) noexcept nogil:
    """Number of elements in the channels of dz that are laid out together."""
    return CHANNELS * j.oh * j.ow


cdef inline void _filters_task(void* context, Py_ssize_t panel, int worker) noexcept nogil:
    """U of one panel; for the gradient of x, of the filters turned by 180°."""
    cdef conv_t* j = <conv_t*> context
    cdef const float* w = <const float*> j.filters
    if j.dx == NULL:
        transform_filters(&j.winograd, panel, w, j.c * 9, 9, False, <float*> j.packed)
    else:
        transform_filters(&j.of_input, panel, w, 9, j.c * 9, True, <float*> j.packed)


# ------------------------------------------------------------------------------------------ forward

cdef inline void _forward_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    """Some output channels of a chunk."""
    cdef conv_t* j = <conv_t*> context
    cdef winograd_t* p = &j.winograd
    cdef chunk_t c = chunk_of(p, task // j.filter_parts)
    cdef area_t a = input_area(p, &c)
    cdef Py_ssize_t part = task % j.filter_parts, i
    cdef float* v = <float*> (j.scratch + worker * j.scratch_step)
    cdef float* pixels = v + correlate_scratch(p)
    for i in range(c.images):
        _lay_out_image(j, &a, c.n + i, pixels + i * area_size(&a))
    correlate_3x3(
        p, &c, &a, pixels, part * p.panels // j.filter_parts,
        (part + 1) * p.panels // j.filter_parts, v, <float*> j.y,
    )


cdef inline winograd_t _plan_of(conv_t* j, Py_ssize_t n, Py_ssize_t most) noexcept nogil:
    """The plan of the forward pass of n images."""
    return winograd_plan(
        n, j.f, j.c, j.h, j.w, j.oh, j.ow, j.ph, j.pw, j.dil_h, j.dil_w, most
    )


cdef inline void winograd_sizes(conv_t* j, int workers) noexcept nogil:
    """Set the plan for this number of threads, and the scratch memory of each."""
    cdef winograd_t* p = &j.winograd
    cdef chunk_t c
    cdef area_t a
    p[0] = _plan_of(j, j.n, tiles_for(j.c))
    if p.chunks * p.panels < workers:  # divide images by rows of tiles, to occupy all threads
        p[0] = _plan_of(j, j.n, max(ceil_div(p.tiles_h, workers) * p.tiles_w, LEAST))
    c = chunk_of(p, 0)
    a = input_area(p, &c)
    # with fewer chunks than threads, threads share the output channels of a chunk
    j.filter_parts = min(p.panels, ceil_div(2 * workers, p.chunks)) if p.chunks < 2 * workers else 1
    p.bias, p.act = <const float*> j.bias, j.act
    j.scratch_step = of_worker(
        (correlate_scratch(p) + p.images * area_size(&a)) * sizeof(float), workers
    )


cdef inline size_t winograd_kept(conv_t* j) noexcept nogil:
    """Size of the transformed filters in bytes."""
    return aligned(filters_size(&j.winograd) * sizeof(float))


cdef inline void winograd_pack(conv_t* j, char* at, int workers) noexcept nogil:
    """Store the transformed filters at `at`."""
    j.packed, j.winograd.filters = at, <const float*> at
    run(_filters_task, j, j.winograd.panels, workers)


cdef inline void winograd_multiply(conv_t* j, char* scratch, int workers) noexcept nogil:
    j.scratch = scratch
    run(_forward_task, j, j.winograd.chunks * j.filter_parts, workers)


# ----------------------------------------------------------------------------------------- backward

cdef inline area_t _gradient_area(conv_t* j, chunk_t* c) noexcept nogil:
    """The pixels of dz that both gradients need for a chunk."""
    cdef winograd_t* p = &j.winograd
    cdef winograd_t* q = &j.of_input
    return area_of(
        j.oh, j.ow, q.ph - 4 * c.row, q.pw,
        reach(max(c.rows, _rows_of_input(j, c)), j.dil_h),
        reach(max(p.tiles_w, q.tiles_w), j.dil_w), q.ld,
    )


cdef inline Py_ssize_t _rows_of_input(conv_t* j, chunk_t* c) noexcept nogil:
    """Rows of tiles of dx in a chunk of dz; the last chunk includes the additional rows of dx."""
    cdef Py_ssize_t last = c.row + c.rows, tiles_h = j.of_input.tiles_h
    if last == j.winograd.tiles_h:
        last = tiles_h
    return max(<Py_ssize_t> 0, min(last, tiles_h) - c.row)


cdef inline void _input_gradient(
    conv_t* j, chunk_t* c, const area_t* a, const float* pixels, float* v
) noexcept nogil:
    """dx of a chunk: the correlation of dz with the filters turned by 180°."""
    cdef winograd_t* q = &j.of_input
    cdef chunk_t part
    cdef Py_ssize_t rows = _rows_of_input(j, c), i = 0, r
    while i < c.images:
        r = 0
        while r < rows:
            part.n, part.images = c.n + i, min(q.images, c.images - i)
            part.row, part.rows = c.row + r, min(q.rows, rows - r)
            correlate_3x3(
                q, &part, a, pixels + i * area_size(a) + 4 * r * a.wide * a.ld, 0, q.panels, v,
                <float*> j.dx,
            )
            r += q.rows
        i += q.images


cdef inline void _backward_task(void* context, Py_ssize_t group, int worker) noexcept nogil:
    """Those of dx, dU and db that are needed, for one group of images."""
    cdef conv_t* j = <conv_t*> context
    cdef winograd_t p = j.winograd
    cdef winograd_t* q = &j.of_input
    cdef chunk_t c
    cdef area_t x, dz
    cdef Py_ssize_t number, i
    cdef float* sums = <float*> j.dw + group * sums_size(&p)
    cdef double* db = <double*> j.db + group * j.f
    cdef float* v = <float*> (j.scratch + worker * j.scratch_step)
    cdef float* pixels = v + _backward_scratch(j)
    cdef float* gradients
    cdef float* room
    memset(db, 0, j.f * sizeof(double))
    p.n = min(j.group, j.n - group * j.group)
    for number in range(ceil_div(p.n, p.images) * p.strips):
        c = chunk_of(&p, number)
        c.n += group * j.group
        x, dz = input_area(&p, &c), _gradient_area(j, &c)
        gradients = pixels + c.images * area_size(&x)
        room = gradients + c.images * area_size(&dz)
        for i in range(c.images):
            _lay_out_gradient(j, &dz, &c, c.n + i, gradients + i * area_size(&dz), room, db)
        if j.dx != NULL:
            _input_gradient(j, &c, &dz, gradients, v)
        if j.dw == NULL:
            continue
        for i in range(c.images):
            _lay_out_image(j, &x, c.n + i, pixels + i * area_size(&x))
        add_products(
            &p, &c, &x, pixels, &dz, gradients + (q.ph * dz.wide + q.pw) * dz.ld, sums, number > 0,
            v,
        )


cdef inline Py_ssize_t _backward_scratch(conv_t* j) noexcept nogil:
    """Scratch elements for the two gradients, which are computed one after the other."""
    return max(
        correlate_scratch(&j.of_input) if j.dx != NULL else 0, weights_scratch(&j.winograd)
    )


cdef inline void _finish_task(void* context, Py_ssize_t f, int worker) noexcept nogil:
    """dw and db of one filter."""
    cdef conv_t* j = <conv_t*> context
    cdef Py_ssize_t groups = ceil_div(j.n, j.group), g
    cdef double total = 0
    if j.y != NULL:
        weight_gradients(&j.winograd, <const float*> j.dw, groups, f, <float*> j.y)
    for g in range(groups):
        total += (<const double*> j.db)[g * j.f + f]
    if j.dx != NULL:
        (<float*> j.dx)[f] = <float> total


cdef inline void winograd_backward(conv_t* j) except *:
    """Those of j.dx, j.dw and j.db that are needed."""
    cdef void* dw = j.dw
    cdef void* db = j.db
    cdef winograd_t* p = &j.winograd
    cdef winograd_t* q = &j.of_input
    cdef int workers = max_workers()
    cdef Py_ssize_t groups
    cdef size_t filters, sums, biases
    cdef chunk_t c
    cdef area_t x, dz
    cdef scratch_t s
    p[0] = _plan_of(j, j.n, TILES)
    j.group = ceil_div(j.n, weights_groups(p, GROUPS))
    groups = ceil_div(j.n, j.group)
    p[0] = _plan_of(j, j.group, TILES)
    q[0] = winograd_plan(
        p.images, j.c, j.f, j.oh, j.ow, j.h, j.w, 2 * j.dil_h - j.ph, 2 * j.dil_w - j.pw, j.dil_h,
        j.dil_w, tiles_for(j.f),
    )
    c = chunk_of(p, p.strips - 1)  # it has the additional rows of dx
    dz = _gradient_area(j, &c)
    c = chunk_of(p, 0)
    x, dz.high = input_area(p, &c), max(dz.high, reach(c.rows, j.dil_h))
    filters = aligned(filters_size(q) * sizeof(float))
    sums = 0 if dw == NULL else aligned(groups * sums_size(p) * sizeof(float))
    biases = aligned(groups * j.f * sizeof(double))
    j.scratch_step = aligned(
        (_backward_scratch(j) + p.images * (area_size(&x) + area_size(&dz)) + _room(j))
        * sizeof(float)
    )
    s = take(filters + sums + biases + workers * j.scratch_step)
    q.filters, q.act.code = <const float*> s.data, LINEAR
    j.packed = s.data
    if dw != NULL:
        j.dw = s.data + filters
    j.db, j.scratch = s.data + filters + sums, s.data + filters + sums + biases
    with nogil:
        if j.dx != NULL:
            run(_filters_task, j, q.panels, workers)
        run(_backward_task, j, groups, workers)
        j.y, j.dx = dw, db
        run(_finish_task, j, j.f, workers)
    give(s)
