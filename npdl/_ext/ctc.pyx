"""Connectionist temporal classification. Contract and formulas: ``ctc_np.py``.

A task is one sample. It computes in double, in scratch memory of its thread: the classes of the
states, a row of α for each real step (two rows if only the loss is needed), and a few more rows. A
row of α is padded by two elements on the left, a row of β by two on the right, so that no loop
tests for the end of a row. Impossible states hold LOW rather than -inf, so that no difference is
NaN.
"""

from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memset
from npdl._ext.arrays cimport (
    INT64, OR_NONE, OUT, REAL, UINT8, array, array_t, call_t, same_shape,
)
from npdl._ext.elementary cimport exp, log, log1p_unit
from npdl._ext.simd cimport real
from npdl._ext.sums cimport total_of
from npdl._ext.threads cimport aligned, give, max_workers, run, scratch_t, take

cdef enum:
    EDGE = 2  # padding of a row
    LANES = 8  # numbers compared side by side

cdef double LOW = -1e30
cdef double LOG2 = 0.693147180559945309


ctypedef struct ctc_t:
    bint single, normalize
    Py_ssize_t n, t, k, l, blank
    const void* x
    const int64_t* labels
    const uint8_t* mask
    const void* dloss
    void* loss  # NULL in the backward pass
    void* dx
    char* scratch
    size_t per_worker

ctypedef struct room_t:
    Py_ssize_t states, steps  # of the sample
    Py_ssize_t width  # of a row of α or β
    Py_ssize_t* classes  # of the states
    Py_ssize_t* step  # the real steps
    double* skip  # 0 where a state can be reached from two states before it, else LOW
    double* emission
    double* row
    double* classes_row  # K numbers
    double* log_total  # of each real step: log Σ e^x
    double* beta
    double* alpha


cdef inline size_t _bytes_for(const ctc_t* j) noexcept nogil:
    cdef size_t states = 2 * j.l + 1, width = states + EDGE
    cdef size_t rows = 2 if j.loss != NULL else j.t + 1
    return aligned(sizeof(double) * (
        states + j.t + 3 * width + j.k + j.t + width + rows * width
    ))


cdef inline room_t _room(const ctc_t* j, int worker) noexcept nogil:
    cdef room_t r
    cdef Py_ssize_t states = 2 * j.l + 1, width = states + EDGE
    cdef double* at = <double*> (j.scratch + worker * j.per_worker)
    r.states = r.steps = 0
    r.width = width
    r.classes = <Py_ssize_t*> at
    r.step = r.classes + states
    r.skip = at + states + j.t
    r.emission = r.skip + width
    r.row = r.emission + width
    r.classes_row = r.row + width
    r.log_total = r.classes_row + j.k
    r.beta = r.log_total + j.t
    r.alpha = r.beta + width
    return r


cdef inline double _maximum(const double* x, Py_ssize_t n) noexcept nogil:
    """The maximum. If there is a NaN: any of the numbers, or NaN."""
    cdef double s[LANES]
    cdef Py_ssize_t i, k = LANES
    cdef double top = x[0]
    if n < LANES:
        for i in range(1, n):
            top = x[i] if x[i] > top else top
        return top
    for i in range(LANES):
        s[i] = x[i]
    while k < n:
        k = min(k, n - LANES)  # the last ones overlap the previous ones
        for i in range(LANES):
            s[i] = x[k + i] if x[k + i] > s[i] else s[i]
        k += LANES
    for i in range(4):
        s[i] = s[i + 4] if s[i + 4] > s[i] else s[i]
    for i in range(1, 4):
        s[0] = s[i] if s[i] > s[0] else s[0]
    return s[0]


cdef inline double _log_sum(double a, double b) noexcept nogil:
    """log(e^a + e^b)."""
    cdef double top = a if a > b else b, other = b if a > b else a
    return top + log1p_unit(exp(other - top))


cdef inline double _log_sum_of_three(double a, double b, double c) noexcept nogil:
    """log(e^a + e^b + e^c)."""
    cdef double top = a if a > b else b
    cdef double one = 1, half = 0.5
    top = c if c > top else top
    # The sum lies in [1, 3]; half of it, minus 1, lies in [-½, ½], the range of log1p_unit.
    return top + (LOG2 + log1p_unit(half * (exp(a - top) + exp(b - top) + exp(c - top)) - one))


