"""Max and mean pooling. Contract: ``pool_np.py``.

The threads share the rows of the output; in the backward pass, the N*C images. The usual windows,
2x2 side by side, have their own loops; all others are in ``pool_windows.pxd``.
"""

from libc.math cimport NAN
from libc.stdint cimport int32_t
from libc.string cimport memcpy, memset
from npdl._ext.arrays cimport INT32, OR_NONE, OUT, REAL, array, array_t, call_t, clear, same_shape
from npdl._ext.pool_windows cimport (
    BLOCK,
    WIDE,
    block_t,
    max_block,
    max_window,
    mean_block,
    mean_window,
    pool_t,
    unmean_row,
    unmean_window,
    window_of,
    window_t,
)
from npdl._ext.simd cimport real
from npdl._ext.steps cimport recorded
from npdl._ext.threads cimport max_workers, run
from npdl._ext.tile cimport lanes

cdef enum:
    CHUNK = 4096  # pixels per task
    MOST = 16  # the most lanes
    NARROW = 64  # windows of narrow images at a time


cdef enum:
    MAX
    MEAN
    UNMAX
    UNMEAN


# ------------------------------------------------- the usual windows: 2x2, side by side
# Several windows at a time. `count` is a constant: loops over arrays of constant length, which the
# C compiler turns into vectors. The last windows of a row overlap those before them.

cdef inline real _larger(real a, real b) noexcept nogil:
    return a if a > b else b


cdef inline bint _is(real value, real best) noexcept nogil:
    """Whether a value is the largest, or both are NaN."""
    return (value == best) | (value != value)


cdef inline void _max_of_four(
    const real* a, const real* b, const real* c, const real* d, int32_t down, real* best,
    int32_t* place, Py_ssize_t count,
) noexcept nogil:
    """The largest of four pixels, and its place behind the first: 0, 1, `down` or `down` + 1."""
    cdef real largest
    cdef int32_t l
    cdef bint nan
    for l in range(<int32_t> count):
        largest = _larger(_larger(a[l], b[l]), _larger(c[l], d[l]))
        nan = (a[l] != a[l]) | (b[l] != b[l]) | (c[l] != c[l]) | (d[l] != d[l])
        best[l] = <real> NAN if nan else largest
    if place != NULL:
        for l in range(<int32_t> count):
            place[l] = down + 1
            place[l] = down if _is(c[l], best[l]) else place[l]
            place[l] = 1 if _is(b[l], best[l]) else place[l]
            place[l] = 0 if _is(a[l], best[l]) else place[l]


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
    cdef int32_t l
    for l in range(<int32_t> count):
        a[l], b[l], c[l], d[l] = above[2 * l], above[2 * l + 1], below[2 * l], below[2 * l + 1]
    _max_of_four(a, b, c, d, down, best, NULL if argmax == NULL else place, count)
    memcpy(y, best, count * sizeof(real))
    if argmax != NULL:
        for l in range(<int32_t> count):
            place[l] = place[l] + at + 2 * l
        memcpy(argmax, place, count * sizeof(int32_t))


