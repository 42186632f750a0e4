"""GELU, SiLU and Mish, and their slopes: the activations whose slope needs the input.

Φ is the distribution function of the normal distribution, and GELU is x Φ(x). For t = |x|::

    Φ(-t) = e^(-t²/2) P(u) / (t + 4),   u = (t - 4) / (t + 4)

P is a polynomial, the Chebyshev expansion of (t + 4) e^(t²/2) Φ(-t). Its error is 2e-9 for t <=
13.3 with eleven coefficients (float32), 3e-18 for t <= 37.7 with twenty-four (float64). Beyond
these, Φ(-t) is 0. t² is split in two parts, the first one exact, so that the exponential stays
accurate.

Largest errors, in units of the last place (ulp) of the exact result, as checked by tests/kernels:
7 for GELU, 3 for SiLU and 5 for Mish. The slopes, which lie between -0.2 and 1.2, are accurate to 3
ulp of 1. Terms with an exponential below 2^-125 (2^-1021) count as 0.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from npdl._ext.elementary cimport (
    exp, exp_low, expm1_poly, magnitude, reduce, round_magic, two_to,
)
from npdl._ext.simd cimport bits_f32, bits_f64, fma, from_bits_f32, from_bits_f64, real

cdef enum:
    FAR = 750  # beyond it e^-x is 0 in any format


cdef inline real between(real low, real x, real high) noexcept nogil:
    """x, clipped to [low, high]; NaN for NaN."""
    return low if x < low else high if x > high else x


cdef inline real first_half(real x) noexcept nogil:
    """x without the lower half of its bits, so that its square is exact."""
    if real is float:
        return from_bits_f32(<int32_t> (<uint32_t> bits_f32(x) & <uint32_t> 0xFFFFF000))
    else:
        return from_bits_f64(<int64_t> (<uint64_t> bits_f64(x) & <uint64_t> 0xFFFFFFFFF8000000))


cdef inline real normal_limit(const real* _) noexcept nogil:
    """The t from which Φ(-t) counts as 0."""
    return <real> 13.25 if real is float else <real> 37.65


cdef inline real bell(real t) noexcept nogil:
    """e^(-t²/2) for 0 <= t <= `normal_limit`."""
    cdef real zero = 0, half = 0.5
    cdef real first = first_half(t)
    cdef real a = -half * first * first
    cdef real b = -half * (t - first) * (t + first)
    cdef real whole = a + b
    cdef real n = fma(whole, <real> 1.4426950408889634, round_magic(&t))
    cdef real e = expm1_poly(reduce(a, n - round_magic(&t)) + b)
    cdef real scale = two_to(n)
    e = fma(e, scale, scale)
    return zero if whole <= exp_low(&t) else e + e


cdef inline real tail_ratio(real t) noexcept nogil:
    """Φ(-t) / e^(-t²/2) for t >= 0."""
    cdef real four = 4, one = 1, p
    cdef real w = one / (t + four)
    cdef real u = (t - four) * w
    if real is float:
        p = <real> -5.41591361899e-5
        p = fma(p, u, <real> -2.39184474111e-4)
        p = fma(p, u, <real> 1.65410782693e-4)
        p = fma(p, u, <real> 1.64684737756e-3)
        p = fma(p, u, <real> -3.48590933047e-3)
        p = fma(p, u, <real> -7.54475395151e-3)
        p = fma(p, u, <real> 6.03969745512e-2)
        p = fma(p, u, <real> -1.86521412799e-1)
        p = fma(p, u, <real> 3.87137395747e-1)
        p = fma(p, u, <real> -6.07896653643e-1)
        p = fma(p, u, <real> 7.55285130411e-1)
    else:
        p = <real> -7.004060153725610672e-10
        p = fma(p, u, <real> -2.467007972583624369e-9)
        p = fma(p, u, <real> 1.851002515896866344e-9)
        p = fma(p, u, <real> 1.941517101709520805e-8)
        p = fma(p, u, <real> 1.333032854333031736e-8)
        p = fma(p, u, <real> -8.508032373156888310e-8)
        p = fma(p, u, <real> -1.549415466920642612e-7)
        p = fma(p, u, <real> 2.715062499800664487e-7)
        p = fma(p, u, <real> 1.021490235845166226e-6)
        p = fma(p, u, <real> -6.295275599439128278e-7)
        p = fma(p, u, <real> -5.920125438961440470e-6)
        p = fma(p, u, <real> 7.166044921889111857e-7)
        p = fma(p, u, <real> 3.514466683177012651e-5)
        p = fma(p, u, <real> -1.908243847393285984e-6)
        p = fma(p, u, <real> -2.310949306502128317e-4)
        p = fma(p, u, <real> 1.333443102306226688e-4)
        p = fma(p, u, <real> 1.630818456972367132e-3)
        p = fma(p, u, <real> -3.479692367202038305e-3)
        p = fma(p, u, <real> -7.540188966681604525e-3)
        p = fma(p, u, <real> 6.039657489092779956e-2)
        p = fma(p, u, <real> -1.865218579596587416e-1)
        p = fma(p, u, <real> 3.871374007422146999e-1)
        p = fma(p, u, <real> -6.078966419718920932e-1)
        p = fma(p, u, <real> 7.552851304157514928e-1)
    return p * w


cdef inline real gelu(real x) noexcept nogil:
    """x Φ(x)."""
    cdef real zero = 0, one = 1
    cdef real limit = normal_limit(&x)
    cdef real t = between(zero, magnitude(x), limit)
    cdef real tail = bell(t) * tail_ratio(t)
    return (-limit if x < -limit else x) * (tail if x < zero else one - tail)


cdef inline real gelu_slope(real x) noexcept nogil:
    """Φ(x) + x e^(-x²/2) / √(2π)."""
    cdef real zero = 0, one = 1
    cdef real limit = normal_limit(&x)
    cdef real t = between(zero, magnitude(x), limit)
    cdef real e = bell(t)
    cdef real tail = e * tail_ratio(t)
    cdef real density = e * <real> 0.39894228040143267794
    return (tail if x < zero else one - tail) + between(-limit, x, limit) * density


cdef inline real silu(real x) noexcept nogil:
    """x / (1 + e^-x), computed from e^-|x|, which can't overflow."""
    cdef real far = FAR, one = 1, zero = 0
    cdef real e = exp(-magnitude(x))
    return (-far if x < -far else x) * ((e if x < zero else one) / (one + e))


