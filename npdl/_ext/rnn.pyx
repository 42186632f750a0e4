"""SimpleRNN, LSTM and GRU over whole batches of sequences. Contract: ``rnn_np.py``."""

from libc.stdint cimport uint8_t
from libc.string cimport memset
from npdl._ext.activation cimport parse_act
from npdl._ext.arrays cimport OR_NONE, OUT, REAL, UINT8, array, array_t, call_t, clear
from npdl._ext.packed cimport pack_all
from npdl._ext.rnn cimport rnn_t
from npdl._ext.rnn_few cimport arrange, few_scratch, few_sizes, few_steps, few_t
from npdl._ext.rnn_jobs cimport (
    GRU_BACKWARD,
    GRU_FORWARD,
    LSTM_BACKWARD,
    LSTM_FORWARD,
    RNN_BACKWARD,
    RNN_FORWARD,
    all_scratch,
    forward_steps,
    jobs_t,
    pack_weights,
    run_backward,
    set_form,
    weights_scratch,
)
from npdl._ext.simd cimport MR
from npdl._ext.steps cimport make_step, ready_t
from npdl._ext.threads cimport aligned, give, max_workers, scratch_t, take


cdef rnn_t _plan(
    call_t* call, int loop, Py_ssize_t n_gates, x, w, h0, mask, h, act, gate_act, reverse, drop_x,
    drop_h,
) except *:
    """The checked sizes and inputs of a loop."""
    cdef bint forward = loop in (RNN_FORWARD, LSTM_FORWARD, GRU_FORWARD)
    cdef array_t x_ = array(call, x, "x", 3, REAL), w_ = array(call, w, "w", 2, REAL)
    cdef array_t h0_ = array(call, h0, "h0", 2, REAL)
    cdef array_t mask_ = array(call, mask, "mask", 2, UINT8 | OR_NONE)
    cdef array_t h_ = array(call, h, "h", 3, REAL | OUT if forward else REAL)
    cdef array_t drop_x_ = array(call, drop_x, "drop_x", 2, REAL | OR_NONE)
    cdef array_t drop_h_ = array(call, drop_h, "drop_h", 2, REAL | OR_NONE)
    cdef rnn_t r
    memset(&r, 0, sizeof(r))
    r.reverse = bool(reverse)
    r.single, r.act, r.gate_act, r.loop = x_.single, parse_act(act), parse_act(gate_act), loop
    r.n, r.t, r.d, r.u = x_.shape[0], x_.shape[1], x_.shape[2], h_.shape[2]
    r.width = r.wide = n_gates * r.u
    r.length = 1 + r.d + r.u
    if loop in (GRU_FORWARD, GRU_BACKWARD) and w_.shape[0] == r.length + 1:
        r.after, r.length, r.wide = True, r.length + 1, 4 * r.u
    if r.t == 0 or r.d == 0 or r.u == 0:
        raise ValueError("rnn: only the batch may be empty.")
    if w_.shape[0] != r.length or w_.shape[1] != r.width:
        raise ValueError("rnn: w must have the shape (1 + D + U, gates * U).")
    if not (_is_sequence(&r, &h_, r.u) and _is_state(&r, &h0_)):
        raise ValueError("rnn: the shapes of x, h0 and h do not fit.")
    if mask_.given and not (mask_.shape[0] == r.n and mask_.shape[1] == r.t):
        raise ValueError("rnn: mask must have the shape (N, T).")
    if drop_x_.given and not (drop_x_.shape[0] == r.n and drop_x_.shape[1] == r.d):
        raise ValueError("rnn: drop_x must have the shape (N, D).")
    if not _is_state(&r, &drop_h_):
        raise ValueError("rnn: drop_h must have the shape (N, U).")
    r.drop_x, r.drop_h = drop_x_.data, drop_h_.data
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
    if not _is_sequence(r, &gates_, r.wide):
        raise ValueError(f"rnn: gates must have the shape (N, T, {r.wide // r.u} * U).")
    r.gates = gates_.data


