"""The six loops over time, for one block of rows n0 to n1 of the batch. Formulas: ``rnn_np.py``."""

from libc.string cimport memcpy, memmove, memset
from npdl._ext.activation cimport SIGMOID, TANH, act_span, pull_back_span
from npdl._ext.elementary cimport tanh
from npdl._ext.rnn cimport (
    active,
    add_to,
    fetch,
    fetch_all,
    fetch_t,
    fetches,
    multiply,
    rnn_t,
    state_before,
    state_product,
    step_at,
    step_product,
    step_rows,
    times_panels,
)
from npdl._ext.simd cimport fma, in_f32, opaque, out_f32, real

# ---------------------------------------------------------------------------------------- SimpleRNN

cdef inline void rnn_loop(
    rnn_t* r, Py_ssize_t n0, Py_ssize_t n1, real* rows, real* _
) noexcept nogil:
    cdef Py_ssize_t u = r.u, n, t, k, m
    cdef real* h
    for k in range(r.t):
        t = step_at(r, k)
        m = step_rows(r, n0, n1, t, False, rows)
        step_product(r, m, 0, u, rows, r.packed, <real*> r.h + (n0 * r.t + t) * u, r.t * u, NULL)
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
    """The gradient of the last state, if one was given."""
    if last == NULL:
        memset(state, 0, (n1 - n0) * r.u * sizeof(real))
    else:
        memcpy(state, <const real*> last + n0 * r.u, (n1 - n0) * r.u * sizeof(real))


cdef inline void _into_state(
    rnn_t* r, Py_ssize_t n0, Py_ssize_t n1, Py_ssize_t depth, const real* dz, const void* packed,
    real* carry, real* dstate, const void* const* lines,
) noexcept nogil:
    """dstate += dz w_hᵀ, times the factors of the state; `carry` holds one such state."""
    cdef Py_ssize_t u = r.u, step = r.t * r.wide, n
    if r.drop_h == NULL:
        times_panels(n1 - n0, u, depth, dz, step, <const real*> packed, dstate, u, True, lines)
        return
    times_panels(n1 - n0, u, depth, dz, step, <const real*> packed, carry, u, False, lines)
    for n in range(n0, n1):
        multiply(carry, <const real*> r.drop_h + n * u, carry, u)
        add_to(carry, dstate, u)
        carry += u
        dstate += u


cdef inline void rnn_loop_back(
    rnn_t* r, Py_ssize_t n0, Py_ssize_t n1, real* dstate, real* _
) noexcept nogil:
    cdef real* dz = <real*> r.dz
    cdef real* d
    cdef Py_ssize_t u = r.u, n, t, k, at
    _start_gradient(r, r.dhn, n0, n1, dstate)
    for k in reversed(range(r.t)):
        t = step_at(r, k)
        for n in range(n0, n1):
            d = dstate + (n - n0) * u
            at = (n * r.t + t) * u
            if r.dh != NULL:
                add_to(<const real*> r.dh + at, d, u)
            if active(r, n, t):
                pull_back_span(r.act, <const real*> r.h + at, d, dz + at, u)
                memset(d, 0, u * sizeof(real))
            else:  # the part that bypasses the step stays in d
                memset(dz + at, 0, u * sizeof(real))
        _into_state(
            r, n0, n1, u, dz + (n0 * r.t + t) * u, r.packed, dstate + r.block * u, dstate, NULL
        )
    memcpy(<real*> r.dh0 + n0 * u, dstate, (n1 - n0) * u * sizeof(real))


# --------------------------------------------------------------------------------------------- LSTM

cdef inline void _lstm_cell(
    const rnn_t* r, Py_ssize_t u, const real* z, real* gates, const real* c_before, real* c, real* h
) noexcept nogil:
    """The gates i, f, o, g of some units of one sequence, and the states after a step, from z.

    `gates` may be z.
    """
    cdef Py_ssize_t j
    # i, f, o = σ(z), g = act(z)
    act_span(r.gate_act, z, gates, 3 * u)
    act_span(r.act, z + 3 * u, gates + 3 * u, u)
    # c' = f∘c + i∘g, h' = o∘act(c')
    for j in range(u):
        c[j] = fma(gates[u + j], c_before[j], gates[j] * gates[3 * u + j])
    act_span(r.act, c, h, u)
    for j in range(u):
        h[j] *= gates[2 * u + j]


ctypedef void (*cell_f32)(
    const rnn_t*, Py_ssize_t, const float*, float*, const float*, float*, float*
) noexcept nogil
ctypedef void (*cell_f64)(
    const rnn_t*, Py_ssize_t, const double*, double*, const double*, double*, double*
) noexcept nogil


