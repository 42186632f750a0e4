"""Kernel calls that are prepared once, and chains of them that run as one call.

Everything that depends only on shapes and weights (sizes, tables, packed weights) is computed once,
by the ``*_ready`` functions of a kernel's module. A chain of such steps then runs without Python:
each step reads the output of the previous one, in a block of scratch memory of the call. Running a
step does not change it, so any number of threads may run one chain at once.
"""

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_WRITABLE, PyBuffer_Release
from cpython.exc cimport PyErr_Clear
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from npdl._ext.threads cimport aligned, give, scratch_t, take

cdef extern from "Python.h":
    int PyObject_GetBuffer(object x, Py_buffer* view, int flags)

cdef class Step:
    """One prepared kernel call."""

    cdef step_t run
    cdef void* start
    cdef void* job
    cdef size_t scratch
    cdef object alive

    def __dealloc__(self):
        free(self.start)


cdef object make_step(const ready_t* ready, object alive, void** job, char** kept):
    cdef Step step = Step()
    cdef size_t own = aligned(ready.job_bytes)
    cdef uintptr_t at
    step.start = malloc(own + ready.kept_bytes + 64)
    if step.start == NULL:
        raise MemoryError(f"A step needs {own + ready.kept_bytes} bytes.")
    at = (<uintptr_t> step.start + 63) // 64 * 64
    step.job = <void*> at
    memcpy(step.job, ready.job, ready.job_bytes)
    step.run, step.scratch, step.alive = ready.run, ready.scratch, alive
    job[0], kept[0] = step.job, <char*> at + own
    return step


cdef object simple_step(step_t run, const void* job, size_t job_bytes, object alive):
    cdef ready_t ready = ready_t(run, job, job_bytes, 0, 0)
    cdef void* own
    cdef char* kept
    return make_step(&ready, alive, &own, &kept)


ctypedef struct rows_t:
    Py_ssize_t rows, bytes, first, step


cdef void _take_rows(const void* job, const void* x, void* y, char* scratch) noexcept nogil:
    cdef const rows_t* r = <const rows_t*> job
    cdef Py_ssize_t i
    for i in range(r.rows):
        memcpy(<char*> y + i * r.bytes, <const char*> x + r.first + i * r.step, r.bytes)


def rows_ready(Py_ssize_t rows, Py_ssize_t n_bytes, Py_ssize_t first, Py_ssize_t step):
    """A step that copies rows, `step` bytes apart in x; the first one begins at byte `first`."""
    cdef rows_t r
    r.rows, r.bytes, r.first, r.step = rows, n_bytes, first, step
    return simple_step(_take_rows, &r, sizeof(rows_t), None)


cdef enum:
    X = -1
    Y = -2


ctypedef struct place_t:
    step_t run
    const void* job
    Py_ssize_t source, target  # in the block, or X, Y


cdef class Chain:
    """A sequence of steps.

    Parameters
    ----------
    steps : list of (Step, int, int)
        Each with the positions, in a block of memory, that it reads and fills; -1 is x, -2 is y.
    block : int
        Size of the block in bytes.
    x, y : array
        Examples of the arrays that the chain will be called with.
    """

    cdef place_t* places
    cdef Py_ssize_t n, x_bytes, y_bytes, itemsize
    cdef size_t block, scratch
    cdef list alive

    def __cinit__(self, list steps, size_t block, x, y):
        cdef Step step
        cdef Py_ssize_t i
        self.alive, self.n = steps, len(steps)
        self.block = aligned(block)
        self.places = <place_t*> malloc((self.n + 1) * sizeof(place_t))
        if self.places == NULL:
            raise MemoryError()
        for i, (step, source, target) in enumerate(steps):
            self.places[i] = place_t(step.run, step.job, source, target)
            self.scratch = max(self.scratch, step.scratch)
        self.itemsize, self.x_bytes, self.y_bytes = x.itemsize, x.nbytes, y.nbytes

    def __dealloc__(self):
        free(self.places)

    def fill(self, x, y):
        """Fill y and return True, or return False for an x of another kind."""
        cdef Py_buffer view
        cdef const char* source
        cdef char* target
        cdef scratch_t s
        if PyObject_GetBuffer(x, &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0:
            PyErr_Clear()
            return False
        source = <const char*> view.buf
        fits = view.len == self.x_bytes and self._holds(&view) and view.obj is x
        PyBuffer_Release(&view)
        if not fits:
            return False
        if PyObject_GetBuffer(y, &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE) < 0:
            PyErr_Clear()
            return False
        target = <char*> view.buf
        fits = view.len == self.y_bytes and self._holds(&view) and view.obj is y
        PyBuffer_Release(&view)
        if not fits:
            return False
        s = take(self.block + self.scratch)
        with nogil:
            self._walk(source, target, s.data)
        give(s)
        return True

    cdef bint _holds(self, const Py_buffer* view) noexcept:
        """Whether a buffer holds floats of the chain's size, in native byte order."""
        return (
            view.itemsize == self.itemsize and view.format != NULL
            and view.format[0] == (c"f" if self.itemsize == 4 else c"d") and view.format[1] == 0
        )

    cdef void _walk(self, const char* x, char* y, char* block) noexcept nogil:
        cdef Py_ssize_t i
        cdef place_t* p
        cdef const char* source
        for i in range(self.n):
            p = &self.places[i]
            source = x if p.source == X else y if p.source == Y else block + p.source
            p.run(
                p.job, source, y if p.target == Y else block + p.target, block + self.block
            )
