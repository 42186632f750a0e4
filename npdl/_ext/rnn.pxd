"""What the three recurrent loops share: a job, products with packed weights, the weights' gradient.

A sequence depends on no other, so the batch is split into blocks of rows, and each block walks
through all time steps by itself: no step waits for another thread. The weights of the state are
packed once for a whole call; the rows of the state are read where they lie.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset
from npdl._ext.activation cimport act_t
from npdl._ext.gemm cimport product, product_of, product_t
from npdl._ext.simd cimport MR, real
from npdl._ext.threads cimport aligned, max_workers, run
from npdl._ext.tile cimport panel_tile, round_up, tile_cols

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
    void* design  # the rows [1, x, state before the step]
    Py_ssize_t gate  # which gate the state is multiplied by in it, or -1
    char* work  # for `product`, and one column block to a worker
    char* rows
    size_t rows_step


cdef inline size_t panels_size(Py_ssize_t depth, Py_ssize_t n, const real* _) noexcept nogil:
    """Bytes of a packed matrix of depth x n, rounded up to whole cache lines."""
    return aligned(depth * round_up(n, tile_cols(_)) * sizeof(real))


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
    """c[i*ldc + j] (+)= Σ_k a[i*a_row + k] b[k, j], b from `pack_all`, or if `few` unpacked."""
    cdef product_t p
    cdef Py_ssize_t nr = tile_cols(c), i, j = 0
    if r.few:
        p = product_of(m, n, depth, a, a_row, 1, packed, r.width, 1, c, ldc, add)
        product(&p, NULL, max_workers())
        return
    while j < n:
        i = 0
        while i < m:
            panel_tile(
                depth, a + i * a_row, a_row, 1, packed + j * depth, c + i * ldc + j, ldc,
                min(<Py_ssize_t> MR, m - i), min(nr, n - j), add,
            )
            i += MR
        j += nr


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


cdef inline product_t input_product(rnn_t* r, real* z) noexcept nogil:
    """z = b + x w_x over all N*T rows: the part of every step that knows no time order."""
    cdef product_t p = product_of(
        r.n * r.t, r.width, r.d, <const real*> r.x, r.d, 1, <const real*> r.w + r.width, r.width, 1,
        z, r.width, False,
    )
    p.bias = r.w
    return p


cdef inline void _design_rows(rnn_t* r, Py_ssize_t n, const real* _) noexcept nogil:
    cdef Py_ssize_t t, j, length = 1 + r.d + r.u
    cdef real* m = <real*> r.design + n * r.t * length
    cdef const real* h
    cdef const real* gate
    for t in range(r.t):
        h = state_before(<const real*> r.h, <const real*> r.h0, n, t, r)
        m[0] = 1
        memcpy(m + 1, <const real*> r.x + (n * r.t + t) * r.d, r.d * sizeof(real))
        if r.gate < 0:
            memcpy(m + 1 + r.d, h, r.u * sizeof(real))
        else:
            gate = <const real*> r.gates + (n * r.t + t) * r.width + r.gate * r.u
            for j in range(r.u):
                m[1 + r.d + j] = h[j] * gate[j]
        m += length


cdef inline void _design_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef rnn_t* r = <rnn_t*> context
    if r.single:
        _design_rows(r, task, <float*> NULL)
    else:
        _design_rows(r, task, <double*> NULL)


cdef inline void design_matrix(rnn_t* r, Py_ssize_t gate, int workers) noexcept nogil:
    """The rows [1, x, h] (or [1, x, h∘gate]) of all steps, h being the state before the step."""
    r.gate = gate
    run(_design_task, r, r.n, workers)


cdef inline product_t weight_product(
    rnn_t* r, Py_ssize_t col, Py_ssize_t cols, const real* _
) noexcept nogil:
    """dw[:, col : col+cols] = designᵀ dz[:, col : col+cols]: bias, w_x and w_h in one product."""
    cdef Py_ssize_t length = 1 + r.d + r.u
    return product_of(
        length, cols, r.n * r.t, <const real*> r.design, 1, length, <const real*> r.dz + col,
        r.width, 1, <real*> r.dw + col, r.width, False,
    )


cdef inline product_t input_gradient(rnn_t* r, const real* _) noexcept nogil:
    """dx = dz w_xᵀ."""
    return product_of(
        r.n * r.t, r.d, r.width, <const real*> r.dz, r.width, 1,
        <const real*> r.w + r.width, 1, r.width, <real*> r.dx, r.d, False,
    )
