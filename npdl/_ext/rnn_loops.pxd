"""The six loops over time, for one block of rows n0 to n1 of the batch. Formulas: ``rnn_np.py``."""

from libc.string cimport memcpy, memmove, memset
from npdl._ext.activation cimport act_span, pull_back_span
from npdl._ext.rnn cimport (
    active,
    add_to,
    multiply,
    rnn_t,
    state_before,
    step_product,
    step_rows,
    times_panels,
)
from npdl._ext.simd cimport real

# ---------------------------------------------------------------------------------------- SimpleRNN

cdef inline void rnn_loop(
    rnn_t* r, Py_ssize_t n0, Py_ssize_t n1, real* rows, real* _
) noexcept nogil:
    cdef Py_ssize_t u = r.u, n, t
    cdef real* h
    for t in range(r.t):
        step_rows(r, n0, n1, t, rows)
        step_product(
            r, n1 - n0, 0, u, rows, r.packed, <real*> r.h + (n0 * r.t + t) * u, r.t * u
        )
        for n in range(n0, n1):
            h = <real*> r.h + (n * r.t + t) * u
            if active(r, n, t):
                act_span(r.act, h, h, u)
            else:
                memcpy(
                    h, state_before(<real*> r.h, <const real*> r.h0, n, t, r), u * sizeof(real)
                )


cdef inline void _start_gradient(
    rnn_t* r, const void* last, Py_ssize_t n0, Py_ssize_t n1, real* state
) noexcept nogil:
    """The gradient of the last state, where one was given."""
    if last == NULL:
        memset(state, 0, (n1 - n0) * r.u * sizeof(real))
    else:
        memcpy(state, <const real*> last + n0 * r.u, (n1 - n0) * r.u * sizeof(real))


cdef inline void rnn_loop_back(
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
            n1 - n0, u, u, dz + (n0 * r.t + t) * u, r.t * u, <const real*> r.packed,
            dstate, u, True,
        )
    memcpy(<real*> r.dh0 + n0 * u, dstate, (n1 - n0) * u * sizeof(real))


# --------------------------------------------------------------------------------------------- LSTM

cdef inline void lstm_loop(
    rnn_t* r, Py_ssize_t n0, Py_ssize_t n1, real* rows, real* _
) noexcept nogil:
    cdef Py_ssize_t u = r.u, n, t, j
    cdef Py_ssize_t z_step = r.t * 4 * u if r.whole else 4 * u
    cdef real* room = rows + r.block * r.length
    cdef real* cells = room + r.block * 4 * u
    cdef real* z = room
    cdef real* h
    cdef real* c
    cdef const real* c_before
    for t in range(r.t):
        step_rows(r, n0, n1, t, rows)
        if r.whole:
            z = <real*> r.gates + (n0 * r.t + t) * 4 * u
        step_product(r, n1 - n0, 0, 4 * u, rows, r.packed, z, z_step)
        for n in range(n0, n1):
            h = <real*> r.h + (n * r.t + t) * u
            if r.c == NULL:
                c = cells + (n - n0) * u
                c_before = <const real*> r.c0 + n * u if t == 0 else c
            else:
                c = <real*> r.c + (n * r.t + t) * u
                c_before = state_before(<real*> r.c, <const real*> r.c0, n, t, r)
            # i, f, o = σ(z), g = act(z)
            act_span(r.gate_act, z, z, 3 * u)
            act_span(r.act, z + 3 * u, z + 3 * u, u)
            if active(r, n, t):
                # c' = f∘c + i∘g, h' = o∘act(c')
                for j in range(u):
                    c[j] = z[u + j] * c_before[j] + z[j] * z[3 * u + j]
                act_span(r.act, c, h, u)
                for j in range(u):
                    h[j] *= z[2 * u + j]
            else:
                memcpy(h, state_before(<real*> r.h, <const real*> r.h0, n, t, r), u * sizeof(real))
                memmove(c, c_before, u * sizeof(real))
            z += z_step
        z = room


