"""Elementwise activations: the codes, their formulas, and the NumPy twin of ``activation.pyx``.

Every kernel takes an activation as a pair ``act = (code, steepness)``; the second is read where the
formula has an s. Up to EXPONENTIAL the derivative is a function of the *output* y, so that a kernel
which computes y keeps no input of an activation:

====================  ==========================  ===========================
code                  y = f(x)                    f'(x), from y
====================  ==========================  ===========================
LINEAR                x                           1
RELU                  max(0, x)                   1 where y > 0, else 0
TANH                  tanh x                      1 - y²
SIGMOID               1 / (1 + e^-x)              y (1 - y)
SOFT_PLUS             log(1 + e^x)                1 - e^-y
SOFT_SIGN             x / (1 + |x|)               (1 - |y|)²
ELLIOT                s x / (1+|s x|) / 2 + 1/2   s/2 (1 - |2 y - 1|)²
SYMMETRIC_ELLIOT      s x / (1+|s x|)             s (1 - |y|)²
LEAKY_RELU, s >= 0    x where x > 0, else s x     1 where y > 0, else s
ELU, s >= 0           x, or s (e^x - 1) below 0   1 where y > 0, else y + s
SELU                  λ times ELU with s = α      λ where y > 0, else y + λ α
HARD_SIGMOID          (x + 3) / 6 within [0, 1]   1/6 where 0 < y < 1, else 0
HARD_TANH             x within [-1, 1]            1 where ``|y| < 1``, else 0
EXPONENTIAL           e^x                         y
====================  ==========================  ===========================

λ and α are `_SELU_SCALE` and `_SELU_ALPHA` (Klambauer et al. 2017). Three others are not fused into
dense, convolution and recurrent kernels, since their derivative needs the *input*:

====================  ==========================  ===========================
GELU                  x Φ(x)                      Φ(x) + x e^(-x²/2) / √(2π)
SILU                  x s, s = 1 / (1 + e^-x)     s (1 + x (1 - s))
MISH                  x tanh(log(1 + e^x))        see `_mish`
====================  ==========================  ===========================

Φ is the distribution function of the normal distribution (Hendrycks and Gimpel 2016).

Only the twins also take an *object* in place of the pair, for activations without a code: softmax,
or a user's activation. It has ``forward(x)`` returning y, and ``backward(x, y, dy)`` returning dx;
both take and return arrays of shape (..., U).
"""

from __future__ import annotations

import numpy as np

LINEAR, RELU, TANH, SIGMOID, SOFT_PLUS, SOFT_SIGN, ELLIOT, SYMMETRIC_ELLIOT = range(8)
LEAKY_RELU, ELU, SELU, HARD_SIGMOID, HARD_TANH, EXPONENTIAL, GELU, SILU, MISH = range(8, 17)
#: The codes of log x and log(1 + x), for `activation_forward` only. Losses need them with the same
#: bits on every CPU, and NumPy's own round differently from one instruction set to another.
LOGARITHMS = (64, 65)

#: The codes whose derivative needs the input.
FROM_INPUT = (GELU, SILU, MISH)

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848, 1.0507009873554804934

#: Of (t + 4) e^(t²/2) Φ(-t) in u = (t - 4) / (t + 4), for t <= 37.7; the highest power first.
_NORMAL_TAIL = (
    -7.004060153725610672e-10,
    -2.467007972583624369e-9,
    1.851002515896866344e-9,
    1.941517101709520805e-8,
    1.333032854333031736e-8,
    -8.508032373156888310e-8,
    -1.549415466920642612e-7,
    2.715062499800664487e-7,
    1.021490235845166226e-6,
    -6.295275599439128278e-7,
    -5.920125438961440470e-6,
    7.166044921889111857e-7,
    3.514466683177012651e-5,
    -1.908243847393285984e-6,
    -2.310949306502128317e-4,
    1.333443102306226688e-4,
    1.630818456972367132e-3,
    -3.479692367202038305e-3,
    -7.540188966681604525e-3,
    6.039657489092779956e-2,
    -1.865218579596587416e-1,
    3.871374007422146999e-1,
    -6.078966419718920932e-1,
    7.552851304157514928e-1,
)


def apply(act, x):
    """Return y = f(x), a new array."""
    if not isinstance(act, tuple):
        return act.forward(x)
    code, s = act
    if code == LINEAR:
        return x.copy()
    if code == RELU:
        return np.maximum(x, 0)
    if code == TANH:
        return np.tanh(x)
    if code == SIGMOID:  # 0.5 (1 + tanh(x/2)): no overflow for any x
        return 0.5 * (1 + np.tanh(0.5 * x))
    if code == SOFT_PLUS:  # log(1 + e^x) = max(x, 0) + log(1 + e^-|x|)
        return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
    if code == SOFT_SIGN:
        return x / (1 + np.abs(x))
    if code == ELLIOT:
        return 0.5 * s * x / (1 + np.abs(s * x)) + 0.5
    if code == SYMMETRIC_ELLIOT:
        return s * x / (1 + np.abs(s * x))
    if code == LEAKY_RELU:
        return np.where(x < 0, s * x, x)
    if code in (ELU, SELU):
        scale, depth = (1, s) if code == ELU else (_SELU_SCALE, _SELU_SCALE * _SELU_ALPHA)
        return np.where(x > 0, scale * x, depth * np.expm1(np.minimum(x, 0)))
    if code == HARD_SIGMOID:
        return np.clip(x + 3, 0, 6) / 6
    if code == HARD_TANH:
        return np.clip(x, -1, 1)
    if code == EXPONENTIAL:
        return _exp(x)
    if code == GELU:
        return np.maximum(x, -_FAR) * _normal(x)[0]
    if code == SILU:
        return np.maximum(x, -_FAR) * _sigmoids(x)[0]
    if code == MISH:
        return np.maximum(x, -_FAR) * _mish(x)[0]
    if code in LOGARITHMS:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(x) if code == LOGARITHMS[0] else np.log1p(x)
    raise ValueError(f"Unknown activation code {code!r}.")