cdef void _set_cell(call_t* call, rnn_t* r, c0, c, int kind) except *:
    cdef array_t c0_ = array(call, c0, "c0", 2, REAL), c_ = array(call, c, "c", 3, kind)
    if not _is_state(r, &c0_):
        raise ValueError("lstm: c0 must have the shape (N, U).")
    if not _is_sequence(r, &c_, r.u):
        raise ValueError("lstm: c must have the shape (N, T, U).")
    r.c0, r.c = c0_.data, c_.data


cdef void _set_gradients(call_t* call, rnn_t* r, dh, dhn, dx, dw, dh0) except *:
    """The checked gradients of every backward pass."""
    cdef array_t dh_ = array(call, dh, "dh", 3, REAL | OR_NONE)
    cdef array_t dhn_ = array(call, dhn, "dhn", 2, REAL | OR_NONE)
    cdef array_t dx_ = array(call, dx, "dx", 3, REAL | OUT | OR_NONE)
    cdef array_t dw_ = array(call, dw, "dw", 2, REAL | OUT | OR_NONE)
    cdef array_t dh0_ = array(call, dh0, "dh0", 2, REAL | OUT)
    if not _is_sequence(r, &dh_, r.u):
        raise ValueError("rnn: dh must have the shape (N, T, U).")
    if not _is_state(r, &dhn_):
        raise ValueError("rnn: dhn must have the shape (N, U).")
    if not _is_sequence(r, &dx_, r.d):
        raise ValueError("rnn: dx must have the shape (N, T, D).")
    if dw_.given and not (dw_.shape[0] == r.length and dw_.shape[1] == r.width):
        raise ValueError("rnn: dw must have the shape of w.")
    if not _is_state(r, &dh0_):
        raise ValueError("rnn: dh0 must have the shape (N, U).")
    if r.n == 0:
        clear(&dw_)
    r.dh, r.dhn, r.dx, r.dw, r.dh0 = dh_.data, dhn_.data, dx_.data, dw_.data, dh0_.data


cdef size_t _sizes(jobs_t* jobs, size_t* scratch) noexcept nogil:
    """Sizes of all packed weights and of the scratch memory, in bytes."""
    cdef size_t kept = 0
    cdef int i
    cdef rnn_t plan
    for i in range(jobs.count):
        set_form(jobs, &jobs.job[i])
        plan = jobs.job[i]
        if plan.single:
            kept += weights_scratch(&plan, NULL, <float*> NULL)
        else:
            kept += weights_scratch(&plan, NULL, <double*> NULL)
    if jobs.job[0].single:
        scratch[0] = all_scratch(jobs, <float*> NULL)
    else:
        scratch[0] = all_scratch(jobs, <double*> NULL)
    return kept


cdef void _pack(jobs_t* jobs, char* at) noexcept nogil:
    """Pack the weights of all jobs into the memory from `at` on."""
    cdef int i
    cdef rnn_t* r
    for i in range(jobs.count):
        r = &jobs.job[i]
        if r.single:
            at += weights_scratch(r, at, <float*> NULL)
            pack_weights(r, jobs.workers, <float*> NULL)
        else:
            at += weights_scratch(r, at, <double*> NULL)
            pack_weights(r, jobs.workers, <double*> NULL)


cdef void _steps(jobs_t* jobs, char* at) noexcept nogil:
    """Run the loops over time, in scratch memory from `at` on."""
    if jobs.job[0].single:
        forward_steps(jobs, at, <float*> NULL)
    else:
        forward_steps(jobs, at, <double*> NULL)


cdef void _forward(jobs_t* jobs) except *:
    cdef size_t kept, scratch
    cdef scratch_t s
    jobs.workers = max_workers()
    kept = _sizes(jobs, &scratch)
    s = take(kept + scratch)
    with nogil:
        _pack(jobs, s.data)
        _steps(jobs, s.data + kept)
    give(s)


