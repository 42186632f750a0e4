"""Shared by the three recurrent loops: the job, products with packed weights, the weights'
gradient.

Sequences are independent, so the batch is divided into blocks of rows, and each block runs through
all time steps: no step waits for another thread. A forward step is one product of the rows
[1, x, h] with all the weights, which are packed once per call; its result is still in the cache
when the activations are applied. (Moving the product with x out of the loop, for all steps at once,
was slower, because its result had to be read back from memory. For one to three rows it is faster,
because then reading the weights dominates.)

If the weights don't stay in the cache, a few rows are one block, and threads share the panels of
each step.

All ways give the same bits: every element of z is one unbroken sum over [1, x, h], in this order.
The result of a sample does not depend on its batch.

A GRU whose reset gate acts after the product has a second bias. It uses a copy of the weights with
that row in front of those of the state, and its rows are [1, x, 1, h].
"""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset
from npdl._ext.activation cimport act_t
from npdl._ext.gemm cimport make_chain, product, product_of, product_t
from npdl._ext.panels cimport times_panel
from npdl._ext.simd cimport MR, TALL, real
from npdl._ext.threads cimport aligned, max_workers, run
from npdl._ext.tile cimport (
    EACH,
    LINE,
    ceil_div,
    fetching_tiles,
    has_edge_forms,
    round_up,
    tile_cols,
)

cdef enum:
    STAYS = 1310720  # bytes of weights that a level-2 cache keeps from one step to the next

ctypedef struct rnn_t:
    bint single
    int loop  # which of the six loops
    bint few  # so few rows that threads share the columns
    bint whole  # z of all steps is kept, in `gates` or h
    bint reverse  # start at the last step
    bint after  # GRU: the reset gate acts after the product
    bint ready  # the weights are already packed
    int split  # threads that share the panels of a step, with few rows and large weights; or 1
    act_t act, gate_act
    Py_ssize_t n, t, d, u
    Py_ssize_t width, length  # gates * u, and 1 + d + u (+ 1 if after): the columns and rows of w
    Py_ssize_t wide  # columns of `gates` and dz: those of w, and u more for q
    Py_ssize_t block  # rows per task
    const uint8_t* mask
    const void* drop_x  # [n][d] and [n][u]: factors, or NULL
    const void* drop_h
    const void* x
    const void* w
    const void* h0
    const void* c0
    void* h
    void* c
    void* gates
    # backward
    const void* dh
    const void* dhn
    const void* dcn
    void* dx
    void* dw
    void* dh0
    void* dc0
    void* dz  # [n][t][wide]: gradient of every pre-activation
    # scratch
    void* packed  # forward: all weights; backward, or if few: those of the state
    void* packed_hat  # GRU: the columns of ĥ; if after, those of q
    void* packed_x  # if after: the columns of ĥ, rows of bias and input
    void* packed_in  # if few and ready: the rows of bias and input
    void* swapped  # if after: the weights with reordered rows; in the backward pass, dw
    void* design  # the rows [1, x, h] of all steps, in tiles as the product for dw reads them
    Py_ssize_t tile  # rows of such a tile; 0 if the rows are one after another
    Py_ssize_t gate  # the gate by which the state is multiplied in `design`, or -1
    char* work  # for `product`
    char* rows  # rows of a step, for each worker
    size_t rows_step
    size_t lines_at  # where the list of lines to prefetch stands in them


cdef inline size_t panels_size(Py_ssize_t depth, Py_ssize_t n, const real* _) noexcept nogil:
    """Size of a packed depth x n matrix in bytes, rounded up to whole cache lines."""
    return aligned(depth * round_up(n, tile_cols(_)) * sizeof(real))


cdef inline Py_ssize_t _ahead(
    Py_ssize_t n, Py_ssize_t depth, Py_ssize_t j, const real* _
) noexcept nogil:
    """From the panel of column j to the next one, if the level-2 cache does not hold them all."""
    cdef Py_ssize_t next = j + tile_cols(_)
    if n * depth * <Py_ssize_t> sizeof(real) < STAYS:
        return 0
    return (next if next < n else 0) * depth - j * depth


