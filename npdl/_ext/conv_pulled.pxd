"""dz = f'(z) dy for a whole output, and the sums of its channels, if several passes read dz."""

from npdl._ext.activation cimport LINEAR, act_t, pull_back_span
from npdl._ext.conv cimport conv_t
from npdl._ext.simd cimport real
from npdl._ext.sums cimport sum_of
from npdl._ext.threads cimport aligned, max_workers, run, scratch_t, take

cdef enum:
    SPAN = 2048  # elements per elementwise task

# The activation through which the gradient passes, and the sums of its channels.
ctypedef struct pulled_t:
    conv_t* j
    act_t act
    Py_ssize_t size, channels, plane
    const void* y
    const void* dy
    void* dz
    void* db


cdef inline void _pull_back(pulled_t* r, Py_ssize_t task, const real* _) noexcept nogil:
    cdef Py_ssize_t at = task * SPAN
    pull_back_span(
        r.act, <const real*> r.y + at, <const real*> r.dy + at, <real*> r.dz + at,
        min(<Py_ssize_t> SPAN, r.size - at),
    )


cdef inline void _pull_back_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef pulled_t* r = <pulled_t*> context
    if r.j.single:
        _pull_back(r, task, <float*> NULL)
    else:
        _pull_back(r, task, <double*> NULL)


cdef inline void pull_back_all(pulled_t* r, int workers) noexcept nogil:
    run(_pull_back_task, r, (r.size + SPAN - 1) // SPAN, workers)


cdef inline bint take_dz(conv_t* j, scratch_t* s, const real* _) except? -1:
    """Put dz in the place of dy. Returns whether it stands in scratch memory, to be given back."""
    cdef pulled_t r
    if j.act.code == LINEAR:
        return False
    r.j, r.act, r.y, r.dy, r.size = j, j.act, j.y, j.dy, j.n * j.groups * j.f * j.oh * j.ow
    s[0] = take(aligned(r.size * sizeof(real)))
    r.dz = s.data
    with nogil:
        pull_back_all(&r, max_workers())
    j.dy, j.act.code, j.act.steepness = r.dz, LINEAR, 1
    return True


cdef inline void _add_up(pulled_t* r, Py_ssize_t channel, const real* _) noexcept nogil:
    """db of one channel."""
    cdef const real* dz = <const real*> r.j.x + channel * r.plane
    cdef double total = 0
    cdef Py_ssize_t n
    for n in range(r.j.n):
        total += sum_of(dz + n * r.channels * r.plane, r.plane)
    (<real*> r.db)[channel] = <real> total


cdef inline void add_up_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef pulled_t* r = <pulled_t*> context
    if r.j.single:
        _add_up(r, task, <float*> NULL)
    else:
        _add_up(r, task, <double*> NULL)
