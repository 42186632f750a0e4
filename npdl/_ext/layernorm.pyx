"""Layer, group and RMS normalisation. Contract: ``layernorm_np.py``.

A task takes whole rows, each through all passes while it is in the cache: the statistics of a row
depend on no other row. The share of a task in dgamma and dbeta is summed in double in an array of
its own; a second loop adds these arrays in the order of the tasks. The division into tasks depends
on the shapes only.

    I = 1      the channels of a row lie side by side: gamma and beta are read along the row
    I > 1      a channel is a span, with one gamma and one beta
"""

from libc.math cimport sqrt
from libc.string cimport memset
from npdl._ext.arrays cimport OR_NONE, OUT, REAL, array, array_t, call_t, clear, same_shape
from npdl._ext.moments cimport PIECE, add_span, moments_t
from npdl._ext.simd cimport fma, real
from npdl._ext.steps cimport recorded
from npdl._ext.sums cimport LANES, fold, sum_of, sum_of_products
from npdl._ext.threads cimport give, max_workers, run, scratch_t, take

cdef enum:
    CHUNK = 8192  # minimum of elements per task
    TASKS = 64  # maximum if gamma and beta need gradients
    COLUMNS = 1024  # columns of the tasks' sums that are added at a time


ctypedef struct rows_t:
    bint single
    bint centred
    Py_ssize_t rows, length, inner, channels, per_task, tasks
    double epsilon
    const void* x
    const void* gamma
    const void* beta
    void* mean
    void* scale
    void* y
    # backward
    const void* dy
    void* dx
    void* dgamma
    void* dbeta
    double* sums  # for each task: sums of dgamma, then of dbeta


cdef inline void _forward_row(rows_t* j, Py_ssize_t r, const real* _) noexcept nogil:
    cdef Py_ssize_t n = j.length * j.inner, at = (r * j.length) % j.channels, c, i, k = 0
    cdef const real* x = <const real*> j.x + r * n
    cdef const real* gamma = <const real*> j.gamma + at
    cdef const real* beta = <const real*> j.beta + at
    cdef real* y = <real*> j.y + r * n
    cdef real mean = 0, zero = 0, scale, a, b
    cdef moments_t m
    memset(&m, 0, sizeof(moments_t))
    if j.centred:
        add_span(&m, x, n)
        mean = <real> m.mean
        (<real*> j.mean)[r] = mean
    else:
        while k < n:
            m.m2 += sum_of_products(x + k, x + k, min(<Py_ssize_t> PIECE, n - k), zero, zero)
            k += PIECE
    scale = <real> (1 / sqrt(m.m2 / n + j.epsilon))
    (<real*> j.scale)[r] = scale
    if j.inner > 1:
        for c in range(j.length):
            a = gamma[c] * scale
            b = zero if j.beta == NULL else beta[c]
            for i in range(c * j.inner, (c + 1) * j.inner):
                y[i] = fma(x[i] - mean, a, b)
    elif j.beta == NULL:
        for i in range(n):
            y[i] = (x[i] - mean) * scale * gamma[i]
    else:
        for i in range(n):
            y[i] = fma((x[i] - mean) * scale, gamma[i], beta[i])


cdef inline void _weighted_sums(
    const real* x, const real* dy, const real* gamma, Py_ssize_t n, real mean, double* total,
    double* slope,
) noexcept nogil:
    """Σ g and Σ g (x - mean), g = gamma dy, of n numbers."""
    cdef real s[LANES]
    cdef real t[LANES]
    cdef real zero = 0, g
    cdef Py_ssize_t i, k, size
    total[0] = slope[0] = 0
    while n > 0:
        size = min(<Py_ssize_t> PIECE, n)
        for i in range(LANES):
            s[i] = t[i] = zero
        k = 0
        while k + LANES <= size:
            for i in range(LANES):
                g = gamma[k + i] * dy[k + i]
                s[i] += g
                t[i] = fma(g, x[k + i] - mean, t[i])
            k += LANES
        for i in range(size - k):
            g = gamma[k + i] * dy[k + i]
            s[i] += g
            t[i] = fma(g, x[k + i] - mean, t[i])
        total[0] += fold(s)
        slope[0] += fold(t)
        x, dy, gamma, n = x + size, dy + size, gamma + size, n - size


cdef inline void _channel_sums(
    const real* x, const real* dy, Py_ssize_t n, real mean, double* total, double* slope
) noexcept nogil:
    """Σ dy and Σ dy (x - mean) of n numbers."""
    cdef real zero = 0
    cdef Py_ssize_t size
    total[0] = slope[0] = 0
    while n > 0:
        size = min(<Py_ssize_t> PIECE, n)
        total[0] += sum_of(dy, size)
        slope[0] += sum_of_products(x, dy, size, mean, zero)
        x, dy, n = x + size, dy + size, n - size


