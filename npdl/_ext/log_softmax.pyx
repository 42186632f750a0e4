"""The logarithm of softmax. Contract: ``log_softmax_np.py``.

A task takes whole rows, and each row is summed separately: its bits depend on no other row.
"""

from npdl._ext.arrays cimport OUT, REAL, array, array_t, call_t, same_shape
from npdl._ext.elementary cimport exp, log
from npdl._ext.simd cimport real
from npdl._ext.sums cimport sum_of
from npdl._ext.threads cimport max_workers, run

cdef enum:
    CHUNK = 4096  # elements per task
    PIECE = 256  # exponentials summed at a time


ctypedef struct job_t:
    bint single
    Py_ssize_t n, k, per_task
    const void* x  # forward: z; backward: y
    const void* dy  # backward only
    void* out


cdef inline void _forward_row(const real* z, real* y, Py_ssize_t k) noexcept nogil:
    cdef real e[PIECE]
    cdef real top = z[0], minus_log
    cdef double total = 0
    cdef Py_ssize_t j, i, n
    for j in range(1, k):
        top = z[j] if z[j] > top else top
    j = 0
    while j < k:
        n = min(<Py_ssize_t> PIECE, k - j)
        for i in range(n):
            e[i] = exp(z[j + i] - top)
        total += sum_of(<const real*> e, n)
        j += PIECE
    minus_log = <real> -log(total)
    for j in range(k):
        y[j] = (z[j] - top) + minus_log


cdef inline void _backward_row(
    const real* y, const real* dy, real* dz, Py_ssize_t k
) noexcept nogil:
    cdef real total = <real> sum_of(dy, k)
    cdef Py_ssize_t j
    for j in range(k):
        dz[j] = dy[j] - exp(y[j]) * total


cdef inline void _rows(job_t* j, Py_ssize_t first, Py_ssize_t last, const real* _) noexcept nogil:
    cdef Py_ssize_t row, i
    for row in range(first, last):
        i = row * j.k
        if j.dy == NULL:
            _forward_row(<const real*> j.x + i, <real*> j.out + i, j.k)
        else:
            _backward_row(
                <const real*> j.x + i, <const real*> j.dy + i, <real*> j.out + i, j.k
            )


cdef void _task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef job_t* j = <job_t*> context
    cdef Py_ssize_t first = task * j.per_task, last = min(j.n, first + j.per_task)
    if j.single:
        _rows(j, first, last, <const float*> NULL)
    else:
        _rows(j, first, last, <const double*> NULL)


cdef void _run(job_t* j, const array_t* x) except *:
    if x.shape[1] == 0:
        raise ValueError("log_softmax: only the batch may be empty.")
    j.single, j.n, j.k = x.single, x.shape[0], x.shape[1]
    j.per_task = max(1, CHUNK // j.k)
    with nogil:
        run(_task, j, (j.n + j.per_task - 1) // j.per_task, max_workers())


def log_softmax_forward(z, y):
    """y = log softmax of each row of z."""
    cdef call_t call = call_t("log_softmax_forward", REAL)
    cdef array_t z_ = array(&call, z, "z", 2, REAL), y_ = array(&call, y, "y", 2, REAL | OUT)
    cdef job_t j
    if not same_shape(&y_, &z_):
        raise ValueError("log_softmax_forward: z and y must be of one shape.")
    j.x, j.dy, j.out = z_.data, NULL, y_.data
    _run(&j, &z_)


def log_softmax_backward(y, dy, dz):
    """dz = dy - e^y Σ dy, in each row."""
    cdef call_t call = call_t("log_softmax_backward", REAL)
    cdef array_t y_ = array(&call, y, "y", 2, REAL), dy_ = array(&call, dy, "dy", 2, REAL)
    cdef array_t dz_ = array(&call, dz, "dz", 2, REAL | OUT)
    cdef job_t j
    if not (same_shape(&dy_, &y_) and same_shape(&dz_, &y_)):
        raise ValueError("log_softmax_backward: y, dy and dz must be of one shape.")
    j.x, j.dy, j.out = y_.data, dy_.data, dz_.data
    _run(&j, &y_)
