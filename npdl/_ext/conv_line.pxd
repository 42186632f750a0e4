"""Convolution of sequences in Winograd's form: its tasks. The arithmetic: ``winograd_line.pxd``."""

from libc.string cimport memset
from npdl._ext.activation cimport LINEAR
from npdl._ext.conv cimport conv_t
from npdl._ext.sums cimport sum_many_rows
from npdl._ext.threads cimport aligned, give, max_workers, of_worker, run, scratch_t, take
from npdl._ext.tile cimport ceil_div
from npdl._ext.winograd_line cimport (
    add_line_products,
    correlate_line,
    line_filters,
    line_plan,
    line_scratch,
    line_sums,
    line_t,
    line_weights,
    line_weights_scratch,
    transform_line_filters,
)

cdef enum:
    LINE_CHANNELS = 16  # in and out; with fewer, the transforms cost more than they save
    GROUPS = 4  # groups of sequences, for the gradient of the filters
    TURNS = 3  # pairs of places, each a task
    TILES = 128  # per chunk: enough terms to outweigh reading and writing dU
    MOST_CHUNKS = 256  # the most chunks whose sums are added in float32
    MOST_BYTES = 64 * 1024 * 1024  # the most memory for dU of all groups

# A pass, or both gradients.
ctypedef struct line_job_t:
    line_t p
    const float* w
    bint turned  # U of the gradient of x
    float* packed
    char* scratch
    size_t scratch_step
    # the gradients of the filters
    const float* dz
    Py_ssize_t size, groups  # sequences per group, groups
    Py_ssize_t most  # tiles at once
    float* sums  # dU, [group]
    double* totals  # sums of dz, [group][m], each followed by space for m numbers
    float* dw
    float* db


cdef inline bint is_line(const conv_t* j) noexcept nogil:
    """Whether this is a convolution of sequences for which Winograd's form is faster.

    This does not depend on the batch, as in ``conv_winograd.pxd``.
    """
    cdef Py_ssize_t high = 7 - j.kh
    return (
        j.single and j.last and j.groups == 1 and 3 <= j.kh <= 5 and j.sh == 1
        and j.kw == 1 and j.w == 1 and j.ow == 1 and j.pw == 0 and j.oh >= 8
        and j.c >= LINE_CHANNELS and j.f >= LINE_CHANNELS
        # the steps computed beyond the last one, many if dilated, must not outweigh the gain
        and 8 * min(j.dil_h, j.oh) * ceil_div(ceil_div(j.oh, j.dil_h), high) <= j.oh * j.kh
    )


cdef inline void _filters_task(void* context, Py_ssize_t panel, int worker) noexcept nogil:
    cdef line_job_t* r = <line_job_t*> context
    cdef Py_ssize_t taps = r.p.taps
    if r.turned:
        transform_line_filters(&r.p, panel, r.w, taps, r.p.m * taps, True, r.packed)
    else:
        transform_line_filters(&r.p, panel, r.w, r.p.k * taps, taps, False, r.packed)


cdef inline void _correlate_task(void* context, Py_ssize_t chunk, int worker) noexcept nogil:
    cdef line_job_t* r = <line_job_t*> context
    correlate_line(&r.p, chunk, <float*> (r.scratch + worker * r.scratch_step))


cdef inline void line_sizes(line_job_t* r, const conv_t* j, int workers) noexcept nogil:
    """The plan of the forward pass, for this number of threads."""
    memset(r, 0, sizeof(r[0]))
    r.p = line_plan(j.n, j.f, j.c, j.h, j.oh, j.ph, j.dil_h, j.kh, workers)
    r.p.act, r.p.bias, r.w = j.act, <const float*> j.bias, <const float*> j.filters
    r.scratch_step = of_worker(line_scratch(&r.p) * sizeof(float), workers)


cdef inline size_t line_kept(const line_job_t* r) noexcept nogil:
    """Size of the transformed filters in bytes."""
    return aligned(line_filters(&r.p) * sizeof(float))


cdef inline void line_pack(line_job_t* r, char* at, int workers) noexcept nogil:
    """Store the transformed filters at `at`."""
    r.packed = <float*> at
    r.p.filters = r.packed
    run(_filters_task, r, r.p.panels, workers)


