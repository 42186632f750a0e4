"""SimpleRNN, LSTM and GRU over whole batches of sequences. Contract: ``rnn_np.py``."""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset
from npdl._ext.activation cimport act_span, parse_act, pull_back_span
from npdl._ext.gemm cimport MR, ceil_div, panel_tables, product_scratch, round_up
from npdl._ext.rnn cimport (
    active,
    add_to,
    design_matrix,
    input_gradient,
    input_product,
    pack_panels,
    panels_size,
    rnn_t,
    state_before,
    state_step,
    times_panels,
    weight_product,
)
from npdl._ext.simd cimport real
from npdl._ext.threads cimport give, max_workers, run, scratch_t, take


# ---------------------------------------------------------------------------------------- SimpleRNN

cdef inline void _rnn_forward(rnn_t* r, Py_ssize_t n0, Py_ssize_t n1, real* _) noexcept nogil:
    cdef real* h = <real*> r.h
    cdef const real* bias = <const real*> r.w
    cdef const real* before
    cdef Py_ssize_t u = r.u, n, t
    for t in range(r.t):
        # z = x w_x (already in h) + h_before w_h
        times_panels(
            r, n1 - n0, u, u, state_before(h, <const real*> r.h0, n0, t, r), state_step(t, r),
            <const real*> r.packed, h + (n0 * r.t + t) * u, r.t * u, True,
        )
        for n in range(n0, n1):
            before = state_before(h, <const real*> r.h0, n, t, r)
            if active(r, n, t):
                add_to(bias, h + (n * r.t + t) * u, u)
                act_span(r.act, h + (n * r.t + t) * u, h + (n * r.t + t) * u, u)
            else:
                memcpy(h + (n * r.t + t) * u, before, u * sizeof(real))


cdef inline void _start_gradient(
    rnn_t* r, const void* last, Py_ssize_t n0, Py_ssize_t n1, real* state
) noexcept nogil:
    """The gradient of the last state, where one was given."""
    if last == NULL:
        memset(state, 0, (n1 - n0) * r.u * sizeof(real))
    else:
        memcpy(state, <const real*> last + n0 * r.u, (n1 - n0) * r.u * sizeof(real))


cdef inline void _rnn_backward(
    rnn_t* r, Py_ssize_t n0, Py_ssize_t n1, real* dstate, real* _
) noexcept nogil:
    cdef real* dz = <real*> r.dz
    cdef real* d
    cdef Py_ssize_t u = r.u, n, t, at
    _start_gradient(r, r.dhn, n0, n1, dstate)
    for t in reversed(range(r.t)):
        for n in range(n0, n1):
            d = dstate + (n - n0) * u
            at = (n * r.t + t) * u
            if r.dh != NULL:
                add_to(<const real*> r.dh + at, d, u)
            if active(r, n, t):
                pull_back_span(r.act, <const real*> r.h + at, d, dz + at, u)
                memset(d, 0, u * sizeof(real))
            else:  # what passes the step by stays in d
                memset(dz + at, 0, u * sizeof(real))
        times_panels(
            r, n1 - n0, u, u, dz + (n0 * r.t + t) * u, r.t * u, <const real*> r.packed,
            dstate, u, True,
        )
    memcpy(<real*> r.dh0 + n0 * u, dstate, (n1 - n0) * u * sizeof(real))


# --------------------------------------------------------------------------------------------- LSTM

cdef inline void _lstm_forward(rnn_t* r, Py_ssize_t n0, Py_ssize_t n1, real* _) noexcept nogil:
    cdef Py_ssize_t u = r.u, n, t, j
    cdef real* gates = <real*> r.gates
    cdef real* h
    cdef real* c
    cdef real* z
    cdef const real* c_before
    for t in range(r.t):
        # z = x w_x (already in gates) + h_before w_h
        times_panels(
            r, n1 - n0, 4 * u, u, state_before(<real*> r.h, <const real*> r.h0, n0, t, r),
            state_step(t, r), <const real*> r.packed, gates + (n0 * r.t + t) * 4 * u, r.t * 4 * u,
            True,
        )
        for n in range(n0, n1):
            h, c = <real*> r.h + (n * r.t + t) * u, <real*> r.c + (n * r.t + t) * u
            c_before = state_before(<real*> r.c, <const real*> r.c0, n, t, r)
            # i, f, o = σ(z + b), g = act(z + b)
            z = gates + (n * r.t + t) * 4 * u
            add_to(<const real*> r.w, z, 4 * u)
            act_span(r.gate_act, z, z, 3 * u)
            act_span(r.act, z + 3 * u, z + 3 * u, u)
            if not active(r, n, t):
                memcpy(h, state_before(<real*> r.h, <const real*> r.h0, n, t, r), u * sizeof(real))
                memcpy(c, c_before, u * sizeof(real))
                continue
            # c' = f∘c + i∘g, h' = o∘act(c')
            for j in range(u):
                c[j] = z[u + j] * c_before[j] + z[j] * z[3 * u + j]
            act_span(r.act, c, h, u)
            for j in range(u):
                h[j] *= z[2 * u + j]


