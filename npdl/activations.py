"""Activations: f(x), f'(x), and the way of a gradient back through f.

The formulas stand in ``npdl._ext.activation_np``. An activation that has a kernel runs fused inside
the kernels of the layers; any other one is called as an object.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl._checks import check_number, check_same_shape, complaint, float_array
from npdl._ext import activation_np as codes
from npdl._ext import kernels
from npdl._registry import Configurable, Registry

KernelCode = tuple[int, float]


class Activation(Configurable):
    """Base class. A subclass defines `forward` and `derivative`; `backward` follows from them."""

    #: What the kernels know it by, a pair (code, steepness); None where they don't.
    kernel_code: KernelCode | None = None

    def forward(self, input: ArrayLike) -> np.ndarray:
        """Return f(input), a new array.

        Parameters
        ----------
        input : array_like
            Floats keep their dtype, integers become `get_dtype()`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward(input).")

    def derivative(self, input: ArrayLike | None = None) -> np.ndarray:
        """Return f'(input), element by element.

        Parameters
        ----------
        input : array_like, optional
            The input of the last `forward` if not given.
        """
        raise NotImplementedError(f"{type(self).__name__} must define derivative(input=None).")

    def backward(self, x: np.ndarray | None, y: np.ndarray, dy: np.ndarray) -> np.ndarray:
        """Return the gradient in the input, a new array.

        Parameters
        ----------
        x, y : ndarray
            Input and output of `forward`. The activations of this module need `y` alone.
        dy : ndarray
            Gradient in the output.
        """
        return dy * self.derivative(x)


class _Remembering(Activation):
    """Keeps the input of the last `forward` for `derivative`; layers never rely on it."""

    _last_input: np.ndarray | None = None

    def _remember(self, input: ArrayLike) -> np.ndarray:
        x = float_array(input)
        self._last_input = x.copy()
        return x

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_last_input"}

    def _recall(self, input: ArrayLike | None) -> np.ndarray:
        if input is not None:
            return float_array(input)
        if self._last_input is None:
            raise ValueError(f"{type(self).__name__}.derivative() must follow a forward().")
        return self._last_input


class _Elementwise(_Remembering):
    """An activation that the kernels know.

    `kernel_code` is `_code`, but None in a subclass with formulas of its own.
    """

    #: A pair (code, steepness), or a property that returns one.
    _code: ClassVar[Any]

    def __init_subclass__(cls) -> None:
        # Found out once for each class, not whenever a layer asks.
        known = cls.forward is _Elementwise.forward and cls.derivative is _Elementwise.derivative
        if "_code" in vars(cls):
            cls.kernel_code = cls._code  # a property, where it is one
        elif not known and "kernel_code" not in vars(cls):
            cls.kernel_code = None

    def forward(self, input: ArrayLike) -> np.ndarray:
        return self._value(self._remember(input))

    def derivative(self, input: ArrayLike | None = None) -> np.ndarray:
        y = self._value(self._recall(input))
        return self._pull_back(y, np.ones_like(y))

    def backward(self, x: np.ndarray | None, y: np.ndarray, dy: np.ndarray) -> np.ndarray:
        if self.kernel_code is None:
            return super().backward(x, y, dy)
        y = float_array(y, "y")
        dy = np.asarray(dy, y.dtype, order="C")
        check_same_shape("dy", dy, "y", y)
        return self._pull_back(y, dy)

    def _value(self, x: np.ndarray) -> np.ndarray:
        y = np.empty_like(x)
        kernels().activation_forward(x.reshape(-1), y.reshape(-1), self._code)
        return y

    def _pull_back(self, y: np.ndarray, dy: np.ndarray) -> np.ndarray:
        dx = np.empty_like(y)
        kernels().activation_backward(y.reshape(-1), dy.reshape(-1), dx.reshape(-1), self._code)
        return dx


_registry = Registry("activation", Activation)
register = _registry.register


@register()
class Sigmoid(_Elementwise):
    """1 / (1 + e^-x); derivative y (1 - y)."""

    _code = codes.SIGMOID, 1.0


@register()
class Tanh(_Elementwise):
    """tanh x; derivative 1 - y²."""

    _code = codes.TANH, 1.0


@register()
class ReLU(_Elementwise):
    """max(0, x); derivative 1 where x > 0, else 0."""

    _code = codes.RELU, 1.0


@register()
class Linear(_Elementwise):
    """x itself; derivative 1."""

    _code = codes.LINEAR, 1.0


