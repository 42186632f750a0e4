"""Sums of two arrays. Contract: ``merge_np.py``."""

from npdl._ext.activation cimport LINEAR, act_span, act_t, parse_act
from npdl._ext.arrays cimport OUT, REAL, array, array_t, call_t
from npdl._ext.simd cimport real
from npdl._ext.threads cimport max_workers, run

cdef enum:
    CHUNK = 16384  # elements per task
    PIECE = 1024  # elements that are still in the level-1 cache when the activation runs


ctypedef struct job_t:
    bint single
    act_t act
    Py_ssize_t n
    const void* a
    const void* b
    void* y


cdef inline void _add(job_t* j, Py_ssize_t at, Py_ssize_t end, real* _) noexcept nogil:
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


cdef void _task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef job_t* j = <job_t*> context
    cdef Py_ssize_t at = task * CHUNK, end = min(j.n, at + CHUNK)
    if j.single:
        _add(j, at, end, <float*> NULL)
    else:
        _add(j, at, end, <double*> NULL)


def add_forward(a, b, y, act):
    """y = f(a + b), element by element."""
    cdef call_t call = call_t("add_forward", REAL)
    cdef array_t a_ = array(&call, a, "a", 1, REAL), b_ = array(&call, b, "b", 1, REAL)
    cdef array_t y_ = array(&call, y, "y", 1, REAL | OUT)
    cdef job_t j
    if not a_.shape[0] == b_.shape[0] == y_.shape[0]:
        raise ValueError("add_forward: a, b and y must be of one length.")
    j.single, j.act, j.n = a_.single, parse_act(act), a_.shape[0]
    j.a, j.b, j.y = a_.data, b_.data, y_.data
    with nogil:
        run(_task, &j, (j.n + CHUNK - 1) // CHUNK, max_workers())
