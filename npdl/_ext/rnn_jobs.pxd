"""One or two jobs of the recurrent kernels: scratch memory, tasks, work before and after the loops.

Two jobs, such as the directions of a layer, run at once: their blocks of rows are tasks of one run,
and each job gets half of the threads. The work before and after the loops is done for one job after
the other, on all threads.
"""

from npdl._ext.gemm cimport is_long, product, product_scratch, product_t
from npdl._ext.packed cimport pack_all, pack_tiles
from npdl._ext.rnn cimport (
    STAYS,
    design_matrix,
    drop_gradient,
    fetch_size,
    input_gradient,
    input_product,
    input_rows,
    panels_size,
    rnn_t,
    swap_bias,
    times_panels,
    weight_product,
)
from npdl._ext.rnn_loops cimport (
    gru_loop,
    gru_loop_back,
    lstm_loop,
    lstm_loop_back,
    rnn_loop,
    rnn_loop_back,
)
from npdl._ext.simd cimport MR, TALL, real
from npdl._ext.threads cimport aligned, give, max_workers, run, scratch_t, take
from npdl._ext.tile cimport ceil_div, round_up, tile_cols

cdef enum:
    LEAST = 3  # rows that are worth a tile if the weights don't stay in the cache
    FEW_STEPS = 4  # with fewer steps, packing the weights for a few rows is not worth it
    PANELS = 4  # panels of the weights of the input per task

cdef enum:
    RNN_FORWARD
    RNN_BACKWARD
    LSTM_FORWARD
    LSTM_BACKWARD
    GRU_FORWARD
    GRU_BACKWARD

ctypedef struct jobs_t:  # jobs that run at once
    int count
    int workers
    rnn_t job[2]
    Py_ssize_t tasks[2]


cdef inline void _block(rnn_t* r, Py_ssize_t task, int worker, real* _) noexcept nogil:
    """Run one of the six loops over one block of rows."""
    cdef Py_ssize_t n0 = task * r.block, n1 = min(r.n, n0 + r.block)
    cdef real* rows = <real*> (r.rows + worker * r.rows_step)
    if r.loop == RNN_FORWARD:
        rnn_loop(r, n0, n1, rows, _)
    elif r.loop == RNN_BACKWARD:
        rnn_loop_back(r, n0, n1, rows, _)
    elif r.loop == LSTM_FORWARD:
        lstm_loop(r, n0, n1, rows, _)
    elif r.loop == LSTM_BACKWARD:
        lstm_loop_back(r, n0, n1, rows, _)
    elif r.loop == GRU_FORWARD:
        gru_loop(r, n0, n1, rows, _)
    else:
        gru_loop_back(r, n0, n1, rows, _)


cdef inline void _task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef jobs_t* jobs = <jobs_t*> context
    cdef rnn_t* r = &jobs.job[0]
    if task >= jobs.tasks[0]:
        task -= jobs.tasks[0]
        r = &jobs.job[1]
    if r.single:
        _block(r, task, worker, <float*> NULL)
    else:
        _block(r, task, worker, <double*> NULL)


cdef inline char* _cut(char** at, size_t bytes) noexcept nogil:
    """Reserve the next part of the scratch memory."""
    cdef char* part = at[0]
    at[0] += bytes
    return part


