"""The arrays that a kernel is called with (see arrays.pyx)."""

from libc.string cimport memset

cdef enum:  # what is said of an array: what it may hold, and more
    FLOAT32 = 1
    FLOAT64 = 2
    REAL = 3  # one of these, the same in all arrays of a call
    UINT8 = 4
    INT32 = 8
    INT64 = 16
    OUT = 32  # it is written
    OR_NONE = 64

cdef enum:
    AXES = 4  # at most
    ANY = -1  # number of them

ctypedef struct call_t:
    const char* kernel
    int real  # REAL, then what the first such array held

ctypedef struct array_t:
    bint given  # else it was None, and all below is 0
    bint single  # float32
    int holds
    int ndim
    void* data
    size_t bytes
    Py_ssize_t shape[AXES]

# What there is to know of x, an array of `ndim` axes and of the given kind. For all else a
# TypeError or ValueError, which calls it `name`.
cdef array_t array(call_t* call, x, const char* name, int ndim, int kind) except *


cdef inline bint same_shape(const array_t* a, const array_t* b) noexcept nogil:
    cdef int i
    for i in range(AXES):
        if a.shape[i] != b.shape[i]:
            return False
    return a.ndim == b.ndim


cdef inline void clear(const array_t* a) noexcept nogil:
    """a[...] = 0, where there is such an array."""
    if a.bytes:
        memset(a.data, 0, a.bytes)
