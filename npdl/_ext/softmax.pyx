"""Softmax, with and without cross-entropy, and right answers. Contract: ``softmax_np.py``."""

from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy, memset
from npdl._ext.arrays cimport ANY, INT64, OUT, REAL, UINT8, array, array_t, call_t, same_shape
from npdl._ext.elementary cimport exp, log
from npdl._ext.simd cimport EDGE_FORMS, real
from npdl._ext.steps cimport recorded
from npdl._ext.sums cimport LANES as SUMS, fold, sum_of, sum_of_products
from npdl._ext.threads cimport max_workers, run, task_t

cdef enum:
    SHORT = 64  # products added one after another
    CHUNK = 4096  # elements per task
    LANES = 16  # numbers compared side by side
    ROWS = 64  # whose logarithms are taken together
    LONG = 256  # numbers in a row from which it is worth a loop of its own
    SPAN = 32  # numbers searched for the position of the largest, if they contain it


ctypedef struct rows_t:
    bint single
    bint backward
    Py_ssize_t n, k, per_task
    const void* z  # backward: p
    const void* t  # targets; backward of plain softmax: dp
    const int64_t* labels
    const void* dloss
    void* p  # backward: dz
    void* loss
    uint8_t* right


cdef inline real _top(const real* x, Py_ssize_t n) noexcept nogil:
    """The largest of n numbers. If there is a nan: any of the numbers, or nan."""
    cdef real s[LANES]
    cdef real top = x[0]
    cdef Py_ssize_t i, k = LANES
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
    for i in range(8):
        s[i] = s[i + 8] if s[i + 8] > s[i] else s[i]
    for i in range(4):
        s[i] = s[i + 4] if s[i + 4] > s[i] else s[i]
    for i in range(1, 4):
        s[0] = s[i] if s[i] > s[0] else s[0]
    return s[0]


cdef inline real _dot(const real* x, const real* y, Py_ssize_t n, real shift) noexcept nogil:
    """Σ x (y - shift). Compilers vectorise a loop that adds products only in part."""
    cdef real products[SHORT]
    cdef real total = 0
    cdef Py_ssize_t j
    if n > SHORT:
        return <real> sum_of_products(x, y, n, <real> 0, shift)
    for j in range(n):
        products[j] = x[j] * (y[j] - shift)
    for j in range(n):
        total += products[j]
    return total


cdef inline real _loss(rows_t* r, Py_ssize_t i, real log_total) noexcept nogil:
    """The cross-entropy of a row, from log Σ e^z."""
    cdef const real* z = <const real*> r.z + i * r.k
    cdef const real* t = <const real*> r.t + i * r.k
    if r.labels != NULL:
        return log_total - z[r.labels[i]]
    return <real> 0 - _dot(t, z, r.k, log_total)


cdef inline float _exp_row(const float* z, float m, Py_ssize_t n, float* p) noexcept nogil:
    """p = e^(z - m), and its sum, as from `sum_of`; p may be z."""
    cdef float s[SUMS]
    cdef float e[SUMS]
    cdef Py_ssize_t i, k = 0, count
    for i in range(SUMS):
        s[i] = e[i] = 0
    while k < n:
        count = min(<Py_ssize_t> SUMS, n - k)
        if count == SUMS:  # as a constant
            memcpy(e, z + k, SUMS * sizeof(float))
        else:
            memcpy(e, z + k, count * sizeof(float))
        for i in range(SUMS):
            e[i] = exp(e[i] - m)
        if count == SUMS:
            memcpy(p + k, e, SUMS * sizeof(float))
        else:
            memcpy(p + k, e, count * sizeof(float))
            memset(e + count, 0, (SUMS - count) * sizeof(float))
        for i in range(SUMS):
            s[i] += e[i]
        k += SUMS
    return <float> fold(s)