cdef inline void _lstm_row_backward(
    rnn_t* r, const real* gates, const real* c, const real* c_before, real* dh, real* dc, real* dz,
    real* y,
) noexcept nogil:
    """dz of one step of one sequence; dc becomes that of the step before."""
    cdef Py_ssize_t u = r.u
    # h' = o∘act(c'):  do = dh act(c'),  dc += act'(c') o dh
    act_span(r.act, c, y, u)
    multiply(dh, y, dz + 2 * u, u)
    multiply(dh, gates + 2 * u, dh, u)
    pull_back_span(r.act, y, dh, dh, u)
    add_to(dh, dc, u)
    # c' = f∘c + i∘g
    multiply(dc, gates + 3 * u, dz, u)
    multiply(dc, c_before, dz + u, u)
    multiply(dc, gates, dz + 3 * u, u)
    multiply(dc, gates + u, dc, u)
    pull_back_span(r.gate_act, gates, dz, dz, 3 * u)
    pull_back_span(r.act, gates + 3 * u, dz + 3 * u, dz + 3 * u, u)
    memset(dh, 0, u * sizeof(real))


cdef inline void lstm_loop_back(
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
            n1 - n0, u, 4 * u, dz + (n0 * r.t + t) * 4 * u, r.t * 4 * u, <const real*> r.packed,
            dh, u, True,
        )
    memcpy(<real*> r.dh0 + n0 * u, dh, (n1 - n0) * u * sizeof(real))
    memcpy(<real*> r.dc0 + n0 * u, dc, (n1 - n0) * u * sizeof(real))


# ---------------------------------------------------------------------------------------------- GRU

cdef inline void gru_loop(
    rnn_t* r, Py_ssize_t n0, Py_ssize_t n1, real* rows, real* _
) noexcept nogil:
    cdef Py_ssize_t u = r.u, n, t, j
    cdef Py_ssize_t z_step = r.t * 3 * u if r.whole else 3 * u
    cdef real* room = rows + r.block * r.length
    cdef real* first = room
    cdef real* z
    cdef real* h
    cdef real* state
    cdef const real* before
    for t in range(r.t):
        step_rows(r, n0, n1, t, rows)
        if r.whole:
            first = <real*> r.gates + (n0 * r.t + t) * 3 * u
        # z, r = σ(b + x w_x + h w_zr)
        step_product(r, n1 - n0, 0, 2 * u, rows, r.packed, first, z_step)
        for n in range(n0, n1):
            z = first + (n - n0) * z_step
            state = rows + (n - n0) * r.length + 1 + r.d  # h, becomes h∘r
            act_span(r.gate_act, z, z, 2 * u)
            for j in range(u):
                state[j] *= z[u + j]
        # ĥ = act(b + x w_x + (h∘r) w_hat)
        step_product(r, n1 - n0, 2 * u, u, rows, r.packed_hat, first, z_step)
        for n in range(n0, n1):
            z = first + (n - n0) * z_step
            h = <real*> r.h + (n * r.t + t) * u
            before = state_before(<real*> r.h, <const real*> r.h0, n, t, r)
            act_span(r.act, z + 2 * u, z + 2 * u, u)
            if active(r, n, t):
                # h' = (1-z)∘ĥ + z∘h
                for j in range(u):
                    h[j] = z[2 * u + j] + z[j] * (before[j] - z[2 * u + j])
            else:
                memcpy(h, before, u * sizeof(real))


cdef inline void gru_loop_back(
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
            # h' = (1-z)∘ĥ + z∘h, in short loops, as `multiply` tells
            for j in range(u):
                dz[j] = d[j] * (before[j] - g[2 * u + j])
            for j in range(u):
                dz[2 * u + j] = d[j] * (one - g[j])
            multiply(d, g, d, u)
            pull_back_span(r.gate_act, g, dz, dz, u)
            pull_back_span(r.act, g + 2 * u, dz + 2 * u, dz + 2 * u, u)
        # ĥ = act(x w_x + (h∘r) w_hat + b)
        times_panels(
            n1 - n0, u, u, <const real*> r.dz + (n0 * r.t + t) * 3 * u + 2 * u, r.t * 3 * u,
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
            n1 - n0, u, 2 * u, <const real*> r.dz + (n0 * r.t + t) * 3 * u, r.t * 3 * u,
            <const real*> r.packed, dh, u, True,
        )
    memcpy(<real*> r.dh0 + n0 * u, dh, (n1 - n0) * u * sizeof(real))