cdef inline void _lstm_row_backward(
    rnn_t* r, const real* gates, const real* c, const real* c_before, real* dh, real* dc, real* dz,
    real* y,
) noexcept nogil:
    """dz of one step of one sequence; dc becomes that of the step before."""
    cdef Py_ssize_t u = r.u, j
    # h' = o∘act(c'):  do = dh act(c'),  dc += act'(c') o dh
    act_span(r.act, c, y, u)
    for j in range(u):
        dz[2 * u + j] = dh[j] * y[j]
        dh[j] *= gates[2 * u + j]
    pull_back_span(r.act, y, dh, dh, u)
    # c' = f∘c + i∘g
    for j in range(u):
        dc[j] += dh[j]
        dz[j] = dc[j] * gates[3 * u + j]
        dz[u + j] = dc[j] * c_before[j]
        dz[3 * u + j] = dc[j] * gates[j]
        dc[j] *= gates[u + j]
    pull_back_span(r.gate_act, gates, dz, dz, 3 * u)
    pull_back_span(r.act, gates + 3 * u, dz + 3 * u, dz + 3 * u, u)
    memset(dh, 0, u * sizeof(real))


cdef inline void _lstm_backward(
    rnn_t* r, Py_ssize_t n0, Py_ssize_t n1, real* dh, real* _
) noexcept nogil:
    cdef Py_ssize_t u = r.u, n, t, at
    cdef real* dc = dh + r.block * u
    cdef real* y = dc + r.block * u
    cdef real* dz = <real*> r.dz
    _start_gradient(r, r.dhn, n0, n1, dh)
    _start_gradient(r, r.dcn, n0, n1, dc)
    for t in reversed(range(r.t)):
        for n in range(n0, n1):
            at = n * r.t + t
            if r.dh != NULL:
                add_to(<const real*> r.dh + at * u, dh + (n - n0) * u, u)
            if active(r, n, t):
                _lstm_row_backward(
                    r, <const real*> r.gates + at * 4 * u, <const real*> r.c + at * u,
                    state_before(<real*> r.c, <const real*> r.c0, n, t, r),
                    dh + (n - n0) * u, dc + (n - n0) * u, dz + at * 4 * u, y,
                )
            else:
                memset(dz + at * 4 * u, 0, 4 * u * sizeof(real))
        times_panels(
            r, n1 - n0, u, 4 * u, dz + (n0 * r.t + t) * 4 * u, r.t * 4 * u, <const real*> r.packed,
            dh, u, True,
        )
    memcpy(<real*> r.dh0 + n0 * u, dh, (n1 - n0) * u * sizeof(real))
    memcpy(<real*> r.dc0 + n0 * u, dc, (n1 - n0) * u * sizeof(real))


# ---------------------------------------------------------------------------------------------- GRU

cdef inline void _gru_forward(
    rnn_t* r, Py_ssize_t n0, Py_ssize_t n1, real* reset, real* _
) noexcept nogil:
    cdef Py_ssize_t u = r.u, n, t, j
    cdef real* gates = <real*> r.gates
    cdef real* z
    cdef real* h
    cdef const real* before
    cdef const real* bias = <const real*> r.w
    for t in range(r.t):
        # z, r = σ(x w_x (already in gates) + h w_zr + b)
        times_panels(
            r, n1 - n0, 2 * u, u, state_before(<real*> r.h, <const real*> r.h0, n0, t, r),
            state_step(t, r), <const real*> r.packed, gates + (n0 * r.t + t) * 3 * u, r.t * 3 * u,
            True,
        )
        for n in range(n0, n1):
            z = gates + (n * r.t + t) * 3 * u
            before = state_before(<real*> r.h, <const real*> r.h0, n, t, r)
            add_to(bias, z, 3 * u)
            act_span(r.gate_act, z, z, 2 * u)
            for j in range(u):
                reset[(n - n0) * u + j] = before[j] * z[u + j]
        # ĥ = act(x w_x + (h∘r) w_hat + b)
        times_panels(
            r, n1 - n0, u, u, reset, u, <const real*> r.packed_hat,
            gates + (n0 * r.t + t) * 3 * u + 2 * u, r.t * 3 * u, True,
        )
        for n in range(n0, n1):
            z = gates + (n * r.t + t) * 3 * u
            h = <real*> r.h + (n * r.t + t) * u
            before = state_before(<real*> r.h, <const real*> r.h0, n, t, r)
            act_span(r.act, z + 2 * u, z + 2 * u, u)
            if active(r, n, t):
                # h' = (1-z)∘ĥ + z∘h
                for j in range(u):
                    h[j] = z[2 * u + j] + z[j] * (before[j] - z[2 * u + j])
            else:
                memcpy(h, before, u * sizeof(real))


