"""Attention: the job, and the memory of a task."""

from libc.stdint cimport uint8_t
from npdl._ext.threads cimport aligned

cdef enum:
    FEW = 96  # at most this many queries have all their scores in memory
    DEPTH = 512  # the largest depth of a block of `product`
    BESIDE = 256  # rows and columns that packing may add to a matrix

ctypedef struct heads_t:
    bint single, causal, backward
    double scale
    Py_ssize_t n, h, d, e, tq, tk
    Py_ssize_t parts, part_rows  # tasks per head, queries per task
    const void* q
    const void* k
    const void* v
    const void* w  # or NULL
    const uint8_t* q_mask  # or NULL
    const uint8_t* k_mask
    void* y
    const void* dy
    void* dq  # or NULL, as are the next ones
    void* dk
    void* dv
    void* dws  # the gradient of w for each sample, N x H x D
    char* scratch
    size_t per_worker
    int workers


ctypedef struct head_t:  # the data of a task
    Py_ssize_t rows, keys  # number of real queries and keys
    Py_ssize_t* row_at  # their positions among all steps
    Py_ssize_t* key_at
    void* q
    void* k
    void* v
    void* p
    void* y  # or dy
    void* ds
    void* dq
    void* dk
    void* dv
    void* t
    char* packed
    # elements from one step to the next in these arrays
    Py_ssize_t q_row, k_row, v_row, y_row, dq_row, dk_row, dv_row


cdef inline size_t _space(size_t* used, size_t numbers, size_t size) noexcept nogil:
    """Reserve `numbers` elements of a worker's scratch memory; return their position."""
    cdef size_t at = used[0]
    used[0] += aligned(numbers * size)
    return at


cdef inline size_t lay_out(heads_t* r, head_t* a, char* start) noexcept nogil:
    """Set the pointers into a worker's scratch memory from `start` on; return its size."""
    cdef size_t size = sizeof(float) if r.single else sizeof(double), used = 0
    cdef size_t sides = FEW + r.tk + r.d + r.e + BESIDE
    a.row_at = <Py_ssize_t*> (start + _space(&used, r.tq, sizeof(Py_ssize_t)))
    a.key_at = <Py_ssize_t*> (start + _space(&used, r.tk, sizeof(Py_ssize_t)))
    a.q = start + _space(&used, FEW * r.d, size)
    a.k = start + _space(&used, r.tk * r.d, size)
    a.v = start + _space(&used, r.tk * r.e, size)
    a.p = start + _space(&used, FEW * r.tk, size)
    a.y = start + _space(&used, FEW * r.e, size)
    a.t = start + _space(&used, r.d, size)
    if r.backward:
        a.ds = start + _space(&used, FEW * r.tk, size)
        a.dq = start + _space(&used, FEW * r.d, size)
        a.dk = start + _space(&used, r.tk * r.d, size)
        a.dv = start + _space(&used, r.tk * r.e, size)
    a.packed = start + _space(
        &used, sides * min(max(max(r.d, r.e), max(r.tk, <Py_ssize_t> FEW)), <Py_ssize_t> DEPTH),
        size,
    )
    a.q_row = a.k_row = a.dq_row = a.dk_row = r.d
    a.v_row = a.y_row = a.dv_row = r.e
    return used
