"""Kernel calls that are prepared once, and chains of them that run as one call.

Everything that depends only on shapes and weights (sizes, tables, packed weights) is computed once,
by the functions ``<kernel>_ready`` or ``<kernel>_recorded`` of a kernel's module. A chain of such
steps then runs without Python: each step has its arrays in the inputs and outputs of the call, in
weights, or in a block of scratch memory of the call. Running a step changes nothing that its
results depend on, so any number of threads may run one chain at once.
"""

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBuffer_Release
from cpython.exc cimport PyErr_Clear
from libc.stdint cimport int64_t, uint8_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from npdl._ext.threads cimport aligned, allocate, give, max_workers, run, scratch_t, take

cdef extern from "Python.h":
    int PyObject_GetBuffer(object x, Py_buffer* view, int flags)

cdef class Step:
    """One prepared kernel call."""

    cdef play_t play
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
    step.start = allocate(own + ready.kept_bytes + 64)
    if step.start == NULL:
        raise MemoryError(f"A step needs {own + ready.kept_bytes} bytes.")
    at = (<uintptr_t> step.start + 63) // 64 * 64
    step.job = <void*> at
    memcpy(step.job, ready.job, ready.job_bytes)
    step.play, step.scratch, step.alive = ready.play, ready.scratch, alive
    job[0], kept[0] = step.job, <char*> at + own
    return step


cdef object recorded(play_t play, const void* job, size_t job_bytes, size_t scratch):
    cdef ready_t ready = ready_t(play, job, job_bytes, 0, scratch)
    cdef void* own
    cdef char* kept
    return make_step(&ready, None, &own, &kept)


cdef bint read_step(object step, ready_t* what):
    cdef Step one
    if not isinstance(step, Step):
        return False
    one = step
    what.play, what.job, what.scratch = one.play, one.job, one.scratch
    return True


cdef bint read_given(object x, given_t* a):
    return _read_shaped(x, a, -1, NULL)