cdef inline void lstm_cell(
    const rnn_t* r, Py_ssize_t u, const real* z, real* gates, const real* c_before, real* c, real* h
) noexcept nogil:
    """`_lstm_cell`, compiled once: with many copies gcc misses that activations work in place."""
    if real is float:
        (<cell_f32> opaque(<void*> &_lstm_cell[float]))(r, u, z, gates, c_before, c, h)
    else:
        (<cell_f64> opaque(<void*> &_lstm_cell[double]))(r, u, z, gates, c_before, c, h)


cdef inline void lstm_loop(
    rnn_t* r, Py_ssize_t n0, Py_ssize_t n1, real* room, real* _
) noexcept nogil:
    cdef Py_ssize_t u = r.u, n, t, k, m
    cdef Py_ssize_t z_step = r.t * 4 * u if r.few else 4 * u
    cdef real* cells = room + r.block * 4 * u
    cdef real* rows = cells + r.block * u
    cdef fetch_t f
    cdef real* z = room  # not in `gates`: rows that are far apart share few places of a cache
    cdef real* gates
    cdef real* h
    cdef real* c
    cdef const real* c_before
    for k in range(r.t):
        t = step_at(r, k)
        m = step_rows(r, n0, n1, t, not r.few, rows)
        if r.few:
            z = <real*> r.gates + (n0 * r.t + t) * 4 * u
        f = fetches(r, m, 4 * u, r.length, room)
        for n in range(n0, n1):  # what this step writes, and the next one reads
            if r.gates != NULL:
                fetch(&f, <real*> r.gates + (n * r.t + t) * 4 * u, 4 * u * sizeof(real))
            if r.c != NULL:
                fetch(&f, <real*> r.c + (n * r.t + t) * u, u * sizeof(real))
            fetch(&f, <real*> r.h + (n * r.t + t) * u, u * sizeof(real))
        step_product(r, m, 0, 4 * u, rows, r.packed, z, z_step, fetch_all(&f))
        for n in range(n0, n1):
            gates = <real*> r.gates + (n * r.t + t) * 4 * u if r.whole else z
            h = <real*> r.h + (n * r.t + t) * u
            if r.c == NULL:
                c = cells + (n - n0) * u
                c_before = <const real*> r.c0 + n * u if k == 0 else c
            else:
                c = <real*> r.c + (n * r.t + t) * u
                c_before = state_before(<real*> r.c, <const real*> r.c0, n, t, r)
            if active(r, n, t):
                lstm_cell(r, u, z, gates, c_before, c, h)
            else:
                memcpy(h, state_before(<real*> r.h, <const real*> r.h0, n, t, r), u * sizeof(real))
                memmove(c, c_before, u * sizeof(real))
                if r.whole:
                    memset(gates, 0, 4 * u * sizeof(real))
            if r.few or active(r, n, t):
                z += z_step
        z = room


cdef inline bint usual(const rnn_t* r) noexcept nogil:
    """Whether the gates are sigmoids, and the rest is tanh."""
    return r.act.code == TANH and r.gate_act.code == SIGMOID


cdef inline void _usual_row_backward(
    Py_ssize_t u, in_f32 gates, in_f32 c, in_f32 c_before, in_f32 dh, out_f32 dc, out_f32 di,
    out_f32 df, out_f32 do, out_f32 dg,
) noexcept nogil:
    """`_lstm_row_backward` in one pass, with the same arithmetic."""
    cdef Py_ssize_t j
    cdef float y, d, i, f, o, g, one = 1
    for j in range(u):
        i, f, o, g = gates[j], gates[u + j], gates[2 * u + j], gates[3 * u + j]
        y = tanh(c[j])
        do[j] = dh[j] * y * o * (one - o)
        d = dc[j] + dh[j] * o * fma(-y, y, one)
        di[j] = d * g * i * (one - i)
        df[j] = d * c_before[j] * f * (one - f)
        dg[j] = d * i * fma(-g, g, one)
        dc[j] = d * f


ctypedef void (*usual_t)(
    Py_ssize_t, in_f32, in_f32, in_f32, in_f32, out_f32, out_f32, out_f32, out_f32, out_f32
) noexcept nogil


cdef inline void _lstm_row_backward(
    rnn_t* r, const real* gates, const real* c, const real* c_before, const real* dh_out, real* dh,
    real* dc, real* dz, real* y,
) noexcept nogil:
    """dz of one step of one sequence; dc becomes that of the step before, dh is lost."""
    cdef Py_ssize_t u = r.u
    if dh_out != NULL:
        add_to(dh_out, dh, u)
    if real is float:
        if usual(r):
            (<usual_t> opaque(<void*> &_usual_row_backward))(
                u, gates, c, c_before, dh, dc, dz, dz + u, dz + 2 * u, dz + 3 * u
            )
            return
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