cdef inline void _narrow_max_2x2(
    const pool_t* p, Py_ssize_t first, Py_ssize_t last, const real* x, real* y, int32_t* argmax
) noexcept nogil:
    """Rows [first, last) of all outputs, of up to three: the pixels of many are gathered first."""
    cdef real a[NARROW]
    cdef real b[NARROW]
    cdef real c[NARROW]
    cdef real d[NARROW]
    cdef real best[NARROW]
    cdef int32_t place[NARROW]
    cdef int32_t at[NARROW]
    cdef Py_ssize_t i = first % p.oh, j, w = p.w, count
    cdef int32_t l
    cdef const real* row
    x += first // p.oh * p.h * w
    for l in range(NARROW):
        a[l] = b[l] = c[l] = d[l] = 0
    while first < last:
        count = 0
        while first < last and count + p.ow <= NARROW:
            row = x + 2 * i * w
            for j in range(p.ow):
                a[count], b[count] = row[2 * j], row[2 * j + 1]
                c[count], d[count] = row[w + 2 * j], row[w + 2 * j + 1]
                at[count] = <int32_t> (2 * (i * w + j))
                count += 1
            first += 1
            i += 1
            if i == p.oh:
                i = 0
                x += p.h * w
        _max_of_four(a, b, c, d, <int32_t> w, best, place, NARROW)
        memcpy(y, best, count * sizeof(real))
        y += count
        for l in range(<int32_t> (0 if argmax == NULL else count)):
            argmax[l] = place[l] + at[l]
        argmax = NULL if argmax == NULL else argmax + count


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
    const pool_t* p, int kind, Py_ssize_t width, Py_ssize_t first, Py_ssize_t last, real* x,
    real* y, int32_t* argmax,
) noexcept nogil:
    """Rows [first, last) of all outputs, `width` windows at a time, in the images x."""
    cdef Py_ssize_t i = first % p.oh, j, w = p.w, _
    cdef real* row
    cdef real share
    x += first // p.oh * p.h * w
    for _ in range(last - first):
        row = x + 2 * i * w
        j = 0
        while j < p.ow:
            j = min(j, p.ow - width)
            if kind == MAX:
                _max_2x2(
                    row + 2 * j, row + w + 2 * j, <int32_t> (2 * (i * w + j)), <int32_t> w, y + j,
                    NULL if argmax == NULL else argmax + j, width,
                )
            elif kind == MEAN:
                _mean_2x2(row + 2 * j, row + w + 2 * j, <real> 0.25, y + j, width)
            elif width == 1:
                share = y[j] * <real> 0.25
                row[2 * j] = row[2 * j + 1] = row[w + 2 * j] = row[w + 2 * j + 1] = share
            else:
                _unmean_2x2(y + j, <real> 0.25, row + 2 * j, row + w + 2 * j, width)
            j += width
        y += p.ow
        argmax = NULL if argmax == NULL else argmax + p.ow
        i += 1
        if i == p.oh:
            i = 0
            x += p.h * w


cdef inline void _pool_2x2(
    const pool_t* p, int kind, Py_ssize_t first, Py_ssize_t last, real* x, real* y, int32_t* argmax
) noexcept nogil:
    """Windows at a time: as many as fit the vectors, or a row of a narrow image."""
    if kind == MAX and p.ow < 4:
        _narrow_max_2x2(p, first, last, x, y, argmax)
    elif p.ow >= 16 and lanes(x) >= 16:
        _rows_2x2(p, kind, 16, first, last, x, y, argmax)
    elif p.ow >= 8 and lanes(x) >= 8:
        _rows_2x2(p, kind, 8, first, last, x, y, argmax)
    elif p.ow >= 4 and lanes(x) >= 4:
        _rows_2x2(p, kind, 4, first, last, x, y, argmax)
    elif p.ow >= 2 and lanes(x) >= 2:
        _rows_2x2(p, kind, 2, first, last, x, y, argmax)
    else:
        _rows_2x2(p, kind, 1, first, last, x, y, argmax)


# ------------------------------------------------------------------------- the tasks, forward

cdef inline void _pool_windows(
    pool_t* p, Py_ssize_t first, Py_ssize_t last, const real* x, real* y, int32_t* argmax
) noexcept nogil:
    """Rows [first, last) of all outputs, window by window."""
    cdef Py_ssize_t r, j, k = 0
    cdef const real* image
    cdef window_t window
    for r in range(first, last):
        image = x + r // p.oh * p.h * p.w
        for j in range(p.ow):
            window = window_of(p, r % p.oh, j)
            if p.kind == MAX:
                y[k] = max_window(image, &window, NULL if argmax == NULL else argmax + k)
            else:
                y[k] = mean_window(image, &window)
            k += 1