cdef inline void _forward_rows(
    rows_t* r, Py_ssize_t first, Py_ssize_t last, const real* _
) noexcept nogil:
    """p = softmax(z), and the losses; p may be z if no losses are wanted."""
    cdef const real* z = <const real*> r.z
    cdef real* p = <real*> r.p
    cdef real* loss = <real*> r.loss
    cdef real totals[ROWS]
    cdef real m, scale
    cdef Py_ssize_t k = r.k, i, j, n
    cdef bint is_long = real is float and EDGE_FORMS and k >= LONG  # the base build stays small
    if not is_long:
        for i in range(first, last):
            m = _top(z + i * k, k)
            for j in range(i * k, (i + 1) * k):
                p[j] = z[j] - m
            if loss != NULL:
                loss[i] = m
        for j in range(first * k, last * k):  # all rows in one loop, so that vectors may cross rows
            p[j] = exp(p[j])
    for i in range(ROWS):
        totals[i] = 1
    while first < last:
        n = min(ROWS, last - first)
        for i in range(n):
            if real is float and EDGE_FORMS and is_long:
                m = _top(z + (first + i) * k, k)
                totals[i] = _exp_row(z + (first + i) * k, m, k, p + (first + i) * k)
                if loss != NULL:
                    loss[first + i] = m
            else:
                totals[i] = <real> sum_of(p + (first + i) * k, k)
            scale = <real> 1.0 / totals[i]
            for j in range((first + i) * k, (first + i + 1) * k):
                p[j] *= scale
        if loss != NULL:
            for i in range(ROWS):  # vectors of them, more than needed at the end
                totals[i] = <real> log(totals[i])
            for i in range(n):
                loss[first + i] = _loss(r, first + i, loss[first + i] + totals[i])
        first += n


cdef inline void _backward_row(rows_t* r, Py_ssize_t i, const real* _) noexcept nogil:
    cdef const real* p = <const real*> r.z + i * r.k
    cdef const real* t = <const real*> r.t + i * r.k
    cdef real* dz = <real*> r.p + i * r.k
    cdef real total = 0, scale
    cdef Py_ssize_t j
    if r.dloss == NULL:  # plain softmax: t is dp
        total = _dot(t, p, r.k, <real> 0)
        for j in range(r.k):
            dz[j] = p[j] * (t[j] - total)
        return
    scale = (<const real*> r.dloss)[i]
    if r.labels != NULL:
        for j in range(r.k):
            dz[j] = p[j] * scale
        dz[r.labels[i]] = (p[r.labels[i]] - <real> 1.0) * scale
    else:
        for j in range(r.k):
            total += t[j]
        for j in range(r.k):
            dz[j] = (p[j] * total - t[j]) * scale


cdef inline Py_ssize_t _greatest(const real* x, Py_ssize_t k) noexcept nogil:
    """The position of the first largest number; nan counts as the largest."""
    cdef Py_ssize_t start = 0, end, j, best = 0
    cdef real top
    cdef int higher
    while start < k:
        end, top, higher = min(k, start + SPAN), x[best], False
        for j in range(start, end):
            higher |= not x[j] <= top
        if higher:
            for j in range(start, end):
                if x[j] > x[best] or (x[j] != x[j] and x[best] == x[best]):
                    best = j
        start = end
    return best


cdef inline bint _is_greatest(const real* x, Py_ssize_t k, Py_ssize_t at) noexcept nogil:
    """Whether `_greatest` would return `at`; without a search, so no branch depends on the data."""
    cdef real top = x[at]
    cdef int nan = top != top, others = False
    cdef Py_ssize_t j
    for j in range(at):
        others |= (x[j] >= top) | (x[j] != x[j])
    for j in range(at + 1, k):
        others |= not ((x[j] <= top) | nan)
    return not others


cdef inline void _right_row(rows_t* r, Py_ssize_t i, const real* _) noexcept nogil:
    cdef Py_ssize_t at
    if r.labels != NULL:
        at = r.labels[i]
    else:
        at = _greatest(<const real*> r.t + i * r.k, r.k)
    r.right[i] = 0 <= at < r.k and _is_greatest(<const real*> r.p + i * r.k, r.k, at)


cdef void _task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef rows_t* r = <rows_t*> context
    cdef Py_ssize_t first = task * r.per_task, last = min(r.n, first + r.per_task), i
    if not r.backward:
        if r.single:
            _forward_rows(r, first, last, <float*> NULL)
        else:
            _forward_rows(r, first, last, <double*> NULL)
        return
    for i in range(first, last):
        if r.single:
            _backward_row(r, i, <float*> NULL)
        else:
            _backward_row(r, i, <double*> NULL)


