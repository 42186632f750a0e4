"""Attention of queries to keys and values. Contract: ``attention_np.py``.

A task is a block of queries of one head of one sample; in the backward pass, all queries of the
head, block by block. With a mask, the real keys, values or queries are gathered side by side in
scratch memory, so that the products never read a masked step; without one they are read, and the
results written, where they are. Only the scores of the current block of queries are in memory; the
backward pass computes them again.

The sums of a head depend on its own real steps only: not on the batch, on padding behind the steps,
or on the number of threads.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memset
from npdl._ext.arrays cimport OR_NONE, OUT, REAL, UINT8, array, array_t, call_t, clear, same_shape
from npdl._ext.attention_heads cimport FEW, head_t, heads_t, lay_out
from npdl._ext.elementary cimport exp, tanh
from npdl._ext.gemm cimport product, product_of, product_t
from npdl._ext.masked cimport clear_rows, gather, real_steps, scatter
from npdl._ext.simd cimport real
from npdl._ext.steps cimport recorded
from npdl._ext.sums cimport sum_of, sum_of_products, sum_rows
from npdl._ext.threads cimport give, max_workers, run, scratch_t, take

cdef enum:
    ROWS = 48  # queries whose scores are in memory at a time: whole tiles of every build
    LANES = 16  # numbers compared side by side


cdef inline void _times(
    Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const real* a, Py_ssize_t a_row, Py_ssize_t a_col,
    const real* b, Py_ssize_t b_row, Py_ssize_t b_col, real* c, Py_ssize_t ldc, bint add,
    char* packed,
) noexcept nogil:
    """c (+)= a b, on this thread."""
    cdef product_t p = product_of(m, n, k, a, a_row, a_col, b, b_row, b_col, c, ldc, add)
    product(&p, packed, 1)


cdef inline real _scale(real* x, Py_ssize_t n, real scale) noexcept nogil:
    """x *= scale; return the largest of these n numbers."""
    cdef real s[LANES]
    cdef Py_ssize_t i, k = 0
    for i in range(LANES):
        s[i] = x[0] * scale
    while k + LANES <= n:
        for i in range(LANES):
            x[k + i] *= scale
            s[i] = x[k + i] if x[k + i] > s[i] else s[i]
        k += LANES
    for i in range(k, n):
        x[i] *= scale
        s[0] = x[i] if x[i] > s[0] else s[0]
    for i in range(1, LANES):
        s[0] = s[i] if s[i] > s[0] else s[0]
    return s[0]


cdef inline void _tanh_row(const real* q, const real* k, Py_ssize_t d, real* t) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(d):
        t[i] = tanh(q[i] + k[i])


cdef inline Py_ssize_t _reach(heads_t* r, head_t* a, Py_ssize_t i, Py_ssize_t least) noexcept nogil:
    """How many keys query i may attend to; at least `least`."""
    if not r.causal:
        return a.keys
    while least < a.keys and a.key_at[least] <= a.row_at[i]:
        least += 1
    return least


cdef inline Py_ssize_t _probabilities(
    heads_t* r, head_t* a, Py_ssize_t head, Py_ssize_t i0, Py_ssize_t i1, const real* _
) noexcept nogil:
    """Fill q and p for the queries i0 to i1; return how many keys the last one attends to.

    This is also the length of the rows of p.
    """
    cdef Py_ssize_t keys = _reach(r, a, i1 - 1, 0), own = 0, i, j, d = r.d
    cdef const real* w = <const real*> r.w + head * d
    cdef const real* q = <const real*> a.q
    cdef const real* k = <const real*> a.k
    cdef real* p = <real*> a.p
    cdef real* t = <real*> a.t
    cdef real scale = <real> r.scale, top, one = 1
    if keys == 0:
        return 0
    if r.w == NULL:  # p = q kᵀ
        _times(i1 - i0, keys, d, q, a.q_row, 1, k, 1, a.k_row, p, keys, False, a.packed)
    for i in range(i0, i1):
        own = _reach(r, a, i, own)
        if r.w != NULL:
            for j in range(own):
                _tanh_row(q, k + j * a.k_row, d, t)
                p[j] = <real> sum_of_products(t, w, d, <real> 0, <real> 0)
            q += a.q_row
        if own:
            top = _scale(p, own, scale)
            for j in range(own):
                p[j] = exp(p[j] - top)
            top = one / <real> sum_of(p, own)
            for j in range(own):
                p[j] *= top
        memset(p + own, 0, (keys - own) * sizeof(real))
        p += keys
    return keys


cdef inline void _head(
    heads_t* r, Py_ssize_t task, head_t* a, const real* _
) noexcept nogil:
    """Find the keys and values of a task, and note the positions of its real steps."""
    cdef Py_ssize_t n = task // r.h, head = task % r.h
    cdef const real* k = <const real*> r.k + (n * r.tk * r.h + head) * r.d
    cdef const real* v = <const real*> r.v + (n * r.tk * r.h + head) * r.e
    a.rows = real_steps(NULL if r.q_mask == NULL else r.q_mask + n * r.tq, r.tq, a.row_at)
    a.keys = real_steps(NULL if r.k_mask == NULL else r.k_mask + n * r.tk, r.tk, a.key_at)
    if r.k_mask == NULL:
        a.k, a.k_row = <void*> k, r.h * r.d
        a.v, a.v_row = <void*> v, r.h * r.e
        return
    gather(k, r.h * r.d, a.key_at, a.keys, r.d, <real*> a.k)
    gather(v, r.h * r.e, a.key_at, a.keys, r.e, <real*> a.v)


cdef inline void _forward(
    heads_t* r, Py_ssize_t task, head_t* a, const real* _
) noexcept nogil:
    cdef Py_ssize_t part = task % r.parts, n = task // r.parts // r.h, head = task // r.parts % r.h
    cdef Py_ssize_t first = part * r.part_rows, last = min(r.tq, first + r.part_rows)
    cdef Py_ssize_t i0, i1, keys, d = r.d, e = r.e
    cdef const real* q = <const real*> r.q + (n * r.tq * r.h + head) * d
    cdef real* y = <real*> r.y + (n * r.tq * r.h + head) * e
    _head(r, task // r.parts, a, <const real*> NULL)
    i0, i1 = _first_from(a, first), _first_from(a, last)
    if r.q_mask == NULL:
        a.q, a.q_row = <void*> (q + i0 * r.h * d), r.h * d
        a.y, a.y_row = y + i0 * r.h * e, r.h * e
    else:
        clear_rows(y + first * r.h * e, last - first, r.h * e, e)
        if i0 == i1:
            return
        gather(q, r.h * d, a.row_at + i0, i1 - i0, d, <real*> a.q)
    keys = _probabilities(r, a, head, i0, i1, <const real*> NULL)
    if keys == 0:
        if r.q_mask == NULL:
            clear_rows(<real*> a.y, i1 - i0, a.y_row, e)
        return
    # y = p v
    _times(
        i1 - i0, e, keys, <const real*> a.p, keys, 1, <const real*> a.v, a.v_row, 1, <real*> a.y,
        a.y_row, False, a.packed,
    )
    if r.q_mask != NULL:
        scatter(<const real*> a.y, a.row_at + i0, i1 - i0, e, y, r.h * e)


cdef inline Py_ssize_t _first_from(head_t* a, Py_ssize_t step) noexcept nogil:
    """The first real query at or after a step."""
    cdef Py_ssize_t i = min(a.rows, step)
    while i and a.row_at[i - 1] >= step:
        i -= 1
    return i


cdef inline void _additive_back(
    heads_t* r, head_t* a, Py_ssize_t n, Py_ssize_t head, Py_ssize_t rows, Py_ssize_t keys,
    const real* _,
) noexcept nogil:
    """Compute dq of the current queries; add their share to dk and dw."""
    cdef Py_ssize_t d = r.d, i, j, c
    cdef const real* w = <const real*> r.w + head * d
    cdef const real* q
    cdef const real* ds
    cdef real* t = <real*> a.t
    cdef real* dq
    cdef real* dk
    cdef real* dw = NULL if r.dws == NULL else <real*> r.dws + (n * r.h + head) * d
    cdef real one = 1
    clear_rows(<real*> a.dq, rows, a.dq_row, d)
    for i in range(rows):
        q, ds = <const real*> a.q + i * a.q_row, <const real*> a.ds + i * keys
        dq, dk = <real*> a.dq + i * a.dq_row, <real*> a.dk
        for j in range(keys):
            _tanh_row(q, <const real*> a.k + j * a.k_row, d, t)
            if dw != NULL:
                for c in range(d):
                    dw[c] += ds[j] * t[c]
            for c in range(d):
                t[c] = ds[j] * w[c] * (one - t[c] * t[c])
                dq[c] += t[c]
                dk[c] += t[c]
            dk += a.dk_row


cdef inline void _back_rows(
    heads_t* r, head_t* a, Py_ssize_t n, Py_ssize_t head, Py_ssize_t i0, Py_ssize_t i1,
    const real* _,
) noexcept nogil:
    """The gradients through the queries i0 to i1; those of keys and values are added to."""
    cdef Py_ssize_t d = r.d, e = r.e, rows = i1 - i0, keys, i, j
    cdef const real* q = <const real*> r.q + (n * r.tq * r.h + head) * d
    cdef const real* y = <const real*> r.dy + (n * r.tq * r.h + head) * e
    cdef const real* p = <const real*> a.p
    cdef real* ds = <real*> a.ds
    cdef const real* dy
    cdef real total, scale = <real> r.scale
    if r.q_mask == NULL:
        a.q, a.q_row = <void*> (q + i0 * r.h * d), r.h * d
        a.y, a.y_row = <void*> (y + i0 * r.h * e), r.h * e
    else:
        gather(q, r.h * d, a.row_at + i0, rows, d, <real*> a.q)
        gather(y, r.h * e, a.row_at + i0, rows, e, <real*> a.y)
    dy = <const real*> a.y
    keys = _probabilities(r, a, head, i0, i1, <const real*> NULL)
    if i0 == 0:  # the sums of the first block need zeros only where it reaches no key
        clear_rows(<real*> a.dv + keys * a.dv_row, a.keys - keys, a.dv_row, e)
        i = keys if r.w == NULL else 0
        clear_rows(<real*> a.dk + i * a.dk_row, a.keys - i, a.dk_row, d)
    if keys == 0:
        clear_rows(<real*> a.dq, rows, a.dq_row, d)
        return
    if r.dv != NULL:  # dv += pᵀ dy
        _times(
            keys, e, rows, p, 1, keys, dy, a.y_row, 1, <real*> a.dv, a.dv_row, i0 > 0, a.packed
        )
    if r.dq == NULL and r.dk == NULL and r.dws == NULL:
        return
    # ds = scale p ∘ (dp - Σ p ∘ dp), where dp = dy vᵀ
    _times(
        rows, keys, e, dy, a.y_row, 1, <const real*> a.v, 1, a.v_row, ds, keys, False, a.packed
    )
    for i in range(rows):
        p, ds = <const real*> a.p + i * keys, <real*> a.ds + i * keys
        total = <real> sum_of_products(p, ds, keys, <real> 0, <real> 0)
        for j in range(keys):
            ds[j] = scale * p[j] * (ds[j] - total)
    ds = <real*> a.ds
    if r.w != NULL:
        _additive_back(r, a, n, head, rows, keys, <const real*> NULL)
        return
    if r.dq != NULL:  # dq = ds k
        _times(
            rows, d, keys, ds, keys, 1, <const real*> a.k, a.k_row, 1, <real*> a.dq, a.dq_row,
            False, a.packed,
        )
    if r.dk != NULL:  # dk += dsᵀ q
        _times(
            keys, d, rows, ds, 1, keys, <const real*> a.q, a.q_row, 1, <real*> a.dk, a.dk_row,
            i0 > 0, a.packed,
        )


cdef inline void _backward(heads_t* r, Py_ssize_t task, head_t* a, const real* _) noexcept nogil:
    cdef Py_ssize_t n = task // r.h, head = task % r.h, d = r.d, e = r.e, i0 = 0, i1, most
    cdef real* dq = <real*> r.dq + (n * r.tq * r.h + head) * d
    cdef real* dk = <real*> r.dk + (n * r.tk * r.h + head) * d
    cdef real* dv = <real*> r.dv + (n * r.tk * r.h + head) * e
    _head(r, task, a, <const real*> NULL)
    most = a.rows if a.rows <= FEW else <Py_ssize_t> ROWS
    if r.k_mask == NULL and r.dk != NULL:
        a.dk, a.dk_row = dk, r.h * d
    if r.k_mask == NULL and r.dv != NULL:
        a.dv, a.dv_row = dv, r.h * e
    if r.dws != NULL:
        memset(<real*> r.dws + task * d, 0, d * sizeof(real))
    if r.dq != NULL and r.q_mask != NULL:
        clear_rows(dq, r.tq, r.h * d, d)
    if a.rows == 0:
        clear_rows(<real*> a.dk, a.keys, a.dk_row, d)
        clear_rows(<real*> a.dv, a.keys, a.dv_row, e)
    while i0 < a.rows:
        i1 = min(a.rows, i0 + most)
        if r.dq != NULL and r.q_mask == NULL:
            a.dq, a.dq_row = dq + i0 * r.h * d, r.h * d
        _back_rows(r, a, n, head, i0, i1, <const real*> NULL)
        if r.dq != NULL and r.q_mask != NULL:
            scatter(<const real*> a.dq, a.row_at + i0, i1 - i0, d, dq, r.h * d)
        i0 = i1
    if r.k_mask == NULL:
        return
    if r.dk != NULL:
        clear_rows(dk, r.tk, r.h * d, d)
        scatter(<const real*> a.dk, a.key_at, a.keys, d, dk, r.h * d)
    if r.dv != NULL:
        clear_rows(dv, r.tk, r.h * e, e)
        scatter(<const real*> a.dv, a.key_at, a.keys, e, dv, r.h * e)


cdef void _task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef heads_t* r = <heads_t*> context
    cdef head_t a
    lay_out(r, &a, r.scratch + worker * r.per_worker)
    if r.single:
        if r.backward:
            _backward(r, task, &a, <const float*> NULL)
        else:
            _forward(r, task, &a, <const float*> NULL)
    elif r.backward:
        _backward(r, task, &a, <const double*> NULL)
    else:
        _forward(r, task, &a, <const double*> NULL)


cdef heads_t _plan(
    const array_t* q, const array_t* k, const array_t* v, const array_t* q_mask,
    const array_t* k_mask, const array_t* w, const array_t* y, double scale, bint causal,
) except *:
    cdef heads_t r
    memset(&r, 0, sizeof(r))
    r.single, r.scale, r.causal = q.single, scale, causal
    r.n, r.tq, r.h, r.d = q.shape[0], q.shape[1], q.shape[2], q.shape[3]
    r.tk, r.e = k.shape[1], v.shape[3]
    if min(min(r.tq, r.tk), min(r.h, min(r.d, r.e))) == 0:
        raise ValueError("attention: only the batch may be empty.")
    if not (k.shape[0] == r.n and k.shape[2] == r.h and k.shape[3] == r.d):
        raise ValueError("attention: keys must have the samples, heads and width of the queries.")
    if not (v.shape[0] == r.n and v.shape[1] == r.tk and v.shape[2] == r.h):
        raise ValueError("attention: there must be a value for each key.")
    if not (
        y.shape[0] == r.n and y.shape[1] == r.tq and y.shape[2] == r.h and y.shape[3] == r.e
    ):
        raise ValueError("attention: y must have shape (N, TQ, H, E).")
    if q_mask.given and not (q_mask.shape[0] == r.n and q_mask.shape[1] == r.tq):
        raise ValueError("attention: q_mask must have shape (N, TQ).")
    if k_mask.given and not (k_mask.shape[0] == r.n and k_mask.shape[1] == r.tk):
        raise ValueError("attention: k_mask must have shape (N, TK).")
    if w.given and not (w.shape[0] == r.h and w.shape[1] == r.d):
        raise ValueError("attention: w must have shape (H, D).")
    r.q, r.k, r.v, r.w = q.data, k.data, v.data, w.data
    r.q_mask, r.k_mask = <const uint8_t*> q_mask.data, <const uint8_t*> k_mask.data
    r.parts = 1
    return r


cdef size_t _scratch(heads_t* r, Py_ssize_t tasks) noexcept nogil:
    """The scratch memory of the tasks; sets that of each thread."""
    cdef head_t a
    r.workers = <int> min(<Py_ssize_t> max_workers(), max(tasks, 1))
    r.per_worker = lay_out(r, &a, NULL)
    return r.workers * r.per_worker


cdef void _start(heads_t* r, Py_ssize_t tasks) except *:
    """Run the tasks."""
    cdef scratch_t s = take(_scratch(r, tasks))
    r.scratch = s.data
    with nogil:
        run(_task, r, tasks, r.workers)
    give(s)


cdef heads_t _plan_forward(q, k, v, q_mask, k_mask, w, scale, causal, y) except *:
    cdef call_t call = call_t("attention_forward", REAL)
    cdef array_t q_ = array(&call, q, "q", 4, REAL), k_ = array(&call, k, "k", 4, REAL)
    cdef array_t v_ = array(&call, v, "v", 4, REAL)
    cdef array_t q_mask_ = array(&call, q_mask, "q_mask", 2, UINT8 | OR_NONE)
    cdef array_t k_mask_ = array(&call, k_mask, "k_mask", 2, UINT8 | OR_NONE)
    cdef array_t w_ = array(&call, w, "w", 2, REAL | OR_NONE)
    cdef array_t y_ = array(&call, y, "y", 4, REAL | OUT)
    cdef heads_t r = _plan(&q_, &k_, &v_, &q_mask_, &k_mask_, &w_, &y_, scale, causal)
    r.y = y_.data
    if r.tq <= FEW:
        r.parts, r.part_rows = 1, r.tq
    else:
        r.parts, r.part_rows = (r.tq + ROWS - 1) // ROWS, ROWS
    return r


def attention_forward(q, k, v, q_mask, k_mask, w, scale, causal, y):
    """y = softmax(scale q kᵀ) v."""
    cdef heads_t r = _plan_forward(q, k, v, q_mask, k_mask, w, scale, causal, y)
    _start(&r, r.n * r.h * r.parts)


cdef void _play_forward(const void* job, void** arrays, char* scratch) noexcept nogil:
    cdef heads_t r = (<const heads_t*> job)[0]
    r.q, r.k, r.v, r.w, r.y = arrays[0], arrays[1], arrays[2], arrays[5], arrays[6]
    r.q_mask, r.k_mask = <const uint8_t*> arrays[3], <const uint8_t*> arrays[4]
    r.scratch = scratch
    run(_task, &r, r.n * r.h * r.parts, r.workers)


def attention_forward_recorded(q, k, v, q_mask, k_mask, w, scale, causal, y):
    """`attention_forward` as a step."""
    cdef heads_t r = _plan_forward(q, k, v, q_mask, k_mask, w, scale, causal, y)
    cdef size_t scratch = _scratch(&r, r.n * r.h * r.parts)
    return recorded(_play_forward, &r, sizeof(heads_t), scratch) if r.n else None


cdef inline void _sum_samples(heads_t* r, real* dw) except *:
    """dw = Σ over the samples, with `dws` in scratch."""
    cdef Py_ssize_t width = r.h * r.d
    cdef scratch_t s = take(r.n * width * sizeof(real))
    r.dws = s.data
    _start(r, r.n * r.h)
    sum_rows(<const real*> s.data, r.n, width, width, dw)
    give(s)


def attention_backward(q, k, v, q_mask, k_mask, w, scale, causal, dy, dq, dk, dv, dw):
    """The gradients in queries, keys, values and weights."""
    cdef call_t call = call_t("attention_backward", REAL)
    cdef array_t q_ = array(&call, q, "q", 4, REAL), k_ = array(&call, k, "k", 4, REAL)
    cdef array_t v_ = array(&call, v, "v", 4, REAL)
    cdef array_t q_mask_ = array(&call, q_mask, "q_mask", 2, UINT8 | OR_NONE)
    cdef array_t k_mask_ = array(&call, k_mask, "k_mask", 2, UINT8 | OR_NONE)
    cdef array_t w_ = array(&call, w, "w", 2, REAL | OR_NONE)
    cdef array_t dy_ = array(&call, dy, "dy", 4, REAL)
    cdef array_t dq_ = array(&call, dq, "dq", 4, REAL | OUT | OR_NONE)
    cdef array_t dk_ = array(&call, dk, "dk", 4, REAL | OUT | OR_NONE)
    cdef array_t dv_ = array(&call, dv, "dv", 4, REAL | OUT | OR_NONE)
    cdef array_t dw_ = array(&call, dw, "dw", 2, REAL | OUT | OR_NONE)
    cdef heads_t r = _plan(&q_, &k_, &v_, &q_mask_, &k_mask_, &w_, &dy_, scale, causal)
    if (
        (dq_.given and not same_shape(&dq_, &q_))
        or (dk_.given and not same_shape(&dk_, &k_))
        or (dv_.given and not same_shape(&dv_, &v_))
        or (dw_.given and not (w_.given and same_shape(&dw_, &w_)))
    ):
        raise ValueError("attention_backward: a gradient must have the shape of its array.")
    r.backward = True
    r.dy, r.dq, r.dk, r.dv = dy_.data, dq_.data, dk_.data, dv_.data
    if not dw_.given:
        _start(&r, r.n * r.h)
    elif r.n == 0:
        clear(&dw_)
    elif r.single:
        _sum_samples(&r, <float*> dw_.data)
    else:
        _sum_samples(&r, <double*> dw_.data)