cdef inline void _backward_row(
    rows_t* j, Py_ssize_t r, double* dgamma, double* dbeta, const real* _
) noexcept nogil:
    cdef Py_ssize_t n = j.length * j.inner, at = (r * j.length) % j.channels, c, i
    cdef const real* x = <const real*> j.x + r * n
    cdef const real* dy = <const real*> j.dy + r * n
    cdef const real* gamma = <const real*> j.gamma + at
    cdef real* dx = <real*> j.dx + r * n
    cdef real mean = (<const real*> j.mean)[r] if j.centred else <real> 0
    cdef real scale = (<const real*> j.scale)[r], shift, slope, g
    cdef double total = 0, along = 0, one, other
    if j.inner > 1:
        for c in range(j.length):
            i = c * j.inner
            _channel_sums(x + i, dy + i, j.inner, mean, &one, &other)
            dbeta[at + c] += one
            dgamma[at + c] += other * scale
            total += one * gamma[c]
            along += other * gamma[c]
    else:
        if j.dx != NULL:
            _weighted_sums(x, dy, gamma, n, mean, &total, &along)
        for i in range(n):
            dgamma[at + i] += dy[i] * ((x[i] - mean) * scale)
        for i in range(n):
            dbeta[at + i] += dy[i]
    if j.dx == NULL:
        return
    shift = <real> (total / n) if j.centred else <real> 0
    slope = <real> (along * scale * scale / n)
    if j.inner > 1:
        for c in range(j.length):
            g = gamma[c]
            for i in range(c * j.inner, (c + 1) * j.inner):
                dx[i] = fma(mean - x[i], slope, fma(dy[i], g, -shift)) * scale
    else:
        for i in range(n):
            dx[i] = fma(mean - x[i], slope, fma(dy[i], gamma[i], -shift)) * scale


cdef inline void _rows(rows_t* j, Py_ssize_t task, const real* _) noexcept nogil:
    cdef Py_ssize_t first = task * j.per_task, last = min(j.rows, first + j.per_task), r
    cdef double* sums = j.sums + 2 * task * j.channels
    if j.dy == NULL:
        for r in range(first, last):
            _forward_row(j, r, _)
        return
    memset(sums, 0, 2 * j.channels * sizeof(double))
    for r in range(first, last):
        _backward_row(j, r, sums, sums + j.channels, _)


cdef void _rows_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef rows_t* j = <rows_t*> context
    if j.single:
        _rows(j, task, <const float*> NULL)
    else:
        _rows(j, task, <const double*> NULL)


cdef inline void _add_up(
    rows_t* j, Py_ssize_t c0, Py_ssize_t c1, real* out, int which
) noexcept nogil:
    """Add up the sums of all tasks for channels c0 to c1."""
    cdef double total[COLUMNS]
    cdef const double* sums = j.sums + which * j.channels + c0
    cdef Py_ssize_t _task, k
    memset(total, 0, (c1 - c0) * sizeof(double))
    for _task in range(j.tasks):
        for k in range(c1 - c0):
            total[k] += sums[k]
        sums += 2 * j.channels
    for k in range(c1 - c0):
        out[c0 + k] = <real> total[k]


cdef void _sum_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef rows_t* j = <rows_t*> context
    cdef Py_ssize_t c0 = task * COLUMNS, c1 = min(j.channels, c0 + COLUMNS)
    if j.dgamma != NULL:
        if j.single:
            _add_up(j, c0, c1, <float*> j.dgamma, 0)
        else:
            _add_up(j, c0, c1, <double*> j.dgamma, 0)
    if j.dbeta != NULL:
        if j.single:
            _add_up(j, c0, c1, <float*> j.dbeta, 1)
        else:
            _add_up(j, c0, c1, <double*> j.dbeta, 1)


