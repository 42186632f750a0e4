"""exp, tanh, sigmoid, log, log(1+x) in plain arithmetic: the C compiler vectorises loops over them.

    e^x = 2^n e^r,   n = x / log 2 rounded,   r = x - n log 2,   |r| <= log(2)/2
    e^r = 1 + r + r² P(r)

P is the minimax polynomial for the relative error (Lawson's iteration): 3.1e-9 of e^r with five
coefficients (float32), 3.7e-18 with ten (float64). log 2 is split in two parts, the first of them
short enough for n log 2 to be exact (Cody and Waite 1980). Adding 1.5·2^23 (or 1.5·2^52) rounds to
an integer, which is then in the low bits of the sum; shifted into the exponent they give 2^n.

Largest errors, in units of the last place (ulp) of the exact result, as checked by tests/kernels:
3 for each function. Below 2^-125 (2^-1021) exp gives 0.

    log x = k log 2 + log m,   x = 2^k m,   √½ <= m < √2

The logarithms compute in float64, so those of float32 are rounded once.
"""

from libc.math cimport INFINITY, NAN
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from npdl._ext.simd cimport bits_f32, bits_f64, fma, from_bits_f32, from_bits_f64, real


cdef inline real round_magic(const real* _) noexcept nogil:
    return <real> 12582912.0 if real is float else <real> 6755399441055744.0


cdef inline real magnitude(real x) noexcept nogil:
    """|x|."""
    if real is float:
        return from_bits_f32(<int32_t> (<uint32_t> bits_f32(x) & <uint32_t> 0x7FFFFFFF))
    else:
        return from_bits_f64(<int64_t> (<uint64_t> bits_f64(x) & <uint64_t> 0x7FFFFFFFFFFFFFFF))


cdef inline real with_sign(real y, real x) noexcept nogil:
    """|y| with the sign of x, for y >= 0."""
    if real is float:
        return from_bits_f32(
            <int32_t> (<uint32_t> bits_f32(y) | (<uint32_t> bits_f32(x) & <uint32_t> 0x80000000))
        )
    else:
        return from_bits_f64(
            <int64_t> (
                <uint64_t> bits_f64(y) | (<uint64_t> bits_f64(x) & <uint64_t> 0x8000000000000000)
            )
        )


cdef inline real two_to(real t) noexcept nogil:
    """2^(n-1), where t = n + round_magic."""
    if real is float:
        return from_bits_f32(<int32_t> ((<uint32_t> bits_f32(t) + 126) << 23))
    else:
        return from_bits_f64(<int64_t> ((<uint64_t> bits_f64(t) + 1022) << 52))


cdef inline real reduce(real x, real n) noexcept nogil:
    """r = x - n log 2."""
    if real is float:
        return fma(n, <real> 2.12194440e-4, fma(n, <real> -0.693359375, x))
    else:
        return fma(
            n, <real> -1.42860682030941723212e-6, fma(n, <real> -6.93145751953125e-1, x)
        )


cdef inline real expm1_poly(real r) noexcept nogil:
    """e^r - 1 for |r| <= log(2)/2."""
    cdef real p
    if real is float:
        p = <real> 1.38145963823273721e-3
        p = fma(p, r, <real> 8.36871709086091335e-3)
        p = fma(p, r, <real> 4.16683880926952702e-2)
        p = fma(p, r, <real> 0.166665206294391907)
        p = fma(p, r, <real> 0.499999934475602148)
    else:
        p = <real> 2.50000638095066746e-8
        p = fma(p, r, <real> 2.763024890936226e-7)
        p = fma(p, r, <real> 2.75575863697358562e-6)
        p = fma(p, r, <real> 2.4801493097326621e-5)
        p = fma(p, r, <real> 1.98412695065786887e-4)
        p = fma(p, r, <real> 1.3888888943631739e-3)
        p = fma(p, r, <real> 8.33333333349446487e-3)
        p = fma(p, r, <real> 4.1666666666530152e-2)
        p = fma(p, r, <real> 0.166666666666664125)
        p = fma(p, r, <real> 0.500000000000001063)
    return fma(r * r, p, r)


cdef inline real exp_low(const real* _) noexcept nogil:
    """The smallest x for which e^x is computed."""
    return <real> -86.6 if real is float else <real> -707.7


cdef inline real exp_above(real x) noexcept nogil:
    """e^x; inf above the range, NaN for NaN, and below it the smallest computed value."""
    cdef real low = exp_low(&x)
    cdef real high = <real> 89 if real is float else <real> 710  # where the last sum overflows
    cdef real clipped = low if x < low else high if x > high else x
    cdef real t = fma(clipped, <real> 1.4426950408889634, round_magic(&x))
    cdef real e = expm1_poly(reduce(clipped, t - round_magic(&x)))
    cdef real half = two_to(t)
    e = fma(e, half, half)
    return e + e


