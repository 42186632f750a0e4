"""SimpleRNN, LSTM and GRU over whole batches of sequences. Contract: ``rnn_np.py``."""

from libc.stdint cimport uint8_t
from libc.string cimport memset
from npdl._ext.activation cimport parse_act
from npdl._ext.arrays cimport OR_NONE, OUT, REAL, UINT8, array, array_t, call_t, clear
from npdl._ext.gemm cimport pack_all, product, product_scratch, product_t
from npdl._ext.rnn cimport (
    design_matrix,
    input_gradient,
    input_product,
    input_rows,
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
    call_t* call, int loop, Py_ssize_t n_gates, x, w, h0, mask, h, act, gate_act
) except *:
    """Sizes and inputs of a loop, checked."""
    cdef bint forward = loop in (RNN_FORWARD, LSTM_FORWARD, GRU_FORWARD)
    cdef array_t x_ = array(call, x, "x", 3, REAL), w_ = array(call, w, "w", 2, REAL)
    cdef array_t h0_ = array(call, h0, "h0", 2, REAL)
    cdef array_t mask_ = array(call, mask, "mask", 2, UINT8 | OR_NONE)
    cdef array_t h_ = array(call, h, "h", 3, REAL | OUT if forward else REAL)
    cdef rnn_t r
    memset(&r, 0, sizeof(r))
    r.single, r.act, r.gate_act, r.loop = x_.single, parse_act(act), parse_act(gate_act), loop
    r.n, r.t, r.d, r.u = x_.shape[0], x_.shape[1], x_.shape[2], h_.shape[2]
    r.width, r.length = n_gates * r.u, 1 + r.d + r.u
    if r.t == 0 or r.d == 0 or r.u == 0:
        raise ValueError("rnn: only the batch may be empty.")
    if w_.shape[0] != r.length or w_.shape[1] != r.width:
        raise ValueError("rnn: w must have the shape (1 + D + U, gates * U).")
    if not (_is_sequence(&r, &h_, r.u) and _is_state(&r, &h0_)):
        raise ValueError("rnn: the shapes of x, h0 and h do not fit.")
    if mask_.given and not (mask_.shape[0] == r.n and mask_.shape[1] == r.t):
        raise ValueError("rnn: mask must have the shape (N, T).")
    r.x, r.w, r.h0, r.h = x_.data, w_.data, h0_.data, h_.data
    r.mask = <const uint8_t*> mask_.data
    return r


cdef inline bint _is_state(rnn_t* r, const array_t* a) noexcept nogil:
    """Whether it has the shape (N, U), or is None."""
    return not a.given or (a.shape[0] == r.n and a.shape[1] == r.u)


cdef inline bint _is_sequence(rnn_t* r, const array_t* a, Py_ssize_t width) noexcept nogil:
    """Whether it has the shape (N, T, width), or is None."""
    return not a.given or (a.shape[0] == r.n and a.shape[1] == r.t and a.shape[2] == width)


cdef void _set_gates(call_t* call, rnn_t* r, gates, int kind) except *:
    cdef array_t gates_ = array(call, gates, "gates", 3, kind)
    if not _is_sequence(r, &gates_, r.width):
        raise ValueError("rnn: gates must have the shape (N, T, gates * U).")
    r.gates = gates_.data


cdef void _set_cell(call_t* call, rnn_t* r, c0, c, int kind) except *:
    cdef array_t c0_ = array(call, c0, "c0", 2, REAL), c_ = array(call, c, "c", 3, kind)
    if not _is_state(r, &c0_):
        raise ValueError("lstm: c0 must have the shape (N, U).")
    if not _is_sequence(r, &c_, r.u):
        raise ValueError("lstm: c must have the shape (N, T, U).")
    r.c0, r.c = c0_.data, c_.data


cdef void _set_gradients(call_t* call, rnn_t* r, dh, dhn, dx, dw, dh0) except *:
    """The gradients that every backward pass has, checked."""
    cdef array_t dh_ = array(call, dh, "dh", 3, REAL | OR_NONE)
    cdef array_t dhn_ = array(call, dhn, "dhn", 2, REAL | OR_NONE)
    cdef array_t dx_ = array(call, dx, "dx", 3, REAL | OUT | OR_NONE)
    cdef array_t dw_ = array(call, dw, "dw", 2, REAL | OUT)
    cdef array_t dh0_ = array(call, dh0, "dh0", 2, REAL | OUT)
    if not _is_sequence(r, &dh_, r.u):
        raise ValueError("rnn: dh must have the shape (N, T, U).")
    if not _is_state(r, &dhn_):
        raise ValueError("rnn: dhn must have the shape (N, U).")
    if not _is_sequence(r, &dx_, r.d):
        raise ValueError("rnn: dx must have the shape (N, T, D).")
    if dw_.shape[0] != r.length or dw_.shape[1] != r.width:
        raise ValueError("rnn: dw must have the shape of w.")
    if not _is_state(r, &dh0_):
        raise ValueError("rnn: dh0 must have the shape (N, U).")
    if r.n == 0:
        clear(&dw_)
    r.dh, r.dhn, r.dx, r.dw, r.dh0 = dh_.data, dhn_.data, dx_.data, dw_.data, dh0_.data