cdef inline void line_multiply(
    line_job_t* r, const void* x, void* y, char* scratch, int workers
) noexcept nogil:
    r.p.x, r.p.y, r.scratch = <const float*> x, <float*> y, scratch
    run(_correlate_task, r, r.p.chunks, workers)


# ---------------------------------------------------------------------------------------- gradients

cdef inline void line_input(conv_t* j) except *:
    """dx: the correlation of dz (in j.dy) with the reversed filters."""
    cdef line_job_t r
    cdef int workers = max_workers()
    cdef scratch_t s
    memset(&r, 0, sizeof(r))
    r.p = line_plan(
        j.n, j.c, j.f, j.oh, j.h, (j.kh - 1) * j.dil_h - j.ph, j.dil_h, j.kh, workers
    )
    r.p.act.code, r.w, r.turned = LINEAR, <const float*> j.filters, True
    r.scratch_step = aligned(line_scratch(&r.p) * sizeof(float))
    s = take(line_kept(&r) + workers * r.scratch_step)
    with nogil:
        line_pack(&r, s.data, workers)
        line_multiply(&r, j.dy, j.dx, s.data + line_kept(&r), workers)
    give(s)


cdef inline void _weights_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    """Two places of dU for a group of sequences, and its part of db."""
    cdef line_job_t* r = <line_job_t*> context
    cdef line_t* p = &r.p
    cdef Py_ssize_t group = task // TURNS, turn = task % TURNS
    cdef Py_ssize_t n0 = group * r.size, n1 = min(p.n, n0 + r.size)
    cdef double* totals = r.totals + 2 * group * p.m
    if turn == 0 and r.db != NULL:
        sum_many_rows(
            r.dz + n0 * p.oh * p.m, (n1 - n0) * p.oh, p.m, totals, <float*> (totals + p.m)
        )
    if r.dw != NULL:
        add_line_products(
            p, r.dz, n0 * p.tiles, n1 * p.tiles, r.most, turn, r.sums + group * line_sums(p),
            <float*> (r.scratch + worker * r.scratch_step),
        )


cdef inline void _finish_task(void* context, Py_ssize_t f, int worker) noexcept nogil:
    """dw and db of one filter."""
    cdef line_job_t* r = <line_job_t*> context
    cdef Py_ssize_t g
    cdef double total = 0
    if r.dw != NULL:
        line_weights(&r.p, r.sums, r.groups, f, r.dw)
    if r.db != NULL:
        for g in range(r.groups):
            total += r.totals[2 * g * r.p.m + f]
        r.db[f] = <float> total


cdef inline Py_ssize_t _groups(const line_t* p) noexcept nogil:
    """Number of groups of sequences. The same in every build, because dW is the sum over them."""
    cdef Py_ssize_t groups = max(<Py_ssize_t> GROUPS, p.n * p.tiles // (TILES * MOST_CHUNKS))
    while groups > 1 and (
        p.n // groups * p.tiles < TILES // 2
        or groups * 6 * p.m * p.k * <Py_ssize_t> sizeof(float) > MOST_BYTES
    ):
        groups //= 2
    return min(groups, p.n)


cdef inline void line_weights_gradient(conv_t* j) except *:
    """dw and db from dz (in j.dy), each if needed."""
    cdef line_job_t r
    cdef int workers = max_workers()
    cdef size_t sums, totals
    cdef scratch_t s
    memset(&r, 0, sizeof(r))
    r.p = line_plan(j.n, j.f, j.c, j.h, j.oh, j.ph, j.dil_h, j.kh, workers)
    r.size = ceil_div(j.n, _groups(&r.p))
    r.groups = ceil_div(j.n, r.size)
    r.most = ceil_div(r.size * r.p.tiles, ceil_div(r.size * r.p.tiles, TILES))
    r.p.x, r.dz = <const float*> j.x, <const float*> j.dy
    r.dw, r.db = <float*> j.dw, <float*> j.db
    r.scratch_step = aligned(line_weights_scratch(&r.p, r.most) * sizeof(float))
    sums = aligned(r.groups * line_sums(&r.p) * sizeof(float))
    totals = aligned(r.groups * 2 * j.f * sizeof(double))
    s = take(sums + totals + workers * r.scratch_step)
    r.sums, r.totals = <float*> s.data, <double*> (s.data + sums)
    r.scratch = s.data + sums + totals
    with nogil:
        run(_weights_task, &r, r.groups * TURNS, workers)
        run(_finish_task, &r, j.f, workers)
    give(s)
