"""A prepared LSTM over a few sequences of float32: the threads share the units.

With few rows, the time of a step is the time to read the weights of the state. So each thread has
some of the units, with the columns of their four gates packed side by side, which stay in its cache
from step to step. It sums these columns, then computes the gates and states of its units::

    z      [n][t][part]: i, f, o, g of the units of a part, and zeros up to whole panels
    h'     one sum over h for each column, which continues from b + x w_x, as in ``rnn.pxd``
"""

from libc.string cimport memcpy
from npdl._ext.gemm cimport few_sums, make_chain, product_of, product_t
from npdl._ext.rnn cimport input_rows, rnn_t, state_before, step_at, times_panels
from npdl._ext.rnn_loops cimport lstm_cell
from npdl._ext.threads cimport aligned, run
from npdl._ext.tile cimport ceil_div, tile_cols

cdef enum:
    ALONE = 40000  # weights of the state below which a second thread is not worth it
    PANELS = 4  # panels of the weights of the input per task

ctypedef struct few_t:
    rnn_t r
    int workers
    Py_ssize_t parts, panels, ld  # number of parts, panels of a part, elements of z per step
    const void* packed_in  # rows of bias and input
    const void* packed  # rows of the state
    void* z
    void* cells
    Py_ssize_t t  # the step, and its number
    Py_ssize_t k


cdef inline Py_ssize_t first_unit(const few_t* f, Py_ssize_t part) noexcept nogil:
    return part * f.r.u // f.parts


cdef inline void few_sizes(few_t* f, int workers) noexcept nogil:
    cdef Py_ssize_t u = f.r.u
    f.workers = 1 if 4 * u * u < ALONE else <int> min(<Py_ssize_t> workers, u)
    f.parts = f.workers
    f.panels = ceil_div(4 * ceil_div(u, f.parts), tile_cols(<float*> NULL))
    f.ld = f.parts * f.panels * tile_cols(<float*> NULL)


cdef inline void arrange(const few_t* f, const float* w, float* out) noexcept nogil:
    """Copy all rows of the weights, with their columns in the order of z. `out` holds zeros."""
    cdef Py_ssize_t u = f.r.u, row, part, gate, u0, units
    cdef float* to
    for row in range(f.r.length):
        for part in range(f.parts):
            u0 = first_unit(f, part)
            units = first_unit(f, part + 1) - u0
            to = out + row * f.ld + part * f.ld // f.parts
            for gate in range(4):
                memcpy(
                    to + gate * units, w + row * 4 * u + gate * u + u0, units * sizeof(float)
                )


cdef inline size_t few_scratch(const few_t* f) noexcept nogil:
    """Size of the rows [1, x], of z and of the cells, in bytes."""
    cdef Py_ssize_t steps = f.r.n * f.r.t
    return (
        aligned(steps * (1 + f.r.d) * sizeof(float)) + aligned(steps * f.ld * sizeof(float))
        + aligned(f.r.n * f.r.u * sizeof(float))
    )


cdef inline void _input_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    """z = b + x w_x, for some panels."""
    cdef few_t* f = <few_t*> context
    cdef Py_ssize_t wide = PANELS * tile_cols(<float*> NULL), j = task * wide, depth = 1 + f.r.d
    times_panels(
        f.r.n * f.r.t, min(wide, f.ld - j), depth, <const float*> f.r.design, depth,
        <const float*> f.packed_in + j * depth, <float*> f.z + j, f.ld, False, NULL,
    )


cdef inline void _step_task(void* context, Py_ssize_t part, int worker) noexcept nogil:
    """One step of the units of a part."""
    cdef few_t* f = <few_t*> context
    cdef rnn_t* r = &f.r
    cdef Py_ssize_t u = r.u, nr = tile_cols(<float*> NULL), wide = f.panels * nr, n, s = 0, count
    cdef Py_ssize_t u0 = first_unit(f, part), units = first_unit(f, part + 1) - u0
    cdef const float* packed = <const float*> f.packed + part * wide * u
    cdef const float* before = state_before(<const float*> r.h, <const float*> r.h0, 0, f.t, r)
    cdef float* z = <float*> f.z + f.t * f.ld + part * wide
    cdef float* c
    cdef float* gates
    cdef product_t p = product_of(
        r.n, wide, u, before, u if f.k == 0 else r.t * u, 1, packed, nr, 1, z, r.t * f.ld, True
    )
    make_chain(&p)
    p.b_panel = u * nr
    while s < f.panels:
        count = min(<Py_ssize_t> 3, f.panels - s)
        if f.panels - s == 4:  # avoid a last single panel, with few vectors
            count = 2
        few_sums(&p, s * nr, (s + count) * nr, 0, u, z, r.t * f.ld)
        s += count
    for n in range(r.n):
        c, gates = <float*> f.cells + n * u + u0, z + n * r.t * f.ld
        lstm_cell(
            r, units, gates, gates, <const float*> r.c0 + n * u + u0 if f.k == 0 else c, c,
            <float*> r.h + (n * r.t + f.t) * u + u0,
        )


cdef inline void few_steps(few_t* f, char* at) noexcept nogil:
    """Run all steps, in the scratch memory from `at` on."""
    cdef Py_ssize_t steps = f.r.n * f.r.t
    f.r.design = at
    at += aligned(steps * (1 + f.r.d) * sizeof(float))
    f.z = at
    f.cells = at + aligned(steps * f.ld * sizeof(float))
    input_rows(&f.r, <float*> f.r.design)
    run(_input_task, f, ceil_div(f.ld, PANELS * tile_cols(<float*> NULL)), f.workers)
    for f.k in range(f.r.t):
        f.t = step_at(&f.r, f.k)
        run(_step_task, f, f.parts, f.workers)
