"""Sums of many numbers, accurate to the last digits.

Numbers are added in their own dtype, in several sums side by side, which the compiler vectorises;
these sums are then added in double. `sum_rows` and `product_rows` do only the first half: they are
for a few rows.
"""

from libc.string cimport memset
from npdl._ext.simd cimport fma, real

cdef enum:
    LANES = 32  # sums per span
    ROWS = 32  # rows added in their own dtype


cdef inline double fold(real* s) noexcept nogil:
    """Σ of LANES sums, pairwise."""
    cdef int i
    for i in range(16):
        s[i] += s[i + 16]
    for i in range(8):
        s[i] += s[i + 8]
    for i in range(4):
        s[i] += s[i + 4]
    return <double> (s[0] + s[2]) + <double> (s[1] + s[3])


cdef inline double sum_of(const real* x, Py_ssize_t n) noexcept nogil:
    """Σ x."""
    cdef real s[LANES]
    cdef real zero = 0
    cdef Py_ssize_t i, k = 0
    if n < 2 * LANES:
        for i in range(LANES):
            s[i] = zero
    else:
        for i in range(LANES):
            s[i] = x[i] + x[i + LANES]
        k = 2 * LANES
    while k + LANES <= n:
        for i in range(LANES):
            s[i] += x[k + i]
        k += LANES
    for i in range(n - k):
        s[i] += x[k + i]
    return fold(s)


cdef inline double sum_of_products(
    const real* x, const real* y, Py_ssize_t n, real mean_x, real mean_y
) noexcept nogil:
    """Σ (x - mean_x) (y - mean_y)."""
    cdef real s[LANES]
    cdef real zero = 0
    cdef Py_ssize_t i, k = 0
    if n < LANES:
        for i in range(LANES):
            s[i] = zero
    else:
        for i in range(LANES):
            s[i] = (x[i] - mean_x) * (y[i] - mean_y)
        k = LANES
    while k + LANES <= n:
        for i in range(LANES):
            s[i] = fma(x[k + i] - mean_x, y[k + i] - mean_y, s[i])
        k += LANES
    for i in range(n - k):
        s[i] = fma(x[k + i] - mean_x, y[k + i] - mean_y, s[i])
    return fold(s)