cdef inline void _lstm_into_state(
    rnn_t* r, Py_ssize_t n0, Py_ssize_t n1, Py_ssize_t t, Py_ssize_t m, const real* dz,
    Py_ssize_t dz_step, real* carry, real* dh, const void* const* lines,
) noexcept nogil:
    """dh = dz w_hᵀ, times the factors of the state, for the m rows that are not masked."""
    cdef Py_ssize_t u = r.u, n, j
    cdef const real* drop
    cdef real zero = 0
    cdef bint all_rows = r.drop_h == NULL and m == n1 - n0
    times_panels(
        m, u, 4 * u, dz, dz_step, <const real*> r.packed, dh if all_rows else carry, u, False, lines
    )
    for n in range(n0, n0 if all_rows else n1):
        if active(r, n, t):
            if r.drop_h == NULL:
                memcpy(dh, carry, u * sizeof(real))
            else:
                drop = <const real*> r.drop_h + n * u
                for j in range(u):
                    dh[j] = fma(carry[j], drop[j], zero)  # never -0
            carry += u
        dh += u


cdef inline void lstm_loop_back(
    rnn_t* r, Py_ssize_t n0, Py_ssize_t n1, real* dh, real* _
) noexcept nogil:
    cdef Py_ssize_t u = r.u, n, t, k, at, m
    cdef real* dc = dh + r.block * u
    cdef real* carry = dc + r.block * u
    cdef real* y = carry + r.block * u
    cdef real* close = y + u  # if there is a mask, dz of the rows that are not masked
    cdef real* dz
    cdef real* row
    cdef const real* dh_out
    cdef fetch_t f
    _start_gradient(r, r.dhn, n0, n1, dh)
    _start_gradient(r, r.dcn, n0, n1, dc)
    for k in reversed(range(r.t)):
        t = step_at(r, k)
        m = 0
        for n in range(n0, n1):
            at = n * r.t + t
            dz = <real*> r.dz + at * 4 * u
            dh_out = NULL if r.dh == NULL else <const real*> r.dh + at * u
            if active(r, n, t):
                row = dz if r.mask == NULL else close + m * 4 * u
                _lstm_row_backward(
                    r, <const real*> r.gates + at * 4 * u, <const real*> r.c + at * u,
                    state_before(<real*> r.c, <const real*> r.c0, n, t, r), dh_out,
                    dh + (n - n0) * u, dc + (n - n0) * u, row, y,
                )
                if r.mask != NULL:
                    memcpy(dz, row, 4 * u * sizeof(real))
                m += 1
            else:
                if dh_out != NULL:
                    add_to(dh_out, dh + (n - n0) * u, u)
                memset(dz, 0, 4 * u * sizeof(real))
        f = fetches(r, m, u, 4 * u, dh)
        for n in range(n0, n1 if k else n0):  # what the next step needs
            at = n * r.t + step_at(r, k - 1)
            fetch(&f, <real*> r.gates + at * 4 * u, 4 * u * sizeof(real))
            fetch(&f, <real*> r.dz + at * 4 * u, 4 * u * sizeof(real))
            if r.dh != NULL:
                fetch(&f, <const real*> r.dh + at * u, u * sizeof(real))
            fetch(
                &f, state_before(<real*> r.c, <const real*> r.c0, n, step_at(r, k - 1), r),
                u * sizeof(real),
            )
        if r.mask == NULL:
            row, at = <real*> r.dz + (n0 * r.t + t) * 4 * u, r.t * 4 * u
        else:
            row, at = close, 4 * u
        _lstm_into_state(r, n0, n1, t, m, row, at, carry, dh, fetch_all(&f))
    memcpy(<real*> r.dh0 + n0 * u, dh, (n1 - n0) * u * sizeof(real))
    memcpy(<real*> r.dc0 + n0 * u, dc, (n1 - n0) * u * sizeof(real))


# ---------------------------------------------------------------------------------------------- GRU

