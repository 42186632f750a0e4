"""The windows of pooling: how an image is read and written, for any size, stride and padding.

Outputs are computed in blocks of some hundreds: one row, or several short ones. For each pixel
(u, v) of the windows, the pixels of the block are gathered in a row, which is then compared with or
added to the block's results so far. The C compiler vectorises these loops for any width of the
image. Windows that are much wider than their stride are read one by one instead, as spans.
"""

from libc.math cimport INFINITY
from libc.stdint cimport int32_t
from libc.string cimport memcpy, memset
from npdl._ext.simd cimport real

cdef enum:
    BLOCK = 256  # outputs, or pixels of a row, at a time
    LANES = 16  # of a span
    WIDE = 16  # the least columns of a window that may be read as spans

ctypedef struct pool_t:
    bint single
    int kind
    bint usual  # windows of 2x2, side by side, all inside the image
    bint spans  # windows are read one by one
    Py_ssize_t images, tasks, per_task, h, w, oh, ow, kh, kw, sh, sw, ph, pw
    const void* x  # or dy
    void* y  # or dx
    int32_t* argmax
    int bad


ctypedef struct block_t:  # outputs [first, first + n) of some rows
    Py_ssize_t row, rows, first, n


cdef inline Py_ssize_t span_from(Py_ssize_t start) noexcept nogil:
    """The first pixel inside the image, of a window's side that begins at `start`."""
    return max(start, 0)


cdef inline Py_ssize_t span_to(Py_ssize_t start, Py_ssize_t window, Py_ssize_t size) noexcept nogil:
    return min(start + window, size)


