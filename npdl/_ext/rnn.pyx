"""SimpleRNN, LSTM and GRU over whole batches of sequences. Contract: ``rnn_np.py``."""

from libc.stdint cimport uint8_t
from libc.string cimport memset
from npdl._ext.activation cimport parse_act
from npdl._ext.gemm cimport pack_all, product, product_scratch, product_t
from npdl._ext.rnn cimport (
    design_matrix,
    input_gradient,
    input_product,
    panels_size,
    rnn_t,
    weight_product,
)
from npdl._ext.rnn_loops cimport (
    gru_loop,
    gru_loop_back,
    lstm_loop,
    lstm_loop_back,
    rnn_loop,
    rnn_loop_back,
)
from npdl._ext.simd cimport MR, real
from npdl._ext.threads cimport aligned, give, max_workers, run, scratch_t, take
from npdl._ext.tile cimport ceil_div, round_up

cdef enum:
    FEW_STEPS = 4  # with fewer it doesn't pay to pack the weights for a few rows

cdef enum:
    RNN_FORWARD
    RNN_BACKWARD
    LSTM_FORWARD
    LSTM_BACKWARD
    GRU_FORWARD
    GRU_BACKWARD


cdef inline void _block(rnn_t* r, Py_ssize_t task, int worker, real* _) noexcept nogil:
    """One block of rows through one of the six loops."""
    cdef Py_ssize_t n0 = task * r.block, n1 = min(r.n, n0 + r.block)
    cdef real* rows = <real*> (r.rows + worker * r.rows_step)
    if r.loop == RNN_FORWARD:
        rnn_loop(r, n0, n1, rows, _)
    elif r.loop == RNN_BACKWARD:
        rnn_loop_back(r, n0, n1, rows, _)
    elif r.loop == LSTM_FORWARD:
        lstm_loop(r, n0, n1, rows, _)
    elif r.loop == LSTM_BACKWARD:
        lstm_loop_back(r, n0, n1, rows, _)
    elif r.loop == GRU_FORWARD:
        gru_loop(r, n0, n1, rows, _)
    else:
        gru_loop_back(r, n0, n1, rows, _)


cdef void _task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef rnn_t* r = <rnn_t*> context
    if r.single:
        _block(r, task, worker, <float*> NULL)
    else:
        _block(r, task, worker, <double*> NULL)


cdef rnn_t _plan(
    int loop,
    Py_ssize_t n_gates,
    const real[:, :, ::1] x,
    const real[:, ::1] w,
    const real[:, ::1] h0,
    const uint8_t[:, ::1] mask,
    const real[:, :, ::1] h,
    act,
    gate_act,
) except *:
    """Sizes and inputs of a loop, checked."""
    cdef rnn_t r
    memset(&r, 0, sizeof(r))
    r.single, r.act, r.gate_act, r.loop = real is float, parse_act(act), parse_act(gate_act), loop
    r.n, r.t, r.d, r.u = x.shape[0], x.shape[1], x.shape[2], h.shape[2]
    r.width, r.length = n_gates * r.u, 1 + r.d + r.u
    if r.t == 0 or r.d == 0 or r.u == 0:
        raise ValueError("rnn: only the batch may be empty.")
    if w.shape[0] != r.length or w.shape[1] != r.width:
        raise ValueError("rnn: w must have the shape (1 + D + U, gates * U).")
    if h.shape[0] != r.n or h.shape[1] != r.t or h0.shape[0] != r.n or h0.shape[1] != r.u:
        raise ValueError("rnn: the shapes of x, h0 and h do not fit.")
    if mask is not None and (mask.shape[0] != r.n or mask.shape[1] != r.t):
        raise ValueError("rnn: mask must have the shape (N, T).")
    if r.n:
        r.x, r.w, r.h0, r.h = &x[0, 0, 0], &w[0, 0], &h0[0, 0], <void*> &h[0, 0, 0]
        r.mask = NULL if mask is None else &mask[0, 0]
    return r


cdef void _set_state_gradients(
    rnn_t* r,
    const real[:, :, ::1] dh,
    const real[:, ::1] dhn,
    real[:, :, ::1] dx,
    real[:, ::1] dw,
    real[:, ::1] dh0,
) except *:
    """The gradients that every backward pass has, checked."""
    if dh is not None and not (dh.shape[0] == r.n and dh.shape[1] == r.t and dh.shape[2] == r.u):
        raise ValueError("rnn: dh must have the shape (N, T, U).")
    if dhn is not None and not (dhn.shape[0] == r.n and dhn.shape[1] == r.u):
        raise ValueError("rnn: dhn must have the shape (N, U).")
    if dx is not None and not (dx.shape[0] == r.n and dx.shape[1] == r.t and dx.shape[2] == r.d):
        raise ValueError("rnn: dx must have the shape (N, T, D).")
    if dw.shape[0] != r.length or dw.shape[1] != r.width:
        raise ValueError("rnn: dw must have the shape of w.")
    if dh0.shape[0] != r.n or dh0.shape[1] != r.u:
        raise ValueError("rnn: dh0 must have the shape (N, U).")
    if r.n == 0:
        dw[...] = 0
        return
    r.dh = NULL if dh is None else &dh[0, 0, 0]
    r.dhn = NULL if dhn is None else &dhn[0, 0]
    r.dx = NULL if dx is None else <void*> &dx[0, 0, 0]
    r.dw, r.dh0 = &dw[0, 0], &dh0[0, 0]