cdef bint _read_shaped(object x, given_t* a, int ndim, const Py_ssize_t* shape):
    """As `read_given`; False for another shape than this one, unless `ndim` is -1."""
    cdef Py_buffer view
    cdef const char* code
    if PyObject_GetBuffer(x, &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0:
        PyErr_Clear()
        return False
    code = view.format
    if code != NULL and code[0] == c"=":  # native, but not aligned
        code += 1
    a.data, a.bytes, a.itemsize, a.code = view.buf, view.len, view.itemsize, 0
    if code != NULL and code[0] != 0 and code[1] == 0 and view.obj is x:
        if ndim < 0 or (
            view.ndim == ndim and not memcmp(view.shape, shape, ndim * sizeof(Py_ssize_t))
        ):
            a.code = c"l" if code[0] == c"q" else code[0]
    PyBuffer_Release(&view)
    return a.code != 0


# ------------------------------------------------------------------------ steps that move numbers

cdef enum:
    AXES = 8
    SHARE = 32768  # bytes that a thread takes at a time

ctypedef struct copy_t:
    int axes
    size_t run  # bytes copied at once
    Py_ssize_t count[AXES]
    Py_ssize_t x[AXES]  # bytes from one entry to the next
    Py_ssize_t y[AXES]


cdef void _copy_axis(const copy_t* c, int axis, const char* x, char* y) noexcept nogil:
    cdef Py_ssize_t i
    if axis == c.axes:
        memcpy(y, x, c.run)
        return
    for i in range(c.count[axis]):
        _copy_axis(c, axis + 1, x + i * c.x[axis], y + i * c.y[axis])


cdef void _play_copy(const void* job, void** arrays, char* scratch) noexcept nogil:
    _copy_axis(<const copy_t*> job, 0, <const char*> arrays[0], <char*> arrays[1])


def copy_step(size_t length, list axes):
    """Copy `length` bytes at a time; (count, bytes of x, bytes of y) of the axes, at most 8."""
    cdef copy_t c
    cdef int i
    c.axes, c.run = len(axes), length
    for i in range(min(c.axes, <int> AXES)):
        c.count[i], c.x[i], c.y[i] = axes[i]
    return recorded(_play_copy, &c, sizeof(copy_t), 0)


ctypedef struct take_t:
    Py_ssize_t n, each  # rows, and rows per task
    size_t row  # bytes
    void** arrays


cdef void _take_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef const take_t* t = <const take_t*> context
    cdef const int64_t* rows = <const int64_t*> t.arrays[1]
    cdef Py_ssize_t i
    for i in range(task * t.each, min(t.n, (task + 1) * t.each)):
        memcpy(
            <char*> t.arrays[2] + i * t.row, <const char*> t.arrays[0] + rows[i] * t.row, t.row
        )


cdef void _play_take(const void* job, void** arrays, char* scratch) noexcept nogil:
    cdef take_t t = (<const take_t*> job)[0]
    t.arrays = arrays
    run(_take_task, &t, (t.n + t.each - 1) // t.each, max_workers())


def take_step(Py_ssize_t n, size_t row):
    """n rows of so many bytes, of a table. Their numbers are not checked."""
    cdef take_t t
    t.n, t.row, t.each = n, row, max(1, <Py_ssize_t> (SHARE // max(row, 1)))
    return recorded(_play_take, &t, sizeof(take_t), 0)


cdef void _play_mark(const void* job, void** arrays, char* scratch) noexcept nogil:
    cdef const int64_t* x = <const int64_t*> arrays[0]
    cdef uint8_t* mask = <uint8_t*> arrays[1]
    cdef Py_ssize_t i
    for i in range((<const take_t*> job).n):
        mask[i] = x[i] != 0


def mark_step(Py_ssize_t n):
    """1 where one of n integers is not 0."""
    cdef take_t t
    t.n, t.row = n, 1
    return recorded(_play_mark, &t, sizeof(take_t), 0)


# -------------------------------------------------------------------------------------- chains

cdef enum:
    MEMORIES = 34  # addresses, the block, inputs and outputs
    ARRAYS = 24  # of a step


ctypedef struct place_t:
    int memory
    Py_ssize_t at

ctypedef struct entry_t:
    play_t play
    const void* job
    const place_t* places
    Py_ssize_t n

ctypedef struct walk_t:
    const entry_t* entries
    Py_ssize_t n, n_ends
    char* memories[MEMORIES]  # inputs and outputs of the first part
    size_t ends[MEMORIES]  # bytes of an input or output of one part
    char* start
    size_t block, own  # bytes of the block; with the scratch memory of a worker


cdef void _walk(void* context, Py_ssize_t part, int worker) noexcept nogil:
    cdef const walk_t* w = <const walk_t*> context
    cdef char* memories[MEMORIES]
    cdef char* scratch
    cdef void* arrays[ARRAYS]
    cdef const entry_t* e
    cdef const place_t* p
    cdef Py_ssize_t i, k
    memories[0], memories[1] = NULL, w.start + worker * w.own
    scratch = memories[1] + w.block
    for i in range(w.n_ends):
        memories[2 + i] = w.memories[i] + part * w.ends[i]
    for i in range(w.n):
        e = w.entries + i
        for k in range(e.n):
            p = e.places + k
            arrays[k] = <void*> (<uintptr_t> memories[p.memory] + p.at)
        e.play(e.job, arrays, scratch)


cdef class Chain:
    """A sequence of steps.

    Parameters
    ----------
    steps : list of (Step, list of (int, int))
        Each with the places of its arrays: the number of a memory, and a position in it. Memory 0
        is the address space, for weights, and for None, which is 0. Memory 1 is a block of the
        call. Then follow the inputs and the outputs.
    block : int
        Size of the block in bytes.
    ends : list of array
        Examples of the inputs and outputs.
    limits : list of int
        For each input 0, or the number that its integers must be below.
    """

    cdef entry_t* entries
    cdef place_t* places
    cdef Py_ssize_t n, n_ends, n_limits
    cdef size_t block, scratch
    cdef given_t ends[MEMORIES]
    cdef int64_t limits[MEMORIES]
    cdef list alive
    cdef int ndim  # of a shortcut
    cdef Py_ssize_t shape[AXES]
    cdef object kept, make
    cdef tuple like, functions, values

    def __cinit__(self, list steps, size_t block, list ends, list limits):
        cdef Py_ssize_t i, k = 0, size = sum([len(places) for _, places in steps])
        cdef ready_t made
        self.alive, self.n, self.n_ends, self.n_limits = steps, len(steps), len(ends), len(limits)
        self.block = aligned(block)
        self.entries = <entry_t*> malloc((self.n + 1) * sizeof(entry_t))
        self.places = <place_t*> malloc((size + 1) * sizeof(place_t))
        if self.entries == NULL or self.places == NULL:
            raise MemoryError()
        if self.n_ends + 2 > MEMORIES:
            raise ValueError(f"A chain has at most {MEMORIES - 2} inputs and outputs.")
        for i, array in enumerate(ends):
            if not read_given(array, &self.ends[i]):
                raise ValueError("A chain needs C-ordered arrays.")
        for i, limit in enumerate(limits):
            self.limits[i] = limit
        for i, (step, places) in enumerate(steps):
            if not read_step(step, &made) or len(places) > ARRAYS:
                raise ValueError(f"A step has at most {ARRAYS} arrays.")
            self.entries[i] = entry_t(made.play, made.job, self.places + k, len(places))
            self.scratch = max(self.scratch, made.scratch)
            for memory, at in places:
                self.places[k] = place_t(memory, at)
                k += 1

    def __dealloc__(self):
        free(self.entries)
        free(self.places)

    def fill(self, ends, bint spoiled=False, Py_ssize_t parts=1):
        """Fill the outputs and return True, or return False for inputs of another kind.

        `ends` are inputs and outputs. With `spoiled`, the block is not zero by chance: it holds
        NaN before the first step. With several `parts`, each array is that many examples in a row.
        Then each thread takes parts and runs all steps for them, one after the other.
        """
        cdef given_t given[MEMORIES]
        cdef Py_ssize_t i = 0
        if len(ends) != self.n_ends:
            return False
        for array in ends:
            if not read_given(array, &given[i]):
                return False
            i += 1
        return self._fill(given, spoiled, parts)

    cdef bint _fill(self, const given_t* given, bint spoiled, Py_ssize_t parts) except -1:
        cdef walk_t w
        cdef Py_ssize_t i
        cdef int workers = 1 if parts == 1 else max_workers()
        cdef scratch_t s
        for i in range(self.n_ends):
            w.memories[i], w.ends[i] = <char*> given[i].data, self.ends[i].bytes
            if given[i].bytes != parts * w.ends[i] or given[i].code != self.ends[i].code:
                return False
            if i < self.n_limits and self.limits[i] and not self._are_below(i, &given[i]):
                return False
        w.entries, w.n, w.n_ends, w.block = self.entries, self.n, self.n_ends, self.block
        w.own = self.block + aligned(self.scratch)
        s = take(workers * w.own)
        w.start = s.data
        if spoiled:
            memset(s.data, 0xFF, self.block)
        with nogil:
            run(_walk, &w, parts, workers)
        give(s)
        return True

    cdef bint _are_below(self, Py_ssize_t i, const given_t* a) noexcept:
        cdef const int64_t* numbers = <const int64_t*> a.data
        cdef Py_ssize_t k, n = a.bytes // sizeof(int64_t)
        cdef int64_t wrong = 0
        for k in range(n):
            wrong |= (numbers[k] < 0) | (numbers[k] >= self.limits[i])
        return not wrong

    def watch(self, x, alive, make, tuple like, tuple functions, tuple values):
        """Prepare `shortcut` for arrays like x, if there are one input and one output.

        ``make(*like)`` makes an array for the output. The chain may be used as long as these
        functions return these values.
        """
        cdef int i
        if self.n_ends != 2 or x.ndim > AXES:
            raise ValueError("A shortcut has one input and one output.")
        self.ndim = x.ndim
        for i in range(self.ndim):
            self.shape[i] = x.shape[i]
        self.kept, self.make, self.like = alive, make, like
        self.functions, self.values = functions, values

    def shortcut(self, x):
        """The output; None for another kind of input, or if something watched has changed.

        What Python reads between two calls of a large chain has left the caches: each function of
        Python takes microseconds.
        """
        cdef given_t given[2]
        cdef tuple values = self.values
        cdef Py_ssize_t i = 0
        if not _read_shaped(x, &given[0], self.ndim, self.shape):
            return None
        for function in self.functions:
            if function() is not values[i]:
                return None
            i += 1
        y = self.make(*self.like)
        if not read_given(y, &given[1]) or not self._fill(given, False, 1):
            return None
        return y
