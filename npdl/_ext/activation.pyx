"""Elementwise activations. Contract: ``activation_np.py``."""

from npdl._ext.activation cimport act_span, act_t, parse_act, pull_back_span
from npdl._ext.simd cimport real
from npdl._ext.threads cimport max_workers, run

cdef enum:
    CHUNK = 16384  # numbers to a task


ctypedef struct job_t:
    bint single
    act_t act
    Py_ssize_t n
    const void* x  # forward: x; backward: y
    const void* dy  # backward alone
    void* out


cdef inline void _forward(job_t* j, Py_ssize_t i, real* _) noexcept nogil:
    act_span(j.act, <const real*> j.x + i, <real*> j.out + i, min(<Py_ssize_t> CHUNK, j.n - i))


cdef inline void _backward(job_t* j, Py_ssize_t i, real* _) noexcept nogil:
    pull_back_span(
        j.act, <const real*> j.x + i, <const real*> j.dy + i, <real*> j.out + i,
        min(<Py_ssize_t> CHUNK, j.n - i),
    )


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


def activation_forward(const real[::1] x not None, real[::1] y not None, act):
    """y = f(x), element by element."""
    cdef job_t j
    if y.shape[0] != x.shape[0]:
        raise ValueError("activation_forward: x and y must be of one length.")
    if x.shape[0] == 0:
        return
    j.act = parse_act(act)
    j.single = real is float
    j.n = x.shape[0]
    j.x, j.dy, j.out = &x[0], NULL, &y[0]
    with nogil:
        run(_task, &j, (j.n + CHUNK - 1) // CHUNK, max_workers())


def activation_backward(
    const real[::1] y not None, const real[::1] dy not None, real[::1] dx not None, act
):
    """dx = f'(x) dy, from the output y = f(x)."""
    cdef job_t j
    if not dy.shape[0] == y.shape[0] == dx.shape[0]:
        raise ValueError("activation_backward: y, dy and dx must be of one length.")
    if y.shape[0] == 0:
        return
    j.act = parse_act(act)
    j.single = real is float
    j.n = y.shape[0]
    j.x, j.dy, j.out = &y[0], &dy[0], &dx[0]
    with nogil:
        run(_task, &j, (j.n + CHUNK - 1) // CHUNK, max_workers())
