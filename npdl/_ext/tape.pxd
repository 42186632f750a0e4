"""Calls of kernels that are recorded once and then played again and again (see tape.pyx)."""

# Does the job again. `arrays` are those of the call, in the order of its arguments, NULL for None;
# `scratch` is aligned to 64 bytes.
ctypedef void (*play_t)(const void* job, void** arrays, char* scratch) noexcept nogil

# A call: what it does, a copy of its job, and the bytes of scratch that it needs.
cdef object recorded(play_t play, const void* job, size_t job_bytes, size_t scratch)