cdef inline void times_panels(
    Py_ssize_t m,
    Py_ssize_t n,
    Py_ssize_t depth,
    const real* a,
    Py_ssize_t a_row,
    const real* packed,
    real* c,
    Py_ssize_t ldc,
    bint add,
    const void* const* lines,
) noexcept nogil:
    """c[i*ldc + j] (+)= Σ_k a[i*a_row + k] b[k, j], b from `pack_tiles`.

    Prefetches `lines`, from `fetches`, unless they are NULL.
    """
    cdef Py_ssize_t nr = tile_cols(c), j = 0, i, tiles
    cdef Py_ssize_t a_at[MR]
    for i in range(MR):
        a_at[i] = i * a_row
    while j < n:
        i = 0
        if real is float:
            if has_edge_forms(c) and lines != NULL and j + nr <= n:
                tiles = m // MR
                fetching_tiles(
                    tiles, depth, a, a_at, MR * a_row, packed + j * depth, c + j, ldc,
                    c + j if add else NULL, lines, _ahead(n, depth, j, c),
                )
                lines += tiles * (depth // EACH)
                i = tiles * MR
        times_panel(
            False, m - i, min(nr, n - j), depth, a + i * a_row, a_row, 1, MR * a_row,
            packed + j * depth, c + i * ldc + j, ldc, c + i * ldc + j if add else NULL, ldc,
            False,
        )
        j += nr


cdef inline Py_ssize_t _free_lines(
    Py_ssize_t m, Py_ssize_t n, Py_ssize_t depth, const real* _
) noexcept nogil:
    """How many lines `times_panels` prefetches."""
    return n // tile_cols(_) * (m // MR) * (depth // EACH) if has_edge_forms(_) else 0


ctypedef struct panels_t:  # a product with packed weights, whose panels threads share
    bint single, add
    Py_ssize_t m, n, depth, a_row, ldc, wide
    const void* a
    const void* packed
    void* c
    const void* const* lines


cdef inline void _some_panels(const panels_t* p, Py_ssize_t task, const real* _) noexcept nogil:
    cdef Py_ssize_t j = task * p.wide
    cdef const void* const* lines = p.lines
    if lines != NULL:
        lines += _free_lines(p.m, j, p.depth, _)
    times_panels(
        p.m, min(p.wide, p.n - j), p.depth, <const real*> p.a, p.a_row,
        <const real*> p.packed + j * p.depth, <real*> p.c + j, p.ldc, p.add, lines,
    )


cdef inline void _panels_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef panels_t* p = <panels_t*> context
    if p.single:
        _some_panels(p, task, <float*> NULL)
    else:
        _some_panels(p, task, <double*> NULL)


cdef inline void _step_panels(
    rnn_t* r,
    Py_ssize_t m,
    Py_ssize_t n,
    Py_ssize_t depth,
    const real* a,
    const void* packed,
    real* c,
    Py_ssize_t ldc,
    bint add,
    const void* const* lines,
) noexcept nogil:
    """`times_panels` for rows of a step, on the threads that share them."""
    cdef Py_ssize_t wide = round_up(ceil_div(n, r.split), tile_cols(c))
    cdef panels_t p = panels_t(
        r.single, add, m, n, depth, r.length, ldc, wide, a, packed, c, lines
    )
    if r.split > 1:
        run(_panels_task, &p, ceil_div(n, wide), r.split)
    else:
        _some_panels(&p, 0, c)


ctypedef struct fetch_t:  # the cache lines that a step is going to use
    const void** lines
    Py_ssize_t count, most


cdef inline size_t fetch_size(
    Py_ssize_t m, Py_ssize_t n, Py_ssize_t depth, const real* _
) noexcept nogil:
    return _free_lines(m, n, depth, _) * sizeof(void*)


cdef inline fetch_t fetches(
    rnn_t* r, Py_ssize_t m, Py_ssize_t n, Py_ssize_t depth, const real* room
) noexcept nogil:
    """An empty list, as long as `times_panels` can use, at the end of the room of a worker."""
    cdef fetch_t f
    f.lines, f.count = <const void**> (<const char*> room + r.lines_at), 0
    f.most = 0 if r.few else _free_lines(m, n, depth, room)
    return f


cdef inline void fetch(fetch_t* f, const void* start, size_t bytes) noexcept nogil:
    """Add the cache lines from `start` on, as far as there is room.

    The list is filled from its end, since what is fetched early is lost to the weights that follow.
    """
    cdef Py_ssize_t count = min(<Py_ssize_t> (bytes // LINE + 1), f.most - f.count), i
    cdef const char* at = <const char*> start
    cdef const void** lines = f.lines + f.most - f.count - count
    for i in range(count):
        lines[i] = at + i * LINE
    f.count += count


cdef inline const void* const* fetch_all(fetch_t* f) noexcept nogil:
    """The list, filled up with a line that is in the cache; then it is empty."""
    cdef Py_ssize_t i
    for i in range(f.most - f.count):
        f.lines[i] = f.lines
    f.count = 0
    return f.lines if f.most else NULL


cdef inline const real* state_before(
    const real* state, const real* first, Py_ssize_t n, Py_ssize_t t, rnn_t* r
) noexcept nogil:
    """Row n of the state before step t, in the order of the loop."""
    if t == (r.t - 1 if r.reverse else 0):
        return first + n * r.u
    return state + (n * r.t + t + (1 if r.reverse else -1)) * r.u


cdef inline Py_ssize_t step_at(rnn_t* r, Py_ssize_t k) noexcept nogil:
    """Position of the step that the loop visits as number k."""
    return r.t - 1 - k if r.reverse else k


cdef inline bint active(rnn_t* r, Py_ssize_t n, Py_ssize_t t) noexcept nogil:
    return r.mask == NULL or r.mask[n * r.t + t] != 0


cdef inline void add_to(const real* x, real* y, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        y[j] += x[j]


cdef inline void multiply(const real* a, const real* b, real* y, Py_ssize_t n) noexcept nogil:
    """y = a∘b. y may be a. (A loop over more than a few arrays isn't vectorised.)"""
    cdef Py_ssize_t j
    for j in range(n):
        y[j] = a[j] * b[j]


cdef inline void _row(rnn_t* r, Py_ssize_t n, Py_ssize_t t, real* row) noexcept nogil:
    """[1, x, h] of one step of one sequence; h is the state before the step."""
    cdef real* state = row + r.length - r.u
    row[0] = 1
    row[1 + r.d] = 1  # the second bias, if any
    memcpy(row + 1, <const real*> r.x + (n * r.t + t) * r.d, r.d * sizeof(real))
    memcpy(
        state, state_before(<const real*> r.h, <const real*> r.h0, n, t, r), r.u * sizeof(real)
    )
    if r.drop_x != NULL:
        multiply(row + 1, <const real*> r.drop_x + n * r.d, row + 1, r.d)
    if r.drop_h != NULL:
        multiply(state, <const real*> r.drop_h + n * r.u, state, r.u)


cdef inline Py_ssize_t step_rows(
    rnn_t* r, Py_ssize_t n0, Py_ssize_t n1, Py_ssize_t t, bint close, real* rows
) noexcept nogil:
    """The rows of one step, of some sequences; return their number.

    It is 0 if all are masked. If `close`, only those that are not masked, one behind another.
    """
    cdef Py_ssize_t n, m = 0, real_ones = 0
    for n in range(n0, n1):
        real_ones += active(r, n, t)
        if not close or active(r, n, t):
            _row(r, n, t, rows + m * r.length)
            m += 1
    return m if real_ones else 0


cdef inline void state_product(
    rnn_t* r,
    Py_ssize_t m,
    Py_ssize_t col,
    Py_ssize_t cols,
    const real* rows,
    const void* packed,
    real* z,
    Py_ssize_t z_step,
    bint add,
) noexcept nogil:
    """z (+)= h w_h[:, col : col+cols], plus the second bias if there is one."""
    cdef Py_ssize_t depth = r.length - 1 - r.d
    cdef product_t p
    if m == 0:
        return
    if r.few:
        p = product_of(
            m, cols, depth, rows + 1 + r.d, r.length, 1,
            <const real*> r.w + (1 + r.d) * r.width + col, r.width, 1, z, z_step, add,
        )
        if packed != NULL:
            p.b, p.b_row, p.b_panel = packed, tile_cols(z), depth * tile_cols(z)
        make_chain(&p)
        product(&p, NULL, max_workers())
    else:
        _step_panels(r, m, cols, depth, rows + 1 + r.d, packed, z, z_step, add, NULL)


cdef inline void step_product(
    rnn_t* r,
    Py_ssize_t m,
    Py_ssize_t col,
    Py_ssize_t cols,
    const real* rows,
    const void* packed,
    real* z,
    Py_ssize_t z_step,
    const void* const* lines,
) noexcept nogil:
    """z[:, col : col+cols] = b + x w_x + h w_h, for the rows of a step."""
    if r.few:  # z already holds b + x w_x, and the sums continue from it
        state_product(r, m, col, cols, rows, packed, z + col, z_step, True)
    else:
        _step_panels(r, m, cols, r.length, rows, packed, z + col, z_step, False, lines)


cdef inline product_t input_product(rnn_t* r, real* z) noexcept nogil:
    """z = b + x w_x, over the rows [1, x] of all steps, which `input_rows` fills."""
    cdef product_t p = product_of(
        r.n * r.t, r.width, 1 + r.d, <const real*> r.design, 1 + r.d, 1, <const real*> r.w, r.width,
        1, z, r.wide, False,
    )
    make_chain(&p)
    return p


cdef inline void input_rows(rnn_t* r, real* rows) noexcept nogil:
    """[1, x] of all steps of all sequences."""
    cdef Py_ssize_t i
    for i in range(r.n * r.t):
        rows[0] = 1
        memcpy(rows + 1, <const real*> r.x + i * r.d, r.d * sizeof(real))
        if r.drop_x != NULL:
            multiply(rows + 1, <const real*> r.drop_x + i // r.t * r.d, rows + 1, r.d)
        rows += 1 + r.d


cdef inline void _design_row(rnn_t* r, Py_ssize_t n, Py_ssize_t t, real* row) noexcept nogil:
    cdef Py_ssize_t j
    cdef const real* gate
    if active(r, n, t):
        _row(r, n, t, row)
        if r.gate >= 0:
            gate = <const real*> r.gates + (n * r.t + t) * r.wide + r.gate * r.u
            for j in range(r.u):
                row[r.length - r.u + j] *= gate[j]
    else:  # its dz is 0, but x may be NaN
        memset(row, 0, r.length * sizeof(real))


cdef inline void _cut_row(rnn_t* r, const real* row, real* to) noexcept nogil:
    """Pack a row, which may be read beyond its end."""
    cdef Py_ssize_t i = 0
    while i < r.length:
        if r.tile == MR:  # as a constant
            memcpy(to, row + i, MR * sizeof(real))
        else:
            memcpy(to, row + i, TALL * sizeof(real))
        to += r.n * r.t * r.tile
        i += r.tile


cdef inline void _design_rows(rnn_t* r, Py_ssize_t n, real* row) noexcept nogil:
    """The rows of one sequence; `row` has room for one."""
    cdef Py_ssize_t t, at
    for t in range(r.t):
        at = n * r.t + t
        if r.tile:
            _design_row(r, n, t, row)
            _cut_row(r, row, <real*> r.design + at * r.tile)
        else:
            _design_row(r, n, t, <real*> r.design + at * r.length)


cdef inline void _design_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef rnn_t* r = <rnn_t*> context
    cdef char* row = r.rows + worker * r.rows_step
    if r.single:
        _design_rows(r, task, <float*> row)
    else:
        _design_rows(r, task, <double*> row)


cdef inline void design_matrix(rnn_t* r, Py_ssize_t gate, int workers) noexcept nogil:
    """The rows [1, x, h], or with a gate [1, x, h∘gate], of all steps."""
    r.gate = gate
    run(_design_task, r, r.n, workers)


cdef inline product_t weight_product(
    rnn_t* r, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t col, Py_ssize_t cols, Py_ssize_t dz_col,
    const real* _,
) noexcept nogil:
    """dw = designᵀ dz, a block of it: bias, w_x and w_h in one product."""
    return product_of(
        rows, cols, r.n * r.t, <const real*> r.design + row, 1, r.length,
        <const real*> r.dz + dz_col, r.wide, 1, <real*> r.dw + row * r.width + col, r.width, False,
    )


cdef inline product_t input_gradient(rnn_t* r, const real* _) noexcept nogil:
    """dx = dz w_xᵀ."""
    return product_of(
        r.n * r.t, r.d, r.width, <const real*> r.dz, r.wide, 1,
        <const real*> r.w + r.width, 1, r.width, <real*> r.dx, r.d, False,
    )


cdef inline void _dropped_rows(rnn_t* r, Py_ssize_t n, const real* _) noexcept nogil:
    cdef Py_ssize_t _t
    cdef real* row = <real*> r.dx + n * r.t * r.d
    for _t in range(r.t):
        multiply(row, <const real*> r.drop_x + n * r.d, row, r.d)
        row += r.d


cdef inline void _dropped_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef rnn_t* r = <rnn_t*> context
    if r.single:
        _dropped_rows(r, task, <float*> NULL)
    else:
        _dropped_rows(r, task, <double*> NULL)


cdef inline void drop_gradient(rnn_t* r, int workers) noexcept nogil:
    """dx *= drop_x, in every step."""
    run(_dropped_task, r, r.n, workers)


cdef inline void swap_bias(
    rnn_t* r, const real* source, real* target, bint back
) noexcept nogil:
    """Move the second bias in front of the weights of the state, or back."""
    cdef Py_ssize_t one = r.width, inputs = r.d * r.width, i, j
    i, j = (one + inputs, one) if back else (one, one + inputs)
    memcpy(target, source, one * sizeof(real))
    memcpy(target + j, source + i, one * sizeof(real))  # the second bias
    i, j = (one, 2 * one) if back else (2 * one, one)
    memcpy(target + j, source + i, inputs * sizeof(real))
    i = 2 * one + inputs
    memcpy(target + i, source + i, r.u * one * sizeof(real))