cdef inline real exp(real x) noexcept nogil:
    """e^x; inf above the range, 0 below it, NaN for NaN."""
    cdef real zero = 0
    return zero if x <= exp_low(&x) else exp_above(x)


cdef inline real one_minus_exp(real x) noexcept nogil:
    """1 - e^x for x <= 0, accurate near 0 too."""
    cdef real clipped = <real> -40 if x < <real> -40 else x
    cdef real t = fma(clipped, <real> 1.4426950408889634, round_magic(&x))
    cdef real p = expm1_poly(reduce(clipped, t - round_magic(&x)))
    cdef real half = two_to(t), one = 1
    cdef real scale = half + half
    return fma(-p, scale, one - scale)


cdef inline real tanh(real x) noexcept nogil:
    """tanh |x| = m / (2 - m), m = 1 - e^(-2|x|)."""
    cdef real two = 2, minus_two = -2
    cdef real m = one_minus_exp(minus_two * magnitude(x))
    return with_sign(m / (two - m), x)


cdef inline real sigmoid(real x) noexcept nogil:
    """1 / (1 + e^-x)."""
    cdef real one = 1
    return one / (one + exp_above(-x))


cdef inline real log1p_unit(real x) noexcept nogil:
    """log(1 + x) for -½ <= x <= 1: 2 atanh s = 2 s (1 + s² Q(s²)), s = x / (2 + x), |s| <= 1/3."""
    cdef real two = 2
    cdef real s = x / (two + x)
    cdef real z = s * s, q
    if real is float:
        q = <real> 0.140063360686689324
        q = fma(q, z, <real> 0.140008384065101309)
        q = fma(q, z, <real> 0.200107671868916785)
        q = fma(q, z, <real> 0.333332080877862015)
    else:
        q = <real> 0.0850539670687512274
        q = fma(q, z, <real> 0.041722138017896776)
        q = fma(q, z, <real> 0.0605253282556522432)
        q = fma(q, z, <real> 0.0665055330771340806)
        q = fma(q, z, <real> 0.0769327473815756065)
        q = fma(q, z, <real> 0.0909087221514320253)
        q = fma(q, z, <real> 0.111111119774831479)
        q = fma(q, z, <real> 0.142857142740489646)
        q = fma(q, z, <real> 0.200000000000776324)
        q = fma(q, z, <real> 0.333333333333331547)
    s = s + s
    return fma(s * z, q, s)


cdef enum:
    EXPONENT = 52  # position of the exponent in the bits of a float64


cdef inline double log_of(double x, double rest) noexcept nogil:
    """log x + rest, for 2^-1022 <= x < inf; 0 for x = 1 and rest = 0."""
    cdef double high = 6.93147180369123816490e-1, low = 1.90821492927058770002e-10
    cdef double one = 1
    cdef int64_t bits = bits_f64(x)
    cdef int64_t k = (bits - <int64_t> 0x3FE6A09E667F3BCD) >> EXPONENT  # the bits of √½
    cdef double m = from_bits_f64(<int64_t> (<uint64_t> bits - (<uint64_t> k << EXPONENT)))
    return fma(<double> k, high, log1p_unit(m - one) + fma(<double> k, low, rest))


cdef inline double outside_log(double x) noexcept nogil:
    """log x where x is 0, inf, nan or negative."""
    cdef double zero = 0
    return -INFINITY if x == zero else x if x > zero else <double> NAN


cdef inline double log(double x) noexcept nogil:
    """log x; -inf for 0, nan for negative x."""
    cdef double tiny = 2.2250738585072014e-308, two54 = 18014398509481984.0, zero = 0
    cdef bint small = x < tiny  # scaled into the normal numbers
    cdef double y = log_of(x * two54 if small else x, zero)
    y = y - <double> 37.42994775023704631 if small else y
    return y if zero < x < INFINITY else outside_log(x)


cdef inline double log1p(double x) noexcept nogil:
    """log(1 + x); -inf for -1, nan below it."""
    cdef double one = 1, zero = 0
    cdef double u = one + x
    # The rounding error of the sum, to first order.
    cdef double lost = one - (u - x) if x > one else x - (u - one)
    cdef double y = log_of(u, lost / u)
    y = log1p_unit(x) if <double> -0.25 < x < <double> 0.4 else y
    y = x if <double> -1e-300 < x < <double> 1e-300 else y  # half of x may underflow
    return y if zero < u < INFINITY else outside_log(u)