cdef void _run(jobs_t* jobs, bint forward) except *:
    """Run the jobs; an empty one needs nothing."""
    if jobs.count == 2 and not jobs.job[1].n:
        jobs.count = 1
    elif jobs.count == 2 and not jobs.job[0].n:
        jobs.count, jobs.job[0] = 1, jobs.job[1]
    if not jobs.job[0].n:
        return
    if forward:
        _forward(jobs)
    elif jobs.job[0].single:
        run_backward(jobs, <float*> NULL)
    else:
        run_backward(jobs, <double*> NULL)


cdef void _alone(rnn_t r, bint forward) except *:
    cdef jobs_t jobs
    jobs.count, jobs.job[0] = 1, r
    _run(&jobs, forward)


cdef rnn_t _rnn_forward(x, w, h0, mask, h, act, reverse, drop_x, drop_h) except *:
    cdef call_t call = call_t("rnn_forward", REAL)
    return _plan(&call, RNN_FORWARD, 1, x, w, h0, mask, h, act, act, reverse, drop_x, drop_h)


cdef rnn_t _rnn_backward(
    x, w, h0, mask, h, dh, dhn, dx, dw, dh0, act, reverse, drop_x, drop_h
) except *:
    cdef call_t call = call_t("rnn_backward", REAL)
    cdef rnn_t r = _plan(
        &call, RNN_BACKWARD, 1, x, w, h0, mask, h, act, act, reverse, drop_x, drop_h
    )
    _set_gradients(&call, &r, dh, dhn, dx, dw, dh0)
    return r


cdef rnn_t _lstm_forward(
    x, w, h0, c0, mask, h, c, gates, act, gate_act, reverse, drop_x, drop_h
) except *:
    cdef call_t call = call_t("lstm_forward", REAL)
    cdef rnn_t r = _plan(
        &call, LSTM_FORWARD, 4, x, w, h0, mask, h, act, gate_act, reverse, drop_x, drop_h
    )
    _set_gates(&call, &r, gates, REAL | OUT | OR_NONE)
    _set_cell(&call, &r, c0, c, REAL | OUT | OR_NONE)
    return r


cdef rnn_t _lstm_backward(
    x, w, h0, c0, mask, h, c, gates, dh, dhn, dcn, dx, dw, dh0, dc0, act, gate_act, reverse,
    drop_x, drop_h,
) except *:
    cdef call_t call = call_t("lstm_backward", REAL)
    cdef rnn_t r = _plan(
        &call, LSTM_BACKWARD, 4, x, w, h0, mask, h, act, gate_act, reverse, drop_x, drop_h
    )
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
    return r


cdef rnn_t _gru_forward(
    x, w, h0, mask, h, gates, act, gate_act, reverse, drop_x, drop_h
) except *:
    cdef call_t call = call_t("gru_forward", REAL)
    cdef rnn_t r = _plan(
        &call, GRU_FORWARD, 3, x, w, h0, mask, h, act, gate_act, reverse, drop_x, drop_h
    )
    _set_gates(&call, &r, gates, REAL | OUT | OR_NONE)
    return r


cdef rnn_t _gru_backward(
    x, w, h0, mask, h, gates, dh, dhn, dx, dw, dh0, act, gate_act, reverse, drop_x, drop_h
) except *:
    cdef call_t call = call_t("gru_backward", REAL)
    cdef rnn_t r = _plan(
        &call, GRU_BACKWARD, 3, x, w, h0, mask, h, act, gate_act, reverse, drop_x, drop_h
    )
    _set_gates(&call, &r, gates, REAL)
    _set_gradients(&call, &r, dh, dhn, dx, dw, dh0)
    return r


def rnn_forward(x, w, h0, mask, h, act, reverse=False, drop_x=None, drop_h=None):
    """SimpleRNN: the state after every step."""
    _alone(_rnn_forward(x, w, h0, mask, h, act, reverse, drop_x, drop_h), True)


def rnn_backward(
    x, w, h0, mask, h, dh, dhn, dx, dw, dh0, act, reverse=False, drop_x=None, drop_h=None
):
    """Gradients of `rnn_forward`."""
    _alone(
        _rnn_backward(x, w, h0, mask, h, dh, dhn, dx, dw, dh0, act, reverse, drop_x, drop_h),
        False,
    )


