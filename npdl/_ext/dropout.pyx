"""Dropout, with its own random numbers. Contract and generator: ``dropout_np.py``."""

from cpython.number cimport PyNumber_Index
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from npdl._ext.arrays cimport OUT, REAL, UINT8, array, array_t, call_t
from npdl._ext.simd cimport real
from npdl._ext.steps cimport recorded
from npdl._ext.threads cimport max_workers, run

cdef enum:
    CHUNK = 16384  # elements per task, and per pair of keys
    BLOCK = 2048  # elements whose mask is still in the cache when it is read again


ctypedef struct drop_t:
    bint single
    bint backward
    Py_ssize_t n
    uint64_t seed
    uint32_t limit
    double scale
    const void* x
    void* y
    uint8_t* mask


cdef inline uint64_t _keys(uint64_t seed, Py_ssize_t chunk) noexcept nogil:
    cdef uint64_t z = seed + <uint64_t> (chunk + 1) * <uint64_t> 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * <uint64_t> 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t> 0x94D049BB133111EB
    return z ^ (z >> 31)


cdef inline void _draw(
    uint32_t key0, uint32_t key1, uint32_t limit, uint8_t* mask, Py_ssize_t n
) noexcept nogil:
    cdef uint32_t h
    cdef Py_ssize_t i
    for i in range(n):
        h = key0 + <uint32_t> i
        h = (h ^ (h >> 16)) * <uint32_t> 0x7FEB352D
        h = (h ^ (h >> 15) ^ key1) * <uint32_t> 0x846CA68B
        mask[i] = h >= limit


cdef inline void _scale(
    const real* x, const uint8_t* mask, real scale, real* y, Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        y[i] = x[i] * (<real> (<int> mask[i]) * scale)


cdef inline void _chunk(drop_t* j, Py_ssize_t task, const real* _) noexcept nogil:
    cdef uint64_t keys = _keys(j.seed, task)
    cdef Py_ssize_t at = task * CHUNK, end = min(j.n, at + CHUNK), k = at, n
    while k < end:
        n = min(<Py_ssize_t> BLOCK, end - k)
        if not j.backward:
            _draw(
                <uint32_t> keys + <uint32_t> (k - at), <uint32_t> (keys >> 32), j.limit,
                j.mask + k, n,
            )
        _scale(
            <const real*> j.x + k, <const uint8_t*> j.mask + k, <real> j.scale, <real*> j.y + k, n
        )
        k += BLOCK


cdef void _task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef drop_t* j = <drop_t*> context
    if j.single:
        _chunk(j, task, <const float*> NULL)
    else:
        _chunk(j, task, <const double*> NULL)


cdef void _plan(
    drop_t* j, const array_t* x, double p, const array_t* y, const array_t* mask
) except *:
    if not x.shape[0] == y.shape[0] == mask.shape[0]:
        raise ValueError("dropout: all arrays must be of one length.")
    if not 0 <= p < 1:
        raise ValueError(f"dropout: p must be in [0, 1), not {p}.")
    j.single, j.n = x.single, x.shape[0]
    j.limit, j.scale = <uint32_t> (p * 4294967296.0), 1 / (1 - p)
    j.x, j.y, j.mask = x.data, y.data, <uint8_t*> mask.data


cdef void _run(drop_t* j) noexcept nogil:
    run(_task, j, (j.n + CHUNK - 1) // CHUNK, max_workers())


cdef drop_t _plan_forward(x, seed, double p, y, mask) except *:
    cdef call_t call = call_t("dropout_forward", REAL)
    cdef array_t x_ = array(&call, x, "x", 1, REAL), y_ = array(&call, y, "y", 1, REAL | OUT)
    cdef array_t mask_ = array(&call, mask, "mask", 1, UINT8 | OUT)
    cdef drop_t j
    j.backward, j.seed = False, PyNumber_Index(seed)
    _plan(&j, &x_, p, &y_, &mask_)
    return j


def dropout_forward(x, seed, double p, y, mask):
    """y = x / (1 - p) where an element is kept, else 0 x."""
    cdef drop_t j = _plan_forward(x, seed, p, y, mask)
    with nogil:
        _run(&j)


cdef void _play_forward(const void* job, void** arrays, char* scratch) noexcept nogil:
    cdef drop_t j = (<const drop_t*> job)[0]
    j.x, j.y, j.mask = arrays[0], arrays[2], <uint8_t*> arrays[3]
    j.seed = (<uint64_t*> arrays[1])[0]
    _run(&j)


def dropout_forward_recorded(x, seed, double p, y, mask):
    """`dropout_forward` as a call of a tape, whose second array is the seed, one number."""
    cdef drop_t j = _plan_forward(x, 0, p, y, mask)
    return recorded(_play_forward, &j, sizeof(drop_t), 0)


cdef drop_t _plan_backward(dy, mask, double p, dx) except *:
    cdef call_t call = call_t("dropout_backward", REAL)
    cdef array_t dy_ = array(&call, dy, "dy", 1, REAL), dx_ = array(&call, dx, "dx", 1, REAL | OUT)
    cdef array_t mask_ = array(&call, mask, "mask", 1, UINT8)
    cdef drop_t j
    j.backward, j.seed = True, 0
    _plan(&j, &dy_, p, &dx_, &mask_)
    return j


def dropout_backward(dy, mask, double p, dx):
    """dx = dy / (1 - p) where an element was kept, else 0 dy."""
    cdef drop_t j = _plan_backward(dy, mask, p, dx)
    with nogil:
        _run(&j)


cdef void _play_backward(const void* job, void** arrays, char* scratch) noexcept nogil:
    cdef drop_t j = (<const drop_t*> job)[0]
    j.x, j.mask, j.y = arrays[0], <uint8_t*> arrays[1], arrays[2]
    _run(&j)


def dropout_backward_recorded(dy, mask, double p, dx):
    """`dropout_backward` as a call of a tape."""
    cdef drop_t j = _plan_backward(dy, mask, p, dx)
    return recorded(_play_backward, &j, sizeof(drop_t), 0)
