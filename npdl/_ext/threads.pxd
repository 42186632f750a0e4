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

cdef enum:
    APART = 1 << 20

cdef inline size_t of_worker(size_t bytes, int workers) noexcept nogil:
    """The distance between the scratch memories of two workers.

    It is the same for the forward passes of most convolutions, so that a worker's memory stays in
    the cache of its core.
    """
    return aligned(bytes) if workers == 1 else (bytes + APART - 1) // APART * APART

# Memory in huge pages, if it is large and the system has them; released with libc's free.
cdef void* allocate(size_t bytes) noexcept nogil

# A block of at least `size` bytes, not cleared. Return it with `give`.
cdef scratch_t take(size_t size) except *
cdef void give(scratch_t block) noexcept nogil