cdef void _run_forward(rnn_t* r, const real* _) except *:
    """The loop over time."""
    cdef int workers = max_workers()
    cdef Py_ssize_t u = r.u, hat = u if r.loop == GRU_FORWARD else 0, depth
    cdef const real* w = <const real*> r.w
    cdef size_t packed = 0, packed_hat = 0, work = 0, z = 0, design = 0
    cdef product_t inputs
    cdef scratch_t s
    r.few = r.n < MR
    r.whole = r.gates != NULL or r.few
    r.block = round_up(ceil_div(r.n, workers), MR)
    r.rows_step = panels_size(r.block, r.length + r.width + u, _)  # rows, z and c of a step
    if r.few:
        if r.gates == NULL and r.loop != RNN_FORWARD:
            z = panels_size(r.n * r.t, r.width, _)
        design = aligned(r.n * r.t * (1 + r.d) * sizeof(real))
        inputs = input_product(r, <real*> NULL)
        work = aligned(product_scratch(&inputs, workers))
    depth = r.u if r.few else r.length
    if not r.few or r.t >= FEW_STEPS:
        packed, packed_hat = panels_size(depth, r.width - hat, _), panels_size(depth, hat, _)
    s = take(packed + packed_hat + work + z + design + workers * r.rows_step)
    if packed:
        r.packed, r.packed_hat = s.data, s.data + packed
    r.work = s.data + packed + packed_hat
    if z:
        r.gates = r.work + work
    r.design = r.work + work + z
    r.rows = <char*> r.design + design
    with nogil:
        if packed:
            w += (r.length - depth) * r.width
            pack_all(r.width - hat, depth, w, r.width, 1, <real*> r.packed, workers)
            if hat:
                pack_all(hat, depth, w + 2 * u, r.width, 1, <real*> r.packed_hat, workers)
        if r.few:
            input_rows(r, <real*> r.design)
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


cdef void _forward(rnn_t* r) except *:
    if r.n and r.single:
        _run_forward(r, <float*> NULL)
    elif r.n:
        _run_forward(r, <double*> NULL)


cdef void _backward(rnn_t* r) except *:
    if r.n and r.single:
        _run_backward(r, <float*> NULL)
    elif r.n:
        _run_backward(r, <double*> NULL)


def rnn_forward(x, w, h0, mask, h, act):
    """SimpleRNN: the state after every step."""
    cdef call_t call = call_t("rnn_forward", REAL)
    cdef rnn_t r = _plan(&call, RNN_FORWARD, 1, x, w, h0, mask, h, act, act)
    _forward(&r)


def rnn_backward(x, w, h0, mask, h, dh, dhn, dx, dw, dh0, act):
    """Gradients of `rnn_forward`."""
    cdef call_t call = call_t("rnn_backward", REAL)
    cdef rnn_t r = _plan(&call, RNN_BACKWARD, 1, x, w, h0, mask, h, act, act)
    _set_gradients(&call, &r, dh, dhn, dx, dw, dh0)
    _backward(&r)


def lstm_forward(x, w, h0, c0, mask, h, c, gates, act, gate_act):
    """LSTM: output and cell state after every step."""
    cdef call_t call = call_t("lstm_forward", REAL)
    cdef rnn_t r = _plan(&call, LSTM_FORWARD, 4, x, w, h0, mask, h, act, gate_act)
    _set_gates(&call, &r, gates, REAL | OUT | OR_NONE)
    _set_cell(&call, &r, c0, c, REAL | OUT | OR_NONE)
    _forward(&r)


def lstm_backward(
    x, w, h0, c0, mask, h, c, gates, dh, dhn, dcn, dx, dw, dh0, dc0, act, gate_act
):
    """Gradients of `lstm_forward`."""
    cdef call_t call = call_t("lstm_backward", REAL)
    cdef rnn_t r = _plan(&call, LSTM_BACKWARD, 4, x, w, h0, mask, h, act, gate_act)
    cdef array_t dcn_ = array(&call, dcn, "dcn", 2, REAL | OR_NONE)
    cdef array_t dc0_ = array(&call, dc0, "dc0", 2, REAL | OUT)
    _set_gates(&call, &r, gates, REAL)
    _set_cell(&call, &r, c0, c, REAL)
    if not _is_state(&r, &dcn_):
        raise ValueError("lstm: dcn must have the shape (N, U).")
    if not _is_state(&r, &dc0_):
        raise ValueError("lstm: dc0 must have the shape (N, U).")
    r.dcn, r.dc0 = dcn_.data, dc0_.data
    _set_gradients(&call, &r, dh, dhn, dx, dw, dh0)
    _backward(&r)


def gru_forward(x, w, h0, mask, h, gates, act, gate_act):
    """GRU: the state after every step."""
    cdef call_t call = call_t("gru_forward", REAL)
    cdef rnn_t r = _plan(&call, GRU_FORWARD, 3, x, w, h0, mask, h, act, gate_act)
    _set_gates(&call, &r, gates, REAL | OUT | OR_NONE)
    _forward(&r)


def gru_backward(x, w, h0, mask, h, gates, dh, dhn, dx, dw, dh0, act, gate_act):
    """Gradients of `gru_forward`."""
    cdef call_t call = call_t("gru_backward", REAL)
    cdef rnn_t r = _plan(&call, GRU_BACKWARD, 3, x, w, h0, mask, h, act, gate_act)
    _set_gates(&call, &r, gates, REAL)
    _set_gradients(&call, &r, dh, dhn, dx, dw, dh0)
    _backward(&r)
