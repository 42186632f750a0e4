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