#: Beyond it e^-x is 0, in any format.
_FAR = 20000.0


def _exp(x):
    """e^x, without a warning where that is inf."""
    with np.errstate(over="ignore"):
        return np.exp(x)


def _normal(x):
    """Φ(x) and e^(-x²/2)."""
    t = np.minimum(np.abs(x), _FAR)
    e = np.exp(-0.5 * t * t)
    u = (t - 4) / (t + 4)
    p = np.full_like(t, _NORMAL_TAIL[0])
    for coefficient in _NORMAL_TAIL[1:]:
        p = p * u + coefficient
    tail = e * p / (t + 4)
    return np.where(x < 0, tail, 1 - tail), e


def _sigmoids(x):
    """The sigmoids of x and -x, each exact where it is small too."""
    e = np.exp(-np.abs(x))
    greater, lesser = 1 / (1 + e), e / (1 + e)
    return np.where(x < 0, lesser, greater), np.where(x < 0, greater, lesser)


def _mish(x):
    """tanh(log(1 + e^x)) = w / q with w = e^x (e^x + 2), q = w + 2; and its derivative.

    That is 4 e^x (1 + e^x) / q².
    """
    e = np.exp(np.minimum(x, 40))  # from there on the quotient is 1
    w = e * (e + 2)
    q = w + 2
    return w / q, 4 * (e / q) * ((1 + e) / q)


def slope(act, y):
    """Return f'(x) as a function of y = f(x), or of x for the codes in `FROM_INPUT`."""
    code, s = act
    if code == LINEAR:
        return np.ones_like(y)
    if code == RELU:
        return (y > 0).astype(y.dtype)
    if code == TANH:
        return 1 - y * y
    if code == SIGMOID:
        return y * (1 - y)
    if code == SOFT_PLUS:
        return -np.expm1(-y)
    if code == SOFT_SIGN:
        return (1 - np.abs(y)) ** 2
    if code == ELLIOT:
        return 0.5 * s * (1 - np.abs(2 * y - 1)) ** 2
    if code == SYMMETRIC_ELLIOT:
        return s * (1 - np.abs(y)) ** 2
    if code == LEAKY_RELU:
        return np.where(y > 0, y.dtype.type(1), y.dtype.type(s))
    if code in (ELU, SELU):
        scale, depth = (1, s) if code == ELU else (_SELU_SCALE, _SELU_SCALE * _SELU_ALPHA)
        return np.where(y > 0, y.dtype.type(scale), y + depth)
    if code == HARD_SIGMOID:
        return ((y > 0) & (y < 1)) / y.dtype.type(6)
    if code == HARD_TANH:
        return (np.abs(y) < 1).astype(y.dtype)
    if code == EXPONENTIAL:
        return y
    if code in FROM_INPUT:
        x, near = y, np.clip(y, -_FAR, _FAR)
        if code == GELU:
            phi, e = _normal(x)
            return phi + near * e / y.dtype.type(np.sqrt(2 * np.pi))
        if code == SILU:
            s, rest = _sigmoids(x)
            return s * (1 + near * rest)
        quotient, change = _mish(x)
        return quotient + np.minimum(near, 40) * change
    raise ValueError(f"Unknown activation code {code!r}.")


def pull_back(act, x, y, dy):
    """Return dx = f'(x) dy, a new array. `x` is read only when `act` is an object."""
    if isinstance(act, tuple):
        return dy * slope(act, y)
    return act.backward(x, y, dy)


def activation_forward(x, y, act):
    """y = f(x), element by element.

    Parameters
    ----------
    x : ndarray, shape (n,)
        Read only.
    y : ndarray, shape (n,)
        Filled. May be `x` itself.
    act : tuple (code, steepness)
        `LOGARITHMS` too.
    """
    y[...] = apply(act, x)


def activation_backward(y, dy, dx, act):
    """dx = f'(x) dy, from the output y = f(x).

    Parameters
    ----------
    y, dy : ndarray, shape (n,)
        Read only. For the codes in `FROM_INPUT`, `y` is the input x.
    dx : ndarray, shape (n,)
        Filled. May be `dy` itself.
    act : tuple (code, steepness)
    """
    dx[...] = dy * slope(act, y)


def add_forward(a, b, y, act):
    """y = f(a + b), element by element.

    Parameters
    ----------
    a, b : ndarray, shape (n,)
        Read only.
    y : ndarray, shape (n,)
        Filled. It may be `a` or `b` itself.
    act : tuple (code, steepness)
        The activation f, one whose derivative is a function of its output.
    """
    np.add(a, b, out=y)
    if act[0] != LINEAR:
        y[...] = apply(act, y)
