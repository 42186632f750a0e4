"""The array arguments of a kernel (see arrays.pyx)."""

from libc.string cimport memset

cdef enum:  # flags of an array: the dtypes it may have, and more
    FLOAT32 = 1
    FLOAT64 = 2
    REAL = 3  # float32 or float64, the same for all arrays of a call
    UINT8 = 4
    INT32 = 8
    INT64 = 16
    OUT = 32  # the kernel writes it
    OR_NONE = 64

cdef enum:
    AXES = 4  # the most axes
    ANY = -1  # any number of axes

ctypedef struct call_t:
    const char* kernel
    int real  # REAL, then the dtype of the first such array

ctypedef struct array_t:
    bint given  # False for None; all fields below are then 0
    bint single  # float32
    int holds
    int ndim
    void* data
    size_t bytes
    Py_ssize_t shape[AXES]

# Describe x, an array of `ndim` axes and of the given kind. Anything else is a TypeError or
# ValueError, which calls it `name`.
cdef array_t array(call_t* call, x, const char* name, int ndim, int kind) except *


cdef inline bint same_shape(const array_t* a, const array_t* b) noexcept nogil:
    cdef int i
    for i in range(AXES):
        if a.shape[i] != b.shape[i]:
            return False
    return a.ndim == b.ndim


cdef inline void clear(const array_t* a) noexcept nogil:
    """a[...] = 0; nothing if the array is None."""
    if a.bytes:
        memset(a.data, 0, a.bytes)
