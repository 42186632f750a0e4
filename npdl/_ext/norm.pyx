"""Batch normalisation. Contract: ``norm_np.py``.

A task takes one channel, or several adjacent ones, through all passes, so that no sum crosses
tasks and the later passes find the data in the cache:

    long channels, I >= LONG      one channel: O spans of I elements, summed along the span
    short ones                    a block of columns of the matrix (O, C I), summed downwards; then
                                  the I columns of a channel are combined

Sums over PIECE elements of a span or ROWS rows of a column are in the dtype of x (``sums.pxd``);
these sums are then added in double. Mean and squared deviations are computed for such a part first,
which is read twice while it is in the cache; the parts are then combined (``moments.pxd``).

With ReLU behind it, the backward pass finds the sign of what ReLU took again, with the arithmetic
of the forward pass, instead of reading y. Its sums add the same numbers in the same order as those
of the gradient in a y that was pulled back before.
"""

from libc.math cimport sqrt
from libc.string cimport memset
from npdl._ext.activation cimport LINEAR, RELU, act_t, parse_act
from npdl._ext.arrays cimport OR_NONE, OUT, REAL, array, array_t, call_t, clear, same_shape
from npdl._ext.moments cimport PIECE, add_span, moments_t, residual_rows
from npdl._ext.simd cimport fma, real
from npdl._ext.steps cimport recorded
from npdl._ext.sums cimport (
    positive_rows, positive_sums_of, product_rows, sum_of, sum_of_products, sum_rows, total_of,
)
from npdl._ext.threads cimport max_workers, run

cdef enum:
    LONG = 512  # also the most columns of a task
    ROWS = 32
    WIDTH = 64  # columns per task, or one channel; more,
    TASKS = 16  # as long as there are so many tasks

cdef enum:
    FORWARD
    FIXED
    BACKWARD


ctypedef struct norm_t:
    bint single, relu
    int kind
    Py_ssize_t outer, channels, inner, per_task
    double epsilon
    const void* x
    const void* dy
    const void* gamma
    const void* beta
    void* mean  # read only, as is var, except in a forward pass that computes them
    void* var
    void* out  # y or dx
    void* dgamma
    void* dbeta


ctypedef struct channel_t:
    double mean
    double m2  # Σ (x - mean)²
    double dy  # Σ dy
    double dx  # Σ dy (x - mean)


ctypedef struct affine_t:
    # forward:  y = (x - mean) scale + beta
    # backward: dx = (dy - shift - (x - mean) slope) scale
    double mean, scale, beta, shift, slope


# ------------------------------------------------------------ a span of elements


cdef inline void _sum_spans(
    norm_t* j, Py_ssize_t c, const affine_t* a, channel_t* sums, const real* _
) noexcept nogil:
    """Mean and m2 of channel c, or the sums of dy, piece by piece."""
    cdef const real* x
    cdef const real* dy
    cdef Py_ssize_t o, k, n
    cdef moments_t m
    cdef real zero = 0
    memset(sums, 0, sizeof(channel_t))
    memset(&m, 0, sizeof(moments_t))
    for o in range(j.outer):
        x = <const real*> j.x + (o * j.channels + c) * j.inner
        if j.kind != BACKWARD:
            add_span(&m, x, j.inner)
            continue
        dy = <const real*> j.dy + (o * j.channels + c) * j.inner
        k = 0
        while k < j.inner:
            n = min(<Py_ssize_t> PIECE, j.inner - k)
            if j.relu:
                positive_sums_of(
                    x + k, dy + k, n, <real> a.mean, <real> a.scale, <real> a.beta, &sums.dy,
                    &sums.dx,
                )
            else:
                sums.dy += sum_of(dy + k, n)
                sums.dx += sum_of_products(x + k, dy + k, n, <real> a.mean, zero)
            k += PIECE
    if j.kind != BACKWARD:
        sums.mean, sums.m2 = m.mean, m.m2


