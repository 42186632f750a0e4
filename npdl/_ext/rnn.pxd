"""What the three recurrent loops share: a job, products with packed weights, the weights' gradient.

A sequence depends on no other, so the batch is split into blocks of rows, and each block walks
through all time steps by itself: no step waits for another thread. A step forward is one product of
the rows [1, x, h] with all the weights, which are packed once for a whole call; what it makes is
still in the cache when its activations follow. (To take the product with x out of the loop, for all
steps at once, was slower: its result had to come back from memory. For a row or three it is done,
since then it is the weights that come from memory.)

Both ways give the same bits: every number of z is one unbroken sum over [1, x, h], in this order. A
sample's result does not depend on the batch that it is in.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset
from npdl._ext.activation cimport act_t
from npdl._ext.gemm cimport make_chain, product, product_of, product_t
from npdl._ext.simd cimport MR, real
from npdl._ext.threads cimport aligned, max_workers, run
from npdl._ext.tile cimport round_up, tile_cols, times_panel

ctypedef struct rnn_t:
    bint single
    int loop  # which of the six
    bint few  # so few rows that the columns are shared
    bint whole  # z of all steps is kept, in `gates` or h
    act_t act, gate_act
    Py_ssize_t n, t, d, u
    Py_ssize_t width, length  # gates * u, and 1 + d + u: the columns and rows of w
    Py_ssize_t block  # rows to a task
    const uint8_t* mask
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
    void* dz  # [n][t][width]: gradient of every pre-activation
    # scratch
    void* packed  # forward: all weights; backward, or if few: those of the state
    void* packed_hat  # GRU: the columns of ĥ
    void* design  # the rows [1, x, h] of all steps
    Py_ssize_t gate  # which gate the state is multiplied by in it, or -1
    char* work  # for `product`
    char* rows  # of a step, for each worker
    size_t rows_step


cdef inline size_t panels_size(Py_ssize_t depth, Py_ssize_t n, const real* _) noexcept nogil:
    """Bytes of a packed matrix of depth x n, rounded up to whole cache lines."""
    return aligned(depth * round_up(n, tile_cols(_)) * sizeof(real))


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
) noexcept nogil:
    """c[i*ldc + j] (+)= Σ_k a[i*a_row + k] b[k, j], b from `pack_all`."""
    cdef Py_ssize_t nr = tile_cols(c), j = 0
    while j < n:
        times_panel(
            False, m, min(nr, n - j), depth, a, a_row, 1, MR * a_row, packed + j * depth, c + j,
            ldc, c + j if add else NULL, ldc,
        )
        j += nr


cdef inline const real* state_before(
    const real* state, const real* first, Py_ssize_t n, Py_ssize_t t, rnn_t* r
) noexcept nogil:
    """Row n of a state before step t."""
    return first + n * r.u if t == 0 else state + (n * r.t + t - 1) * r.u


cdef inline bint active(rnn_t* r, Py_ssize_t n, Py_ssize_t t) noexcept nogil:
    return r.mask == NULL or r.mask[n * r.t + t] != 0


cdef inline void add_to(const real* x, real* y, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        y[j] += x[j]


cdef inline void multiply(const real* a, const real* b, real* y, Py_ssize_t n) noexcept nogil:
    """y = a∘b. y may be a. (A loop over more arrays than a few isn't vectorised.)"""
    cdef Py_ssize_t j
    for j in range(n):
        y[j] = a[j] * b[j]


cdef inline void _row(rnn_t* r, Py_ssize_t n, Py_ssize_t t, real* row) noexcept nogil:
    """[1, x, h] of one step of one sequence, h being the state before the step."""
    row[0] = 1
    memcpy(row + 1, <const real*> r.x + (n * r.t + t) * r.d, r.d * sizeof(real))
    memcpy(
        row + 1 + r.d, state_before(<const real*> r.h, <const real*> r.h0, n, t, r),
        r.u * sizeof(real),
    )


cdef inline void step_rows(
    rnn_t* r, Py_ssize_t n0, Py_ssize_t n1, Py_ssize_t t, real* rows
) noexcept nogil:
    """The rows of one step, of some sequences."""
    cdef Py_ssize_t n
    for n in range(n0, n1):
        _row(r, n, t, rows + (n - n0) * r.length)


cdef inline void step_product(
    rnn_t* r,
    Py_ssize_t m,
    Py_ssize_t col,
    Py_ssize_t cols,
    const real* rows,
    const void* packed,
    real* z,
    Py_ssize_t z_step,
) noexcept nogil:
    """z[:, col : col+cols] = b + x w_x + h w_h, for the rows of a step."""
    cdef product_t p
    if r.few:  # b + x w_x is there already, and the sums go on from it
        p = product_of(
            m, cols, r.u, rows + 1 + r.d, r.length, 1,
            <const real*> r.w + (1 + r.d) * r.width + col, r.width, 1, z + col, z_step, True,
        )
        if packed != NULL:
            p.b, p.b_row, p.b_panel = packed, tile_cols(z), r.u * tile_cols(z)
        make_chain(&p)
        product(&p, NULL, max_workers())
    else:
        times_panels(
            m, cols, r.length, rows, r.length, <const real*> packed, z + col, z_step, False
        )


cdef inline product_t input_product(rnn_t* r, real* z) noexcept nogil:
    """z = b + x w_x, over the rows [1, x] of all steps, which `input_rows` lays out."""
    cdef product_t p = product_of(
        r.n * r.t, r.width, 1 + r.d, <const real*> r.design, 1 + r.d, 1, <const real*> r.w, r.width,
        1, z, r.width, False,
    )
    make_chain(&p)
    return p


cdef inline void input_rows(rnn_t* r, real* rows) noexcept nogil:
    """[1, x] of all steps of all sequences."""
    cdef Py_ssize_t i
    for i in range(r.n * r.t):
        rows[0] = 1
        memcpy(rows + 1, <const real*> r.x + i * r.d, r.d * sizeof(real))
        rows += 1 + r.d


cdef inline void _design_rows(rnn_t* r, Py_ssize_t n, const real* _) noexcept nogil:
    cdef Py_ssize_t t, j
    cdef real* row = <real*> r.design + n * r.t * r.length
    cdef const real* gate
    for t in range(r.t):
        _row(r, n, t, row)
        if r.gate >= 0:
            gate = <const real*> r.gates + (n * r.t + t) * r.width + r.gate * r.u
            for j in range(r.u):
                row[1 + r.d + j] *= gate[j]
        row += r.length


cdef inline void _design_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef rnn_t* r = <rnn_t*> context
    if r.single:
        _design_rows(r, task, <float*> NULL)
    else:
        _design_rows(r, task, <double*> NULL)


cdef inline void design_matrix(rnn_t* r, Py_ssize_t gate, int workers) noexcept nogil:
    """The rows [1, x, h], or with a gate [1, x, h∘gate], of all steps."""
    r.gate = gate
    run(_design_task, r, r.n, workers)


cdef inline product_t weight_product(
    rnn_t* r, Py_ssize_t col, Py_ssize_t cols, const real* _
) noexcept nogil:
    """dw[:, col : col+cols] = designᵀ dz[:, col : col+cols]: bias, w_x and w_h in one product."""
    return product_of(
        r.length, cols, r.n * r.t, <const real*> r.design, 1, r.length, <const real*> r.dz + col,
        r.width, 1, <real*> r.dw + col, r.width, False,
    )


cdef inline product_t input_gradient(rnn_t* r, const real* _) noexcept nogil:
    """dx = dz w_xᵀ."""
    return product_of(
        r.n * r.t, r.d, r.width, <const real*> r.dz, r.width, 1,
        <const real*> r.w + r.width, 1, r.width, <real*> r.dx, r.d, False,
    )