cdef inline Py_ssize_t _share(jobs_t* jobs, rnn_t* r, int workers) noexcept nogil:
    """Rows per task, so that all jobs together have one task for each worker."""
    return min(
        round_up(r.n, MR // 2), round_up(ceil_div(r.n * jobs.count, workers), MR // 2)
    )


cdef inline size_t weights_scratch(rnn_t* r, char* at, const real* _) noexcept nogil:
    """Assign the memory of the packed weights from `at` on; return its size."""
    cdef char* start = at
    cdef Py_ssize_t u = r.u, hat = u if r.loop == GRU_FORWARD else 0
    cdef Py_ssize_t depth = r.length - 1 - r.d if r.few else r.length
    if r.after:
        r.swapped = _cut(&at, panels_size(r.length, r.width, _))
    if r.ready or not r.few or r.t >= FEW_STEPS:
        r.packed = _cut(&at, panels_size(depth, r.width - hat, _))
        if r.after:
            depth = r.length - 1 - r.d
            if not r.few:
                r.packed_x = _cut(&at, panels_size(1 + r.d, u, _))
        if hat:
            r.packed_hat = _cut(&at, panels_size(depth, hat, _))
    if r.ready and r.few:
        r.packed_in = _cut(&at, panels_size(1 + r.d, r.width, _))
    return at - start


cdef inline void set_form(jobs_t* jobs, rnn_t* r) noexcept nogil:
    """Divide the rows among tasks."""
    cdef Py_ssize_t size = r.length * r.width * <Py_ssize_t> (
        sizeof(float) if r.single else sizeof(double)
    )
    # A thread that would read large weights of the input in each step is faster without.
    cdef bint inputs = jobs.workers <= jobs.count and 2 * r.d > r.u and r.n <= MR // 2
    cdef bint large = size > STAYS and r.n >= LEAST and not inputs
    r.few = r.n < MR and not large
    r.whole = r.gates != NULL or r.few
    r.block, r.split = _share(jobs, r, jobs.workers), 1
    if large and r.block <= MR and jobs.count == 1:  # else each thread would read all weights
        r.block, r.split = r.n, jobs.workers


cdef inline size_t forward_scratch(jobs_t* jobs, rnn_t* r, char* at, const real* _) noexcept nogil:
    """Assign the scratch memory of one job from `at` on; return its size."""
    cdef char* start = at
    cdef product_t inputs
    r.lines_at = panels_size(r.block, r.length + r.wide + r.u, _)  # the rows, z and c of a step
    r.rows_step = r.lines_at + aligned(fetch_size(r.block, r.wide, r.length, _))
    if r.few:
        r.design = _cut(&at, aligned(r.n * r.t * (1 + r.d) * sizeof(real)))
        if not r.ready:
            inputs = input_product(r, <real*> NULL)
            r.work = _cut(&at, aligned(product_scratch(&inputs, jobs.workers)))
        if r.gates == NULL and r.loop != RNN_FORWARD:
            r.gates = _cut(&at, panels_size(r.n * r.t, r.wide, _))
    r.rows = _cut(&at, jobs.workers * r.rows_step)
    return at - start


cdef inline void _pack(
    rnn_t* r, Py_ssize_t depth, Py_ssize_t cols, const real* w, real* out, int workers
) noexcept nogil:
    """Some columns of the weights, as the product of a step reads them."""
    if r.few:
        pack_all(cols, depth, w, r.width, 1, out, workers)
    else:
        pack_tiles(cols, depth, w, r.width, 1, out, workers)


cdef inline void pack_weights(rnn_t* r, int workers, const real* _) noexcept nogil:
    cdef Py_ssize_t u = r.u, hat = u if r.loop == GRU_FORWARD else 0
    cdef Py_ssize_t depth = r.length - 1 - r.d, row = 1 + r.d
    cdef const real* w
    if r.after:
        swap_bias(r, <const real*> r.w, <real*> r.swapped, False)
        r.w = r.swapped
    w = <const real*> r.w
    if r.packed_in != NULL:
        pack_tiles(r.width, row, w, r.width, 1, <real*> r.packed_in, workers)
    if r.packed_x != NULL:
        pack_tiles(u, row, w + 2 * u, r.width, 1, <real*> r.packed_x, workers)
    if r.packed_hat != NULL and r.after:
        _pack(r, depth, u, w + row * r.width + 2 * u, <real*> r.packed_hat, workers)
    if not r.few:
        depth, row = r.length, 0
    if r.packed_hat != NULL and not r.after:
        _pack(r, depth, u, w + row * r.width + 2 * u, <real*> r.packed_hat, workers)
    if r.packed != NULL:
        _pack(r, depth, r.width - hat, w + row * r.width, <real*> r.packed, workers)


cdef inline void _input_panels(rnn_t* r, Py_ssize_t task, const real* _) noexcept nogil:
    """z = b + x w_x, for some panels."""
    cdef Py_ssize_t wide = PANELS * tile_cols(_), j = task * wide, depth = 1 + r.d
    cdef real* z = <real*> (r.h if r.loop == RNN_FORWARD else r.gates)
    times_panels(
        r.n * r.t, min(wide, r.width - j), depth, <const real*> r.design, depth,
        <const real*> r.packed_in + j * depth, z + j, r.wide, False, NULL,
    )


cdef inline void _input_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef rnn_t* r = <rnn_t*> context
    if r.single:
        _input_panels(r, task, <float*> NULL)
    else:
        _input_panels(r, task, <double*> NULL)


cdef inline void _prepare(rnn_t* r, int workers, const real* _) noexcept nogil:
    """If few, compute the product with x before the loop."""
    cdef product_t inputs
    if r.few:
        input_rows(r, <real*> r.design)
    if r.few and r.ready:
        run(_input_task, r, ceil_div(r.width, PANELS * tile_cols(_)), workers)
    elif r.few:
        inputs = input_product(r, <real*> (r.h if r.loop == RNN_FORWARD else r.gates))
        product(&inputs, r.work, workers)


cdef inline void _walk(jobs_t* jobs, int workers) noexcept nogil:
    """Run the loops over time of all jobs."""
    cdef int i
    cdef Py_ssize_t tasks = 0
    for i in range(jobs.count):
        jobs.tasks[i] = ceil_div(jobs.job[i].n, jobs.job[i].block)
        tasks += jobs.tasks[i]
    if tasks == 1:  # so that its products can use the threads
        _task(jobs, 0, 0)
    else:
        run(_task, jobs, tasks, workers)


cdef inline void forward_steps(jobs_t* jobs, char* at, const real* _) noexcept nogil:
    """Run the loops over time, in the scratch memory from `at` on."""
    cdef int i
    for i in range(jobs.count):
        at += forward_scratch(jobs, &jobs.job[i], at, _)
    for i in range(jobs.count):
        _prepare(&jobs.job[i], jobs.workers, _)
    _walk(jobs, jobs.workers)


cdef inline size_t all_scratch(jobs_t* jobs, const real* _) noexcept nogil:
    """Bytes that `forward_steps` needs."""
    cdef size_t size = 0
    cdef int i
    cdef rnn_t plan
    for i in range(jobs.count):
        plan = jobs.job[i]
        size += forward_scratch(jobs, &plan, NULL, _)
    return size


cdef inline size_t _backward_scratch(
    jobs_t* jobs, rnn_t* r, char* at, const real* _
) noexcept nogil:
    """Assign the scratch memory of one job, except the part that the jobs use in turn."""
    cdef char* start = at
    cdef Py_ssize_t u = r.u, hat = u if r.loop == GRU_BACKWARD else 0
    cdef product_t p = weight_product(r, 0, r.length, 0, r.width, 0, _)
    r.block = _share(jobs, r, max_workers())
    r.lines_at = max(
        panels_size(3 * r.block + 1, u, _), aligned((r.length + TALL) * sizeof(real))
    )
    if r.loop == LSTM_BACKWARD and r.mask != NULL:
        r.lines_at += panels_size(r.block, r.wide, _)  # dz of a step
    r.rows_step = r.lines_at + aligned(fetch_size(r.block, u, r.wide, _))
    r.tile = 0 if r.loop == GRU_BACKWARD or is_long(&p) else p.mr
    r.packed, r.packed_hat = _cut(&at, panels_size(r.width, u, _)), NULL
    if hat:
        r.packed_hat = _cut(&at, panels_size(hat, u, _))
    r.dz = _cut(&at, panels_size(r.n * r.t, r.wide, _))
    if r.after:
        r.swapped = _cut(&at, panels_size(2 * r.length, r.width, _))
    r.rows = _cut(&at, max_workers() * r.rows_step)
    return at - start


cdef inline size_t _weight_block(
    rnn_t* r, bint plan, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t col, Py_ssize_t cols,
    Py_ssize_t dz_col, int workers, const real* _,
) noexcept nogil:
    """Compute a block of dw, unless only planning; return the scratch bytes that it needs."""
    cdef product_t p = weight_product(r, row, rows, col, cols, dz_col, _)
    if r.tile:
        p.packed, p.packed_a, p.in_place = True, r.design, False
    if not plan:
        product(&p, r.work, workers)
    return product_scratch(&p, workers)


cdef inline size_t _weight_gradient(rnn_t* r, bint plan, int workers, const real* _) noexcept nogil:
    """Compute dw from dz of all steps, unless only planning; return the scratch bytes."""
    cdef Py_ssize_t u = r.u
    cdef void* dw = r.dw
    cdef size_t size
    if not plan:
        design_matrix(r, -1, workers)
    if r.loop != GRU_BACKWARD:
        return _weight_block(r, plan, 0, r.length, 0, r.width, 0, workers, _)
    if r.after:
        r.dw = <real*> r.swapped + r.length * r.width
    size = _weight_block(r, plan, 0, r.length, 0, 2 * u, 0, workers, _)
    if r.after:  # the columns of ĥ have rows of the input, and those of q rows of the state
        size = max(size, _weight_block(r, plan, 0, 1 + r.d, 2 * u, u, 2 * u, workers, _))
        size = max(size, _weight_block(r, plan, 1 + r.d, 1 + u, 2 * u, u, 3 * u, workers, _))
        if not plan:
            swap_bias(r, <const real*> r.dw, <real*> dw, True)
        r.dw = dw
    else:
        if not plan:
            design_matrix(r, 1, workers)  # the columns of ĥ had the input h∘r
        size = max(size, _weight_block(r, plan, 0, r.length, 2 * u, u, 2 * u, workers, _))
    return size


cdef inline void run_backward(jobs_t* jobs, const real* _) except *:
    """Run the loops back through time, which fill dz; then compute dw and dx from it."""
    cdef int workers = max_workers(), i
    cdef size_t size = 0, work = 0, design = 0
    cdef Py_ssize_t u, hat, length
    cdef rnn_t plan
    cdef rnn_t* r
    cdef product_t inputs
    cdef const real* w_h
    cdef char* at
    cdef scratch_t s
    for i in range(jobs.count):
        plan = jobs.job[i]
        size += _backward_scratch(jobs, &plan, NULL, _)
        inputs = input_gradient(&plan, _)
        work = max(work, aligned(product_scratch(&inputs, workers)))
        if plan.dw != NULL:
            work = max(work, aligned(_weight_gradient(&plan, True, workers, _)))
            length = round_up(plan.length, plan.tile) if plan.tile else plan.length
            design = max(design, aligned(plan.n * plan.t * length * sizeof(real)))
    s = take(size + work + design)
    at = s.data + work + design
    for i in range(jobs.count):
        r = &jobs.job[i]
        at += _backward_scratch(jobs, r, at, _)
        r.work, r.design = s.data, s.data + work
    with nogil:
        for i in range(jobs.count):
            r = &jobs.job[i]
            u, hat = r.u, r.u if r.loop == GRU_BACKWARD else 0
            if r.after:
                swap_bias(r, <const real*> r.w, <real*> r.swapped, False)
                r.w = r.swapped
            w_h = <const real*> r.w + (r.length - u) * r.width
            pack_tiles(u, r.width - hat, w_h, 1, r.width, <real*> r.packed, workers)
            if hat:
                pack_tiles(u, hat, w_h + r.width - hat, 1, r.width, <real*> r.packed_hat, workers)
        _walk(jobs, workers)
        for i in range(jobs.count):
            r = &jobs.job[i]
            if r.dw != NULL:
                _weight_gradient(r, False, workers, _)
            if r.dx != NULL:
                inputs = input_gradient(r, _)
                product(&inputs, r.work, workers)
                if r.drop_x != NULL:
                    drop_gradient(r, workers)
    give(s)