cdef inline void _map_spans(norm_t* j, Py_ssize_t c, affine_t* a, const real* _) noexcept nogil:
    cdef real mean = <real> a.mean, scale = <real> a.scale, beta = <real> a.beta
    cdef real shift = <real> a.shift, slope = <real> a.slope, zero = 0, u
    cdef const real* x
    cdef const real* dy
    cdef real* out
    cdef Py_ssize_t o, i, at
    for o in range(j.outer - 1, -1, -1):  # the last ones are still in the cache
        at = (o * j.channels + c) * j.inner
        x, dy, out = <const real*> j.x + at, <const real*> j.dy + at, <real*> j.out + at
        if j.kind == BACKWARD:
            if j.relu:
                for i in range(j.inner):
                    u = dy[i] if fma(x[i] - mean, scale, beta) > 0 else zero
                    out[i] = fma(mean - x[i], slope, u - shift) * scale
            else:
                for i in range(j.inner):
                    out[i] = fma(mean - x[i], slope, dy[i] - shift) * scale
        elif j.relu:
            for i in range(j.inner):
                u = fma(x[i] - mean, scale, beta)
                out[i] = zero if u < 0 else u
        else:
            for i in range(j.inner):
                out[i] = fma(x[i] - mean, scale, beta)


# ------------------------------------------------------------ a block of columns


cdef inline void _column_moments(
    norm_t* j, Py_ssize_t at, Py_ssize_t w, double* mean, double* m2, const real* _
) noexcept nogil:
    """Mean and m2 of w columns from column `at` on."""
    cdef real s[LONG]
    cdef real r[LONG]
    cdef real q[LONG]
    cdef Py_ssize_t step = j.channels * j.inner, o = 0, n, k
    cdef const real* x
    cdef real rows
    cdef double total, share, cross, delta, own
    memset(mean, 0, w * sizeof(double))
    memset(m2, 0, w * sizeof(double))
    while o < j.outer:
        n = min(<Py_ssize_t> ROWS, j.outer - o)
        x, rows = <const real*> j.x + o * step + at, <real> n
        sum_rows(x, n, step, w, s)
        for k in range(w):
            s[k] /= rows
        residual_rows(x, n, step, w, <const real*> s, r, q)
        total = o + n
        share, cross = n / total, o * (n / total)
        for k in range(w):  # as `add_part` does
            delta = s[k] + <double> r[k] / n - mean[k]
            own = q[k] - <double> r[k] * r[k] / n
            mean[k] += delta * share
            m2[k] += (own if own > 0 else 0 * own) + delta * delta * cross
        o += ROWS


cdef inline void _column_sums(
    norm_t* j, Py_ssize_t at, Py_ssize_t w, const real* mean, const real* scale, const real* beta,
    double* sum_dy, double* sum_dx,
) noexcept nogil:
    """Σ dy and Σ dy (x - mean) of w columns."""
    cdef real s[LONG]
    cdef real t[LONG]
    cdef Py_ssize_t step = j.channels * j.inner, o = 0, n, k
    cdef const real* x
    cdef const real* dy
    memset(sum_dy, 0, w * sizeof(double))
    memset(sum_dx, 0, w * sizeof(double))
    while o < j.outer:
        n = min(<Py_ssize_t> ROWS, j.outer - o)
        x, dy = <const real*> j.x + o * step + at, <const real*> j.dy + o * step + at
        if j.relu:
            positive_rows(x, dy, n, step, w, mean, scale, beta, s, t)
        else:
            sum_rows(dy, n, step, w, s)
            product_rows(x, dy, n, step, w, mean, t)
        for k in range(w):
            sum_dy[k] += s[k]
            sum_dx[k] += t[k]
        o += ROWS


cdef inline void _join_moments(
    Py_ssize_t n, Py_ssize_t rows, double* mean, double* m2, channel_t* sums
) noexcept nogil:
    """Combine mean and m2 of the n columns of a channel. Overwrites m2."""
    cdef Py_ssize_t k
    sums.mean = total_of(mean, n) / n
    for k in range(n):
        m2[k] += (mean[k] - sums.mean) * (mean[k] - sums.mean) * rows
    sums.m2 = total_of(m2, n)