cdef void _right_task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef rows_t* r = <rows_t*> context
    cdef Py_ssize_t i
    for i in range(task * r.per_task, min(r.n, (task + 1) * r.per_task)):
        if r.single:
            _right_row(r, i, <float*> NULL)
        else:
            _right_row(r, i, <double*> NULL)


cdef rows_t _plan(const array_t* z, const array_t* p, bint backward) except *:
    cdef rows_t r
    memset(&r, 0, sizeof(r))
    if not same_shape(z, p):
        raise ValueError("softmax: the arrays must have one shape.")
    if z.shape[1] == 0:
        raise ValueError("softmax: a row must have at least one number.")
    r.single, r.backward = z.single, backward
    r.n, r.k = z.shape[0], z.shape[1]
    r.per_task = max(1, CHUNK // r.k)
    r.z, r.p = z.data, p.data
    return r


cdef void _run(task_t task, rows_t* r) noexcept nogil:
    run(task, r, (r.n + r.per_task - 1) // r.per_task, max_workers())


cdef void _set_targets(rows_t* r, const array_t* t) except *:
    """Point at the targets: class numbers, or rows like those of z."""
    if t.ndim not in (1, 2) or t.shape[0] != r.n:
        raise ValueError("softmax: there must be one target, or one row, for each row.")
    if (t.ndim == 1) != (t.holds == INT64):
        raise ValueError("softmax: targets are one axis of int64, or rows like those of z.")
    if t.ndim == 1:
        r.labels = <const int64_t*> t.data
    else:
        if t.shape[1] != r.k:
            raise ValueError("softmax: a row of targets must be as long as one of logits.")
        r.t = t.data


cdef void _check_labels(const rows_t* r) except *:
    """Check that class numbers, if there are any, are columns."""
    cdef Py_ssize_t i
    for i in range(r.n if r.labels != NULL else 0):
        if not 0 <= r.labels[i] < r.k:
            raise ValueError(f"softmax_xent: label {r.labels[i]} is outside [0, {r.k}).")


cdef rows_t _plan_softmax(z, p) except *:
    cdef call_t call = call_t("softmax_forward", REAL)
    cdef array_t z_ = array(&call, z, "z", 2, REAL), p_ = array(&call, p, "p", 2, REAL | OUT)
    return _plan(&z_, &p_, False)


def softmax_forward(z, p):
    """p = softmax of each row of z."""
    cdef rows_t r = _plan_softmax(z, p)
    with nogil:
        _run(_task, &r)


cdef void _play_softmax(const void* job, void** arrays, char* scratch) noexcept nogil:
    cdef rows_t r = (<const rows_t*> job)[0]
    r.z, r.p = arrays[0], arrays[1]
    _run(_task, &r)


def softmax_forward_recorded(z, p):
    """`softmax_forward` as a step."""
    cdef rows_t r = _plan_softmax(z, p)
    return recorded(_play_softmax, &r, sizeof(rows_t), 0)


def softmax_backward(p, dp, dz):
    """dz = p ∘ (dp - Σ_k dp_k p_k)."""
    cdef call_t call = call_t("softmax_backward", REAL)
    cdef array_t p_ = array(&call, p, "p", 2, REAL), dp_ = array(&call, dp, "dp", 2, REAL)
    cdef array_t dz_ = array(&call, dz, "dz", 2, REAL | OUT)
    cdef rows_t r = _plan(&p_, &dz_, True)
    if not same_shape(&dp_, &dz_):
        raise ValueError("softmax_backward: the arrays must have one shape.")
    r.t = dp_.data
    with nogil:
        _run(_task, &r)


cdef rows_t _plan_xent_forward(z, t, p, loss) except *:
    cdef call_t call = call_t("softmax_xent_forward", REAL)
    cdef array_t z_ = array(&call, z, "z", 2, REAL), t_ = array(&call, t, "t", ANY, REAL | INT64)
    cdef array_t p_ = array(&call, p, "p", 2, REAL | OUT)
    cdef array_t loss_ = array(&call, loss, "loss", 1, REAL | OUT)
    cdef rows_t r = _plan(&z_, &p_, False)
    _set_targets(&r, &t_)
    if loss_.shape[0] != r.n:
        raise ValueError("softmax_xent_forward: there must be one loss for each row.")
    r.loss = loss_.data
    return r


def softmax_xent_forward(z, t, p, loss):
    """Softmax of each row and its cross-entropy with the target."""
    cdef rows_t r = _plan_xent_forward(z, t, p, loss)
    _check_labels(&r)
    with nogil:
        _run(_task, &r)


cdef void _set_recorded_targets(rows_t* r, void* t) noexcept nogil:
    if r.labels != NULL:
        r.labels = <const int64_t*> t
    else:
        r.t = t


cdef void _play_xent_forward(const void* job, void** arrays, char* scratch) noexcept nogil:
    cdef rows_t r = (<const rows_t*> job)[0]
    r.z, r.p, r.loss = arrays[0], arrays[2], arrays[3]
    _set_recorded_targets(&r, arrays[1])
    _run(_task, &r)


def softmax_xent_forward_recorded(z, t, p, loss):
    """`softmax_xent_forward` as a call of a tape, which checks the labels."""
    cdef rows_t r = _plan_xent_forward(z, t, p, loss)
    return recorded(_play_xent_forward, &r, sizeof(rows_t), 0)


cdef rows_t _plan_xent_backward(p, t, dloss, dz) except *:
    cdef call_t call = call_t("softmax_xent_backward", REAL)
    cdef array_t p_ = array(&call, p, "p", 2, REAL), t_ = array(&call, t, "t", ANY, REAL | INT64)
    cdef array_t dloss_ = array(&call, dloss, "dloss", 1, REAL)
    cdef array_t dz_ = array(&call, dz, "dz", 2, REAL | OUT)
    cdef rows_t r = _plan(&p_, &dz_, True)
    _set_targets(&r, &t_)
    if dloss_.shape[0] != r.n:
        raise ValueError("softmax_xent_backward: there must be one gradient for each row.")
    r.dloss = dloss_.data
    return r


def softmax_xent_backward(p, t, dloss, dz):
    """dz = (p Σ_k t_k - t) dloss, row by row."""
    cdef rows_t r = _plan_xent_backward(p, t, dloss, dz)
    _check_labels(&r)
    with nogil:
        _run(_task, &r)


cdef void _play_xent_backward(const void* job, void** arrays, char* scratch) noexcept nogil:
    cdef rows_t r = (<const rows_t*> job)[0]
    r.z, r.dloss, r.p = arrays[0], arrays[2], arrays[3]
    _set_recorded_targets(&r, arrays[1])
    _run(_task, &r)


def softmax_xent_backward_recorded(p, t, dloss, dz):
    """`softmax_xent_backward` as a call of a tape, which checks the labels."""
    cdef rows_t r = _plan_xent_backward(p, t, dloss, dz)
    return recorded(_play_xent_backward, &r, sizeof(rows_t), 0)


cdef rows_t _plan_right(p, t, right) except *:
    cdef call_t call = call_t("right_answers", REAL)
    cdef array_t p_ = array(&call, p, "p", 2, REAL), t_ = array(&call, t, "t", ANY, REAL | INT64)
    cdef array_t right_ = array(&call, right, "right", 1, UINT8 | OUT)
    cdef rows_t r = _plan(&p_, &p_, False)
    _set_targets(&r, &t_)
    if right_.shape[0] != r.n:
        raise ValueError("right_answers: there must be one answer for each row.")
    r.right = <uint8_t*> right_.data
    return r


def right_answers(p, t, right):
    """right = whether the largest of each row of p is that of its target."""
    cdef rows_t r = _plan_right(p, t, right)
    with nogil:
        _run(_right_task, &r)


cdef void _play_right(const void* job, void** arrays, char* scratch) noexcept nogil:
    cdef rows_t r = (<const rows_t*> job)[0]
    r.p, r.right = arrays[0], <uint8_t*> arrays[2]
    _set_recorded_targets(&r, arrays[1])
    _run(_right_task, &r)


def right_answers_recorded(p, t, right):
    """`right_answers` as a call of a tape."""
    cdef rows_t r = _plan_right(p, t, right)
    return recorded(_play_right, &r, sizeof(rows_t), 0)