@register()
class SoftPlus(_Elementwise):
    """log(1 + e^x) without overflow; derivative 1 / (1 + e^-x)."""

    _code = codes.SOFT_PLUS, 1.0


@register()
class SoftSign(_Elementwise):
    """``x / (1 + |x|)``; derivative ``1 / (1 + |x|)²``."""

    _code = codes.SOFT_SIGN, 1.0


class _Steep(_Elementwise):
    _number: ClassVar[int]

    def __init__(self, steepness: float = 1) -> None:
        self.steepness = check_number("steepness", steepness, "(-inf, inf)")

    @property
    def _code(self) -> KernelCode:
        return self._number, self.steepness


@register()
class Elliot(_Steep):
    """``0.5 s x / (1 + |s x|) + 0.5``, a quick stand-in for the sigmoid (Elliott 1993).

    Parameters
    ----------
    steepness : float
        The factor s. The derivative is ``0.5 s / (1 + |s x|)²``.
    """

    _number = codes.ELLIOT


@register()
class SymmetricElliot(_Steep):
    """``s x / (1 + |s x|)``, a quick stand-in for tanh (Elliott 1993).

    Parameters
    ----------
    steepness : float
        The factor s. The derivative is ``s / (1 + |s x|)²``.
    """

    _number = codes.SYMMETRIC_ELLIOT


@register()
class Softmax(_Remembering):
    """e^x_j / Σ_k e^x_k along the last axis, shifted by the row's greatest value."""

    def forward(self, input: ArrayLike) -> np.ndarray:
        """Return the softmax of each row.

        Parameters
        ----------
        input : array_like, shape (..., K)
        """
        return self._value(self._remember(input))

    def derivative(self, input: ArrayLike | None = None) -> np.ndarray:
        """Return the Jacobian of each row, diag(p) - p pᵀ, shape (..., K, K).

        Parameters
        ----------
        input : array_like, shape (..., K), optional
            The input of the last `forward` if not given.
        """
        p = self._value(self._recall(input))
        return p[..., None] * (np.eye(p.shape[-1], dtype=p.dtype) - p[..., None, :])

    def backward(self, x: np.ndarray | None, y: np.ndarray, dy: np.ndarray) -> np.ndarray:
        """Return the product of `dy` with the Jacobian of each row, shape of `y`."""
        p = float_array(y, "y")
        dp = np.asarray(dy, p.dtype, order="C")
        check_same_shape("dy", dp, "y", p)
        dz = np.empty_like(p)
        kernels().softmax_backward(_rows(p), _rows(dp), _rows(dz))
        return dz

    @staticmethod
    def _value(z: np.ndarray) -> np.ndarray:
        if z.ndim == 0 or z.shape[-1] == 0:
            rule = "The input of softmax must have shape (..., K), K >= 1"
            raise ValueError(complaint(rule, shape=z.shape))
        p = np.empty(z.shape, z.dtype)
        kernels().softmax_forward(_rows(z), _rows(p))
        return p


def _rows(array: np.ndarray) -> np.ndarray:
    return array if array.ndim == 2 else array.reshape(-1, array.shape[-1])


def get(activation: Any) -> Activation:
    """Return an activation by name.

    Parameters
    ----------
    activation : str, Activation, class or dict
        'relu', 'ReLU', 'soft_plus', ...; an instance is returned as it is; a dict holds the name
        and the arguments: ``{"name": "elliot", "steepness": 2.0}``.

    Raises
    ------
    ValueError
        If the name is unknown; the message lists the valid ones.
    """
    return _registry.get(activation)


def applied(activation: Activation, z: NDArray, keep: bool) -> NDArray:
    """Return f(z) as a layer needs it, of the dtype of `z`.

    A softmax of npdl is asked for no more than its kernel, and remembers nothing.

    Parameters
    ----------
    activation : Activation
    z : ndarray
        C-ordered, float32 or float64.
    keep : bool
        Whether `z` must stay as it is.
    """
    if type(activation).forward is not Softmax.forward:
        return np.asarray(activation.forward(z), z.dtype)
    p = np.empty(z.shape, z.dtype) if keep else z
    kernels().softmax_forward(_rows(z), _rows(p))
    return p


def kernel_act(activation: Activation) -> KernelCode | Activation:
    """Return what stands for an activation in a call of a twin: its kernel code, else itself."""
    return activation.kernel_code or activation
