"""Fully connected product with its bias and activation. Contract: ``dense_np.py``.

In training, optimizers divide weights by rows. So do the products with large weights: each thread
finds the rows in its own cache that it updated. In the forward pass these are blocks of k. For the
gradient of smaller weights, threads divide the rows of x.
"""

from npdl._ext.activation cimport (
    ELU,
    EXPONENTIAL,
    LINEAR,
    RELU,
    SELU,
    SIGMOID,
    SOFT_PLUS,
    TANH,
    act_span,
    act_t,
    parse_act,
    pull_back_span,
)
from npdl._ext.arrays cimport OR_NONE, OUT, REAL, array, array_t, call_t, clear, same_shape
from npdl._ext.gemm cimport (
    FEW_SMALL,
    few_sums,
    is_long,
    multiply_task,
    one_block,
    pack_task,
    pack_tasks,
    panels_size,
    product,
    product_of,
    product_scratch,
    product_t,
)
from npdl._ext.packed cimport pack_all
from npdl._ext.panels cimport packing_tile
from npdl._ext.row_blocks cimport multiply_rows, row_blocks_t, rows_scratch, shares_rows
from npdl._ext.simd cimport alternate, opaque, real
from npdl._ext.steps cimport make_step, ready_t, recorded
from npdl._ext.sums cimport add_sums, sum_rows
from npdl._ext.threads cimport aligned, give, max_workers, run, scratch_t, take, task_t
from npdl._ext.tile cimport ceil_div, has_edge_forms

cdef enum:
    ROWS = 32  # rows per elementwise task; the sums of each are added in double
    FEW_ROWS = 8  # rows per task that adds sums over blocks
    LARGE = 1 << 17  # numbers in large weights
    COST = 24  # multiply-adds that take as long as an exponential
    ONE = 4096  # numbers of dz below which a second thread is not worth it


ctypedef struct dense_t:
    bint single
    int workers
    act_t act
    Py_ssize_t n, d, u
    const void* x
    const void* w
    const void* b
    void* y
    # backward
    const void* dy
    void* dx
    void* dw
    void* db
    void* dz
    void* sums  # of the rows of dz, a row for each task


# A product of float32 whose blocks of k are separate tasks.
ctypedef struct blocks_t:
    product_t p
    Py_ssize_t blocks
    float* sums  # [blocks - 1][n][u]


cdef inline void _activate_part(
    dense_t* r, Py_ssize_t i0, Py_ssize_t i1, Py_ssize_t j0, Py_ssize_t j1, real* _
) noexcept nogil:
    cdef Py_ssize_t i
    cdef real* y
    if j1 - j0 == r.u:  # whole rows
        y = <real*> r.y + i0 * r.u
        act_span(r.act, y, y, (i1 - i0) * r.u)
        return
    for i in range(i0, i1):
        y = <real*> r.y + i * r.u + j0
        act_span(r.act, y, y, j1 - j0)


cdef void _activate(
    void* context, Py_ssize_t i0, Py_ssize_t i1, Py_ssize_t j0, Py_ssize_t j1
) noexcept nogil:
    """y = f(y), for a part of y that was just summed."""
    cdef dense_t* r = <dense_t*> context
    if r.single:
        _activate_part(r, i0, i1, j0, j1, <float*> NULL)
    else:
        _activate_part(r, i0, i1, j0, j1, <double*> NULL)


