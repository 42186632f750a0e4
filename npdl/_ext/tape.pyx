"""Kernel calls that are recorded once and then replayed many times.

Except for the batch, every training step calls the same kernels with the same arrays. A tape holds
these calls, checked and with the addresses of their arrays (``*_recorded`` of the kernels'
modules), and plays them without Python. Kernels that can't be recorded are called normally.

Unlike a chain of steps.pyx, a tape reads weights in place and works in the recorded arrays, so only
one thread may play it at a time.
"""

from cpython.exc cimport PyErr_Clear
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp
from npdl._ext.simd cimport real
from npdl._ext.steps cimport given_t, play_t, read_given, read_step, ready_t
from npdl._ext.threads cimport give, max_workers, scratch_t, take

cdef extern from "Python.h":
    PyObject* PyDict_GetItemWithError(PyObject* names, PyObject* name)
    Py_ssize_t PyDict_Size(PyObject* names)

ctypedef struct held_t:
    PyObject* owner  # an object or a dict
    PyObject* name
    PyObject* value

ctypedef struct dict_t:
    PyObject* names
    Py_ssize_t own, n_passing  # entries that are held; names that may be there too

ctypedef struct entry_t:
    play_t play  # or NULL for a function
    const void* job
    void** arrays


cdef double _sum(const real* x, Py_ssize_t n) noexcept nogil:
    """The sum in float64, pair by pair in the order in which NumPy adds up to 8192 numbers."""
    cdef double part[8]
    cdef double total = 0
    cdef Py_ssize_t i = 0, k, half
    if n > 128:
        half = n // 16 * 8
        return _sum(x, half) + _sum(x + half, n - half)
    if n >= 8:
        for k in range(8):
            part[k] = x[k]
        for i in range(8, n // 8 * 8, 8):
            for k in range(8):
                part[k] += x[i + k]
        total = ((part[0] + part[1]) + (part[2] + part[3])) + (
            (part[4] + part[5]) + (part[6] + part[7])
        )
        i = n // 8 * 8
    for i in range(i, n):
        total += x[i]
    return total


cdef class Tape:
    """A sequence of calls.

    Parameters
    ----------
    calls : list of (Step or callable, sequence)
        Each with its arrays, None if it has none; a callable with all its arguments.
    varying : list of array
        Arrays that differ each time, such as the batch, as they were when the calls were recorded.
        They may be among the arguments in any shape.
    losses : array, optional
        After call number `stop`, all of these numbers must be finite. Otherwise `play` stops there.
        `total` is their sum in float64.
    classes : int
        If not 0, the last varying array is int64, and its values must be below this number.
    answers : array of bool, optional
        After the last call, `right` is the number of those that are true.
    """

    cdef entry_t* entries
    cdef void** table
    cdef Py_ssize_t n, stop, n_spots, n_varying
    cdef Py_ssize_t* spots  # positions of varying arrays in the table, and the number of each array
    cdef size_t scratch
    cdef int64_t classes
    cdef given_t like[2]
    cdef given_t losses, answers
    cdef list calls, patches, kept
    cdef bint busy
    cdef readonly double total
    cdef readonly Py_ssize_t right

    def __cinit__(
        self,
        list calls,
        list varying,
        losses=None,
        Py_ssize_t stop=-1,
        int64_t classes=0,
        answers=None,
    ):
        cdef Py_ssize_t i, at = 0, size = sum([len(arrays) for _, arrays in calls])
        cdef ready_t made
        cdef bint prepared
        cdef given_t a
        self.calls, self.kept, self.patches = calls, [losses, answers, *varying], []
        self.n, self.stop, self.classes, self.n_varying = len(calls), stop, classes, len(varying)
        self.entries = <entry_t*> calloc(self.n + 1, sizeof(entry_t))
        self.table = <void**> calloc(size + 1, sizeof(void*))
        self.spots = <Py_ssize_t*> calloc(2 * size + 1, sizeof(Py_ssize_t))
        if self.entries == NULL or self.table == NULL or self.spots == NULL:
            raise MemoryError()
        for i, array in enumerate(varying):
            if not read_given(array, &self.like[i]):
                raise ValueError("A tape needs C-ordered arrays.")
        if losses is not None and not read_given(losses, &self.losses):
            raise ValueError("A tape needs C-ordered losses.")
        if answers is not None and not read_given(answers, &self.answers):
            raise ValueError("A tape needs C-ordered answers.")
        for i, (call, arrays) in enumerate(calls):
            patch, prepared = [], read_step(call, &made)
            self.entries[i].arrays = self.table + at
            for place, array in enumerate(arrays):
                if hasattr(array, "shape") and read_given(array, &a):
                    which = self._which(&a)
                    if which >= 0:
                        patch.append((place, which, array.shape))
                        self.spots[2 * self.n_spots], self.spots[2 * self.n_spots + 1] = at, which
                        self.n_spots += 1
                    self.table[at] = a.data
                elif prepared and array is not None:
                    raise ValueError("A tape needs C-ordered arrays.")
                at += 1
            if prepared:
                self.entries[i].play, self.entries[i].job = made.play, made.job
                self.scratch = max(self.scratch, made.scratch)
            self.patches.append(patch)

    def __dealloc__(self):
        free(self.entries)
        free(self.table)
        free(self.spots)

    cdef Py_ssize_t _which(self, const given_t* a):
        """The number of this array among the varying ones; -1 if it is none of them."""
        cdef Py_ssize_t i
        for i in range(self.n_varying):
            if a.data == self.like[i].data and a.bytes == self.like[i].bytes:
                return i
        return -1

    def takes(self, list varying):
        """Whether these arrays are like the varying ones that were recorded."""
        cdef void* data[2]
        return self._take(varying, data)

    cdef bint _take(self, list varying, void** data):
        cdef Py_ssize_t i
        cdef given_t a
        if self.busy or len(varying) != self.n_varying:
            return False
        for i in range(self.n_varying):
            if not read_given(varying[i], &a):
                return False
            if a.bytes != self.like[i].bytes or a.code != self.like[i].code:
                return False
            data[i] = a.data
        return not self.classes or self._are_labels(<const int64_t*> data[self.n_varying - 1])

    def play(self, list varying, Py_ssize_t first=0):
        """Run all calls from `first` on.

        Returns
        -------
        int
            The number of the next call: the number of all calls, or less if the losses are not
            finite. -1 if nothing was run, because an array is not like the recorded one.
        """
        cdef Py_ssize_t i, k
        cdef void* data[2]
        cdef scratch_t s
        if not self._take(varying, data):
            return -1
        for k in range(self.n_spots):
            self.table[self.spots[2 * k]] = data[self.spots[2 * k + 1]]
        s = take(self.scratch)
        self.busy = True
        try:
            i = first
            while i < self.n:
                if self.entries[i].play == NULL:
                    self._call(i, varying)
                    i += 1
                else:
                    with nogil:
                        i = self._play_from(i, s.data)
                if i == self.stop + 1 and first <= self.stop and not self._is_finite():
                    break
            self._count()
        finally:
            self.busy = False
            give(s)
        return i

    cdef Py_ssize_t _play_from(self, Py_ssize_t i, char* scratch) noexcept nogil:
        """Run calls up to the next function, or up to the check of the losses."""
        cdef Py_ssize_t last = self.n if i > self.stop else self.stop + 1
        while i < last and self.entries[i].play != NULL:
            self.entries[i].play(self.entries[i].job, self.entries[i].arrays, scratch)
            i += 1
        return i

    cdef int _call(self, Py_ssize_t i, list varying) except -1:
        call, arguments = self.calls[i]
        if self.patches[i]:
            arguments = list(arguments)
            for place, which, shape in self.patches[i]:
                arguments[place] = varying[which].reshape(shape)
        call(*arguments)
        return 0

    cdef bint _are_labels(self, const int64_t* labels) noexcept:
        cdef Py_ssize_t i, n = self.like[self.n_varying - 1].bytes // sizeof(int64_t)
        cdef int64_t wrong = 0
        for i in range(n):
            wrong |= (labels[i] < 0) | (labels[i] >= self.classes)
        return not wrong

    cdef bint _is_finite(self) noexcept:
        cdef Py_ssize_t n = self.losses.bytes // self.losses.itemsize
        if self.losses.itemsize == 4:
            self.total = _sum(<const float*> self.losses.data, n)
        else:
            self.total = _sum(<const double*> self.losses.data, n)
        return self.total - self.total == 0

    cdef void _count(self) noexcept:
        cdef const uint8_t* answers = <const uint8_t*> self.answers.data
        cdef Py_ssize_t i
        self.right = 0
        for i in range(self.answers.bytes):
            self.right += answers[i]


cdef class Watch:
    """Checks whether attributes are still the same objects, and arrays have the same bytes.

    Parameters
    ----------
    attributes : list of (object, str)
    dicts : list of (dict, frozenset of str)
        All entries of each dict, except those of these names.
    pairs : list of (array, array)
        C-ordered arrays, whose bytes must be those of the other one.
    """

    cdef list kept, pairs, places  # what the pointers point to
    cdef held_t* held  # attributes, then entries of dicts
    cdef dict_t* dicts
    cdef PyObject** passing  # names that may be in a dict or not, dict after dict
    cdef Py_ssize_t n_attributes, n_held, n_dicts
    cdef int workers

    def __cinit__(self, attributes, dicts, pairs=()):
        cdef given_t a, b
        cdef Py_ssize_t i, k = 0
        held = [(o, name, getattr(o, name)) for o, name in attributes]
        self.n_attributes = len(held)
        watched = [(names, [*passing]) for names, passing in dicts]
        for names, passing in watched:
            held += [(names, name, value) for name, value in names.items() if name not in passing]
        self.kept, self.workers = [held, watched], max_workers()
        self.n_held, self.n_dicts = len(held), len(watched)
        self.held = <held_t*> calloc(self.n_held + 1, sizeof(held_t))
        self.dicts = <dict_t*> calloc(self.n_dicts + 1, sizeof(dict_t))
        n_passing = sum([len(passing) for _, passing in watched])
        self.passing = <PyObject**> calloc(n_passing + 1, sizeof(PyObject*))
        if self.held == NULL or self.dicts == NULL or self.passing == NULL:
            raise MemoryError()
        for i, (owner, name, value) in enumerate(held):
            self.held[i] = held_t(<PyObject*> owner, <PyObject*> name, <PyObject*> value)
        for i, (names, passing) in enumerate(watched):
            own = len([name for name in names if name not in passing])
            self.dicts[i] = dict_t(<PyObject*> names, own, len(passing))
            for name in passing:
                self.passing[k] = <PyObject*> name
                k += 1
        self.pairs, self.places = list(pairs), []
        for one, other in pairs:
            if not (read_given(one, &a) and read_given(other, &b) and a.bytes == b.bytes):
                raise ValueError("A watch needs C-ordered arrays of the same size.")
            self.places.append((<uintptr_t> a.data, <uintptr_t> b.data, a.bytes))

    def same(self):
        """Whether nothing has changed, including the number of threads."""
        cdef tuple item
        cdef Py_ssize_t i, k, left, passing = 0
        cdef held_t h
        cdef dict_t d
        if self.workers != max_workers():
            return False
        for i in range(self.n_attributes, self.n_held):
            h = self.held[i]
            if PyDict_GetItemWithError(h.owner, h.name) != h.value:
                PyErr_Clear()
                return False
        for i in range(self.n_dicts):
            d = self.dicts[i]
            left = PyDict_Size(d.names) - d.own
            for k in range(passing, passing + d.n_passing):
                if left <= 0:
                    break
                left -= PyDict_GetItemWithError(d.names, self.passing[k]) != NULL
            if left:
                PyErr_Clear()
                return False
            passing += d.n_passing
        for i in range(self.n_attributes):
            h = self.held[i]
            if getattr(<object> h.owner, <object> h.name) is not <object> h.value:
                return False
        for item in self.places:
            if memcmp(<void*> <uintptr_t> item[0], <void*> <uintptr_t> item[1], item[2]):
                return False
        return True

    def __dealloc__(self):
        free(self.held)
        free(self.dicts)
        free(self.passing)
