"""Exponentials and logarithms with the same bits on every CPU, for losses and metrics.

NumPy has a form of these functions for each instruction set, and the forms round differently.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl._ext import kernels
from npdl._ext.activation_np import EXPONENTIAL, LOGARITHMS, TANH

_LOG, _LOG1P = LOGARITHMS


def _apply(code: int, x: ArrayLike) -> NDArray:
    x = np.asarray(x, order="C")
    y = np.empty_like(x)
    kernels().activation_forward(x.reshape(-1), y.reshape(-1), (code, 1.0))
    return y


def exp(x: ArrayLike) -> NDArray:
    """e^x."""
    return _apply(EXPONENTIAL, x)


def log(x: NDArray) -> NDArray:
    """The natural logarithm; -inf for 0."""
    return _apply(_LOG, x)


def log1p(x: NDArray) -> NDArray:
    """log(1 + x), exact near 0 too; -inf for -1."""
    return _apply(_LOG1P, x)


def tanh(x: NDArray) -> NDArray:
    """The hyperbolic tangent."""
    return _apply(TANH, x)


def power(x: NDArray, exponent: float) -> NDArray:
    """x^exponent, for x >= 0 and exponent >= 0; 0^0 is 1.

    By products and a square root where the exponent is a multiple of ½ up to 8.
    """
    if exponent > 8 or 2 * exponent % 1:
        wide = x.astype(np.float64)  # the error of the logarithm is magnified
        return exp(exponent * log(wide)).astype(x.dtype)
    y = np.sqrt(x) if exponent % 1 else np.ones_like(x)
    for _ in range(int(exponent)):
        y *= x
    return y