cdef void _run_forward(rnn_t* r, const real* _) except *:
    """The loop over time."""
    cdef int workers = max_workers()
    cdef Py_ssize_t u = r.u, hat = u if r.loop == GRU_FORWARD else 0, depth
    cdef const real* w = <const real*> r.w
    cdef size_t packed = 0, packed_hat = 0, work = 0, z = 0
    cdef product_t inputs
    cdef scratch_t s
    r.few = r.n < MR
    r.whole = r.gates != NULL or r.few
    r.block = round_up(ceil_div(r.n, workers), MR)
    r.rows_step = panels_size(r.block, r.length + r.width + u, _)  # rows, z and c of a step
    if r.few:
        if r.gates == NULL and r.loop != RNN_FORWARD:
            z = panels_size(r.n * r.t, r.width, _)
        inputs = input_product(r, <real*> NULL)
        work = aligned(product_scratch(&inputs, workers))
    depth = r.u if r.few else r.length
    if not r.few or r.t >= FEW_STEPS:
        packed, packed_hat = panels_size(depth, r.width - hat, _), panels_size(depth, hat, _)
    s = take(packed + packed_hat + work + z + workers * r.rows_step)
    if packed:
        r.packed, r.packed_hat = s.data, s.data + packed
    r.work = s.data + packed + packed_hat
    if z:
        r.gates = r.work + work
    r.rows = r.work + work + z
    with nogil:
        if packed:
            w += (r.length - depth) * r.width
            pack_all(r.width - hat, depth, w, r.width, 1, <real*> r.packed, workers)
            if hat:
                pack_all(hat, depth, w + 2 * u, r.width, 1, <real*> r.packed_hat, workers)
        if r.few:
            inputs = input_product(r, <real*> (r.h if r.loop == RNN_FORWARD else r.gates))
            product(&inputs, r.work, workers)
            _task(r, 0, 0)
        else:
            run(_task, r, ceil_div(r.n, r.block), workers)
    give(s)


cdef void _run_backward(rnn_t* r, const real* _) except *:
    """The loop back through time, which leaves dz; then dw and dx from all of it."""
    cdef int workers = max_workers()
    cdef Py_ssize_t u = r.u, hat = u if r.loop == GRU_BACKWARD else 0, cols = r.width - hat
    cdef const real* w_h = <const real*> r.w + (1 + r.d) * r.width
    cdef size_t packed = panels_size(r.width, u, _), packed_hat = panels_size(hat, u, _), work
    cdef size_t dz = panels_size(r.n * r.t, r.width, _)
    cdef size_t design = panels_size(r.n * r.t, r.length, _)
    cdef product_t weights = weight_product(r, 0, cols, _), inputs = input_gradient(r, _)
    cdef scratch_t s
    work = aligned(max(product_scratch(&weights, workers), product_scratch(&inputs, workers)))
    r.block = round_up(ceil_div(r.n, workers), MR)
    r.rows_step = panels_size(2 * r.block + 1, u, _)
    s = take(packed + packed_hat + dz + design + work + workers * r.rows_step)
    r.packed, r.packed_hat = s.data, s.data + packed
    r.dz = s.data + packed + packed_hat
    r.design = <char*> r.dz + dz
    r.work = <char*> r.design + design
    r.rows = r.work + work
    weights.a, weights.b, inputs.a = r.design, r.dz, r.dz
    with nogil:
        pack_all(u, cols, w_h, 1, r.width, <real*> r.packed, workers)
        if hat:
            pack_all(u, hat, w_h + cols, 1, r.width, <real*> r.packed_hat, workers)
        run(_task, r, ceil_div(r.n, r.block), workers)
        design_matrix(r, -1, workers)
        product(&weights, r.work, workers)
        if hat:
            design_matrix(r, 1, workers)  # the columns of ĥ saw h∘r
            weights = weight_product(r, cols, hat, _)
            product(&weights, r.work, workers)
        if r.dx != NULL:
            product(&inputs, r.work, workers)
    give(s)


def rnn_forward(
    const real[:, :, ::1] x not None,
    const real[:, ::1] w not None,
    const real[:, ::1] h0 not None,
    const uint8_t[:, ::1] mask,
    real[:, :, ::1] h not None,
    act,
):
    """SimpleRNN: the state after every step."""
    cdef rnn_t r = _plan(RNN_FORWARD, 1, x, w, h0, mask, h, act, act)
    if r.n:
        _run_forward(&r, &w[0, 0])


