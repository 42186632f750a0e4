"""Kernel calls that are prepared once and then run many times (see steps.pyx)."""

# Does the job again. `arrays` are those of the call, in the order of its arguments, NULL for None;
# those that were prepared, such as packed weights, are ignored. `scratch` is aligned to 64 bytes.
ctypedef void (*play_t)(const void* job, void** arrays, char* scratch) noexcept nogil

ctypedef struct ready_t:
    play_t play
    const void* job
    size_t job_bytes  # copied
    size_t kept_bytes  # memory that stays with the job: packed weights
    size_t scratch

# A step that needs only its job.
cdef object recorded(play_t play, const void* job, size_t job_bytes, size_t scratch)

# A step that holds a reference to `alive`; sets `job` and `kept` to the addresses of its memory.
cdef object make_step(const ready_t* ready, object alive, void** job, char** kept)

# Whether this is a step; sets its function, its job, and the bytes of scratch that it needs.
cdef bint read_step(object step, ready_t* what)

ctypedef struct given_t:  # an array that is passed to a chain or a tape
    void* data
    size_t bytes
    Py_ssize_t itemsize
    char code

# Describes an array; returns False unless it is C-ordered and in native byte order.
cdef bint read_given(object x, given_t* a)
