"""Activations over spans of numbers, for every kernel. Codes and formulas: ``activation_np.py``."""

from npdl._ext.elementary cimport exp, log1p_unit, magnitude, one_minus_exp, sigmoid, tanh
from npdl._ext.simd cimport fma, real
from npdl._ext.smooth cimport between

cdef enum:
    LINEAR
    RELU
    TANH
    SIGMOID
    SOFT_PLUS
    SOFT_SIGN
    ELLIOT
    SYMMETRIC_ELLIOT
    LEAKY_RELU
    ELU
    SELU
    HARD_SIGMOID
    HARD_TANH
    EXPONENTIAL
    # Only activation.pyx knows these, because their slope is not a function of the output.
    GELU
    SILU
    MISH
    LOG = 64
    LOG1P = 65

ctypedef struct act_t:
    int code
    double steepness


cdef inline act_t parse_act(act, int last=EXPONENTIAL) except *:
    """Read the pair (code, steepness) of a call; the kernel knows the codes up to `last`."""
    cdef act_t a
    a.code, a.steepness = act
    if not LINEAR <= a.code <= last:
        raise ValueError(f"Unknown activation code {a.code}.")
    return a


cdef inline void later_span(act_t act, const real* x, real* y, Py_ssize_t n) noexcept nogil:
    """`act_span` for the codes from LEAKY_RELU on; a separate function, so it is compiled once."""
    cdef real s = <real> act.steepness, zero = 0, one = 1, three = 3, six = 6
    cdef real scale = <real> 1.0507009873554804934
    cdef real depth = <real> 1.7580993408473768600
    cdef Py_ssize_t i
    if act.code == LEAKY_RELU:
        for i in range(n):
            y[i] = s * x[i] if x[i] < 0 else x[i]
    elif act.code == ELU:
        for i in range(n):
            y[i] = x[i] if x[i] > 0 else -s * one_minus_exp(x[i] if x[i] < 0 else zero * x[i])
    elif act.code == SELU:
        for i in range(n):
            y[i] = (
                scale * x[i] if x[i] > 0
                else -depth * one_minus_exp(x[i] if x[i] < 0 else zero * x[i])
            )
    elif act.code == HARD_SIGMOID:
        for i in range(n):
            y[i] = between(zero, x[i] + three, six) / six
    elif act.code == HARD_TANH:
        for i in range(n):
            y[i] = between(-one, x[i], one)
    else:
        for i in range(n):
            y[i] = exp(x[i])


cdef inline void later_pull_back(
    act_t act, const real* y, const real* dy, real* dx, Py_ssize_t n
) noexcept nogil:
    """`pull_back_span` for the codes from LEAKY_RELU on."""
    cdef real s = <real> act.steepness, zero = 0, one = 1, sixth = <real> 0.16666666666666666
    cdef real scale = <real> 1.0507009873554804934
    cdef real depth = <real> 1.7580993408473768600
    cdef Py_ssize_t i
    if act.code == LEAKY_RELU:
        for i in range(n):
            dx[i] = dy[i] if y[i] > 0 else dy[i] * s
    elif act.code == ELU:
        for i in range(n):
            dx[i] = dy[i] * (one if y[i] > 0 else y[i] + s)
    elif act.code == SELU:
        for i in range(n):
            dx[i] = dy[i] * (scale if y[i] > 0 else y[i] + depth)
    elif act.code == HARD_SIGMOID:
        for i in range(n):
            dx[i] = dy[i] * (sixth if (y[i] > 0) & (y[i] < 1) else zero)
    elif act.code == HARD_TANH:
        for i in range(n):
            dx[i] = dy[i] if magnitude(y[i]) < 1 else zero
    else:
        for i in range(n):
            dx[i] = dy[i] * y[i]


cdef inline void act_span(act_t act, const real* x, real* y, Py_ssize_t n) noexcept nogil:
    """y[:n] = f(x[:n]). y may be x."""
    # Typed: a literal would turn the arithmetic into double.
    cdef real s = <real> act.steepness, zero = 0, half = 0.5, one = 1
    cdef Py_ssize_t i
    if act.code == LINEAR:
        if x != y:
            for i in range(n):
                y[i] = x[i]
    elif act.code == RELU:
        for i in range(n):
            y[i] = zero if x[i] < 0 else x[i]  # in this order, NaN stays NaN
    elif act.code == TANH:
        for i in range(n):
            y[i] = tanh(x[i])
    elif act.code == SIGMOID:
        for i in range(n):
            y[i] = sigmoid(x[i])
    elif act.code == SOFT_PLUS:
        for i in range(n):
            y[i] = (zero if x[i] < 0 else x[i]) + log1p_unit(exp(-magnitude(x[i])))
    elif act.code == SOFT_SIGN:
        for i in range(n):
            y[i] = x[i] / (one + magnitude(x[i]))
    elif act.code == ELLIOT:
        for i in range(n):
            y[i] = half * s * x[i] / (one + magnitude(s * x[i])) + half
    elif act.code == SYMMETRIC_ELLIOT:
        for i in range(n):
            y[i] = s * x[i] / (one + magnitude(s * x[i]))
    else:
        later_span(act, x, y, n)


cdef inline void pull_back_span(
    act_t act, const real* y, const real* dy, real* dx, Py_ssize_t n
) noexcept nogil:
    """dx[:n] = f'(x) dy[:n], from y = f(x). dx may be dy."""
    cdef real s = <real> act.steepness, zero = 0, half = 0.5, one = 1, u
    cdef Py_ssize_t i
    if act.code == LINEAR:
        if dx != dy:
            for i in range(n):
                dx[i] = dy[i]
    elif act.code == RELU:
        for i in range(n):
            dx[i] = dy[i] if y[i] > 0 else zero
    elif act.code == TANH:
        for i in range(n):
            dx[i] = dy[i] * fma(-y[i], y[i], one)
    elif act.code == SIGMOID:
        for i in range(n):
            dx[i] = dy[i] * y[i] * (one - y[i])
    elif act.code == SOFT_PLUS:
        for i in range(n):
            dx[i] = dy[i] * one_minus_exp(-y[i])
    elif act.code == SOFT_SIGN:
        for i in range(n):
            u = one - magnitude(y[i])
            dx[i] = dy[i] * u * u
    elif act.code == ELLIOT:
        for i in range(n):
            u = one - magnitude(y[i] + y[i] - one)
            dx[i] = dy[i] * half * s * u * u
    elif act.code == SYMMETRIC_ELLIOT:
        for i in range(n):
            u = one - magnitude(y[i])
            dx[i] = dy[i] * s * u * u
    else:
        later_pull_back(act, y, dy, dx, n)
