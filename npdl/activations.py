"""Activations: f(x), f'(x), and the backward pass through f.

The formulas are in ``npdl._ext.activation_np``. An activation that has a kernel runs fused inside
the kernels of the layers; any other one is called as an object.

Largest errors of the compiled kernels, in units of the last place of the exact result: sigmoid,
tanh, soft plus, exponential and SiLU 3, ELU and SELU 4, Mish 5, GELU 7.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl._checks import check_int, check_number, check_same_shape, error_message, float_array
from npdl._elementary import exp
from npdl._ext import activation_np as codes
from npdl._ext import kernels
from npdl._registry import Configurable, Registry, snake_case

KernelCode = tuple[int, float]


class Activation(Configurable):
    """Base class. A subclass defines `forward` and `derivative`; `backward` follows from them."""

    #: A pair (code, steepness) where the kernels of layers know it and its derivative; else None.
    kernel_code: KernelCode | None = None
    #: The same where the kernels `activation_forward` and `activation_backward` know it.
    elementwise_code: KernelCode | None = None

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
            Input and output of `forward`. GELU, SiLU and Mish need `x`, the others here `y`.
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
    """An activation that the kernels know by `_code`, a pair (code, steepness)."""

    _code: KernelCode
    #: Whether the formulas are the kernels', and those of the derivative take the output.
    _is_known = _takes_output = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = _Elementwise.forward, _Elementwise.derivative
        code = getattr(cls, "_code", None)  # a property where it depends on arguments
        from_input = isinstance(code, tuple) and code[0] in codes.FROM_INPUT
        cls._is_known = (cls.forward, cls.derivative) == own
        cls._takes_output = cls._is_known and not from_input

    @property
    def elementwise_code(self) -> KernelCode | None:  # type: ignore[override]
        """`_code`, but None in a subclass with its own formulas."""
        return self._code if self._is_known else None

    @property
    def kernel_code(self) -> KernelCode | None:  # type: ignore[override]
        """`elementwise_code`, but None where the derivative needs the input."""
        return self._code if self._takes_output else None

    def forward(self, input: ArrayLike) -> np.ndarray:
        return self._value(self._remember(input))

    def derivative(self, input: ArrayLike | None = None) -> np.ndarray:
        x = self._recall(input)
        source = x if self._code[0] in codes.FROM_INPUT else self._value(x)
        return self._pull_back(source, np.ones_like(x))

    def backward(self, x: np.ndarray | None, y: np.ndarray, dy: np.ndarray) -> np.ndarray:
        if self.elementwise_code is None:
            return super().backward(x, y, dy)
        source, name = (x, "x") if self._code[0] in codes.FROM_INPUT else (y, "y")
        source = float_array(source, name)
        dy = np.asarray(dy, source.dtype, order="C")
        check_same_shape("dy", dy, name, source)
        return self._pull_back(source, dy)

    def _value(self, x: np.ndarray) -> np.ndarray:
        y = np.empty_like(x)
        kernels().activation_forward(x.reshape(-1), y.reshape(-1), self._code)
        return y

    def _pull_back(self, source: np.ndarray, dy: np.ndarray) -> np.ndarray:
        dx = np.empty_like(source)
        kernels().activation_backward(
            source.reshape(-1), dy.reshape(-1), dx.reshape(-1), self._code
        )
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
    def _code(self) -> KernelCode:  # type: ignore[override]
        return self._number, self.steepness


@register()
class Elliot(_Steep):
    """``0.5 s x / (1 + |s x|) + 0.5``, a cheap alternative to the sigmoid (Elliott 1993).

    Parameters
    ----------
    steepness : float
        The factor s. The derivative is ``0.5 s / (1 + |s x|)²``.
    """

    _number = codes.ELLIOT


@register()
class SymmetricElliot(_Steep):
    """``s x / (1 + |s x|)``, a cheap alternative to tanh (Elliott 1993).

    Parameters
    ----------
    steepness : float
        The factor s. The derivative is ``s / (1 + |s x|)²``.
    """

    _number = codes.SYMMETRIC_ELLIOT


@register()
class LeakyReLU(_Elementwise):
    """x where x > 0, else ``slope x``; derivative 1 or `slope`.

    Parameters
    ----------
    slope : float, at least 0
    """

    def __init__(self, slope: float = 0.2) -> None:
        self.slope = check_number("slope", slope, "[0, inf)")

    @property
    def _code(self) -> KernelCode:  # type: ignore[override]
        return codes.LEAKY_RELU, self.slope


@register()
class ELU(_Elementwise):
    """x where x > 0, else ``alpha (e^x - 1)``; derivative 1 or ``y + alpha`` (Clevert et al. 2016).

    Parameters
    ----------
    alpha : float, at least 0
    """

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = check_number("alpha", alpha, "[0, inf)")

    @property
    def _code(self) -> KernelCode:  # type: ignore[override]
        return codes.ELU, self.alpha


@register()
class SELU(_Elementwise):
    """1.0507 times ELU of alpha 1.6733; keeps mean 0 and variance 1 (Klambauer et al. 2017)."""

    _code = codes.SELU, 1.0


@register()
class GELU(_Elementwise):
    """x Φ(x), Φ the normal distribution's function, exact (Hendrycks and Gimpel 2016).

    The derivative is ``Φ(x) + x e^(-x²/2) / √(2π)``.
    """

    _code = codes.GELU, 1.0


@register("swish")
class SiLU(_Elementwise):
    """x / (1 + e^-x), also called Swish; derivative ``s (1 + x (1 - s))``, s the sigmoid."""

    _code = codes.SILU, 1.0


@register()
class Mish(_Elementwise):
    """x tanh(log(1 + e^x)) (Misra 2019)."""

    _code = codes.MISH, 1.0


@register()
class HardSigmoid(_Elementwise):
    """(x + 3) / 6, clipped to [0, 1], as in Keras 3 and PyTorch."""

    _code = codes.HARD_SIGMOID, 1.0


@register()
class HardTanh(_Elementwise):
    """x, clipped to [-1, 1]."""

    _code = codes.HARD_TANH, 1.0


@register()
class Exponential(_Elementwise):
    """e^x; derivative e^x."""

    _code = codes.EXPONENTIAL, 1.0


class _AlongAxis(_Remembering):
    """An activation of whole rows, which lie along an axis.

    Parameters
    ----------
    axis : int
        The axis along which the entries of a row lie. In a layer, axis 0 holds the samples.
    """

    #: The kernels of matrices whose rows they take: forward, backward.
    _kernels: ClassVar[tuple[str, str]]

    def __init__(self, axis: int = -1) -> None:
        self.axis = check_int("axis", axis, low=-64)

    def forward(self, input: ArrayLike) -> np.ndarray:
        """Return the activation of each row.

        Parameters
        ----------
        input : array_like, shape (..., K) with the default axis
        """
        return self._value(self._remember(input))

    def backward(self, x: np.ndarray | None, y: np.ndarray, dy: np.ndarray) -> np.ndarray:
        """Return the product of `dy` with the Jacobian of each row, shape of `y`."""
        y = float_array(y, "y")
        dy = np.asarray(dy, y.dtype, order="C")
        check_same_shape("dy", dy, "y", y)
        y, dy = self._axis_last(y), self._axis_last(dy)
        dx = np.empty_like(y)
        getattr(kernels(), self._kernels[1])(_rows(y), _rows(dy), _rows(dx))
        return self._axis_back(dx)

    def _value(self, z: np.ndarray) -> np.ndarray:
        z = self._axis_last(z)
        y = np.empty(z.shape, z.dtype)
        self._fill(z, y)
        return self._axis_back(y)

    def _fill(self, z: np.ndarray, y: np.ndarray) -> None:
        """Fill `y`, which may be `z`, with rows along the last axis."""
        getattr(kernels(), self._kernels[0])(_rows(z), _rows(y))

    def _is_last(self, ndim: int) -> bool:
        """Whether the rows of an array lie along its last axis."""
        return self.axis in (-1, ndim - 1)

    def _axis_last(self, array: np.ndarray) -> np.ndarray:
        """`array`, checked, with the rows along the last axis, in C order."""
        n = array.ndim
        name = snake_case(type(self).__name__)
        if n == 0 or (self._is_last(n) and array.shape[-1] == 0):
            rule = f"The input of {name} must have shape (..., K), K >= 1"
            raise ValueError(error_message(rule, shape=array.shape))
        if self._is_last(n):
            return array
        if not -n <= self.axis < n or array.shape[self.axis] == 0:
            rule = f"The input of {name} must have entries along its axis {self.axis}"
            raise ValueError(error_message(rule, shape=array.shape))
        return np.ascontiguousarray(np.moveaxis(array, self.axis, -1))

    def _axis_back(self, array: np.ndarray) -> np.ndarray:
        """`array` with its last axis where the axis of the rows belongs, in C order."""
        if self._is_last(array.ndim):
            return array
        return np.ascontiguousarray(np.moveaxis(array, -1, self.axis))


@register()
class Softmax(_AlongAxis):
    """e^x_j / Σ_k e^x_k along an axis, shifted by the row's largest value.

    Parameters
    ----------
    axis : int
        The axis of the sum; by default the last. On images (N, K, H, W), ``axis=1`` gives each
        pixel the probabilities of K classes.
    """

    _kernels = "softmax_forward", "softmax_backward"

    def derivative(self, input: ArrayLike | None = None) -> np.ndarray:
        """Return the Jacobian of each row, diag(p) - p pᵀ, shape (..., K, K).

        Parameters
        ----------
        input : array_like, optional
            Shape (..., K) when the axis is the last; the input of the last `forward` if not given.
        """
        p = self._axis_last(self._value(self._recall(input)))
        return p[..., None] * (np.eye(p.shape[-1], dtype=p.dtype) - p[..., None, :])


@register()
class LogSoftmax(_AlongAxis):
    """x_j - log Σ_k e^x_k along an axis, the logarithm of softmax.

    Parameters
    ----------
    axis : int
        The axis of the sum; by default the last.
    """

    _kernels = "log_softmax_forward", "log_softmax_backward"

    def derivative(self, input: ArrayLike | None = None) -> np.ndarray:
        """Return the Jacobian of each row, ``δ_jk - p_k``, shape (..., K, K).

        Parameters
        ----------
        input : array_like, optional
            Shape (..., K) when the axis is the last; the input of the last `forward` if not given.
        """
        p = exp(self._axis_last(self._value(self._recall(input))))
        return np.eye(p.shape[-1], dtype=p.dtype) - p[..., None, :]


def _rows(array: np.ndarray) -> np.ndarray:
    return array if array.ndim == 2 else array.reshape(-1, array.shape[-1])


def get(activation: Any) -> Activation:
    """Return an activation by name.

    Parameters
    ----------
    activation : str, Activation, class, dict or None
        'relu', 'ReLU', 'soft_plus', ...; an instance is returned as it is; a dict holds the name
        and the arguments: ``{"name": "elliot", "steepness": 2.0}``. None is the linear activation.

    Raises
    ------
    ValueError
        If the name is unknown; the message lists the valid ones.
    """
    return Linear() if activation is None else _registry.get(activation)


def apply_activation(activation: Activation, z: NDArray, keep: bool) -> NDArray:
    """Return f(z) as a layer needs it, of the dtype of `z`.

    npdl's activations only run their kernel here and keep no state.

    Parameters
    ----------
    activation : Activation
    z : ndarray
        C-ordered, float32 or float64.
    keep : bool
        Whether `z` must not be overwritten.
    """
    code = activation.elementwise_code
    if code is not None:
        y = np.empty(z.shape, z.dtype) if keep else z
        kernels().activation_forward(z.reshape(-1), y.reshape(-1), code)
        return y
    if type(activation).forward is not _AlongAxis.forward:
        return np.asarray(activation.forward(z), z.dtype)
    along: Any = activation
    if not keep and along.axis == -1 and z.ndim == 2:  # the usual case takes no detour
        getattr(kernels(), along._kernels[0])(z, z)
        return z
    if keep or not along._is_last(z.ndim):
        return along._value(z)
    along._fill(along._axis_last(z), z)
    return z


def activation_argument(activation: Activation) -> KernelCode | Activation:
    """Return the argument for a twin: the kernel code, or the object itself if it has none."""
    return activation.kernel_code or activation
