"""Max and mean pooling. Contract: ``pool_np.py``.

The N*C images are independent and shared among the threads. An output row is computed as a whole,
one pixel (u, v) of all its windows after the other, in loops that the C compiler vectorises.
"""

from libc.math cimport NAN
from libc.stdint cimport int32_t
from libc.string cimport memcpy, memset
from npdl._ext.arrays cimport INT32, OR_NONE, OUT, REAL, array, array_t, call_t, clear, same_shape
from npdl._ext.simd cimport real
from npdl._ext.threads cimport max_workers, run
from npdl._ext.tile cimport lanes

cdef enum:
    CHUNK = 4096  # pixels to a task
    MOST = 16  # lanes


cdef enum:
    MAX
    MEAN
    UNMAX
    UNMEAN


ctypedef struct pool_t:
    bint single
    int kind
    Py_ssize_t images, per_task, h, w, oh, ow, kh, kw, sh, sw
    const void* x  # or dy
    void* y  # or dx
    int32_t* argmax
    int bad


cdef inline void _max_row(
    const real* x, Py_ssize_t w, Py_ssize_t kh, Py_ssize_t kw, Py_ssize_t step, int32_t at,
    real* y, int32_t* argmax, Py_ssize_t n,
) noexcept nogil:
    """One output row; x is the row of the image that its windows start in, at its first pixel."""
    cdef Py_ssize_t j, u, v
    cdef int32_t place, winner
    cdef real value, best
    cdef bint better
    for j in range(n):
        best, winner = x[j * step], 0
        for u in range(kh):
            for v in range(kw):
                value, place = x[u * w + j * step + v], <int32_t> (u * w + v)
                better = (value > best) | (value != value) & (best == best)
                best = value if better else best
                winner = place if better else winner
        y[j] = best
        if argmax != NULL:
            argmax[j] = at + <int32_t> (j * step) + winner


cdef inline void _mean_row(
    const real* x, Py_ssize_t w, Py_ssize_t kh, Py_ssize_t kw, Py_ssize_t step, real scale, real* y,
    Py_ssize_t n,
) noexcept nogil:
    cdef Py_ssize_t j, u, v
    cdef real total
    for j in range(n):
        total = 0
        for u in range(kh):
            for v in range(kw):
                total += x[u * w + j * step + v]
        y[j] = total * scale


cdef inline void _unmean_row(
    const real* dy, Py_ssize_t w, Py_ssize_t kh, Py_ssize_t kw, Py_ssize_t step, real scale,
    real* dx, Py_ssize_t n,
) noexcept nogil:
    cdef Py_ssize_t j, u, v
    for u in range(kh):
        for j in range(n):
            for v in range(kw):
                dx[u * w + j * step + v] += dy[j] * scale


# ------------------------------------------------- the usual windows: 2x2, side by side
# Some at a time, `count` being a constant: loops over arrays of a constant length, which the C
# compiler turns into vectors. The last ones of a row overlap those before them.

cdef inline real _larger(real a, real b) noexcept nogil:
    return a if a > b else b


cdef inline bint _is(real value, real best) noexcept nogil:
    """Whether a value is the greatest, or a NaN, as the greatest then is."""
    return (value == best) | (value != value)