cdef inline void _gru_backward(
    rnn_t* r, Py_ssize_t n0, Py_ssize_t n1, real* dh, real* _
) noexcept nogil:
    cdef Py_ssize_t u = r.u, n, t, j, at
    cdef real* dreset = dh + r.block * u
    cdef real* dz
    cdef real* d
    cdef const real* g
    cdef const real* before
    cdef real one = 1
    _start_gradient(r, r.dhn, n0, n1, dh)
    for t in reversed(range(r.t)):
        for n in range(n0, n1):
            at = n * r.t + t
            d = dh + (n - n0) * u
            dz, g = <real*> r.dz + at * 3 * u, <const real*> r.gates + at * 3 * u
            before = state_before(<real*> r.h, <const real*> r.h0, n, t, r)
            if r.dh != NULL:
                add_to(<const real*> r.dh + at * u, d, u)
            if not active(r, n, t):
                memset(dz, 0, 3 * u * sizeof(real))
                continue
            # h' = (1-z)∘ĥ + z∘h
            for j in range(u):
                dz[j] = d[j] * (before[j] - g[2 * u + j])
                dz[2 * u + j] = d[j] * (one - g[j])
                d[j] *= g[j]
            pull_back_span(r.gate_act, g, dz, dz, u)
            pull_back_span(r.act, g + 2 * u, dz + 2 * u, dz + 2 * u, u)
        # ĥ = act(x w_x + (h∘r) w_hat + b)
        times_panels(
            r, n1 - n0, u, u, <const real*> r.dz + (n0 * r.t + t) * 3 * u + 2 * u, r.t * 3 * u,
            <const real*> r.packed_hat, dreset, u, False,
        )
        for n in range(n0, n1):
            at = n * r.t + t
            if not active(r, n, t):
                continue
            d = dh + (n - n0) * u
            dz, g = <real*> r.dz + at * 3 * u, <const real*> r.gates + at * 3 * u
            before = state_before(<real*> r.h, <const real*> r.h0, n, t, r)
            for j in range(u):
                dz[u + j] = dreset[(n - n0) * u + j] * before[j]
                d[j] += dreset[(n - n0) * u + j] * g[u + j]
            pull_back_span(r.gate_act, g + u, dz + u, dz + u, u)
        # z, r = σ(x w_x + h w_zr + b)
        times_panels(
            r, n1 - n0, u, 2 * u, <const real*> r.dz + (n0 * r.t + t) * 3 * u, r.t * 3 * u,
            <const real*> r.packed, dh, u, True,
        )
    memcpy(<real*> r.dh0 + n0 * u, dh, (n1 - n0) * u * sizeof(real))


