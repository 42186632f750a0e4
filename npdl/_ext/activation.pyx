"""Activations, logarithms and sums, element by element. Contract: ``activation_np.py``."""

from npdl._ext.activation cimport (
    GELU, LINEAR, LOG, LOG1P, MISH, SILU, act_span, act_t, parse_act, pull_back_span,
)
from npdl._ext.arrays cimport OUT, REAL, array, array_t, call_t
from npdl._ext.elementary cimport log, log1p
from npdl._ext.simd cimport real
from npdl._ext.smooth cimport gelu, gelu_slope, mish, mish_slope, silu, silu_slope
from npdl._ext.steps cimport recorded
from npdl._ext.threads cimport max_workers, run

cdef enum:
    CHUNK = 16384  # elements per task
    FEWEST = 4096  # of a sum, whose arrays lie in the caches of several cores
    PIECE = 1024  # of a sum: still in the level-1 cache when the activation runs


ctypedef struct job_t:
    bint single
    act_t act
    Py_ssize_t n
    const void* x  # forward: x; backward: y, or x
    const void* dy  # backward only
    void* out


cdef inline void _forward(job_t* j, Py_ssize_t at, real* _) noexcept nogil:
    cdef const real* x = <const real*> j.x + at
    cdef real* y = <real*> j.out + at
    cdef Py_ssize_t n = min(<Py_ssize_t> CHUNK, j.n - at), i
    if j.act.code < GELU:
        act_span(j.act, x, y, n)
    elif j.act.code == GELU:
        for i in range(n):
            y[i] = gelu(x[i])
    elif j.act.code == SILU:
        for i in range(n):
            y[i] = silu(x[i])
    elif j.act.code == MISH:
        for i in range(n):
            y[i] = mish(x[i])
    elif j.act.code == LOG:
        for i in range(n):
            y[i] = <real> log(<double> x[i])
    else:
        for i in range(n):
            y[i] = <real> log1p(<double> x[i])


cdef inline void _backward(job_t* j, Py_ssize_t at, real* _) noexcept nogil:
    cdef const real* x = <const real*> j.x + at
    cdef const real* dy = <const real*> j.dy + at
    cdef real* dx = <real*> j.out + at
    cdef Py_ssize_t n = min(<Py_ssize_t> CHUNK, j.n - at), i
    if j.act.code < GELU:
        pull_back_span(j.act, x, dy, dx, n)
    elif j.act.code == GELU:
        for i in range(n):
            dx[i] = dy[i] * gelu_slope(x[i])
    elif j.act.code == SILU:
        for i in range(n):
            dx[i] = dy[i] * silu_slope(x[i])
    else:
        for i in range(n):
            dx[i] = dy[i] * mish_slope(x[i])


cdef void _task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef job_t* j = <job_t*> context
    if j.dy == NULL:
        if j.single:
            _forward(j, task * CHUNK, <float*> NULL)
        else:
            _forward(j, task * CHUNK, <double*> NULL)
    else:
        if j.single:
            _backward(j, task * CHUNK, <float*> NULL)
        else:
            _backward(j, task * CHUNK, <double*> NULL)