cdef inline void _max_2x2(
    const real* above, const real* below, int32_t at, int32_t down, real* y, int32_t* argmax,
    Py_ssize_t count,
) noexcept nogil:
    cdef real a[MOST]
    cdef real b[MOST]
    cdef real c[MOST]
    cdef real d[MOST]
    cdef real best[MOST]
    cdef int32_t place[MOST]
    cdef real largest
    cdef int32_t l
    cdef bint nan
    for l in range(<int32_t> count):
        a[l], b[l], c[l], d[l] = above[2 * l], above[2 * l + 1], below[2 * l], below[2 * l + 1]
    for l in range(<int32_t> count):
        largest = _larger(_larger(a[l], b[l]), _larger(c[l], d[l]))
        nan = (a[l] != a[l]) | (b[l] != b[l]) | (c[l] != c[l]) | (d[l] != d[l])
        best[l] = <real> NAN if nan else largest
    memcpy(y, best, count * sizeof(real))
    if argmax != NULL:
        for l in range(<int32_t> count):
            place[l] = down + 1
            place[l] = down if _is(c[l], best[l]) else place[l]
            place[l] = 1 if _is(b[l], best[l]) else place[l]
            place[l] = 0 if _is(a[l], best[l]) else place[l]
            place[l] = place[l] + at + 2 * l
        memcpy(argmax, place, count * sizeof(int32_t))


cdef inline void _mean_2x2(
    const real* above, const real* below, real scale, real* y, Py_ssize_t count
) noexcept nogil:
    cdef real mean[MOST]
    cdef Py_ssize_t l
    for l in range(count):
        mean[l] = (above[2 * l] + above[2 * l + 1] + below[2 * l] + below[2 * l + 1]) * scale
    memcpy(y, mean, count * sizeof(real))


cdef inline void _unmean_2x2(
    const real* dy, real scale, real* above, real* below, Py_ssize_t count
) noexcept nogil:
    cdef real share[2 * MOST]
    cdef Py_ssize_t l
    for l in range(count):
        share[2 * l] = share[2 * l + 1] = dy[l] * scale
    memcpy(above, share, 2 * count * sizeof(real))
    memcpy(below, share, 2 * count * sizeof(real))


cdef inline void _rows_2x2(
    int kind, Py_ssize_t width, Py_ssize_t h, Py_ssize_t w, Py_ssize_t oh, Py_ssize_t ow, real* x,
    real* y, int32_t* argmax,
) noexcept nogil:
    """All windows of an image, `width` at a time; x is what they lie in."""
    cdef Py_ssize_t i, j
    cdef real* row = x
    for i in range(oh):
        j = 0
        while j < ow:
            j = min(j, ow - width)
            if kind == MAX:
                _max_2x2(
                    row + 2 * j, row + w + 2 * j, <int32_t> (2 * (i * w + j)), <int32_t> w, y + j,
                    NULL if argmax == NULL else argmax + j, width,
                )
            elif kind == MEAN:
                _mean_2x2(row + 2 * j, row + w + 2 * j, <real> 0.25, y + j, width)
            else:
                _unmean_2x2(y + j, <real> 0.25, row + 2 * j, row + w + 2 * j, width)
            j += width
        y += ow
        argmax = NULL if argmax == NULL else argmax + ow
        row += 2 * w