cdef inline const real* _gather(
    const pool_t* p, const block_t* b, const real* x, Py_ssize_t u, Py_ssize_t v, real outside,
    real* value,
) noexcept nogil:
    """The pixels (u, v) of the block's windows: in the image itself, or copied to `value`."""
    cdef Py_ssize_t low = 0, high = b.n, start = b.first * p.sw + v - p.pw
    cdef Py_ssize_t i = b.row % p.oh, j, at, _
    cdef const real* image = x + b.row // p.oh * p.h * p.w
    cdef const real* pixels
    cdef real* out = value
    if start < 0:
        low = min(b.n, (p.sw - 1 - start) // p.sw)
    if start + (b.n - 1) * p.sw >= p.w:
        high = 0 if start >= p.w else (p.w - 1 - start) // p.sw + 1
    for _ in range(b.rows):
        at = i * p.sh + u - p.ph
        if at < 0 or at >= p.h or low >= high:
            for j in range(b.n):
                out[j] = outside
        else:
            pixels = image + at * p.w + start
            if p.sw == 1 and b.rows == 1 and low == 0 and high == b.n:
                return pixels
            for j in range(low):
                out[j] = outside
            if p.sw == 1:
                for j in range(low, high):
                    out[j] = pixels[j]
            elif p.sw == 2:
                for j in range(low, high):
                    out[j] = pixels[2 * j]
            else:
                for j in range(low, high):
                    out[j] = pixels[j * p.sw]
            for j in range(high, b.n):
                out[j] = outside
        out += b.n
        i += 1
        if i == p.oh:
            i = 0
            image += p.h * p.w
    return value


cdef inline void max_block(
    const pool_t* p, const block_t* b, const real* x, real* y, int32_t* argmax
) noexcept nogil:
    cdef real value[BLOCK]
    cdef real best[BLOCK]
    cdef int32_t winner[BLOCK]
    cdef Py_ssize_t u, v, i, k, j, top, size = b.rows * b.n
    cdef const real* pixels
    cdef int32_t place, l, n = <int32_t> size
    cdef bint better
    i = b.row % p.oh
    for k in range(b.rows):  # if all pixels are -inf, the first one counts
        top = i * p.sh - p.ph
        for j in range(b.n):
            best[k * b.n + j] = <real> -INFINITY
            winner[k * b.n + j] = <int32_t> (
                max(0, -top) * p.w + max(0, p.pw - (b.first + j) * p.sw)
            )
        i = 0 if i + 1 == p.oh else i + 1
    for u in range(p.kh):
        for v in range(p.kw):
            pixels = _gather(p, b, x, u, v, <real> -INFINITY, value)
            place = <int32_t> (u * p.w + v)
            for l in range(n):
                better = (pixels[l] > best[l]) | (pixels[l] != pixels[l]) & (best[l] == best[l])
                best[l] = pixels[l] if better else best[l]
                winner[l] = place if better else winner[l]
    memcpy(y, best, size * sizeof(real))
    if argmax == NULL:
        return
    i = b.row % p.oh
    for k in range(b.rows):
        place = <int32_t> ((i * p.sh - p.ph) * p.w + b.first * p.sw - p.pw)
        for l in range(<int32_t> b.n):
            argmax[l] = winner[k * b.n + l] + place + l * <int32_t> p.sw
        argmax += b.n
        i = 0 if i + 1 == p.oh else i + 1


cdef inline void _add(real value, double* total, double* lost) noexcept nogil:
    """total += value; for doubles, `lost` collects the rounding errors."""
    cdef double old = total[0], there
    total[0] = old + <double> value
    if real is double:
        there = total[0] - old
        lost[0] += (old - (total[0] - there)) + (value - there)


cdef inline double _mean_of(double total, double lost, Py_ssize_t count) noexcept nogil:
    # The rounding error of an infinite sum is NaN.
    return (total + lost if lost - lost == 0 else total) / <double> count


cdef inline void mean_block(
    const pool_t* p, const block_t* b, const real* x, real* y
) noexcept nogil:
    cdef real value[BLOCK]
    cdef double total[BLOCK]
    cdef double lost[BLOCK]
    cdef Py_ssize_t u, v, i, j, l, start, rows, _, size = b.rows * b.n
    cdef const real* pixels
    memset(total, 0, size * sizeof(double))
    memset(lost, 0, size * sizeof(double))
    for u in range(p.kh):
        for v in range(p.kw):
            pixels = _gather(p, b, x, u, v, <real> 0, value)
            for l in range(size):
                _add(pixels[l], &total[l], &lost[l])
    i = b.row % p.oh
    l = 0
    for _ in range(b.rows):
        start = i * p.sh - p.ph
        rows = span_to(start, p.kh, p.h) - span_from(start)
        for j in range(b.first, b.first + b.n):
            start = j * p.sw - p.pw
            y[l] = <real> _mean_of(
                total[l], lost[l], rows * (span_to(start, p.kw, p.w) - span_from(start))
            )
            l += 1
        i = 0 if i + 1 == p.oh else i + 1


# ----------------------------------------------------------------------- one window at a time

ctypedef struct window_t:
    Py_ssize_t at, spans, length, step  # `spans` runs of `length` pixels, `step` apart


cdef inline window_t window_of(const pool_t* p, Py_ssize_t i, Py_ssize_t j) noexcept nogil:
    """The pixels of a window inside the image; whole rows are one run."""
    cdef window_t window
    cdef Py_ssize_t top = i * p.sh - p.ph, left = j * p.sw - p.pw
    window.at = span_from(top) * p.w + span_from(left)
    window.spans = span_to(top, p.kh, p.h) - span_from(top)
    window.length = span_to(left, p.kw, p.w) - span_from(left)
    window.step = p.w
    if window.length == p.w:
        window.length *= window.spans
        window.spans = 1
    return window


cdef inline real mean_window(const real* x, const window_t* window) noexcept nogil:
    cdef double total[LANES]
    cdef double lost[LANES]
    cdef Py_ssize_t k, _
    cdef int l, half = LANES // 2
    x += window.at
    for l in range(LANES):
        total[l] = lost[l] = 0
    for _ in range(window.spans):
        k = 0
        while k + LANES <= window.length:
            for l in range(LANES):
                _add(x[k + l], &total[l], &lost[l])
            k += LANES
        for l in range(<int> (window.length - k)):
            _add(x[k + l], &total[l], &lost[l])
        x += window.step
    while half:  # the lanes, pairwise
        for l in range(half):
            if real is double:
                _add(total[l + half], &total[l], &lost[l])
            else:
                total[l] += total[l + half]
            lost[l] += lost[l + half]
        half = half // 2
    return <real> _mean_of(total[0], lost[0], window.spans * window.length)


cdef inline bint _beats(
    real value, Py_ssize_t place, real best, Py_ssize_t winner
) noexcept nogil:
    """Whether a pixel takes precedence: larger, NaN, or equal and first."""
    cdef bint nan = value != value, other = best != best
    return value > best or nan and not other or (value == best or nan and other) and place < winner


cdef inline real max_window(
    const real* x, const window_t* window, int32_t* argmax
) noexcept nogil:
    cdef real best[LANES]
    cdef int32_t winner[LANES]
    cdef Py_ssize_t k, _, at = window.at
    cdef int32_t place
    cdef int l
    cdef real value
    cdef bint better
    for l in range(LANES):
        best[l], winner[l] = <real> -INFINITY, <int32_t> at
    for _ in range(window.spans):
        k = 0
        while k + LANES <= window.length:
            place = <int32_t> (at + k)
            for l in range(LANES):
                value = x[at + k + l]
                better = (value > best[l]) | (value != value) & (best[l] == best[l])
                best[l] = value if better else best[l]
                winner[l] = place + l if better else winner[l]
            k += LANES
        for l in range(<int> (window.length - k)):
            if _beats(x[at + k + l], at + k + l, best[l], winner[l]):
                best[l], winner[l] = x[at + k + l], <int32_t> (at + k + l)
        at += window.step
    for l in range(1, LANES):
        if _beats(best[l], winner[l], best[0], winner[0]):
            best[0], winner[0] = best[l], winner[l]
    if argmax != NULL:
        argmax[0] = winner[0]
    return best[0]


cdef inline void unmean_window(real share, const window_t* window, real* dx) noexcept nogil:
    cdef Py_ssize_t k, _
    dx += window.at
    for _ in range(window.spans):
        for k in range(window.length):
            dx[k] += share
        dx += window.step


cdef inline void unmean_row(
    const pool_t* p, Py_ssize_t i, const real* dy, real* dx
) noexcept nogil:
    """Add the gradient of output row i to the rows of its windows, some columns at a time."""
    cdef real sums[BLOCK]  # of a row: the same for all rows of the windows
    cdef real share
    cdef Py_ssize_t top = i * p.sh - p.ph, u0 = span_from(top), u1 = span_to(top, p.kh, p.h)
    cdef Py_ssize_t first, end, j, k, u, start, left, right
    first = 0
    while first < p.w:
        end = min(first + BLOCK, p.w)
        if p.kw == 1 and p.sw == 1 and p.ow == p.w:
            for k in range(first, end):
                sums[k - first] = dy[k] / <real> (u1 - u0)
        else:
            memset(sums, 0, (end - first) * sizeof(real))
            # From the first window that ends after `first` to the last that begins before `end`.
            j = max(0, first + p.pw - p.kw) // p.sw
            while j < p.ow and j * p.sw - p.pw < end:
                start = j * p.sw - p.pw
                left, right = span_from(start), span_to(start, p.kw, p.w)
                share = dy[j] / <real> ((u1 - u0) * (right - left))
                for k in range(max(left, first), min(right, end)):
                    sums[k - first] += share
                j += 1
        for u in range(u0, u1):
            for k in range(first, end):
                dx[u * p.w + k] += sums[k - first]
        first = end