cdef inline void _pool_blocks(
    pool_t* p, Py_ssize_t first, Py_ssize_t last, const real* x, real* y, int32_t* argmax
) noexcept nogil:
    """Rows [first, last) of all outputs, block by block."""
    cdef block_t b
    cdef Py_ssize_t k = 0
    b.row, b.first = first, 0
    while b.row < last:
        b.n = min(BLOCK, p.ow - b.first)
        b.rows = min(BLOCK // p.ow, last - b.row) if p.ow <= BLOCK else 1
        if p.kind == MAX:
            max_block(p, &b, x, y + k, NULL if argmax == NULL else argmax + k)
        else:
            mean_block(p, &b, x, y + k)
        k += b.rows * b.n
        b.first += b.n
        if b.first == p.ow:
            b.first = 0
            b.row += b.rows


cdef inline void _pool(pool_t* p, Py_ssize_t task, const real* _) noexcept nogil:
    cdef Py_ssize_t first = task * p.per_task
    cdef Py_ssize_t last = min(p.images * p.oh, first + p.per_task)
    cdef const real* x = <const real*> p.x
    cdef real* y = <real*> p.y + first * p.ow
    cdef int32_t* argmax = NULL if p.argmax == NULL else p.argmax + first * p.ow
    if p.usual and p.kind == MAX:
        _pool_2x2(p, MAX, first, last, <real*> x, y, argmax)
    elif p.usual:
        _pool_2x2(p, MEAN, first, last, <real*> x, y, argmax)
    elif p.spans:
        _pool_windows(p, first, last, x, y, argmax)
    else:
        _pool_blocks(p, first, last, x, y, argmax)


# ------------------------------------------------------------------------ the tasks, backward

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
    cdef Py_ssize_t i, j
    cdef window_t window
    memset(dx, 0, p.h * p.w * sizeof(real))
    for i in range(p.oh):
        if not p.spans:
            unmean_row(p, i, dy + i * p.ow, dx)
            continue
        for j in range(p.ow):
            window = window_of(p, i, j)
            unmean_window(
                dy[i * p.ow + j] / <real> (window.spans * window.length), &window, dx
            )


cdef inline void _unpool(pool_t* p, Py_ssize_t task, const real* _) noexcept nogil:
    cdef Py_ssize_t k, size = p.h * p.w, out = p.oh * p.ow, first = task * p.per_task
    cdef Py_ssize_t last = min(p.images, first + p.per_task)
    cdef const real* dy = <const real*> p.x
    cdef real* dx = <real*> p.y
    if p.kind == UNMEAN and p.usual:
        if p.h > 2 * p.oh or p.w > 2 * p.ow:
            memset(dx + first * size, 0, (last - first) * size * sizeof(real))
        _pool_2x2(p, UNMEAN, first * p.oh, last * p.oh, dx, <real*> dy + first * out, NULL)
        return
    for k in range(first, last):
        if p.kind == UNMAX:
            _unmax_image(p, dy + k * out, p.argmax + k * out, dx + k * size)
        else:
            _unmean_image(p, dy + k * out, dx + k * size)


cdef void _task(void* context, Py_ssize_t task, int worker) noexcept nogil:
    cdef pool_t* p = <pool_t*> context
    if p.kind == MAX or p.kind == MEAN:
        if p.single:
            _pool(p, task, <float*> NULL)
        else:
            _pool(p, task, <double*> NULL)
    elif p.single:
        _unpool(p, task, <float*> NULL)
    else:
        _unpool(p, task, <double*> NULL)


cdef pool_t _plan(const array_t* image, const array_t* pooled) except *:
    """The checked sizes of a pooling; `images` is 0 if there is nothing to do."""
    cdef pool_t p
    memset(&p, 0, sizeof(p))
    if image.shape[0] != pooled.shape[0] or image.shape[1] != pooled.shape[1]:
        raise ValueError("pool: the input and the output must hold as many images.")
    if image.shape[2] * image.shape[3] > 0x7FFFFFFF:
        raise ValueError("pool: an image must have fewer than 2^31 pixels.")
    p.single = image.single
    p.images = image.shape[0] * image.shape[1]
    p.h, p.w, p.oh, p.ow = image.shape[2], image.shape[3], pooled.shape[2], pooled.shape[3]
    if p.oh * p.ow == 0:
        p.images = 0
    return p


cdef void _side(
    bint check, Py_ssize_t size, Py_ssize_t out, Py_ssize_t window, Py_ssize_t stride,
    Py_ssize_t pad,
) except *:
    if min(window, stride) < 1:
        raise ValueError("pool: window and stride must be at least 1.")
    if max(window, stride) > 0x7FFFFFFF:
        raise ValueError("pool: window and stride must be below 2^31.")
    if pad < 0 or pad >= window:
        raise ValueError("pool: the padding must be at least 0, and less than the window.")
    if check and (out - 1) * stride - pad >= size:
        raise ValueError("pool: every window must hold a pixel.")


cdef void _set_windows(
    pool_t* p, Py_ssize_t kh, Py_ssize_t kw, Py_ssize_t stride_h, Py_ssize_t stride_w,
    Py_ssize_t pad_h, Py_ssize_t pad_w,
) except *:
    _side(p.images > 0, p.h, p.oh, kh, stride_h, pad_h)
    _side(p.images > 0, p.w, p.ow, kw, stride_w, pad_w)
    # Only as far as a window reaches.
    kh, kw = min(kh, p.h + pad_h), min(kw, p.w + pad_w)
    p.kh, p.kw, p.sh, p.sw, p.ph, p.pw = kh, kw, stride_h, stride_w, pad_h, pad_w
    if kh * p.w > 0x7FFFFFFF:
        raise ValueError("pool: a window must have fewer than 2^31 pixels.")
    p.usual = (
        kh == 2 and kw == 2 and stride_h == 2 and stride_w == 2 and pad_h == 0 and pad_w == 0
        and 2 * p.oh <= p.h and 2 * p.ow <= p.w
    )
    # A span is the part of a row inside a window. Other loops are faster if spans are short, or if
    # many windows share the pixels of a row.
    p.spans = (p.ow == 1 and pad_w == 0 and kw >= p.w and kh * p.w >= WIDE) or (
        kw >= WIDE and (p.ow < WIDE or stride_w > 2)
    )


cdef void _run(int kind, pool_t* p) noexcept nogil:
    cdef Py_ssize_t items = p.images, size = p.h * p.w
    if kind == MAX or kind == MEAN:  # by rows
        items *= p.oh
        size = (p.kh if p.oh == 1 else min(p.sh, p.kh)) * p.w
    p.kind = kind
    p.per_task = max(1, CHUNK // max(1, size))
    run(_task, p, (items + p.per_task - 1) // p.per_task, max_workers())


cdef pool_t _plan_max(
    x, y, argmax, Py_ssize_t kh, Py_ssize_t kw, Py_ssize_t stride_h, Py_ssize_t stride_w,
    Py_ssize_t pad_h, Py_ssize_t pad_w,
) except *:
    cdef call_t call = call_t("maxpool_forward", REAL)
    cdef array_t x_ = array(&call, x, "x", 4, REAL), y_ = array(&call, y, "y", 4, REAL | OUT)
    cdef array_t argmax_ = array(&call, argmax, "argmax", 4, INT32 | OUT | OR_NONE)
    cdef pool_t p = _plan(&x_, &y_)
    _set_windows(&p, kh, kw, stride_h, stride_w, pad_h, pad_w)
    if argmax_.given and not same_shape(&argmax_, &y_):
        raise ValueError("maxpool_forward: y and argmax must have one shape.")
    p.x, p.y, p.argmax = x_.data, y_.data, <int32_t*> argmax_.data
    return p


def maxpool_forward(
    x, y, argmax, Py_ssize_t kh, Py_ssize_t kw, Py_ssize_t stride_h, Py_ssize_t stride_w,
    Py_ssize_t pad_h, Py_ssize_t pad_w,
):
    """Largest value of each window."""
    cdef pool_t p = _plan_max(x, y, argmax, kh, kw, stride_h, stride_w, pad_h, pad_w)
    with nogil:
        _run(MAX, &p)


cdef void _play_max(const void* job, void** arrays, char* scratch) noexcept nogil:
    cdef pool_t p = (<const pool_t*> job)[0]
    p.x, p.y, p.argmax = arrays[0], arrays[1], <int32_t*> arrays[2]
    _run(MAX, &p)


def maxpool_forward_recorded(
    x, y, argmax, Py_ssize_t kh, Py_ssize_t kw, Py_ssize_t stride_h, Py_ssize_t stride_w,
    Py_ssize_t pad_h, Py_ssize_t pad_w,
):
    """`maxpool_forward` as a step."""
    cdef pool_t p = _plan_max(x, y, argmax, kh, kw, stride_h, stride_w, pad_h, pad_w)
    return recorded(_play_max, &p, sizeof(pool_t), 0)


def maxpool_backward(dy, argmax, dx):
    """Add each gradient to the largest pixel of its window."""
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


cdef pool_t _plan_mean(
    x, y, Py_ssize_t kh, Py_ssize_t kw, Py_ssize_t stride_h, Py_ssize_t stride_w,
    Py_ssize_t pad_h, Py_ssize_t pad_w,
) except *:
    cdef call_t call = call_t("meanpool_forward", REAL)
    cdef array_t x_ = array(&call, x, "x", 4, REAL), y_ = array(&call, y, "y", 4, REAL | OUT)
    cdef pool_t p = _plan(&x_, &y_)
    _set_windows(&p, kh, kw, stride_h, stride_w, pad_h, pad_w)
    p.x, p.y = x_.data, y_.data
    return p


def meanpool_forward(
    x, y, Py_ssize_t kh, Py_ssize_t kw, Py_ssize_t stride_h, Py_ssize_t stride_w,
    Py_ssize_t pad_h, Py_ssize_t pad_w,
):
    """Mean of each window."""
    cdef pool_t p = _plan_mean(x, y, kh, kw, stride_h, stride_w, pad_h, pad_w)
    with nogil:
        _run(MEAN, &p)


cdef void _play_mean(const void* job, void** arrays, char* scratch) noexcept nogil:
    cdef pool_t p = (<const pool_t*> job)[0]
    p.x, p.y = arrays[0], arrays[1]
    _run(MEAN, &p)


def meanpool_forward_recorded(
    x, y, Py_ssize_t kh, Py_ssize_t kw, Py_ssize_t stride_h, Py_ssize_t stride_w,
    Py_ssize_t pad_h, Py_ssize_t pad_w,
):
    """`meanpool_forward` as a step."""
    cdef pool_t p = _plan_mean(x, y, kh, kw, stride_h, stride_w, pad_h, pad_w)
    return recorded(_play_mean, &p, sizeof(pool_t), 0)


def meanpool_backward(
    dy, dx, Py_ssize_t kh, Py_ssize_t kw, Py_ssize_t stride_h, Py_ssize_t stride_w,
    Py_ssize_t pad_h, Py_ssize_t pad_w,
):
    """Share each gradient equally among the pixels of its window."""
    cdef call_t call = call_t("meanpool_backward", REAL)
    cdef array_t dy_ = array(&call, dy, "dy", 4, REAL), dx_ = array(&call, dx, "dx", 4, REAL | OUT)
    cdef pool_t p = _plan(&dx_, &dy_)
    _set_windows(&p, kh, kw, stride_h, stride_w, pad_h, pad_w)
    if not p.images:
        clear(&dx_)
    p.x, p.y = dy_.data, dx_.data
    with nogil:
        _run(UNMEAN, &p)