cdef inline void sum_rows(
    const real* x, Py_ssize_t n, Py_ssize_t step, Py_ssize_t w, real* s
) noexcept nogil:
    """s = Σ of n rows of w elements, `step` apart."""
    cdef const real* b
    cdef const real* c
    cdef const real* d
    cdef Py_ssize_t _, k
    memset(s, 0, w * sizeof(real))
    for _ in range(n // 4):
        b, c, d = x + step, x + 2 * step, x + 3 * step
        for k in range(w):
            s[k] += (x[k] + b[k]) + (c[k] + d[k])
        x += 4 * step
    for _ in range(n % 4):
        for k in range(w):
            s[k] += x[k]
        x += step


cdef inline void add_sums(
    const real* sums, Py_ssize_t n, Py_ssize_t w, double* totals, real* s
) noexcept nogil:
    """s = Σ of n rows of w sums, added in double."""
    cdef Py_ssize_t _, j
    memset(totals, 0, w * sizeof(double))
    for _ in range(n):
        for j in range(w):
            totals[j] += sums[j]
        sums += w
    for j in range(w):
        s[j] = <real> totals[j]


cdef inline void sum_many_rows(
    const real* x, Py_ssize_t n, Py_ssize_t w, double* totals, real* s
) noexcept nogil:
    """s = Σ of n rows of w elements, n large: ROWS of them in their dtype, these sums in double."""
    cdef Py_ssize_t i = 0, j
    memset(totals, 0, w * sizeof(double))
    while i < n:
        sum_rows(x + i * w, min(n - i, <Py_ssize_t> ROWS), w, w, s)
        for j in range(w):
            totals[j] += s[j]
        i += ROWS
    for j in range(w):
        s[j] = <real> totals[j]


cdef inline void product_rows(
    const real* x, const real* dy, Py_ssize_t n, Py_ssize_t step, Py_ssize_t w,
    const real* mean, real* s,
) noexcept nogil:
    """s = Σ dy (x - mean) over n rows."""
    cdef const real* b
    cdef const real* db
    cdef Py_ssize_t _, k
    memset(s, 0, w * sizeof(real))
    for _ in range(n // 2):
        b, db = x + step, dy + step
        for k in range(w):
            s[k] += fma(dy[k], x[k] - mean[k], db[k] * (b[k] - mean[k]))
        x += 2 * step
        dy += 2 * step
    if n % 2:
        for k in range(w):
            s[k] = fma(dy[k], x[k] - mean[k], s[k])


cdef inline void positive_sums_of(
    const real* x, const real* dy, Py_ssize_t n, real mean, real scale, real beta,
    double* sum_dy, double* sum_dx,
) noexcept nogil:
    """Add Σ dy and Σ dy (x - mean) where (x - mean) scale + beta > 0.

    The same bits as from `sum_of` and `sum_of_products` of a dy that is 0 elsewhere.
    """
    cdef real s[LANES]
    cdef real t[LANES]
    cdef real zero = 0, d, u
    cdef Py_ssize_t i, k = 0
    for i in range(LANES):
        s[i] = t[i] = zero
    while k + LANES <= n:
        for i in range(LANES):
            u = x[k + i] - mean
            d = dy[k + i] if fma(u, scale, beta) > 0 else zero
            s[i] += d
            t[i] = fma(u, d, t[i])
        k += LANES
    for i in range(n - k):
        u = x[k + i] - mean
        d = dy[k + i] if fma(u, scale, beta) > 0 else zero
        s[i] += d
        t[i] = fma(u, d, t[i])
    sum_dy[0] += fold(s)
    sum_dx[0] += fold(t)


cdef inline void positive_rows(
    const real* x, const real* dy, Py_ssize_t n, Py_ssize_t step, Py_ssize_t w,
    const real* mean, const real* scale, const real* beta, real* s, real* t,
) noexcept nogil:
    """s = Σ dy and t = Σ dy (x - mean) over n rows, where (x - mean) scale + beta > 0.

    The same bits as from `sum_rows` and `product_rows` of a dy that is 0 elsewhere.
    """
    cdef const real* x1
    cdef const real* x2
    cdef const real* x3
    cdef const real* d1
    cdef const real* d2
    cdef const real* d3
    cdef real zero = 0, u, u1, u2, u3, g, g1, g2, g3
    cdef Py_ssize_t _, k
    memset(s, 0, w * sizeof(real))
    memset(t, 0, w * sizeof(real))
    for _ in range(n // 4):
        x1, x2, x3 = x + step, x + 2 * step, x + 3 * step
        d1, d2, d3 = dy + step, dy + 2 * step, dy + 3 * step
        for k in range(w):
            u, u1, u2, u3 = x[k] - mean[k], x1[k] - mean[k], x2[k] - mean[k], x3[k] - mean[k]
            g = dy[k] if fma(u, scale[k], beta[k]) > 0 else zero
            g1 = d1[k] if fma(u1, scale[k], beta[k]) > 0 else zero
            g2 = d2[k] if fma(u2, scale[k], beta[k]) > 0 else zero
            g3 = d3[k] if fma(u3, scale[k], beta[k]) > 0 else zero
            s[k] += (g + g1) + (g2 + g3)
            t[k] += fma(g, u, g1 * u1)
            t[k] += fma(g2, u2, g3 * u3)
        x += 4 * step
        dy += 4 * step
    n %= 4
    if n >= 2:
        x1, d1 = x + step, dy + step
        for k in range(w):
            u, u1 = x[k] - mean[k], x1[k] - mean[k]
            g = dy[k] if fma(u, scale[k], beta[k]) > 0 else zero
            g1 = d1[k] if fma(u1, scale[k], beta[k]) > 0 else zero
            s[k] += g
            s[k] += g1
            t[k] += fma(g, u, g1 * u1)
        x += 2 * step
        dy += 2 * step
    if n % 2:
        for k in range(w):
            u = x[k] - mean[k]
            g = dy[k] if fma(u, scale[k], beta[k]) > 0 else zero
            s[k] += g
            t[k] = fma(g, u, t[k])


cdef inline double total_of(const double* x, Py_ssize_t n) noexcept nogil:
    """Σ x, in eight sums."""
    cdef double s[8]
    cdef Py_ssize_t i, k = 0
    if n == 1:
        return x[0]
    for i in range(8):
        s[i] = 0
    while k + 8 <= n:
        for i in range(8):
            s[i] += x[k + i]
        k += 8
    for i in range(n - k):
        s[i] += x[k + i]
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]))