def rnn_backward(
    const real[:, :, ::1] x not None,
    const real[:, ::1] w not None,
    const real[:, ::1] h0 not None,
    const uint8_t[:, ::1] mask,
    const real[:, :, ::1] h not None,
    const real[:, :, ::1] dh,
    const real[:, ::1] dhn,
    real[:, :, ::1] dx,
    real[:, ::1] dw not None,
    real[:, ::1] dh0 not None,
    act,
):
    """Gradients of `rnn_forward`."""
    cdef rnn_t r = _plan(RNN_BACKWARD, 1, x, w, h0, mask, h, act, act)
    _set_state_gradients(&r, dh, dhn, dx, dw, dh0)
    if r.n:
        _run_backward(&r, &w[0, 0])


cdef void _set_gates(rnn_t* r, const real[:, :, ::1] gates) except *:
    if gates is None:
        return
    if not (gates.shape[0] == r.n and gates.shape[1] == r.t and gates.shape[2] == r.width):
        raise ValueError("rnn: gates must have the shape (N, T, gates * U).")
    if r.n:
        r.gates = <void*> &gates[0, 0, 0]


cdef void _set_cell(rnn_t* r, const real[:, ::1] c0, const real[:, :, ::1] c) except *:
    if c0.shape[0] != r.n or c0.shape[1] != r.u:
        raise ValueError("lstm: c0 must have the shape (N, U).")
    if c is not None and not (c.shape[0] == r.n and c.shape[1] == r.t and c.shape[2] == r.u):
        raise ValueError("lstm: c must have the shape (N, T, U).")
    if r.n:
        r.c0 = &c0[0, 0]
        r.c = NULL if c is None else <void*> &c[0, 0, 0]


def lstm_forward(
    const real[:, :, ::1] x not None,
    const real[:, ::1] w not None,
    const real[:, ::1] h0 not None,
    const real[:, ::1] c0 not None,
    const uint8_t[:, ::1] mask,
    real[:, :, ::1] h not None,
    real[:, :, ::1] c,
    real[:, :, ::1] gates,
    act,
    gate_act,
):
    """LSTM: output and cell state after every step."""
    cdef rnn_t r = _plan(LSTM_FORWARD, 4, x, w, h0, mask, h, act, gate_act)
    _set_gates(&r, gates)
    _set_cell(&r, c0, c)
    if r.n:
        _run_forward(&r, &w[0, 0])


def lstm_backward(
    const real[:, :, ::1] x not None,
    const real[:, ::1] w not None,
    const real[:, ::1] h0 not None,
    const real[:, ::1] c0 not None,
    const uint8_t[:, ::1] mask,
    const real[:, :, ::1] h not None,
    const real[:, :, ::1] c not None,
    const real[:, :, ::1] gates not None,
    const real[:, :, ::1] dh,
    const real[:, ::1] dhn,
    const real[:, ::1] dcn,
    real[:, :, ::1] dx,
    real[:, ::1] dw not None,
    real[:, ::1] dh0 not None,
    real[:, ::1] dc0 not None,
    act,
    gate_act,
):
    """Gradients of `lstm_forward`."""
    cdef rnn_t r = _plan(LSTM_BACKWARD, 4, x, w, h0, mask, h, act, gate_act)
    _set_gates(&r, gates)
    _set_cell(&r, c0, c)
    _set_state_gradients(&r, dh, dhn, dx, dw, dh0)
    if dcn is not None and not (dcn.shape[0] == r.n and dcn.shape[1] == r.u):
        raise ValueError("lstm: dcn must have the shape (N, U).")
    if dc0.shape[0] != r.n or dc0.shape[1] != r.u:
        raise ValueError("lstm: dc0 must have the shape (N, U).")
    if r.n:
        r.dcn = NULL if dcn is None else &dcn[0, 0]
        r.dc0 = &dc0[0, 0]
        _run_backward(&r, &w[0, 0])


def gru_forward(
    const real[:, :, ::1] x not None,
    const real[:, ::1] w not None,
    const real[:, ::1] h0 not None,
    const uint8_t[:, ::1] mask,
    real[:, :, ::1] h not None,
    real[:, :, ::1] gates,
    act,
    gate_act,
):
    """GRU: the state after every step."""
    cdef rnn_t r = _plan(GRU_FORWARD, 3, x, w, h0, mask, h, act, gate_act)
    _set_gates(&r, gates)
    if r.n:
        _run_forward(&r, &w[0, 0])


def gru_backward(
    const real[:, :, ::1] x not None,
    const real[:, ::1] w not None,
    const real[:, ::1] h0 not None,
    const uint8_t[:, ::1] mask,
    const real[:, :, ::1] h not None,
    const real[:, :, ::1] gates not None,
    const real[:, :, ::1] dh,
    const real[:, ::1] dhn,
    real[:, :, ::1] dx,
    real[:, ::1] dw not None,
    real[:, ::1] dh0 not None,
    act,
    gate_act,
):
    """Gradients of `gru_forward`."""
    cdef rnn_t r = _plan(GRU_BACKWARD, 3, x, w, h0, mask, h, act, gate_act)
    _set_gates(&r, gates)
    _set_state_gradients(&r, dh, dhn, dx, dw, dh0)
    if r.n:
        _run_backward(&r, &w[0, 0])