cdef inline void gru_loop(
    rnn_t* r, Py_ssize_t n0, Py_ssize_t n1, real* rows, real* _
) noexcept nogil:
    cdef Py_ssize_t u = r.u, n, t, i, j, k, m
    cdef Py_ssize_t z_step = r.t * r.wide if r.whole else r.wide
    cdef real* room = rows + r.block * r.length
    cdef real* first = room
    cdef real* z
    cdef real* h
    cdef real* state
    cdef const real* before
    for k in range(r.t):
        t = step_at(r, k)
        m = step_rows(r, n0, n1, t, not r.whole, rows)
        if r.whole:
            first = <real*> r.gates + (n0 * r.t + t) * r.wide
        # z, r = σ(b + x w_x + h w_zr)
        step_product(r, m, 0, 2 * u, rows, r.packed, first, z_step, NULL)
        if r.after:  # b + x w_x, if not yet computed, and q = b_h + h w_hat
            if not r.few:
                times_panels(
                    m, u, 1 + r.d, rows, r.length, <const real*> r.packed_x, first + 2 * u, z_step,
                    False, NULL,
                )
            state_product(r, m, 2 * u, u, rows, r.packed_hat, first + 3 * u, z_step, False)
        for i in range(m):
            z = first + i * z_step
            act_span(r.gate_act, z, z, 2 * u)
            if r.after:
                for j in range(u):
                    z[2 * u + j] = fma(z[u + j], z[3 * u + j], z[2 * u + j])
            else:
                state = rows + i * r.length + 1 + r.d  # h, becomes h∘r
                for j in range(u):
                    state[j] *= z[u + j]
        # ĥ = act(b + x w_x + (h∘r) w_hat)
        if not r.after:
            step_product(r, m, 2 * u, u, rows, r.packed_hat, first, z_step, NULL)
        z = first
        for n in range(n0, n1):
            h = <real*> r.h + (n * r.t + t) * u
            before = state_before(<real*> r.h, <const real*> r.h0, n, t, r)
            if active(r, n, t):
                # h' = (1-z)∘ĥ + z∘h
                act_span(r.act, z + 2 * u, z + 2 * u, u)
                for j in range(u):
                    h[j] = fma(z[j], before[j] - z[2 * u + j], z[2 * u + j])
            else:
                memcpy(h, before, u * sizeof(real))
                if r.whole:
                    memset(z, 0, r.wide * sizeof(real))
            if r.whole or active(r, n, t):
                z += z_step


cdef inline void gru_loop_back(
    rnn_t* r, Py_ssize_t n0, Py_ssize_t n1, real* dh, real* _
) noexcept nogil:
    cdef Py_ssize_t u = r.u, wide = r.wide, n, t, j, k, at
    cdef real* dreset = dh + r.block * u
    cdef real* carry = dreset + r.block * u
    cdef real* dz
    cdef real* d
    cdef real* back
    cdef const real* g
    cdef const real* before
    cdef real one = 1
    _start_gradient(r, r.dhn, n0, n1, dh)
    for k in reversed(range(r.t)):
        t = step_at(r, k)
        for n in range(n0, n1):
            at = n * r.t + t
            d = dh + (n - n0) * u
            dz, g = <real*> r.dz + at * wide, <const real*> r.gates + at * wide
            before = state_before(<real*> r.h, <const real*> r.h0, n, t, r)
            if r.dh != NULL:
                add_to(<const real*> r.dh + at * u, d, u)
            if not active(r, n, t):
                memset(dz, 0, wide * sizeof(real))
                continue
            # h' = (1-z)∘ĥ + z∘h, in short loops (see `multiply`)
            for j in range(u):
                dz[j] = d[j] * (before[j] - g[2 * u + j])
            for j in range(u):
                dz[2 * u + j] = d[j] * (one - g[j])
            multiply(d, g, d, u)
            pull_back_span(r.act, g + 2 * u, dz + 2 * u, dz + 2 * u, u)
            if r.after:  # ĥ = act(b + x w_x + r∘q)
                multiply(dz + 2 * u, g + 3 * u, dz + u, u)
                multiply(dz + 2 * u, g + u, dz + 3 * u, u)
                pull_back_span(r.gate_act, g, dz, dz, 2 * u)
            else:
                pull_back_span(r.gate_act, g, dz, dz, u)
        dz = <real*> r.dz + (n0 * r.t + t) * wide
        if r.after:
            _into_state(r, n0, n1, u, dz + 3 * u, r.packed_hat, carry, dh, NULL)
        else:
            # ĥ = act(x w_x + (h∘r) w_hat + b)
            times_panels(
                n1 - n0, u, u, dz + 2 * u, r.t * wide, <const real*> r.packed_hat, dreset, u,
                False, NULL,
            )
            for n in range(n0, n1):
                at = n * r.t + t
                if not active(r, n, t):
                    continue
                d, back = dh + (n - n0) * u, dreset + (n - n0) * u
                dz, g = <real*> r.dz + at * wide, <const real*> r.gates + at * wide
                before = state_before(<real*> r.h, <const real*> r.h0, n, t, r)
                if r.drop_h != NULL:
                    multiply(back, <const real*> r.drop_h + n * u, back, u)
                for j in range(u):
                    dz[u + j] = back[j] * before[j]
                    d[j] = fma(back[j], g[u + j], d[j])
                pull_back_span(r.gate_act, g + u, dz + u, dz + u, u)
            dz = <real*> r.dz + (n0 * r.t + t) * wide
        # z, r = σ(x w_x + h w_zr + b)
        _into_state(r, n0, n1, 2 * u, dz, r.packed, carry, dh, NULL)
    memcpy(<real*> r.dh0 + n0 * u, dh, (n1 - n0) * u * sizeof(real))