cdef inline void _back_rows(dense_t* r, Py_ssize_t n0, Py_ssize_t n1, real* _) noexcept nogil:
    # dz = f'(z) dy, and the sum of these rows
    cdef Py_ssize_t at = n0 * r.u
    cdef const real* dz = <const real*> r.dy + at
    if r.act.code != LINEAR:
        dz = <const real*> r.dz + at
        pull_back_span(
            r.act, <const real*> r.y + at, <const real*> r.dy + at, <real*> r.dz + at,
            (n1 - n0) * r.u,
        )
    if r.db != NULL:
        sum_rows(dz, n1 - n0, r.u, r.u, <real*> r.sums + n0 // ROWS * r.u)


cdef void _back_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef dense_t* r = <dense_t*> context
    cdef Py_ssize_t n0 = task * ROWS, n1 = min(r.n, n0 + ROWS)
    if r.single:
        _back_rows(r, n0, n1, <float*> NULL)
    else:
        _back_rows(r, n0, n1, <double*> NULL)


cdef void _multiply(product_t* p, char* scratch, int workers) noexcept nogil:
    """`product`, compiled once for all callers."""
    product(p, scratch, workers)


cdef void _block_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    """Some columns of the sums over one block of k."""
    cdef blocks_t* f = <blocks_t*> context
    cdef product_t p = f.p
    cdef Py_ssize_t block = task // p.panels, k = block * p.depth
    p.a, p.b = <const float*> p.a + k, <const float*> p.b + k * p.b_row
    p.k = p.k1 = min(p.depth, p.k - k)
    if block:
        p.c, p.bias = f.sums + (block - 1) * p.m * p.n, NULL
    (<task_t> opaque(<void*> &multiply_task))(&p, task % p.panels, worker)


cdef void _add_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    """Some rows of all sums."""
    cdef blocks_t* f = <blocks_t*> context
    cdef Py_ssize_t i0 = task * FEW_ROWS, i1 = min(f.p.m, i0 + FEW_ROWS), i, _block
    cdef float* y = <float*> f.p.c + i0 * f.p.n
    cdef const float* sums = f.sums + i0 * f.p.n
    for _block in range(1, f.blocks):
        for i in range((i1 - i0) * f.p.n):
            y[i] += sums[i]
        sums += f.p.m * f.p.n
    if f.p.context != NULL:
        _activate(f.p.context, i0, i1, 0, f.p.n)


cdef bint _in_blocks(blocks_t* f, const product_t* p, int workers) noexcept nogil:
    """Whether threads share the blocks of k of a product, as optimizers divide the weights."""
    f.p, f.blocks = p[0], ceil_div(p.k, p.depth)
    return (
        p.single and not p.few and one_block(&f.p) and not is_long(&f.p) and workers > 1
        and f.blocks % workers == 0 and p.n * p.k >= LARGE
    )


cdef void _multiply_blocks(blocks_t* f, char* scratch, int workers) noexcept nogil:
    """The sums of each block are added in the order of `product`."""
    f.p.packed_b, f.sums = scratch, <float*> (scratch + panels_size(&f.p, workers))
    f.p.alone, f.p.group, f.p.parts, f.p.own, f.p.k0 = True, 1, 1, f.p.panels, 0
    f.p.finish, f.p.relu = NULL, False
    run(_block_task, f, f.blocks * f.p.panels, workers)
    run(_add_task, f, ceil_div(f.p.m, FEW_ROWS), workers)


cdef inline product_t _product_of(dense_t* r, real* _) noexcept nogil:
    cdef product_t p = product_of(
        r.n, r.u, r.d, <const real*> r.x, r.d, 1, <const real*> r.w, r.u, 1, <real*> r.y, r.u, 0
    )
    p.bias = r.b
    if real is float and has_edge_forms(<float*> NULL):
        p.begin = packing_tile
    if r.act.code != LINEAR:
        p.finish, p.context = _activate, r
        if r.act.code in (TANH, SIGMOID, SOFT_PLUS, ELU, SELU, EXPONENTIAL):
            p.finish_cost = COST
        p.relu = real is float and r.act.code == RELU
    return p


cdef inline void _forward(dense_t* r, char* scratch, real* _) noexcept nogil:
    cdef product_t p = _product_of(r, _)
    cdef blocks_t f
    if real is float and _in_blocks(&f, &p, r.workers):
        _multiply_blocks(&f, scratch, r.workers)
    else:
        _multiply(&p, scratch, r.workers)


cdef inline size_t _forward_scratch(dense_t* r, real* _) noexcept nogil:
    cdef product_t p = _product_of(r, _)
    cdef blocks_t f
    if real is float and _in_blocks(&f, &p, r.workers):
        return panels_size(&p, r.workers) + (f.blocks - 1) * p.m * p.n * sizeof(real)
    return product_scratch(&p, r.workers)


cdef void _play_forward(const void* job, void** arrays, char* scratch) noexcept nogil:
    cdef dense_t r = (<const dense_t*> job)[0]
    r.x, r.w, r.b, r.y = arrays[0], arrays[1], arrays[2], arrays[3]
    if r.single:
        _forward(&r, scratch, <float*> NULL)
    else:
        _forward(&r, scratch, <double*> NULL)


cdef inline product_t _weights_product(dense_t* r, const real* dz) noexcept nogil:
    """dw = xᵀ dz."""
    cdef product_t p = product_of(
        r.d, r.u, r.n, <const real*> r.x, 1, r.d, dz, r.u, 1, <real*> r.dw, r.u, False
    )
    p.by_rows = r.d * r.u >= LARGE
    return p


cdef inline product_t _inputs_product(dense_t* r, const real* dz) noexcept nogil:
    """dx = dz wᵀ."""
    return product_of(
        r.n, r.d, r.u, dz, r.u, 1, <const real*> r.w, 1, r.u, <real*> r.dx, r.d, False
    )


cdef inline size_t _own_scratch(dense_t* r, real* _) noexcept nogil:
    """Bytes for dz; with a linear activation it is dy."""
    return 0 if r.act.code == LINEAR else aligned(r.n * r.u * sizeof(real))


cdef inline size_t _backward_scratch(dense_t* r, real* _) noexcept nogil:
    cdef product_t weights = _weights_product(r, <const real*> r.dy)
    cdef product_t inputs = _inputs_product(r, <const real*> r.dy)
    cdef size_t work = product_scratch(&weights, r.workers), sums = 0
    cdef row_blocks_t f
    if r.d * r.u < LARGE and shares_rows(&f, &weights, r.workers):
        work = rows_scratch(&f)
    work = max(work, product_scratch(&inputs, r.workers))
    if r.db != NULL:  # the sums in double, and those of each task
        sums = aligned(r.u * sizeof(double)) + ceil_div(r.n, ROWS) * r.u * sizeof(real)
    return _own_scratch(r, _) + max(work, sums)


cdef inline void _backward(dense_t* r, char* scratch, real* _) noexcept nogil:
    cdef const real* dz = <const real*> r.dy
    cdef product_t p
    cdef row_blocks_t f
    if r.act.code != LINEAR:
        r.dz, dz = scratch, <const real*> scratch
        scratch += _own_scratch(r, _)
    r.sums = scratch + aligned(r.u * sizeof(double))
    if r.act.code != LINEAR or r.db != NULL:
        run(_back_task, r, ceil_div(r.n, ROWS), r.workers if r.n * r.u >= ONE else 1)
    if r.db != NULL:
        add_sums(
            <const real*> r.sums, ceil_div(r.n, ROWS), r.u, <double*> scratch, <real*> r.db
        )
    if r.dw != NULL:
        p = _weights_product(r, dz)
        if r.d * r.u < LARGE and shares_rows(&f, &p, r.workers):
            multiply_rows(&f, _multiply, scratch)
        else:
            _multiply(&p, scratch, r.workers)
    if r.dx != NULL:
        p = _inputs_product(r, dz)
        _multiply(&p, scratch, r.workers)


cdef void _play_backward(const void* job, void** arrays, char* scratch) noexcept nogil:
    cdef dense_t r = (<const dense_t*> job)[0]
    r.x, r.w, r.y, r.dy = arrays[0], arrays[1], arrays[2], arrays[3]
    r.dx, r.dw, r.db = arrays[4], arrays[5], arrays[6]
    if r.single:
        _backward(&r, scratch, <float*> NULL)
    else:
        _backward(&r, scratch, <double*> NULL)


cdef dense_t _plan_forward(x, w, b, y, act) except *:
    cdef call_t call = call_t("dense_forward", REAL)
    cdef array_t x_ = array(&call, x, "x", 2, REAL), w_ = array(&call, w, "w", 2, REAL)
    cdef array_t b_ = array(&call, b, "b", 1, REAL | OR_NONE)
    cdef array_t y_ = array(&call, y, "y", 2, REAL | OUT)
    cdef dense_t r
    r.single, r.act, r.workers = x_.single, parse_act(act), max_workers()
    r.n, r.d, r.u = x_.shape[0], x_.shape[1], w_.shape[1]
    if not (
        w_.shape[0] == r.d
        and y_.shape[0] == r.n
        and y_.shape[1] == r.u
        and (not b_.given or b_.shape[0] == r.u)
    ):
        raise ValueError("dense_forward: the shapes of x, w, b and y do not fit.")
    if r.d == 0 or r.u == 0:
        raise ValueError("dense_forward: only the batch may be empty.")
    r.x, r.w, r.b, r.y = x_.data, w_.data, b_.data, y_.data
    return r


cdef size_t _scratch_forward(dense_t* r) noexcept nogil:
    return _forward_scratch(r, <float*> NULL) if r.single else _forward_scratch(r, <double*> NULL)


def dense_forward(x, w, b, y, act):
    """y = f(x w + b)."""
    cdef dense_t r = _plan_forward(x, w, b, y, act)
    cdef void* arrays[4]
    cdef scratch_t s
    if r.n == 0:
        return
    arrays[0], arrays[1], arrays[2], arrays[3] = r.x, r.w, r.b, r.y
    s = take(_scratch_forward(&r))
    with nogil:
        _play_forward(&r, arrays, s.data)
    give(s)


def dense_forward_recorded(x, w, b, y, act):
    """`dense_forward` as a call of a tape."""
    cdef dense_t r = _plan_forward(x, w, b, y, act)
    return recorded(_play_forward, &r, sizeof(dense_t), _scratch_forward(&r)) if r.n else None


# --------------------------------------------------------------------------------- prepared calls

# A few rows of float32, with weights packed in blocks of k. The sums of each block are separate
# tasks; they are added in the same order as in `product`.
ctypedef struct few_t:
    dense_t r
    product_t p
    int workers
    Py_ssize_t blocks, across, wide  # blocks of k, tasks per block, columns per task
    int turns, back  # calls so far; whether this one goes backwards
    void* sums  # [blocks][n][panels * nr]


cdef inline Py_ssize_t _turned(Py_ssize_t task, Py_ssize_t tasks, int workers) noexcept nogil:
    """The task in the place of another one, if each thread does its tasks in reverse."""
    cdef Py_ssize_t part = ((task + 1) * workers - 1) // tasks
    return tasks * part // workers + tasks * (part + 1) // workers - 1 - task


cdef void _few_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef few_t* f = <few_t*> context
    cdef product_t p = f.p
    if f.back:
        task = _turned(task, f.blocks * f.across, f.workers)
    cdef Py_ssize_t block = task // f.across, j = task % f.across * f.wide, k0 = block * p.depth
    cdef Py_ssize_t depth = min(p.depth, p.k - k0), ld = p.panels * p.nr
    p.a, p.b = <const float*> f.r.x + k0, <const float*> f.r.w + k0 * ld
    p.b_row, p.b_panel = p.nr, depth * p.nr
    few_sums(&p, j, min(p.n, j + f.wide), 0, depth, <float*> f.sums + block * p.m * ld, ld)


cdef void _play_few(const void* job, void** arrays, char* scratch) noexcept nogil:
    """y = act(((b + first block) + second block) + ...)."""
    cdef few_t f = (<const few_t*> job)[0]
    cdef Py_ssize_t n = f.p.n, ld = f.p.panels * f.p.nr, i, j, _block
    cdef const float* bias = <const float*> f.r.b
    cdef const float* sums
    cdef float* out
    f.r.x, f.r.y, f.sums = arrays[0], arrays[3], scratch
    # in turns from either end: a cache that is too small keeps the weights that were read last
    f.back = alternate(<int*> &(<const few_t*> job).turns)
    run(_few_task, &f, f.blocks * f.across, f.workers)
    for i in range(f.p.m):
        out, sums = <float*> f.r.y + i * n, <const float*> f.sums + i * ld
        for j in range(n):
            out[j] = sums[j] if bias == NULL else bias[j] + sums[j]
        for _block in range(1, f.blocks):
            sums += f.p.m * ld
            for j in range(n):
                out[j] += sums[j]
    if f.r.act.code != LINEAR:
        _activate(&f.r, 0, f.p.m, 0, n)


cdef void _play_many(const void* job, void** arrays, char* scratch) noexcept nogil:
    cdef few_t f = (<const few_t*> job)[0]
    f.r.y = arrays[3]
    f.p.a, f.p.c, f.p.context = arrays[0], arrays[3], &f.r
    _multiply(&f.p, scratch, f.workers)


cdef void _pack(product_t* p, float* out, int workers) noexcept nogil:
    """Pack all of B, for products of the same form."""
    cdef Py_ssize_t k = 0
    while k < p.k:
        p.k0, p.k1, p.packed_b = k, min(p.k, k + p.depth), out + k * p.panels * p.nr
        run(pack_task, p, pack_tasks(p), workers)
        k = p.k1
    p.ready = out


def dense_forward_ready(x, w, b, y, act):
    """`dense_forward`, prepared."""
    cdef few_t f
    cdef ready_t ready
    cdef Py_ssize_t k0 = 0, ld, depth
    cdef void* job
    cdef char* kept
    f.r, f.workers = _plan_forward(x, w, b, y, act), max_workers()
    f.p = _product_of(&f.r, <float*> NULL)
    if not f.r.single or is_long(&f.p):
        return dense_forward_recorded(x, w, b, y, act)
    if not f.p.few:
        ld = f.p.panels * f.p.nr
        ready = ready_t(_play_many, &f, sizeof(few_t), f.r.d * ld * sizeof(float), 0)
        step = make_step(&ready, (w, b), &job, &kept)
        _pack(&(<few_t*> job).p, <float*> kept, f.workers)
        return step
    f.blocks, ld = ceil_div(f.r.d, f.p.depth), f.p.panels * f.p.nr
    f.across, f.wide, f.turns = 1, ld, 0
    if f.r.u * f.r.d < FEW_SMALL:
        f.workers = 1
    elif f.blocks % f.workers and f.blocks < 4 * f.workers:
        f.across = min(f.p.panels, <Py_ssize_t> f.workers)
        f.wide = ceil_div(f.p.panels, f.across) * f.p.nr
        f.across = ceil_div(f.r.u, f.wide)
    ready = ready_t(
        _play_few, &f, sizeof(few_t), f.r.d * ld * sizeof(float),
        f.blocks * f.r.n * ld * sizeof(float),
    )
    step = make_step(&ready, (w, b), &job, &kept)
    while k0 < f.r.d:
        depth = min(f.p.depth, f.r.d - k0)
        pack_all(
            f.r.u, depth, <const float*> f.r.w + k0 * f.r.u, f.r.u, 1, <float*> kept + k0 * ld,
            f.workers,
        )
        k0 += depth
    (<few_t*> job).r.w = kept
    return step


cdef dense_t _plan_backward(x, w, y, dy, dx, dw, db, act) except *:
    cdef call_t call = call_t("dense_backward", REAL)
    cdef array_t x_ = array(&call, x, "x", 2, REAL), w_ = array(&call, w, "w", 2, REAL)
    cdef array_t y_ = array(&call, y, "y", 2, REAL), dy_ = array(&call, dy, "dy", 2, REAL)
    cdef array_t dx_ = array(&call, dx, "dx", 2, REAL | OUT | OR_NONE)
    cdef array_t dw_ = array(&call, dw, "dw", 2, REAL | OUT | OR_NONE)
    cdef array_t db_ = array(&call, db, "db", 1, REAL | OUT | OR_NONE)
    cdef dense_t r
    r.single, r.act, r.workers = x_.single, parse_act(act), max_workers()
    r.n, r.d, r.u = x_.shape[0], x_.shape[1], w_.shape[1]
    if not (
        w_.shape[0] == r.d
        and y_.shape[0] == r.n
        and y_.shape[1] == r.u
        and same_shape(&dy_, &y_)
        and (not dw_.given or same_shape(&dw_, &w_))
        and (not db_.given or db_.shape[0] == r.u)
        and (not dx_.given or same_shape(&dx_, &x_))
    ):
        raise ValueError("dense_backward: the shapes of x, w, y and the gradients do not fit.")
    if r.d == 0 or r.u == 0:
        raise ValueError("dense_backward: only the batch may be empty.")
    if r.n == 0:
        if dw_.given:
            clear(&dw_)
        if db_.given:
            clear(&db_)
        return r
    r.x, r.w, r.y, r.dy = x_.data, w_.data, y_.data, dy_.data
    r.dx, r.dw, r.db = dx_.data, dw_.data, db_.data
    return r


cdef size_t _scratch_backward(dense_t* r) noexcept nogil:
    return _backward_scratch(r, <float*> NULL) if r.single else _backward_scratch(r, <double*> NULL)


def dense_backward(x, w, y, dy, dx, dw, db, act):
    """Gradients of `dense_forward`."""
    cdef dense_t r = _plan_backward(x, w, y, dy, dx, dw, db, act)
    cdef void* arrays[7]
    cdef scratch_t s
    if r.n == 0:
        return
    arrays[0], arrays[1], arrays[2], arrays[3] = r.x, r.w, r.y, r.dy
    arrays[4], arrays[5], arrays[6] = r.dx, r.dw, r.db
    s = take(_scratch_backward(&r))
    with nogil:
        _play_backward(&r, arrays, s.data)
    give(s)


def dense_backward_recorded(x, w, y, dy, dx, dw, db, act):
    """`dense_backward` as a call of a tape."""
    cdef dense_t r = _plan_backward(x, w, y, dy, dx, dw, db, act)
    return recorded(_play_backward, &r, sizeof(dense_t), _scratch_backward(&r)) if r.n else None
