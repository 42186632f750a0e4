"""The thread pool and the scratch memory, for every kernel (see threads.h)."""

ctypedef void (*task_t)(void* context, Py_ssize_t task, int worker) noexcept nogil

ctypedef struct scratch_t:
    char* data  # aligned to 64 bytes
    void* start
    size_t size

# Calls fn(context, i, worker) for i in range(n) on up to `workers` threads; returns when all are
# done.
cdef void run(task_t fn, void* context, Py_ssize_t n, int workers) noexcept nogil

# The value to pass as `workers`. It may change from one call to the next.
cdef int max_workers() noexcept nogil

cdef inline size_t aligned(size_t bytes) noexcept nogil:
    """Bytes, rounded up to whole cache lines."""
    return (bytes + 63) // 64 * 64

# Memory in huge pages, if it is large and the system has them; released with libc's free.
cdef void* allocate(size_t bytes) noexcept nogil

# A block of at least `size` bytes, not cleared. Return it with `give`.
cdef scratch_t take(size_t size) except *
cdef void give(scratch_t block) noexcept nogil
