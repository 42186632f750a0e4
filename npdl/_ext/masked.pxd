"""The steps of a sequence that a mask keeps, and their rows in a matrix."""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset
from npdl._ext.simd cimport real


cdef inline Py_ssize_t real_steps(
    const uint8_t* mask, Py_ssize_t steps, Py_ssize_t* at
) noexcept nogil:
    """Fill `at` with the positions of the steps that are not masked; return their number."""
    cdef Py_ssize_t i, n = 0
    for i in range(steps):
        if mask == NULL or mask[i]:
            at[n] = i
            n += 1
    return n


cdef inline void gather(
    const real* x, Py_ssize_t step, const Py_ssize_t* at, Py_ssize_t n, Py_ssize_t w, real* out
) noexcept nogil:
    """out[i] = x[at[i]], rows of w elements that are `step` apart in x."""
    cdef Py_ssize_t i
    for i in range(n):
        memcpy(out + i * w, x + at[i] * step, w * sizeof(real))


cdef inline void scatter(
    const real* x, const Py_ssize_t* at, Py_ssize_t n, Py_ssize_t w, real* out, Py_ssize_t step
) noexcept nogil:
    """out[at[i]] = x[i]."""
    cdef Py_ssize_t i
    for i in range(n):
        memcpy(out + at[i] * step, x + i * w, w * sizeof(real))


cdef inline void clear_rows(real* x, Py_ssize_t n, Py_ssize_t step, Py_ssize_t w) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        memset(x + i * step, 0, w * sizeof(real))