cdef inline real silu_slope(real x) noexcept nogil:
    """s (1 + x (1 - s)), s = 1 / (1 + e^-x)."""
    cdef real far = FAR, one = 1, zero = 0
    cdef real e = exp(-magnitude(x))
    cdef real greater = one / (one + e)
    cdef real lesser = e * greater
    cdef real s = lesser if x < zero else greater
    return s * (one + between(-far, x, far) * (greater if x < zero else lesser))


cdef inline real mish(real x) noexcept nogil:
    """x tanh(log(1 + e^x)) = x w / (w + 2), w = e^x (e^x + 2)."""
    cdef real far = FAR, high = 40, two = 2
    cdef real e = exp(high if x > high else x)  # above this the quotient is 1
    cdef real w = e * (e + two)
    return (-far if x < -far else x) * (w / (w + two))


cdef inline real mish_slope(real x) noexcept nogil:
    """(w q + 4 x e (1 + e)) / q², e = e^x, w = e (e + 2), q = w + 2."""
    cdef real far = FAR, high = 40, one = 1, two = 2, four = 4
    cdef real low = high if x > high else x
    cdef real e = exp(low)
    cdef real w = e * (e + two)
    cdef real q = w + two
    cdef real z = -far if low < -far else low
    return w / q + four * z * (e / q) * ((one + e) / q)
