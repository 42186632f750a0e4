"""xᵀ y of many rows: each thread multiplies some blocks of rows, those that it has in its caches.

The sums of each block are added in the order of `product`, so they have the same bits.
"""

from npdl._ext.gemm cimport is_long, product_of, product_scratch, product_t
from npdl._ext.threads cimport run
from npdl._ext.tile cimport ceil_div

cdef enum:
    MOST = 16  # blocks; the sums of all but the first are in scratch memory
    ADDED = 8  # rows of the result, per task that adds

ctypedef void (*multiply_t)(product_t*, char*, int) noexcept nogil  # `product`

ctypedef struct row_blocks_t:
    product_t p
    Py_ssize_t blocks
    int workers
    multiply_t multiply
    char* scratch  # of all threads
    size_t step  # of one
    float* sums


cdef inline product_t _block(row_blocks_t* f, Py_ssize_t number) noexcept nogil:
    cdef product_t* p = &f.p
    cdef Py_ssize_t k = number * p.depth
    return product_of(
        p.m, p.n, min(p.depth, p.k - k), <const float*> p.a + k * p.a_col, p.a_row, p.a_col,
        <const float*> p.b + k * p.b_row, p.b_row, p.b_col,
        f.sums + (number - 1) * p.m * p.n if number else <float*> p.c, p.n, False,
    )


cdef inline bint shares_rows(row_blocks_t* f, const product_t* p, int workers) noexcept nogil:
    """Whether a product, whose C is dense, is divided in this way."""
    cdef product_t block
    f.p, f.blocks, f.workers = p[0], ceil_div(p.k, p.depth), workers
    if not p.single or p.few or is_long(&f.p) or workers < 2 or f.blocks % workers:
        return False
    block = _block(f, 0)
    f.step = product_scratch(&block, 1)
    return 1 < f.blocks <= MOST


cdef inline size_t rows_scratch(row_blocks_t* f) noexcept nogil:
    return f.workers * f.step + (f.blocks - 1) * f.p.m * f.p.n * sizeof(float)


cdef inline void _block_task(void* context, Py_ssize_t number, int worker) noexcept nogil:
    cdef row_blocks_t* f = <row_blocks_t*> context
    cdef product_t p = _block(f, number)
    f.multiply(&p, f.scratch + worker * f.step, 1)


cdef inline void _add_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    """Some rows of the result: (first block + second block) + ..."""
    cdef row_blocks_t* f = <row_blocks_t*> context
    cdef Py_ssize_t size = f.p.m * f.p.n, at = task * ADDED * f.p.n, i, _
    cdef float* c = <float*> f.p.c + at
    cdef const float* sums = f.sums + at
    for _ in range(1, f.blocks):
        for i in range(min(<Py_ssize_t> ADDED * f.p.n, size - at)):
            c[i] += sums[i]
        sums += size


cdef inline void multiply_rows(
    row_blocks_t* f, multiply_t multiply, char* scratch
) noexcept nogil:
    f.multiply, f.scratch = multiply, scratch
    f.sums = <float*> (scratch + f.workers * f.step)
    run(_block_task, f, f.blocks, f.workers)
    run(_add_task, f, ceil_div(f.p.m, ADDED), f.workers)
