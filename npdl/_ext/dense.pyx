"""Fully connected product with its bias and activation. Contract: ``dense_np.py``."""

from libc.string cimport memset
from npdl._ext.activation cimport LINEAR, act_span, act_t, parse_act, pull_back_span
from npdl._ext.gemm cimport product, product_of, product_scratch, product_t
from npdl._ext.simd cimport real
from npdl._ext.threads cimport aligned, give, max_workers, run, scratch_t, take

cdef enum:
    ROWS = 16  # of an elementwise task


ctypedef struct rows_t:
    bint single
    act_t act
    Py_ssize_t n, units
    const void* dy
    void* y
    void* dz


cdef inline void _activate_part(
    rows_t* r, Py_ssize_t i0, Py_ssize_t i1, Py_ssize_t j0, Py_ssize_t j1, real* _
) noexcept nogil:
    cdef Py_ssize_t i
    cdef real* y
    for i in range(i0, i1):
        y = <real*> r.y + i * r.units + j0
        act_span(r.act, y, y, j1 - j0)


cdef void _activate(
    void* context, Py_ssize_t i0, Py_ssize_t i1, Py_ssize_t j0, Py_ssize_t j1
) noexcept nogil:
    """y = f(y), in a part of y that was just summed."""
    cdef rows_t* r = <rows_t*> context
    if r.single:
        _activate_part(r, i0, i1, j0, j1, <float*> NULL)
    else:
        _activate_part(r, i0, i1, j0, j1, <double*> NULL)


cdef inline void _pull_back_rows(rows_t* r, Py_ssize_t n0, Py_ssize_t n1, real* _) noexcept nogil:
    # dz = f'(z) dy
    cdef Py_ssize_t at = n0 * r.units
    pull_back_span(
        r.act, <const real*> r.y + at, <const real*> r.dy + at, <real*> r.dz + at,
        (n1 - n0) * r.units,
    )


cdef void _pull_back_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef rows_t* r = <rows_t*> context
    cdef Py_ssize_t n0 = task * ROWS, n1 = min(r.n, n0 + ROWS)
    if r.single:
        _pull_back_rows(r, n0, n1, <float*> NULL)
    else:
        _pull_back_rows(r, n0, n1, <double*> NULL)


def dense_forward(
    const real[:, ::1] x not None,
    const real[:, ::1] w not None,
    const real[::1] b not None,
    real[:, ::1] y not None,
    act,
):
    """y = f(x w + b)."""
    cdef Py_ssize_t n = x.shape[0], d = x.shape[1], u = w.shape[1]
    cdef int workers = max_workers()
    cdef rows_t r
    cdef product_t p
    cdef scratch_t s
    if not (w.shape[0] == d and b.shape[0] == u and y.shape[0] == n and y.shape[1] == u):
        raise ValueError("dense_forward: the shapes of x, w, b and y do not fit.")
    if d == 0 or u == 0:
        raise ValueError("dense_forward: only the batch may be empty.")
    if n == 0:
        return
    r.single, r.act, r.units, r.y = real is float, parse_act(act), u, &y[0, 0]
    p = product_of(n, u, d, &x[0, 0], d, 1, &w[0, 0], u, 1, &y[0, 0], u, False)
    p.bias = &b[0]
    if r.act.code != LINEAR:
        p.finish, p.context = _activate, &r
    s = take(product_scratch(&p, workers))
    with nogil:
        product(&p, s.data, workers)
    give(s)


def dense_backward(
    const real[:, ::1] x not None,
    const real[:, ::1] w not None,
    const real[:, ::1] y not None,
    const real[:, ::1] dy not None,
    real[:, ::1] dx,
    real[:, ::1] dw not None,
    real[::1] db not None,
    act,
):
    """Gradients of `dense_forward`."""
    cdef Py_ssize_t n = x.shape[0], d = x.shape[1], u = w.shape[1], i, j
    cdef int workers = max_workers()
    cdef size_t own = 0
    cdef rows_t r
    cdef product_t weights, inputs
    cdef scratch_t s
    cdef const real* dz
    if not (
        w.shape[0] == d == dw.shape[0]
        and dw.shape[1] == u == db.shape[0]
        and y.shape[0] == n == dy.shape[0]
        and y.shape[1] == u == dy.shape[1]
        and (dx is None or (dx.shape[0] == n and dx.shape[1] == d))
    ):
        raise ValueError("dense_backward: the shapes of x, w, y and the gradients do not fit.")
    if d == 0 or u == 0:
        raise ValueError("dense_backward: only the batch may be empty.")
    if n == 0:
        dw[...] = 0
        db[...] = 0
        return
    r.single, r.act, r.n, r.units = real is float, parse_act(act), n, u
    r.y, r.dy = <void*> &y[0, 0], &dy[0, 0]
    # dw = xᵀ dz, dx = dz wᵀ
    dz = &dy[0, 0]  # with a linear activation
    weights = product_of(d, u, n, &x[0, 0], 1, d, dz, u, 1, &dw[0, 0], u, False)
    inputs = product_of(n, d, u, dz, u, 1, &w[0, 0], 1, u, &dw[0, 0], d, False)
    if r.act.code != LINEAR:
        own = aligned(n * u * sizeof(real))
    s = take(own + max(product_scratch(&weights, workers), product_scratch(&inputs, workers)))
    if r.act.code != LINEAR:
        r.dz = s.data
        dz = <real*> r.dz
        weights.b = inputs.a = dz
    with nogil:
        if r.act.code != LINEAR:
            run(_pull_back_task, &r, (n + ROWS - 1) // ROWS, workers)
        memset(&db[0], 0, u * sizeof(real))
        for i in range(n):
            for j in range(u):
                db[j] += dz[i * u + j]
        product(&weights, s.data + own, workers)
        if dx is not None:
            inputs.c = &dx[0, 0]
            product(&inputs, s.data + own, workers)
    give(s)
