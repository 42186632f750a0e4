"""Gradient of a table whose rows were looked up. Contract: ``embedding_np.py``.

The gradient of each row is summed in its place and written once. For this, the positions are first
sorted by their row (a counting sort), so that each task has its own rows, and the positions of each
row in order.
"""

from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset
from npdl._ext.arrays cimport INT64, OUT, REAL, array, array_t, call_t, clear
from npdl._ext.simd cimport real
from npdl._ext.threads cimport aligned, give, max_workers, run, scratch_t, take

cdef enum:
    CHUNK = 16384  # elements per task
    ROWS = 32  # summed in the dtype of dy; these sums are added in double


ctypedef struct table_t:
    bint single
    Py_ssize_t n, rows, width, per_task
    const int64_t* index
    const void* dy
    void* dtable
    Py_ssize_t* first  # where each row begins in `places`, and the end of the last one
    Py_ssize_t* places
    char* sums  # for each worker
    size_t sums_step


cdef inline void _sort(table_t* t) noexcept nogil:
    """Fill `first` and `places`."""
    cdef Py_ssize_t i, v
    memset(t.first, 0, (t.rows + 1) * sizeof(Py_ssize_t))
    for i in range(t.n):
        t.first[t.index[i]] += 1
    for v in range(t.rows):
        t.first[v + 1] += t.first[v]
    for i in range(t.n - 1, -1, -1):
        v = t.index[i]
        t.first[v] -= 1
        t.places[t.first[v]] = i


cdef inline void _sum_places(
    table_t* t, Py_ssize_t k, Py_ssize_t end, real* row
) noexcept nogil:
    """Σ dy[places[k:end]], in this order; k < end."""
    cdef Py_ssize_t d = t.width, i
    cdef const real* a
    cdef const real* b
    memcpy(row, <const real*> t.dy + t.places[k] * d, d * sizeof(real))
    k += 1
    while k + 2 <= end:
        a = <const real*> t.dy + t.places[k] * d
        b = <const real*> t.dy + t.places[k + 1] * d
        for i in range(d):
            row[i] = row[i] + a[i] + b[i]
        k += 2
    if k < end:
        a = <const real*> t.dy + t.places[k] * d
        for i in range(d):
            row[i] += a[i]


cdef inline void _sum_row(table_t* t, Py_ssize_t v, int worker, const real* _) noexcept nogil:
    cdef Py_ssize_t d = t.width, k = t.first[v], end = t.first[v + 1], i
    cdef real* row = <real*> t.dtable + v * d
    cdef double* totals = <double*> (t.sums + worker * t.sums_step)
    if k == end:
        memset(row, 0, d * sizeof(real))
        return
    if end - k <= ROWS:
        _sum_places(t, k, end, row)
        return
    memset(totals, 0, d * sizeof(double))
    while k < end:
        _sum_places(t, k, min(end, k + ROWS), row)
        for i in range(d):
            totals[i] += row[i]
        k += ROWS
    for i in range(d):
        row[i] = <real> totals[i]


cdef void _sum_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef table_t* t = <table_t*> context
    cdef Py_ssize_t v
    for v in range(task * t.per_task, min(t.rows, (task + 1) * t.per_task)):
        if t.single:
            _sum_row(t, v, worker, <const float*> NULL)
        else:
            _sum_row(t, v, worker, <const double*> NULL)


def embedding_backward(index, dy, dtable):
    """dtable[v] = Σ dy[n] over all n with index[n] = v."""
    cdef call_t call = call_t("embedding_backward", REAL)
    cdef array_t index_ = array(&call, index, "index", 1, INT64)
    cdef array_t dy_ = array(&call, dy, "dy", 2, REAL)
    cdef array_t dtable_ = array(&call, dtable, "dtable", 2, REAL | OUT)
    cdef table_t t
    cdef scratch_t s
    cdef size_t sorting
    cdef Py_ssize_t i
    cdef int workers = max_workers()
    t.single, t.n = dy_.single, index_.shape[0]
    t.rows, t.width = dtable_.shape[0], dtable_.shape[1]
    t.index, t.dy, t.dtable = <const int64_t*> index_.data, dy_.data, dtable_.data
    if not (dy_.shape[0] == t.n and dy_.shape[1] == t.width):
        raise ValueError("embedding_backward: dy must have a row for each index, as dtable's are.")
    if t.rows == 0 or t.width == 0:
        raise ValueError("embedding_backward: only the index may be empty.")
    for i in range(t.n):
        if not 0 <= t.index[i] < t.rows:
            raise ValueError(f"embedding_backward: index {t.index[i]} is outside [0, {t.rows}).")
    if t.n == 0:
        clear(&dtable_)
        return
    t.per_task = max(1, CHUNK // t.width)
    sorting = aligned((t.rows + 1 + t.n) * sizeof(Py_ssize_t))
    t.sums_step = aligned(t.width * sizeof(double))
    s = take(sorting + workers * t.sums_step)
    t.sums = s.data + sorting
    t.first = <Py_ssize_t*> s.data
    t.places = t.first + t.rows + 1
    with nogil:
        _sort(&t)
        run(_sum_task, &t, (t.rows + t.per_task - 1) // t.per_task, workers)
    give(s)
