"""Kernel calls that are prepared once and then run many times (see steps.pyx)."""

# Runs the job: reads x, fills y. `scratch` is aligned to 64 bytes.
ctypedef void (*step_t)(const void* job, const void* x, void* y, char* scratch) noexcept nogil

ctypedef struct ready_t:
    step_t run
    const void* job
    size_t job_bytes  # copied
    size_t kept_bytes  # memory that stays with the job: packed weights
    size_t scratch

# A step that needs only its job.
cdef object simple_step(step_t run, const void* job, size_t job_bytes, object alive)

# A step that holds a reference to `alive`; sets `job` and `kept` to the addresses of its memory.
cdef object make_step(const ready_t* ready, object alive, void** job, char** kept)
