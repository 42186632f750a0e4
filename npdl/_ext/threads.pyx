"""One pool of threads, and scratch memory, for every kernel (see threads.h)."""

cdef extern from "threads.h":
    void npdl_run(task_t fn, void* context, Py_ssize_t n, int workers) nogil
    void npdl_set_threads(int n) nogil
    int npdl_get_threads() nogil
    void npdl_plan_alone(int on) nogil
    int npdl_threads_init() nogil
    char* npdl_take(size_t size, void** start, size_t* got) nogil
    void npdl_give(void* start, size_t size) nogil
    size_t npdl_release() nogil
    void* npdl_malloc(size_t size) nogil
    void npdl_keep_at_most(size_t bytes) nogil

if npdl_threads_init():
    raise ImportError("npdl's thread pool could not be prepared for fork().")


cdef void run(task_t fn, void* context, Py_ssize_t n, int workers) noexcept nogil:
    npdl_run(fn, context, n, workers)


cdef int max_workers() noexcept nogil:
    return npdl_get_threads()


cdef void* allocate(size_t bytes) noexcept nogil:
    return npdl_malloc(bytes)


cdef scratch_t take(size_t size) except *:
    cdef scratch_t block
    block.data = npdl_take(size, &block.start, &block.size)
    if block.data == NULL:
        raise MemoryError(f"A kernel needs {size} bytes of scratch memory.")
    return block


cdef void give(scratch_t block) noexcept nogil:
    npdl_give(block.start, block.size)


def set_num_threads(int n):
    """Let each kernel use up to `n` threads, including the calling one."""
    npdl_set_threads(n)


def get_num_threads():
    """Threads that a kernel may use."""
    return npdl_get_threads()


def plan_alone(bint on):
    """Let the calling thread prepare kernels for one thread, or no longer."""
    npdl_plan_alone(on)


def release_memory():
    """Free the scratch memory that no kernel is using, and return its number of bytes."""
    return npdl_release()


def keep_at_most(size_t n_bytes):
    """Keep up to this many bytes of scratch memory between calls."""
    npdl_keep_at_most(n_bytes)