cdef inline void _map_columns(
    norm_t* j, Py_ssize_t at, Py_ssize_t w, const real* mean, const real* scale, const real* beta,
    const real* shift, const real* slope,
) noexcept nogil:
    cdef Py_ssize_t step = j.channels * j.inner, o, k
    cdef const real* x
    cdef const real* dy
    cdef real* out
    cdef real zero = 0, u
    for o in range(j.outer - 1, -1, -1):
        x, dy = <const real*> j.x + o * step + at, <const real*> j.dy + o * step + at
        out = <real*> j.out + o * step + at
        if j.kind == BACKWARD:
            if j.relu:
                for k in range(w):
                    u = dy[k] if fma(x[k] - mean[k], scale[k], beta[k]) > 0 else zero
                    out[k] = fma(mean[k] - x[k], slope[k], u - shift[k]) * scale[k]
            else:
                for k in range(w):
                    out[k] = fma(mean[k] - x[k], slope[k], dy[k] - shift[k]) * scale[k]
        elif j.relu:
            for k in range(w):
                u = fma(x[k] - mean[k], scale[k], beta[k])
                out[k] = zero if u < 0 else u
        else:
            for k in range(w):
                out[k] = fma(x[k] - mean[k], scale[k], beta[k])


# ------------------------------------------------------------ a channel


cdef inline void _set_map(norm_t* j, Py_ssize_t c, affine_t* a, const real* _) noexcept nogil:
    """How the numbers of channel c, whose statistics are known, are normalised."""
    a.mean = (<real*> j.mean)[c]
    a.scale = (<const real*> j.gamma)[c] * (1 / sqrt((<real*> j.var)[c] + j.epsilon))
    a.beta = 0 if j.beta == NULL else (<const real*> j.beta)[c]
    a.shift = a.slope = 0


cdef inline void _finish(
    norm_t* j, Py_ssize_t c, const channel_t* sums, affine_t* a, const real* _
) noexcept nogil:
    """Write the results for channel c, and set how its elements are mapped."""
    cdef double count = <double> j.outer * j.inner, inverse
    if j.kind == FORWARD:
        (<real*> j.mean)[c] = <real> sums.mean
        (<real*> j.var)[c] = <real> (sums.m2 / count)
    _set_map(j, c, a, _)
    if j.kind != BACKWARD:
        return
    inverse = 1 / sqrt((<real*> j.var)[c] + j.epsilon)
    if j.dgamma != NULL:
        (<real*> j.dgamma)[c] = <real> (sums.dx * inverse)
    if j.dbeta != NULL:
        (<real*> j.dbeta)[c] = <real> sums.dy
    a.shift, a.slope = sums.dy / count, sums.dx * inverse * inverse / count


cdef inline void _spans(norm_t* j, Py_ssize_t c, const real* _) noexcept nogil:
    """All passes over a long channel."""
    cdef channel_t sums
    cdef affine_t a
    if j.kind == BACKWARD:
        _set_map(j, c, &a, _)
    if j.kind != FIXED:
        _sum_spans(j, c, &a, &sums, _)
    _finish(j, c, &sums, &a, _)
    if j.out != NULL:
        _map_spans(j, c, &a, _)


cdef inline void _columns(norm_t* j, Py_ssize_t c0, Py_ssize_t c1, const real* _) noexcept nogil:
    """All passes over the columns of channels c0 to c1."""
    cdef double one[LONG]
    cdef double other[LONG]
    cdef real mean[LONG]
    cdef real scale[LONG]
    cdef real beta[LONG]
    cdef real shift[LONG]
    cdef real slope[LONG]
    cdef Py_ssize_t at = c0 * j.inner, w = (c1 - c0) * j.inner, c, k = 0, i
    cdef channel_t sums
    cdef affine_t a
    if j.kind == FORWARD:
        _column_moments(j, at, w, one, other, _)
    elif j.kind == BACKWARD:
        for c in range(c0, c1):
            _set_map(j, c, &a, _)
            for i in range(k, k + j.inner):
                mean[i], scale[i], beta[i] = <real> a.mean, <real> a.scale, <real> a.beta
            k += j.inner
        _column_sums(
            j, at, w, <const real*> mean, <const real*> scale, <const real*> beta, one, other
        )
    for c in range(c0, c1):
        k = (c - c0) * j.inner
        if j.kind == FORWARD:
            _join_moments(j.inner, j.outer, one + k, other + k, &sums)
        elif j.kind == BACKWARD:
            sums.dy, sums.dx = total_of(one + k, j.inner), total_of(other + k, j.inner)
        _finish(j, c, &sums, &a, _)
        for i in range(k, k + j.inner):
            mean[i], scale[i], beta[i] = <real> a.mean, <real> a.scale, <real> a.beta
            shift[i], slope[i] = <real> a.shift, <real> a.slope
    if j.out != NULL:
        _map_columns(
            j, at, w, <const real*> mean, <const real*> scale, <const real*> beta,
            <const real*> shift, <const real*> slope,
        )


