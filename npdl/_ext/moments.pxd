"""Mean and sum of squared deviations, accurate to the last digits.

For each part of the numbers, c is their mean rounded to their dtype. Then

    r = Σ (x - c),   q = Σ (x - c)²,   mean = c + r / n,   m2 = Σ (x - mean)² = q - r² / n

do not depend on the rounding of c: if all numbers are equal, the mean is that number and m2 is 0.
Parts are combined in double (Chan, Golub and LeVeque 1979).
"""

from libc.string cimport memset
from npdl._ext.simd cimport fma, real
from npdl._ext.sums cimport LANES, fold, sum_of

cdef enum:
    PIECE = 1024  # elements of a span that are summed in their own dtype

ctypedef struct moments_t:
    double count
    double mean
    double m2  # Σ (x - mean)²


cdef inline void add_part(
    moments_t* m, double n, double c, double r, double q
) noexcept nogil:
    """Combine the moments of n numbers with those in `m`."""
    cdef double total = m.count + n
    cdef double delta = c + r / n - m.mean
    cdef double own = q - r * r / n
    m.mean += delta * (n / total)
    m.m2 += (own if own > 0 else 0 * own) + delta * delta * (m.count * n / total)
    m.count = total


cdef inline void add_span(moments_t* m, const real* x, Py_ssize_t n) noexcept nogil:
    """Combine n contiguous numbers with those in `m`."""
    cdef real s[LANES]
    cdef real t[LANES]
    cdef real zero = 0, c, d
    cdef double part
    cdef Py_ssize_t size, i, k
    while n > 0:
        size = min(<Py_ssize_t> PIECE, n)
        part = sum_of(x, size) / size
        c = <real> part
        for i in range(LANES):
            s[i] = t[i] = zero
        k = 0
        while k + LANES <= size:
            for i in range(LANES):
                d = x[k + i] - c
                s[i] += d
                t[i] = fma(d, d, t[i])
            k += LANES
        for i in range(size - k):
            d = x[k + i] - c
            s[i] += d
            t[i] = fma(d, d, t[i])
        add_part(m, size, c, fold(s), fold(t))
        x += size
        n -= size


cdef inline void residual_rows(
    const real* x, Py_ssize_t n, Py_ssize_t step, Py_ssize_t w, const real* c, real* r, real* q
) noexcept nogil:
    """r = Σ (x - c) and q = Σ (x - c)² over n rows of w elements, `step` apart."""
    cdef const real* b
    cdef real d, e
    cdef Py_ssize_t _, k
    memset(r, 0, w * sizeof(real))
    memset(q, 0, w * sizeof(real))
    for _ in range(n // 2):
        b = x + step
        for k in range(w):
            d, e = x[k] - c[k], b[k] - c[k]
            r[k] += d + e
            q[k] += fma(d, d, e * e)
        x += 2 * step
    if n % 2:
        for k in range(w):
            d = x[k] - c[k]
            r[k] += d
            q[k] = fma(d, d, q[k])
