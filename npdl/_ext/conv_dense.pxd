"""Convolution with one window, which is the whole image: a product of matrices.

    forward   y = f(b + x wᵀ)        weights   dw = dzᵀ x        input   dx = dz w
"""

from npdl._ext.activation cimport LINEAR, act_span, act_t, pull_back_span
from npdl._ext.conv cimport conv_t
from npdl._ext.gemm cimport product, product_of, product_scratch, product_t
from npdl._ext.simd cimport real
from npdl._ext.sums cimport sum_many_rows
from npdl._ext.threads cimport aligned, give, max_workers, scratch_t, take

ctypedef struct dense_t:
    conv_t* j
    act_t act
    const void* bias  # for each pixel; or NULL
    void* y
    Py_ssize_t ldc


cdef inline bint is_dense(const conv_t* j) noexcept nogil:
    """Whether there is one window, with the memory layout of a filter."""
    return (
        j.oh == 1 and j.ow == 1 and j.kh == j.h and j.kw == j.w and j.ph == 0 and j.pw == 0
        and j.dil_h == 1 and j.dil_w == 1 and j.groups == 1
        and (not j.last or j.h * j.w == 1 or j.c == 1)
    )


cdef inline void _activate_part(
    dense_t* r, Py_ssize_t i0, Py_ssize_t i1, Py_ssize_t j0, Py_ssize_t j1, real* _
) noexcept nogil:
    cdef Py_ssize_t i, k, plane = r.j.h * r.j.w, channels = r.j.c if r.j.last else 1
    cdef const real* bias = <const real*> r.bias
    cdef real* y
    for i in range(i0, i1):
        y = <real*> r.y + i * r.ldc
        if bias != NULL:  # for the channels of x
            for k in range(j0, j1):
                y[k] += bias[k % channels if r.j.last else k // plane]
        act_span(r.act, y + j0, y + j0, j1 - j0)


cdef inline void _activate(
    void* context, Py_ssize_t i0, Py_ssize_t i1, Py_ssize_t j0, Py_ssize_t j1
) noexcept nogil:
    """y = f(y), for a part of y that was just summed."""
    cdef dense_t* r = <dense_t*> context
    if r.j.single:
        _activate_part(r, i0, i1, j0, j1, <float*> NULL)
    else:
        _activate_part(r, i0, i1, j0, j1, <double*> NULL)


cdef inline void _compute(product_t* p) except *:
    cdef int workers = max_workers()
    cdef scratch_t s = take(product_scratch(p, workers))
    with nogil:
        product(p, s.data, workers)
    give(s)


cdef inline product_t _forward_product(conv_t* j, dense_t* r, const real* _) noexcept nogil:
    cdef product_t p = product_of(
        j.n, j.f, j.depth, <const real*> j.x, j.depth, 1, <const real*> j.filters, 1, j.depth,
        <real*> j.y, j.f, False,
    )
    r.j, r.act, r.bias, r.y, r.ldc = j, j.act, NULL, j.y, j.f
    p.bias = j.bias
    if j.act.code != LINEAR:
        p.finish, p.context = _activate, r
    return p


cdef inline size_t dense_scratch(conv_t* j, int workers, const real* _) noexcept nogil:
    cdef dense_t r
    cdef product_t p = _forward_product(j, &r, _)
    return product_scratch(&p, workers)


cdef inline void dense_multiply(
    conv_t* j, char* scratch, int workers, const real* _
) noexcept nogil:
    cdef dense_t r
    cdef product_t p = _forward_product(j, &r, _)
    product(&p, scratch, workers)


cdef inline void dense_input(
    conv_t* j, const void* dz, const void* bias, act_t act, const real* _
) except *:
    cdef dense_t r
    cdef product_t p = product_of(
        j.n, j.depth, j.f, <const real*> dz, j.f, 1, <const real*> j.filters, j.depth, 1,
        <real*> j.dx, j.depth, False,
    )
    r.j, r.act, r.bias, r.y, r.ldc = j, act, bias, j.dx, j.depth
    if act.code != LINEAR or bias != NULL:
        p.finish, p.context = _activate, &r
    _compute(&p)


cdef inline void bias_gradient(
    const real* dz, Py_ssize_t n, Py_ssize_t w, real* db
) except *:
    """db = Σ of n rows of w elements, accurate for large n."""
    cdef scratch_t s = take(aligned(w * sizeof(double)))
    sum_many_rows(dz, n, w, <double*> s.data, db)
    give(s)


cdef inline void dense_weights(conv_t* j, const void* dz, const real* _) except *:
    cdef product_t p = product_of(
        j.f, j.depth, j.n, <const real*> dz, 1, j.f, <const real*> j.x, j.depth, 1,
        <real*> j.dw, j.depth, False,
    )
    if j.db != NULL:
        bias_gradient(<const real*> dz, j.n, j.f, <real*> j.db)
    if j.dw != NULL:
        _compute(&p)


cdef inline void dense_backward(conv_t* j, const void* bias, act_t act, const real* _) except *:
    """All gradients that are needed; or dx as the output f(b + dx) of the transposed one."""
    cdef const void* dz = j.dy
    cdef scratch_t s
    cdef bint own = j.act.code != LINEAR
    if own:
        s = take(aligned(j.n * j.f * sizeof(real)))
        pull_back_span(
            j.act, <const real*> j.y, <const real*> j.dy, <real*> s.data, j.n * j.f
        )
        dz = s.data
    if j.dw != NULL or j.db != NULL:
        dense_weights(j, dz, _)
    if j.dx != NULL:
        dense_input(j, dz, bias, act, _)
    if own:
        give(s)