def lstm_forward(
    x, w, h0, c0, mask, h, c, gates, act, gate_act, reverse=False, drop_x=None, drop_h=None
):
    """LSTM: output and cell state after every step."""
    _alone(
        _lstm_forward(
            x, w, h0, c0, mask, h, c, gates, act, gate_act, reverse, drop_x, drop_h
        ),
        True,
    )


def lstm_backward(
    x, w, h0, c0, mask, h, c, gates, dh, dhn, dcn, dx, dw, dh0, dc0, act, gate_act,
    reverse=False, drop_x=None, drop_h=None,
):
    """Gradients of `lstm_forward`."""
    _alone(
        _lstm_backward(
            x, w, h0, c0, mask, h, c, gates, dh, dhn, dcn, dx, dw, dh0, dc0, act, gate_act,
            reverse, drop_x, drop_h,
        ),
        False,
    )


def gru_forward(x, w, h0, mask, h, gates, act, gate_act, reverse=False, drop_x=None, drop_h=None):
    """GRU: the state after every step."""
    _alone(
        _gru_forward(x, w, h0, mask, h, gates, act, gate_act, reverse, drop_x, drop_h), True
    )


def gru_backward(
    x, w, h0, mask, h, gates, dh, dhn, dx, dw, dh0, act, gate_act, reverse=False, drop_x=None,
    drop_h=None,
):
    """Gradients of `gru_forward`."""
    _alone(
        _gru_backward(
            x, w, h0, mask, h, gates, dh, dhn, dx, dw, dh0, act, gate_act, reverse, drop_x, drop_h
        ),
        False,
    )


cdef int _place(rnn_t* r, void** arrays) noexcept nogil:
    """Set the arrays of a forward call; return their number."""
    cdef bint lstm = r.loop == LSTM_FORWARD
    cdef int i = 4 if lstm else 3
    r.x, r.h0, r.c0 = arrays[0], arrays[2], arrays[3]
    r.mask, r.h = <const uint8_t*> arrays[i], arrays[i + 1]
    r.c = arrays[i + 2] if lstm else NULL
    return 10 if lstm else 7 if r.loop == RNN_FORWARD else 8


cdef void _play(const void* job, void** arrays, char* scratch) noexcept nogil:
    cdef jobs_t jobs = (<const jobs_t*> job)[0]
    cdef int i
    for i in range(jobs.count):
        arrays += _place(&jobs.job[i], arrays)
    _steps(&jobs, scratch)


cdef object _ready(jobs_t* jobs, alive):
    cdef ready_t ready
    cdef void* job
    cdef char* kept
    cdef size_t size, scratch
    cdef int i
    for i in range(jobs.count):
        jobs.job[i].ready = True
    jobs.workers = max_workers()
    size = _sizes(jobs, &scratch)
    ready = ready_t(_play, jobs, sizeof(jobs_t), size, scratch)
    step = make_step(&ready, alive, &job, &kept)
    _pack(<jobs_t*> job, kept)
    return step


cdef void _play_few(const void* job, void** arrays, char* scratch) noexcept nogil:
    cdef few_t f = (<const few_t*> job)[0]
    _place(&f.r, arrays)
    few_steps(&f, scratch)


cdef object _few_ready(rnn_t* r, alive):
    cdef few_t f
    cdef ready_t ready
    cdef size_t size, inputs
    cdef void* job
    cdef char* kept
    cdef scratch_t s
    cdef float* w
    f.r = r[0]
    few_sizes(&f, max_workers())
    size = r.length * f.ld * sizeof(float)
    inputs = aligned((1 + r.d) * f.ld * sizeof(float))
    ready = ready_t(_play_few, &f, sizeof(few_t), inputs + size, few_scratch(&f))
    step = make_step(&ready, alive, &job, &kept)
    (<few_t*> job).packed_in, (<few_t*> job).packed = kept, kept + inputs
    s = take(size)
    w = <float*> s.data
    memset(w, 0, size)
    arrange(&f, <const float*> r.w, w)
    pack_all(f.ld, 1 + r.d, w, f.ld, 1, <float*> kept, f.workers)
    pack_all(f.ld, r.u, w + (1 + r.d) * f.ld, f.ld, 1, <float*> (kept + inputs), f.workers)
    give(s)
    return step


