"""What the three recurrent loops share: a job, products with packed weights, the weights' gradient.

A sequence depends on no other, so the batch is split into blocks of rows, and each block walks
through all time steps by itself: no step waits for another thread. The weights of the state are
packed once for a whole call; the rows of the state are read where they lie.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset
from npdl._ext.activation cimport act_t
from npdl._ext.gemm cimport (
    K_BLOCK,
    MR,
    NV,
    block_depth,
    edge_tile,
    few_rows,
    pack_panel,
    product,
    round_up,
    tile_cols,
)
from npdl._ext.simd cimport real

ctypedef struct rnn_t:
    bint single
    int loop  # which of the six
    bint few  # so few rows that the weights are not packed, and the columns shared
    act_t act, gate_act
    Py_ssize_t n, t, d, u, width  # width: gates * u
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
    void* packed  # weights of the state
    void* packed_hat  # GRU: those of h∘r
    char* work  # for `product`, and one column block to a worker
    char* rows
    size_t rows_step
    Py_ssize_t row_table[K_BLOCK]
    Py_ssize_t at_table[NV]


cdef inline size_t panels_size(Py_ssize_t depth, Py_ssize_t n, const real* _) noexcept nogil:
    """Bytes of a packed matrix of depth x n, rounded up to whole cache lines."""
    return (depth * round_up(n, tile_cols(_)) * sizeof(real) + 63) // 64 * 64


cdef inline void pack_panels(
    Py_ssize_t depth,
    Py_ssize_t n,
    const real* b,
    Py_ssize_t b_row,
    Py_ssize_t b_col,
    real* out,
) noexcept nogil:
    """b[k*b_row + j*b_col], a block of rows after the other, in panels of NR columns."""
    cdef Py_ssize_t nr = tile_cols(out), k0 = 0, j0, length
    while k0 < depth:
        length = min(block_depth(depth), depth - k0)
        j0 = 0
        while j0 < n:
            pack_panel(b + k0 * b_row + j0 * b_col, b_row, b_col, length, min(nr, n - j0), out)
            out += length * nr
            j0 += nr
        k0 += length


cdef inline void times_panels(
    rnn_t* r,
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
    """c[i*ldc + j] (+)= Σ_k a[i*a_row + k] b[k, j], b from `pack_panels`, or if `few` unpacked."""
    cdef Py_ssize_t nr = tile_cols(c), k0 = 0, i, j, length
    if r.few:
        few_rows(m, n, depth, a, a_row, packed, r.width, c, ldc, add)
        return
    while k0 < depth:
        length = min(block_depth(depth), depth - k0)
        j = 0
        while j < n:
            i = 0
            while i < m:
                edge_tile(
                    length, a + i * a_row + k0, a_row, packed, r.row_table, r.at_table,
                    c + i * ldc + j, ldc, min(<Py_ssize_t> MR, m - i), min(nr, n - j),
                    add or k0 > 0,
                )
                i += MR
            packed += length * nr
            j += nr
        k0 += length


cdef inline const real* state_before(
    const real* state, const real* first, Py_ssize_t n, Py_ssize_t t, rnn_t* r
) noexcept nogil:
    """Row n of a state before step t."""
    return first + n * r.u if t == 0 else state + (n * r.t + t - 1) * r.u


cdef inline Py_ssize_t state_step(Py_ssize_t t, rnn_t* r) noexcept nogil:
    """From one row of the state before step t to the next."""
    return r.u if t == 0 else r.t * r.u


cdef inline bint active(rnn_t* r, Py_ssize_t n, Py_ssize_t t) noexcept nogil:
    return r.mask == NULL or r.mask[n * r.t + t] != 0


cdef inline void add_to(const real* x, real* y, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        y[j] += x[j]


cdef inline void input_product(rnn_t* r, real* z) noexcept nogil:
    """z = x w_x over all N*T rows: the part of every step that knows no time order."""
    product(
        r.n * r.t, r.width, r.d, <const real*> r.x, r.d, 1, <const real*> r.w + r.width, r.width, 1,
        z, r.width, False, r.work,
    )


cdef inline void design_matrix(rnn_t* r, const real* gate, real* m) noexcept nogil:
    """The rows [1, x, h] (or [1, x, h∘gate]) of all steps, h being the state before the step."""
    cdef Py_ssize_t n, t, j, length = 1 + r.d + r.u
    cdef const real* h
    for n in range(r.n):
        for t in range(r.t):
            h = state_before(<const real*> r.h, <const real*> r.h0, n, t, r)
            m[0] = 1
            memcpy(m + 1, <const real*> r.x + (n * r.t + t) * r.d, r.d * sizeof(real))
            if gate == NULL:
                memcpy(m + 1 + r.d, h, r.u * sizeof(real))
            else:
                for j in range(r.u):
                    m[1 + r.d + j] = h[j] * gate[(n * r.t + t) * r.width + j]
            m += length


cdef inline void weight_product(
    rnn_t* r, const real* m, Py_ssize_t col, Py_ssize_t cols
) noexcept nogil:
    """dw[:, col : col+cols] = mᵀ dz[:, col : col+cols]: bias, w_x and w_h in one product."""
    cdef Py_ssize_t length = 1 + r.d + r.u
    product(
        length, cols, r.n * r.t, m, 1, length, <const real*> r.dz + col, r.width, 1,
        <real*> r.dw + col, r.width, False, r.work,
    )


cdef inline void input_gradient(rnn_t* r, const real* _) noexcept nogil:
    """dx = dz w_xᵀ."""
    if r.dx != NULL:
        product(
            r.n * r.t, r.d, r.width, <const real*> r.dz, r.width, 1,
            <const real*> r.w + r.width, 1, r.width, <real*> r.dx, r.d, False, r.work,
        )