cdef void _run(job_t* j) noexcept nogil:
    run(_task, j, (j.n + CHUNK - 1) // CHUNK, max_workers())


cdef inline act_t _parse(act) except *:
    """An activation, or a logarithm."""
    return parse_act(act, LOG1P if act[0] in (LOG, LOG1P) else MISH)


cdef job_t _plan_forward(x, y, act) except *:
    cdef call_t call = call_t("activation_forward", REAL)
    cdef array_t x_ = array(&call, x, "x", 1, REAL), y_ = array(&call, y, "y", 1, REAL | OUT)
    cdef job_t j
    if y_.shape[0] != x_.shape[0]:
        raise ValueError("activation_forward: x and y must be of one length.")
    j.single, j.act, j.n = x_.single, _parse(act), x_.shape[0]
    j.x, j.dy, j.out = x_.data, NULL, y_.data
    return j


def activation_forward(x, y, act):
    """y = f(x), element by element."""
    cdef job_t j = _plan_forward(x, y, act)
    with nogil:
        _run(&j)


cdef void _play_forward(const void* job, void** arrays, char* scratch) noexcept nogil:
    cdef job_t j = (<const job_t*> job)[0]
    j.x, j.out = arrays[0], arrays[1]
    _run(&j)


def activation_forward_recorded(x, y, act):
    """`activation_forward` as a call of a tape."""
    cdef job_t j = _plan_forward(x, y, act)
    return recorded(_play_forward, &j, sizeof(job_t), 0)


cdef job_t _plan_backward(y, dy, dx, act) except *:
    cdef call_t call = call_t("activation_backward", REAL)
    cdef array_t y_ = array(&call, y, "y", 1, REAL), dy_ = array(&call, dy, "dy", 1, REAL)
    cdef array_t dx_ = array(&call, dx, "dx", 1, REAL | OUT)
    cdef job_t j
    if not dy_.shape[0] == y_.shape[0] == dx_.shape[0]:
        raise ValueError("activation_backward: y, dy and dx must be of one length.")
    j.single, j.act, j.n = y_.single, parse_act(act, MISH), y_.shape[0]
    j.x, j.dy, j.out = y_.data, dy_.data, dx_.data
    return j


def activation_backward(y, dy, dx, act):
    """dx = f'(x) dy, from the output y = f(x), or from x for GELU, SILU and MISH."""
    cdef job_t j = _plan_backward(y, dy, dx, act)
    with nogil:
        _run(&j)


cdef void _play_backward(const void* job, void** arrays, char* scratch) noexcept nogil:
    cdef job_t j = (<const job_t*> job)[0]
    j.x, j.dy, j.out = arrays[0], arrays[1], arrays[2]
    _run(&j)


def activation_backward_recorded(y, dy, dx, act):
    """`activation_backward` as a call of a tape."""
    cdef job_t j = _plan_backward(y, dy, dx, act)
    return recorded(_play_backward, &j, sizeof(job_t), 0)


# ---------------------------------------------------------------------------- sums of two arrays

ctypedef struct sum_t:
    bint single
    act_t act
    Py_ssize_t n, each  # elements, and those of a task
    const void* a
    const void* b
    void* y


cdef inline void _add_span(sum_t* j, Py_ssize_t at, Py_ssize_t end, real* _) noexcept nogil:
    cdef const real* a
    cdef const real* b
    cdef real* y
    cdef Py_ssize_t n, i
    while at < end:
        n = min(<Py_ssize_t> PIECE, end - at)
        a, b, y = <const real*> j.a + at, <const real*> j.b + at, <real*> j.y + at
        for i in range(n):
            y[i] = a[i] + b[i]
        if j.act.code != LINEAR:
            act_span(j.act, <const real*> y, y, n)
        at += n


cdef void _add_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef sum_t* j = <sum_t*> context
    cdef Py_ssize_t at = task * j.each, end = min(j.n, at + j.each)
    if j.single:
        _add_span(j, at, end, <float*> NULL)
    else:
        _add_span(j, at, end, <double*> NULL)


cdef sum_t _plan_sum(a, b, y, act) except *:
    cdef call_t call = call_t("add_forward", REAL)
    cdef array_t a_ = array(&call, a, "a", 1, REAL), b_ = array(&call, b, "b", 1, REAL)
    cdef array_t y_ = array(&call, y, "y", 1, REAL | OUT)
    cdef sum_t j
    if not a_.shape[0] == b_.shape[0] == y_.shape[0]:
        raise ValueError("add_forward: a, b and y must be of one length.")
    j.single, j.act, j.n = a_.single, parse_act(act), a_.shape[0]
    j.a, j.b, j.y = a_.data, b_.data, y_.data
    return j


cdef void _run_sum(sum_t* j) noexcept nogil:
    cdef int workers = max_workers()
    j.each = min(<Py_ssize_t> CHUNK, max(<Py_ssize_t> FEWEST, (j.n // workers + 63) // 64 * 64))
    run(_add_task, j, (j.n + j.each - 1) // j.each, workers)


def add_forward(a, b, y, act):
    """y = f(a + b), element by element."""
    cdef sum_t j = _plan_sum(a, b, y, act)
    with nogil:
        _run_sum(&j)


cdef void _play_sum(const void* job, void** arrays, char* scratch) noexcept nogil:
    cdef sum_t j = (<const sum_t*> job)[0]
    j.a, j.b, j.y = arrays[0], arrays[1], arrays[2]
    _run_sum(&j)


def add_forward_recorded(a, b, y, act):
    """`add_forward` as a step."""
    cdef sum_t j = _plan_sum(a, b, y, act)
    return recorded(_play_sum, &j, sizeof(sum_t), 0)