cdef void _task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef norm_t* j = <norm_t*> context
    cdef Py_ssize_t c0 = task * j.per_task, c1 = min(j.channels, c0 + j.per_task)
    if j.inner >= LONG:
        if j.single:
            _spans(j, c0, <const float*> NULL)
        else:
            _spans(j, c0, <const double*> NULL)
    else:
        if j.single:
            _columns(j, c0, c1, <const float*> NULL)
        else:
            _columns(j, c0, c1, <const double*> NULL)


cdef void _run(norm_t* j) noexcept nogil:
    run(_task, j, (j.channels + j.per_task - 1) // j.per_task, max_workers())


cdef bint _plan(
    norm_t* j, int kind, const array_t* x, const array_t* gamma, const array_t* mean,
    const array_t* var, double epsilon,
) except -1:
    """Set the fields that all passes have; return False if there is nothing to normalise."""
    memset(j, 0, sizeof(norm_t))
    if not gamma.shape[0] == x.shape[1] == mean.shape[0] == var.shape[0]:
        raise ValueError("norm: there must be one number for each channel.")
    if x.shape[1] == 0:
        raise ValueError("norm: there must be at least one channel.")
    j.single, j.kind, j.epsilon = x.single, kind, epsilon
    j.outer, j.channels, j.inner = x.shape[0], x.shape[1], x.shape[2]
    if j.outer == 0 or j.inner == 0:
        return False
    # wide blocks, whose rows are long stretches of memory, if there are enough of them
    j.per_task = max(1, WIDTH // j.inner)
    j.per_task = max(j.per_task, min(LONG // j.inner, j.channels // TASKS))
    j.x, j.gamma, j.mean, j.var = x.data, gamma.data, mean.data, var.data
    j.dy = j.x  # something to point at
    return True


cdef bint _is_relu(act) except -1:
    """Whether an activation is ReLU; the only other one is none."""
    cdef act_t a = parse_act(act)
    if a.code != LINEAR and a.code != RELU:
        raise ValueError("norm: the activation must be linear or ReLU.")
    return a.code == RELU


def norm_forward(x, gamma, beta, double epsilon, y, mean, var, act):
    """y = f(gamma (x - mean) / √(var + ε) + beta), with the statistics of x."""
    cdef call_t call = call_t("norm_forward", REAL)
    cdef array_t x_ = array(&call, x, "x", 3, REAL), y_ = array(&call, y, "y", 3, REAL | OUT)
    cdef array_t gamma_ = array(&call, gamma, "gamma", 1, REAL)
    cdef array_t beta_ = array(&call, beta, "beta", 1, REAL)
    cdef array_t mean_ = array(&call, mean, "mean", 1, REAL | OUT)
    cdef array_t var_ = array(&call, var, "var", 1, REAL | OUT)
    cdef norm_t j
    cdef bint some = _plan(&j, FORWARD, &x_, &gamma_, &mean_, &var_, epsilon)
    if not (same_shape(&y_, &x_) and same_shape(&beta_, &gamma_)):
        raise ValueError("norm_forward: the shapes of x, y and beta do not fit.")
    if not some:
        clear(&mean_)
        clear(&var_)
        return
    j.beta, j.out, j.relu = beta_.data, y_.data, _is_relu(act)
    with nogil:
        _run(&j)


cdef bint _plan_fixed(norm_t* j, x, gamma, beta, mean, var, double epsilon, y) except -1:
    cdef call_t call = call_t("norm_fixed_forward", REAL)
    cdef array_t x_ = array(&call, x, "x", 3, REAL), y_ = array(&call, y, "y", 3, REAL | OUT)
    cdef array_t gamma_ = array(&call, gamma, "gamma", 1, REAL)
    cdef array_t beta_ = array(&call, beta, "beta", 1, REAL)
    cdef array_t mean_ = array(&call, mean, "mean", 1, REAL)
    cdef array_t var_ = array(&call, var, "var", 1, REAL)
    cdef bint some = _plan(j, FIXED, &x_, &gamma_, &mean_, &var_, epsilon)
    if not (same_shape(&y_, &x_) and same_shape(&beta_, &gamma_)):
        raise ValueError("norm_fixed_forward: the shapes of x, y and beta do not fit.")
    j.beta, j.out = beta_.data, y_.data
    return some


def norm_fixed_forward(x, gamma, beta, mean, var, double epsilon, y):
    """y = gamma (x - mean) / √(var + ε) + beta, with given statistics."""
    cdef norm_t j
    if _plan_fixed(&j, x, gamma, beta, mean, var, epsilon, y):
        with nogil:
            _run(&j)


cdef void _play_fixed(const void* job, void** arrays, char* scratch) noexcept nogil:
    cdef norm_t j = (<const norm_t*> job)[0]
    j.x = j.dy = arrays[0]
    j.gamma, j.beta, j.mean, j.var = arrays[1], arrays[2], arrays[3], arrays[4]
    j.out = arrays[5]
    _run(&j)


def norm_fixed_forward_recorded(x, gamma, beta, mean, var, double epsilon, y, act=None):
    """`norm_fixed_forward` as a step, with an activation, linear or ReLU."""
    cdef norm_t j
    some = _plan_fixed(&j, x, gamma, beta, mean, var, epsilon, y)
    j.relu = act is not None and _is_relu(act)
    return recorded(_play_fixed, &j, sizeof(norm_t), 0) if some else None


def norm_backward(x, gamma, beta, mean, var, double epsilon, dy, dx, dgamma, dbeta, act):
    """Gradients of `norm_forward`."""
    cdef call_t call = call_t("norm_backward", REAL)
    cdef array_t x_ = array(&call, x, "x", 3, REAL), dy_ = array(&call, dy, "dy", 3, REAL)
    cdef array_t dx_ = array(&call, dx, "dx", 3, REAL | OUT | OR_NONE)
    cdef array_t gamma_ = array(&call, gamma, "gamma", 1, REAL)
    cdef array_t beta_ = array(&call, beta, "beta", 1, REAL)
    cdef array_t mean_ = array(&call, mean, "mean", 1, REAL)
    cdef array_t var_ = array(&call, var, "var", 1, REAL)
    cdef array_t dgamma_ = array(&call, dgamma, "dgamma", 1, REAL | OUT | OR_NONE)
    cdef array_t dbeta_ = array(&call, dbeta, "dbeta", 1, REAL | OUT | OR_NONE)
    cdef norm_t j
    cdef bint some = _plan(&j, BACKWARD, &x_, &gamma_, &mean_, &var_, epsilon)
    if not (
        same_shape(&dy_, &x_)
        and same_shape(&beta_, &gamma_)
        and (not dx_.given or same_shape(&dx_, &x_))
        and (not dgamma_.given or same_shape(&dgamma_, &gamma_))
        and (not dbeta_.given or same_shape(&dbeta_, &gamma_))
    ):
        raise ValueError("norm_backward: the shapes of x and the gradients do not fit.")
    if not some:
        clear(&dgamma_)
        clear(&dbeta_)
        return
    j.dy, j.out, j.dgamma, j.dbeta = dy_.data, dx_.data, dgamma_.data, dbeta_.data
    j.beta, j.relu = beta_.data, _is_relu(act)
    with nogil:
        _run(&j)