cdef inline bint _pool_2x2(
    const pool_t* p, int kind, real* x, real* y, int32_t* argmax
) noexcept nogil:
    """Pool one image, if its windows are the usual ones."""
    if not (p.kh == 2 and p.kw == 2 and p.sh == 2 and p.sw == 2):
        return False
    if kind == UNMEAN and (p.h > 2 * p.oh or p.w > 2 * p.ow):
        memset(x, 0, p.h * p.w * sizeof(real))
    if p.ow >= lanes(x):
        _rows_2x2(kind, lanes(x), p.h, p.w, p.oh, p.ow, x, y, argmax)
    elif p.ow >= lanes(x) // 2 > 0:
        _rows_2x2(kind, lanes(x) // 2, p.h, p.w, p.oh, p.ow, x, y, argmax)
    else:
        _rows_2x2(kind, 1, p.h, p.w, p.oh, p.ow, x, y, argmax)
    return True


# -------------------------------------------------------------------------------------- images

cdef inline void _max_image(pool_t* p, const real* x, real* y, int32_t* argmax) noexcept nogil:
    cdef Py_ssize_t i, at
    if _pool_2x2(p, MAX, <real*> x, y, argmax):
        return
    for i in range(p.oh):
        at = i * p.sh * p.w
        _max_row(
            x + at, p.w, p.kh, p.kw, p.sw, <int32_t> at, y + i * p.ow,
            NULL if argmax == NULL else argmax + i * p.ow, p.ow,
        )


cdef inline void _mean_image(pool_t* p, const real* x, real* y) noexcept nogil:
    cdef Py_ssize_t i
    cdef real scale = <real> (1.0 / (p.kh * p.kw))
    if _pool_2x2(p, MEAN, <real*> x, y, NULL):
        return
    for i in range(p.oh):
        _mean_row(x + i * p.sh * p.w, p.w, p.kh, p.kw, p.sw, scale, y + i * p.ow, p.ow)


cdef inline void _unmax_image(
    pool_t* p, const real* dy, const int32_t* argmax, real* dx
) noexcept nogil:
    cdef Py_ssize_t j
    cdef int32_t size = <int32_t> (p.h * p.w)
    cdef bint bad = False
    memset(dx, 0, p.h * p.w * sizeof(real))
    for j in range(p.oh * p.ow):
        bad = bad | (argmax[j] < 0) | (argmax[j] >= size)
    if bad:
        p.bad = 1
        return
    for j in range(p.oh * p.ow):
        dx[argmax[j]] += dy[j]


cdef inline void _unmean_image(pool_t* p, const real* dy, real* dx) noexcept nogil:
    cdef Py_ssize_t i
    cdef real scale = <real> (1.0 / (p.kh * p.kw))
    if _pool_2x2(p, UNMEAN, dx, <real*> dy, NULL):
        return
    memset(dx, 0, p.h * p.w * sizeof(real))
    for i in range(p.oh):
        _unmean_row(dy + i * p.ow, p.w, p.kh, p.kw, p.sw, scale, dx + i * p.sh * p.w, p.ow)


cdef inline void _images(pool_t* p, Py_ssize_t task, const real* _) noexcept nogil:
    """One task: some images through one of the four loops."""
    cdef Py_ssize_t k, size = p.h * p.w, out = p.oh * p.ow
    cdef const real* x = <const real*> p.x
    cdef real* y = <real*> p.y
    for k in range(task * p.per_task, min(p.images, (task + 1) * p.per_task)):
        if p.kind == MAX:
            _max_image(
                p, x + k * size, y + k * out, NULL if p.argmax == NULL else p.argmax + k * out
            )
        elif p.kind == MEAN:
            _mean_image(p, x + k * size, y + k * out)
        elif p.kind == UNMAX:
            _unmax_image(p, x + k * out, p.argmax + k * out, y + k * size)
        else:
            _unmean_image(p, x + k * out, y + k * size)


cdef void _task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef pool_t* p = <pool_t*> context
    if p.single:
        _images(p, task, <float*> NULL)
    else:
        _images(p, task, <double*> NULL)


cdef pool_t _plan(const array_t* image, const array_t* pooled) except *:
    """The sizes of a pooling, checked; `images` is 0 where there is nothing to do."""
    cdef pool_t p
    memset(&p, 0, sizeof(p))
    if image.shape[0] != pooled.shape[0] or image.shape[1] != pooled.shape[1]:
        raise ValueError("pool: the input and the output must hold as many images.")
    if image.shape[2] * image.shape[3] > 0x7FFFFFFF:
        raise ValueError("pool: an image must have fewer than 2^31 pixels.")
    p.single = image.single
    p.images = image.shape[0] * image.shape[1]
    p.h, p.w, p.oh, p.ow = image.shape[2], image.shape[3], pooled.shape[2], pooled.shape[3]
    p.per_task = max(1, CHUNK // max(1, p.h * p.w))
    if p.oh * p.ow == 0:
        p.images = 0
    return p


cdef void _set_windows(
    pool_t* p, Py_ssize_t kh, Py_ssize_t kw, Py_ssize_t stride_h, Py_ssize_t stride_w
) except *:
    if min(kh, kw, stride_h, stride_w) < 1:
        raise ValueError("pool: window and stride must be at least 1.")
    if max(kh, kw, stride_h, stride_w) > 0x7FFFFFFF:
        raise ValueError("pool: window and stride must be below 2^31.")
    if p.images and (
        (p.oh - 1) * stride_h + kh > p.h or (p.ow - 1) * stride_w + kw > p.w
    ):
        raise ValueError("pool: every window must lie inside the image.")
    p.kh, p.kw, p.sh, p.sw = kh, kw, stride_h, stride_w


cdef void _run(int kind, pool_t* p) noexcept nogil:
    p.kind = kind
    run(_task, p, (p.images + p.per_task - 1) // p.per_task, max_workers())


def maxpool_forward(
    x, y, argmax, Py_ssize_t kh, Py_ssize_t kw, Py_ssize_t stride_h, Py_ssize_t stride_w
):
    """Greatest value of each window."""
    cdef call_t call = call_t("maxpool_forward", REAL)
    cdef array_t x_ = array(&call, x, "x", 4, REAL), y_ = array(&call, y, "y", 4, REAL | OUT)
    cdef array_t argmax_ = array(&call, argmax, "argmax", 4, INT32 | OUT | OR_NONE)
    cdef pool_t p = _plan(&x_, &y_)
    _set_windows(&p, kh, kw, stride_h, stride_w)
    if argmax_.given and not same_shape(&argmax_, &y_):
        raise ValueError("maxpool_forward: y and argmax must have one shape.")
    p.x, p.y, p.argmax = x_.data, y_.data, <int32_t*> argmax_.data
    with nogil:
        _run(MAX, &p)


def maxpool_backward(dy, argmax, dx):
    """Send each gradient to the pixel that won."""
    cdef call_t call = call_t("maxpool_backward", REAL)
    cdef array_t dy_ = array(&call, dy, "dy", 4, REAL), dx_ = array(&call, dx, "dx", 4, REAL | OUT)
    cdef array_t argmax_ = array(&call, argmax, "argmax", 4, INT32)
    cdef pool_t p = _plan(&dx_, &dy_)
    if not same_shape(&argmax_, &dy_):
        raise ValueError("maxpool_backward: dy and argmax must have one shape.")
    if not p.images:
        clear(&dx_)
    p.x, p.y, p.argmax = dy_.data, dx_.data, <int32_t*> argmax_.data
    with nogil:
        _run(UNMAX, &p)
    if p.bad:
        raise ValueError("maxpool_backward: argmax must lie inside the image.")


def meanpool_forward(
    x, y, Py_ssize_t kh, Py_ssize_t kw, Py_ssize_t stride_h, Py_ssize_t stride_w
):
    """Mean of each window."""
    cdef call_t call = call_t("meanpool_forward", REAL)
    cdef array_t x_ = array(&call, x, "x", 4, REAL), y_ = array(&call, y, "y", 4, REAL | OUT)
    cdef pool_t p = _plan(&x_, &y_)
    _set_windows(&p, kh, kw, stride_h, stride_w)
    p.x, p.y = x_.data, y_.data
    with nogil:
        _run(MEAN, &p)


def meanpool_backward(
    dy, dx, Py_ssize_t kh, Py_ssize_t kw, Py_ssize_t stride_h, Py_ssize_t stride_w
):
    """Share each gradient equally among the pixels of its window."""
    cdef call_t call = call_t("meanpool_backward", REAL)
    cdef array_t dy_ = array(&call, dy, "dy", 4, REAL), dx_ = array(&call, dx, "dx", 4, REAL | OUT)
    cdef pool_t p = _plan(&dx_, &dy_)
    _set_windows(&p, kh, kw, stride_h, stride_w)
    if not p.images:
        clear(&dx_)
    p.x, p.y = dy_.data, dx_.data
    with nogil:
        _run(UNMEAN, &p)
