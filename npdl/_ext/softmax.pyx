"""Softmax, and softmax with cross-entropy fused. Contract: ``softmax_np.py``."""

from libc.math cimport log
from libc.stdint cimport int64_t
from libc.string cimport memset
from npdl._ext.elementary cimport exp
from npdl._ext.simd cimport real, same_shape
from npdl._ext.sums cimport sum_of
from npdl._ext.threads cimport max_workers, run

cdef enum:
    CHUNK = 8192  # numbers to a task


ctypedef struct rows_t:
    bint single
    bint backward
    Py_ssize_t n, k, per_task
    const void* z  # backward: p
    const void* t  # targets; backward of softmax alone: dp
    const int64_t* labels
    const void* dloss
    void* p  # backward: dz
    void* loss


cdef inline real _softmax_row(const real* z, real* p, Py_ssize_t k) noexcept nogil:
    """p = softmax(z); returns log Σ e^z. p may be z."""
    cdef real m = z[0], total, scale
    cdef Py_ssize_t j
    for j in range(1, k):
        m = z[j] if z[j] > m else m
    for j in range(k):
        p[j] = exp(z[j] - m)
    total = <real> sum_of(p, k)
    scale = <real> 1.0 / total
    for j in range(k):
        p[j] *= scale
    return m + <real> log(total)


cdef inline void _forward_row(rows_t* r, Py_ssize_t i, const real* _) noexcept nogil:
    cdef const real* z = <const real*> r.z + i * r.k
    cdef const real* t
    cdef real log_total, loss = 0
    cdef Py_ssize_t j
    if r.loss == NULL:
        _softmax_row(z, <real*> r.p + i * r.k, r.k)
        return
    log_total = _softmax_row(z, <real*> r.p + i * r.k, r.k)
    if r.labels != NULL:
        loss = log_total - z[r.labels[i]]
    else:
        t = <const real*> r.t + i * r.k
        for j in range(r.k):
            loss += t[j] * (log_total - z[j])
    (<real*> r.loss)[i] = loss


cdef inline void _backward_row(rows_t* r, Py_ssize_t i, const real* _) noexcept nogil:
    cdef const real* p = <const real*> r.z + i * r.k
    cdef const real* t = <const real*> r.t + i * r.k
    cdef real* dz = <real*> r.p + i * r.k
    cdef real total = 0, scale
    cdef Py_ssize_t j
    if r.dloss == NULL:  # softmax alone: t is dp
        for j in range(r.k):
            total += t[j] * p[j]
        for j in range(r.k):
            dz[j] = p[j] * (t[j] - total)
        return
    scale = (<const real*> r.dloss)[i]
    if r.labels != NULL:
        for j in range(r.k):
            dz[j] = p[j] * scale
        dz[r.labels[i]] = (p[r.labels[i]] - <real> 1.0) * scale
    else:
        for j in range(r.k):
            total += t[j]
        for j in range(r.k):
            dz[j] = (p[j] * total - t[j]) * scale


cdef void _task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef rows_t* r = <rows_t*> context
    cdef Py_ssize_t i
    for i in range(task * r.per_task, min(r.n, (task + 1) * r.per_task)):
        if r.single:
            if r.backward:
                _backward_row(r, i, <float*> NULL)
            else:
                _forward_row(r, i, <float*> NULL)
        else:
            if r.backward:
                _backward_row(r, i, <double*> NULL)
            else:
                _forward_row(r, i, <double*> NULL)


cdef rows_t _plan(const real[:, ::1] z, const real[:, ::1] p, bint backward) except *:
    cdef rows_t r
    memset(&r, 0, sizeof(r))
    if not same_shape(z.shape, p.shape, 2):
        raise ValueError("softmax: the arrays must have one shape.")
    if z.shape[1] == 0:
        raise ValueError("softmax: a row must have at least one number.")
    r.single, r.backward = real is float, backward
    r.n, r.k = z.shape[0], z.shape[1]
    r.per_task = max(1, CHUNK // r.k)
    if r.n:
        r.z, r.p = &z[0, 0], <void*> &p[0, 0]
    return r


cdef void _run(rows_t* r) noexcept nogil:
    run(_task, r, (r.n + r.per_task - 1) // r.per_task, max_workers())


cdef void _set_targets(rows_t* r, t, const real[:, ::1] like) except *:
    """Point at the targets: class numbers, which are checked, or rows like `like`."""
    cdef const int64_t[::1] labels
    cdef const real[:, ::1] rows
    cdef Py_ssize_t i
    cdef int ndim = memoryview(t).ndim  # a TypeError for what isn't an array
    if ndim not in (1, 2) or t.shape[0] != r.n:
        raise ValueError("softmax_xent: there must be one target, or one row, for each row.")
    if r.n == 0:
        return
    if ndim == 1:
        labels = t
        for i in range(r.n):
            if not 0 <= labels[i] < r.k:
                raise ValueError(f"softmax_xent: label {labels[i]} is outside [0, {r.k}).")
        r.labels = &labels[0]
    else:
        rows = t
        if rows.shape[1] != r.k:
            raise ValueError("softmax_xent: a row of targets must be as long as one of logits.")
        r.t = &rows[0, 0]


def softmax_forward(const real[:, ::1] z not None, real[:, ::1] p not None):
    """p = softmax of each row of z."""
    cdef rows_t r = _plan(z, p, False)
    with nogil:
        _run(&r)


def softmax_backward(
    const real[:, ::1] p not None, const real[:, ::1] dp not None, real[:, ::1] dz not None
):
    """dz = p ∘ (dp - Σ_k dp_k p_k)."""
    cdef rows_t r = _plan(p, dz, True)
    if not same_shape(dp.shape, dz.shape, 2):
        raise ValueError("softmax_backward: the arrays must have one shape.")
    if r.n:
        r.t = &dp[0, 0]
        with nogil:
            _run(&r)


def softmax_xent_forward(
    const real[:, ::1] z not None, t, real[:, ::1] p not None, real[::1] loss not None
):
    """Softmax of each row and its cross-entropy with the target."""
    cdef rows_t r = _plan(z, p, False)
    _set_targets(&r, t, z)
    if loss.shape[0] != r.n:
        raise ValueError("softmax_xent_forward: there must be one loss for each row.")
    if r.n:
        r.loss = &loss[0]
        with nogil:
            _run(&r)


def softmax_xent_backward(
    const real[:, ::1] p not None, t, const real[::1] dloss not None, real[:, ::1] dz not None
):
    """dz = (p Σ_k t_k - t) dloss, row by row."""
    cdef rows_t r = _plan(p, dz, True)
    _set_targets(&r, t, p)
    if dloss.shape[0] != r.n:
        raise ValueError("softmax_xent_backward: there must be one gradient for each row.")
    if r.n:
        r.dloss = &dloss[0]
        with nogil:
            _run(&r)