cdef inline void _set_states(const ctc_t* j, Py_ssize_t i, room_t* r) noexcept nogil:
    """Set the classes of the states, where a blank may be skipped, and the real steps."""
    cdef const int64_t* labels = j.labels + i * j.l
    cdef Py_ssize_t before = -1, k, s = 0
    r.classes[0], r.skip[0] = j.blank, LOW
    for k in range(j.l):
        if labels[k] < 0:
            continue
        r.classes[s + 1], r.skip[s + 1] = labels[k], LOW if before in (-1, labels[k]) else 0
        r.classes[s + 2], r.skip[s + 2] = j.blank, LOW
        before = labels[k]
        s += 2
    r.states = s + 1
    r.skip[s + 1] = r.skip[s + 2] = LOW
    for k in range(j.t):
        if j.mask == NULL or j.mask[i * j.t + k]:
            r.step[r.steps] = k
            r.steps += 1


cdef inline double _log_total(const real* x, Py_ssize_t k, double* e) noexcept nogil:
    """log Σ e^x."""
    cdef Py_ssize_t i
    cdef double top
    for i in range(k):
        e[i] = x[i]
    top = _maximum(e, k)
    for i in range(k):
        e[i] = exp(e[i] - top)
    return top + log(total_of(e, k))


cdef inline void _emit(const real* x, double log_total, room_t* r) noexcept nogil:
    """The log-probability of each state's class."""
    cdef double e
    cdef Py_ssize_t s
    for s in range(r.states):
        e = x[r.classes[s]] - log_total
        r.emission[s] = LOW if e < LOW else e


cdef inline void _step_on(const double* a, double* b, const room_t* r) noexcept nogil:
    """One step of α, from row `a` to row `b`."""
    cdef const double* emission = r.emission
    cdef const double* skip = r.skip
    cdef Py_ssize_t n = r.states, s
    for s in range(n):
        b[s + 2] = emission[s] + _log_sum_of_three(a[s + 2], a[s + 1], a[s] + skip[s])


cdef inline void _step_back(const double* a, double* b, const room_t* r) noexcept nogil:
    """One step of β, to row `b` from `a`, which includes the emission."""
    cdef const double* skip = r.skip
    cdef Py_ssize_t n = r.states, s
    for s in range(n):
        b[s] = _log_sum_of_three(a[s], a[s + 1], a[s + 2] + skip[s + 2])


cdef inline double _take_out_maximum(double* x, Py_ssize_t n) noexcept nogil:
    """Subtract the maximum from x and return it; a row of impossible states stays as it is."""
    cdef double top = _maximum(x, n)
    cdef Py_ssize_t i
    if top < 0.5 * LOW:
        return 0
    for i in range(n):
        x[i] -= top
    return top


cdef inline double _run_on(const ctc_t* j, Py_ssize_t i, room_t* r, const real* _) noexcept nogil:
    """Fill α and the logarithms of the totals; return the loss."""
    cdef const real* x
    cdef double* a = r.alpha
    cdef double* b
    cdef double total = 0
    cdef Py_ssize_t m, s
    _set_states(j, i, r)
    for s in range(r.states + EDGE):
        a[s] = LOW
    a[EDGE] = 0
    for m in range(r.steps):
        x = <const real*> j.x + (i * j.t + r.step[m]) * j.k
        r.log_total[m] = _log_total(x, j.k, r.classes_row) if j.normalize else 0
        _emit(x, r.log_total[m], r)
        b = r.alpha + (r.width if a == r.alpha else 0) if j.loss != NULL else a + r.width
        b[0] = b[1] = LOW
        _step_on(a, b, r)
        total += _take_out_maximum(b + EDGE, r.states)
        a = b
    s = EDGE + r.states - 1
    total += _log_sum(a[s], a[s - 1])  # with a single state, its left neighbour is LOW
    return INFINITY if total < 0.5 * LOW else -total


cdef inline void _run_back(const ctc_t* j, Py_ssize_t i, room_t* r, const real* _) noexcept nogil:
    """Fill dx of a sample."""
    cdef real* dx = <real*> j.dx + i * j.t * j.k
    cdef double scale = (<const real*> j.dloss)[i], total
    cdef const real* x
    cdef const double* a
    cdef double* beta = r.beta
    cdef double* grad = r.classes_row
    cdef Py_ssize_t k, m, s
    memset(dx, 0, j.t * j.k * sizeof(real))
    if scale == 0 or _run_on(j, i, r, _) == INFINITY:
        return
    for s in range(r.states + EDGE):
        beta[s] = LOW
    beta[r.states - 1] = beta[max(r.states - 2, 0)] = 0
    for m in range(r.steps - 1, -1, -1):
        x = <const real*> j.x + (i * j.t + r.step[m]) * j.k
        dx = <real*> j.dx + (i * j.t + r.step[m]) * j.k
        a = r.alpha + (m + 1) * r.width + EDGE
        for s in range(r.states):
            r.row[s] = a[s] + beta[s]
        total = _maximum(r.row, r.states)
        for s in range(r.states):
            r.row[s] = exp(r.row[s] - total)
        total = 1 / total_of(r.row, r.states)
        for k in range(j.k):
            grad[k] = exp(<double> x[k] - r.log_total[m]) if j.normalize else 0
        for s in range(r.states):
            grad[r.classes[s]] -= r.row[s] * total
        for k in range(j.k):
            dx[k] = <real> (grad[k] * scale)
        _emit(x, r.log_total[m], r)
        for s in range(r.states):
            r.row[s] = r.emission[s] + beta[s]
        r.row[r.states] = r.row[r.states + 1] = LOW
        _step_back(r.row, beta, r)
        _take_out_maximum(beta, r.states)