cdef bint _plan(
    rows_t* j, const array_t* x, const array_t* gamma, const array_t* mean, const array_t* scale
) except -1:
    """Set the fields that both passes have; return False if there are no rows."""
    cdef Py_ssize_t per_group
    memset(j, 0, sizeof(rows_t))
    j.single, j.centred = x.single, mean.given
    j.rows, j.length, j.inner = x.shape[0], x.shape[1], x.shape[2]
    j.channels = gamma.shape[0]
    if j.length == 0 or j.inner == 0 or j.channels == 0:
        raise ValueError("layernorm: only the batch may be empty.")
    per_group = j.channels // j.length
    if j.channels % j.length or j.rows % per_group:
        raise ValueError("layernorm: the rows of x must have all channels of gamma in turn.")
    if scale.shape[0] != j.rows or (mean.given and mean.shape[0] != j.rows):
        raise ValueError("layernorm: there must be a mean and a scale for each row.")
    j.x, j.gamma, j.mean, j.scale = x.data, gamma.data, mean.data, scale.data
    j.per_task = max(1, CHUNK // (j.length * j.inner))
    return j.rows > 0


cdef bint _plan_forward(
    rows_t* j, x, gamma, beta, double epsilon, y, mean, scale
) except -1:
    cdef call_t call = call_t("layernorm_forward", REAL)
    cdef array_t x_ = array(&call, x, "x", 3, REAL), y_ = array(&call, y, "y", 3, REAL | OUT)
    cdef array_t gamma_ = array(&call, gamma, "gamma", 1, REAL)
    cdef array_t beta_ = array(&call, beta, "beta", 1, REAL | OR_NONE)
    cdef array_t mean_ = array(&call, mean, "mean", 1, REAL | OUT | OR_NONE)
    cdef array_t scale_ = array(&call, scale, "scale", 1, REAL | OUT)
    cdef bint some = _plan(j, &x_, &gamma_, &mean_, &scale_)
    if not (same_shape(&y_, &x_) and (not beta_.given or same_shape(&beta_, &gamma_))):
        raise ValueError("layernorm_forward: the shapes of x, y and beta do not fit.")
    j.epsilon, j.beta, j.y = epsilon, beta_.data, y_.data
    return some


cdef void _run_forward(rows_t* j) noexcept nogil:
    run(_rows_task, j, (j.rows + j.per_task - 1) // j.per_task, max_workers())


def layernorm_forward(x, gamma, beta, double epsilon, y, mean, scale):
    """y = gamma (x - mean) scale + beta, scale = 1 / √(var + ε), in each row."""
    cdef rows_t j
    if _plan_forward(&j, x, gamma, beta, epsilon, y, mean, scale):
        with nogil:
            _run_forward(&j)


cdef void _play_forward(const void* job, void** arrays, char* scratch) noexcept nogil:
    cdef rows_t j = (<const rows_t*> job)[0]
    j.x, j.gamma, j.beta, j.y = arrays[0], arrays[1], arrays[2], arrays[3]
    j.mean, j.scale = arrays[4], arrays[5]
    _run_forward(&j)


def layernorm_forward_recorded(x, gamma, beta, double epsilon, y, mean, scale):
    """`layernorm_forward` as a step."""
    cdef rows_t j
    some = _plan_forward(&j, x, gamma, beta, epsilon, y, mean, scale)
    return recorded(_play_forward, &j, sizeof(rows_t), 0) if some else None


def layernorm_backward(x, gamma, mean, scale, dy, dx, dgamma, dbeta):
    """Gradients of `layernorm_forward`."""
    cdef call_t call = call_t("layernorm_backward", REAL)
    cdef array_t x_ = array(&call, x, "x", 3, REAL), dy_ = array(&call, dy, "dy", 3, REAL)
    cdef array_t dx_ = array(&call, dx, "dx", 3, REAL | OUT | OR_NONE)
    cdef array_t gamma_ = array(&call, gamma, "gamma", 1, REAL)
    cdef array_t mean_ = array(&call, mean, "mean", 1, REAL | OR_NONE)
    cdef array_t scale_ = array(&call, scale, "scale", 1, REAL)
    cdef array_t dgamma_ = array(&call, dgamma, "dgamma", 1, REAL | OUT | OR_NONE)
    cdef array_t dbeta_ = array(&call, dbeta, "dbeta", 1, REAL | OUT | OR_NONE)
    cdef scratch_t s
    cdef rows_t j
    cdef bint some = _plan(&j, &x_, &gamma_, &mean_, &scale_)
    if not (
        same_shape(&dy_, &x_)
        and (not dx_.given or same_shape(&dx_, &x_))
        and (not dgamma_.given or same_shape(&dgamma_, &gamma_))
        and (not dbeta_.given or same_shape(&dbeta_, &gamma_))
    ):
        raise ValueError("layernorm_backward: the shapes of x and the gradients do not fit.")
    if not some:
        clear(&dgamma_)
        clear(&dbeta_)
        return
    j.dy, j.dx, j.dgamma, j.dbeta = dy_.data, dx_.data, dgamma_.data, dbeta_.data
    j.per_task = max(j.per_task, (j.rows + TASKS - 1) // TASKS)
    j.tasks = (j.rows + j.per_task - 1) // j.per_task
    s = take(2 * j.tasks * j.channels * sizeof(double))
    j.sums = <double*> s.data
    with nogil:
        run(_rows_task, &j, j.tasks, max_workers())
        run(_sum_task, &j, (j.channels + COLUMNS - 1) // COLUMNS, max_workers())
    give(s)