# ----------------------------------------------------------------------------------------- the call

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
        _rnn_forward(r, n0, n1, _)
    elif r.loop == RNN_BACKWARD:
        _rnn_backward(r, n0, n1, rows, _)
    elif r.loop == LSTM_FORWARD:
        _lstm_forward(r, n0, n1, _)
    elif r.loop == LSTM_BACKWARD:
        _lstm_backward(r, n0, n1, rows, _)
    elif r.loop == GRU_FORWARD:
        _gru_forward(r, n0, n1, rows, _)
    else:
        _gru_backward(r, n0, n1, rows, _)


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
    r.width = n_gates * r.u
    if r.t == 0 or r.d == 0 or r.u == 0:
        raise ValueError("rnn: only the batch may be empty.")
    if w.shape[0] != 1 + r.d + r.u or w.shape[1] != r.width:
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
    if dw.shape[0] != 1 + r.d + r.u or dw.shape[1] != r.width:
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
    """The input product, then the loop over time."""
    cdef int workers = max_workers()
    cdef Py_ssize_t u = r.u
    cdef const real* w_h = <const real*> r.w + (1 + r.d) * r.width
    cdef size_t packed = panels_size(u, r.width, _), hat = panels_size(u, u, _)
    cdef size_t work = product_scratch(r.n * r.t, r.width, r.d, _)
    cdef scratch_t s
    r.block = round_up(ceil_div(r.n, workers), MR)
    r.rows_step = panels_size(r.block, u, _)
    s = take(packed + hat + work + workers * r.rows_step)
    r.packed, r.packed_hat = s.data, s.data + packed
    r.work = s.data + packed + hat
    r.rows = r.work + work
    panel_tables(r.row_table, r.at_table, _)
    with nogil:
        input_product(r, <real*> (r.h if r.gates == NULL else r.gates))
        if r.loop == GRU_FORWARD:
            pack_panels(u, 2 * u, w_h, r.width, 1, <real*> r.packed)
            pack_panels(u, u, w_h + 2 * u, r.width, 1, <real*> r.packed_hat)
        else:
            pack_panels(u, r.width, w_h, r.width, 1, <real*> r.packed)
        run(_task, r, ceil_div(r.n, r.block), workers)
    give(s)


cdef void _run_backward(rnn_t* r, const real* _) except *:
    """The loop back through time, which leaves dz; then dw and dx from all of it."""
    cdef int workers = max_workers()
    cdef Py_ssize_t u = r.u, length = 1 + r.d + u
    cdef const real* w_h = <const real*> r.w + (1 + r.d) * r.width
    cdef size_t packed = panels_size(r.width, u, _), hat = panels_size(u, u, _)
    cdef size_t dz = panels_size(r.n * r.t, r.width, _), design = panels_size(r.n * r.t, length, _)
    cdef size_t work = max(
        product_scratch(length, r.width, r.n * r.t, _),
        product_scratch(r.n * r.t, r.d, r.width, _),
    )
    cdef real* m
    cdef scratch_t s
    r.block = round_up(ceil_div(r.n, workers), MR)
    r.rows_step = panels_size(2 * r.block + 1, u, _)
    s = take(packed + hat + dz + design + work + workers * r.rows_step)
    r.packed, r.packed_hat = s.data, s.data + packed
    r.dz = s.data + packed + hat
    m = <real*> (s.data + packed + hat + dz)
    r.work = s.data + packed + hat + dz + design
    r.rows = r.work + work
    panel_tables(r.row_table, r.at_table, _)
    with nogil:
        if r.loop == GRU_BACKWARD:
            pack_panels(2 * u, u, w_h, 1, r.width, <real*> r.packed)
            pack_panels(u, u, w_h + 2 * u, 1, r.width, <real*> r.packed_hat)
        else:
            pack_panels(r.width, u, w_h, 1, r.width, <real*> r.packed)
        run(_task, r, ceil_div(r.n, r.block), workers)
        design_matrix(r, <const real*> NULL, m)
        if r.loop == GRU_BACKWARD:
            weight_product(r, m, 0, 2 * u)
            design_matrix(r, <const real*> r.gates + u, m)  # the columns of ĥ saw h∘r
            weight_product(r, m, 2 * u, u)
        else:
            weight_product(r, m, 0, r.width)
        input_gradient(r, _)
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
    if not (gates.shape[0] == r.n and gates.shape[1] == r.t and gates.shape[2] == r.width):
        raise ValueError("rnn: gates must have the shape (N, T, gates * U).")
    if r.n:
        r.gates = <void*> &gates[0, 0, 0]


cdef void _set_cell(rnn_t* r, const real[:, ::1] c0, const real[:, :, ::1] c) except *:
    if not (
        c0.shape[0] == r.n and c0.shape[1] == r.u
        and c.shape[0] == r.n and c.shape[1] == r.t and c.shape[2] == r.u
    ):
        raise ValueError("lstm: c0 must have the shape (N, U), c the shape (N, T, U).")
    if r.n:
        r.c0, r.c = &c0[0, 0], <void*> &c[0, 0, 0]


def lstm_forward(
    const real[:, :, ::1] x not None,
    const real[:, ::1] w not None,
    const real[:, ::1] h0 not None,
    const real[:, ::1] c0 not None,
    const uint8_t[:, ::1] mask,
    real[:, :, ::1] h not None,
    real[:, :, ::1] c not None,
    real[:, :, ::1] gates not None,
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
    real[:, :, ::1] gates not None,
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
