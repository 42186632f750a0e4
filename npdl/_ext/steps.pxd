"""Calls of kernels that are made ready once and then done many times (see steps.pyx)."""

# Does the job for these arrays: x is read, y filled. `scratch` is aligned to 64 bytes.
ctypedef void (*step_t)(const void* job, const void* x, void* y, char* scratch) noexcept nogil

ctypedef struct ready_t:
    step_t run
    const void* job
    size_t job_bytes  # copied
    size_t kept_bytes  # that stay with the job: packed weights
    size_t scratch

# A step that needs nothing but its job.
cdef object simple_step(step_t run, const void* job, size_t job_bytes, object alive)

# A step that keeps the object `alive`; `job` and `kept` become the addresses of what it holds.
cdef object make_step(const ready_t* ready, object alive, void** job, char** kept)