cdef rnn_t _job(function, args) except *:
    """The job of a call of one of the functions above."""
    if function == "rnn_forward":
        x, w, h0, mask, h, act, reverse, drop_x, drop_h = args
        return _rnn_forward(x, w, h0, mask, h, act, reverse, drop_x, drop_h)
    if function == "rnn_backward":
        x, w, h0, mask, h, dh, dhn, dx, dw, dh0, act, reverse, drop_x, drop_h = args
        return _rnn_backward(
            x, w, h0, mask, h, dh, dhn, dx, dw, dh0, act, reverse, drop_x, drop_h
        )
    if function == "lstm_forward":
        x, w, h0, c0, mask, h, c, gates, act, gate_act, reverse, drop_x, drop_h = args
        return _lstm_forward(
            x, w, h0, c0, mask, h, c, gates, act, gate_act, reverse, drop_x, drop_h
        )
    if function == "lstm_backward":
        (
            x, w, h0, c0, mask, h, c, gates, dh, dhn, dcn, dx, dw, dh0, dc0, act, gate_act,
            reverse, drop_x, drop_h,
        ) = args
        return _lstm_backward(
            x, w, h0, c0, mask, h, c, gates, dh, dhn, dcn, dx, dw, dh0, dc0, act, gate_act,
            reverse, drop_x, drop_h,
        )
    if function == "gru_forward":
        x, w, h0, mask, h, gates, act, gate_act, reverse, drop_x, drop_h = args
        return _gru_forward(x, w, h0, mask, h, gates, act, gate_act, reverse, drop_x, drop_h)
    if function == "gru_backward":
        x, w, h0, mask, h, gates, dh, dhn, dx, dw, dh0, act, gate_act, reverse, drop_x, drop_h = (
            args
        )
        return _gru_backward(
            x, w, h0, mask, h, gates, dh, dhn, dx, dw, dh0, act, gate_act, reverse, drop_x, drop_h
        )
    raise ValueError(f"recurrent_pair: unknown function {function!r}.")


cdef inline bint _can_be_ready(const rnn_t* r) noexcept nogil:
    """Whether a call keeps no gates and has no dropout."""
    return r.n > 0 and r.gates == NULL and r.drop_x == NULL and r.drop_h == NULL


def recurrent_ready(function, *args):
    """One call of a forward function, prepared; None if it keeps gates or has dropout."""
    cdef jobs_t jobs
    cdef rnn_t r = _job(function, args)
    if not _can_be_ready(&r):
        return None
    if (
        function == "lstm_forward" and r.single and r.n < MR and r.c == NULL and r.mask == NULL
    ):
        return _few_ready(&r, args)
    jobs.count, jobs.job[0] = 1, r
    return _ready(&jobs, args)


def recurrent_pair_ready(function, one, other):
    """`recurrent_pair`, prepared as `recurrent_ready` does it."""
    cdef jobs_t jobs
    jobs.count, jobs.job[0], jobs.job[1] = 2, _job(function, one), _job(function, other)
    if not (_can_be_ready(&jobs.job[0]) and _can_be_ready(&jobs.job[1])):
        return None
    return _ready(&jobs, (one, other))


def recurrent_pair(function, one, other):
    """Two calls of one of the functions above, run at once."""
    cdef jobs_t jobs
    jobs.count = 2
    jobs.job[0] = _job(function, one)
    jobs.job[1] = _job(function, other)
    if jobs.job[0].single != jobs.job[1].single:
        raise ValueError("recurrent_pair: both calls must have arrays of one dtype.")
    _run(&jobs, function.endswith("forward"))