cdef inline void _sample(ctc_t* j, Py_ssize_t i, room_t* r, const real* _) noexcept nogil:
    if j.loss != NULL:
        (<real*> j.loss)[i] = <real> _run_on(j, i, r, _)
    else:
        _run_back(j, i, r, _)


cdef void _task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef ctc_t* j = <ctc_t*> context
    cdef room_t r = _room(j, worker)
    if j.single:
        _sample(j, task, &r, <const float*> NULL)
    else:
        _sample(j, task, &r, <const double*> NULL)


cdef ctc_t _job(
    const array_t* x, const array_t* labels, const array_t* mask, Py_ssize_t blank, bint normalize,
    const array_t* per_sample,
) except *:
    cdef ctc_t j
    cdef Py_ssize_t i
    memset(&j, 0, sizeof(j))
    j.single, j.normalize = x.single, normalize
    j.n, j.t, j.k, j.l, j.blank = x.shape[0], x.shape[1], x.shape[2], labels.shape[1], blank
    j.x, j.labels = x.data, <const int64_t*> labels.data
    j.mask = <const uint8_t*> mask.data
    if j.t == 0 or j.k == 0:
        raise ValueError("ctc: there must be at least one step and one class.")
    if not 0 <= blank < j.k:
        raise ValueError(f"ctc: the blank must lie in [0, {j.k}).")
    if labels.shape[0] != j.n or per_sample.shape[0] != j.n:
        raise ValueError("ctc: there must be labels and a loss for each sample.")
    if mask.given and not (mask.shape[0] == j.n and mask.shape[1] == j.t):
        raise ValueError("ctc: the mask must have the samples and the steps of x.")
    for i in range(j.n * j.l):
        if j.labels[i] >= j.k or j.labels[i] == blank:
            raise ValueError(f"ctc: label {j.labels[i]} is outside [0, {j.k}), or the blank.")
    return j


cdef void _run(ctc_t* j) except *:
    cdef int workers = max_workers()
    cdef scratch_t s
    j.per_worker = _bytes_for(j)
    s = take(j.per_worker * workers)
    j.scratch = s.data
    with nogil:
        run(_task, j, j.n, workers)
    give(s)


def ctc_forward(x, labels, mask, Py_ssize_t blank, bint normalize, loss):
    """The loss of each sample."""
    cdef call_t call = call_t("ctc_forward", REAL)
    cdef array_t x_ = array(&call, x, "x", 3, REAL)
    cdef array_t labels_ = array(&call, labels, "labels", 2, INT64)
    cdef array_t mask_ = array(&call, mask, "mask", 2, UINT8 | OR_NONE)
    cdef array_t loss_ = array(&call, loss, "loss", 1, REAL | OUT)
    cdef ctc_t j = _job(&x_, &labels_, &mask_, blank, normalize, &loss_)
    j.loss = loss_.data
    if j.n:
        _run(&j)


def ctc_backward(x, labels, mask, Py_ssize_t blank, bint normalize, dloss, dx):
    """The gradient of the losses in x."""
    cdef call_t call = call_t("ctc_backward", REAL)
    cdef array_t x_ = array(&call, x, "x", 3, REAL)
    cdef array_t labels_ = array(&call, labels, "labels", 2, INT64)
    cdef array_t mask_ = array(&call, mask, "mask", 2, UINT8 | OR_NONE)
    cdef array_t dloss_ = array(&call, dloss, "dloss", 1, REAL)
    cdef array_t dx_ = array(&call, dx, "dx", 3, REAL | OUT)
    cdef ctc_t j = _job(&x_, &labels_, &mask_, blank, normalize, &dloss_)
    if not same_shape(&x_, &dx_):
        raise ValueError("ctc_backward: dx must have the shape of x.")
    j.dloss, j.dx = dloss_.data, dx_.data
    if j.n:
        _run(&j)
