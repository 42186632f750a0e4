"""Activations as layers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl import activations, initializations, regularizers
from npdl._checks import check_int
from npdl._ext import kernels
from npdl._ext.activation_np import FROM_INPUT
from npdl.layers.base import Layer, ParameterView, Shape


class Activation(Layer):
    """An activation as a layer, ``y = f(x)``, on an input of any shape.

    Parameters
    ----------
    activation : str, npdl.activations.Activation, class, dict or None
        See `npdl.activations.get`. Softmax and log-softmax run along the last axis; for another
        one, pass ``{"name": "softmax", "axis": 1}``.
    """

    def __init__(self, activation: Any) -> None:
        self.activation = activations.get(activation)

    def forward(self, input: ArrayLike, train: bool = True) -> NDArray:
        """Return the activation of the input.

        Parameters
        ----------
        input : array_like, shape (N, ...)
        train : bool
            Whether to keep what `backward` needs.
        """
        x = self._checked_array(input, ("N", "..."))
        code = self.activation.elementwise_code
        if code is None:
            y = activations.apply_activation(self.activation, x, keep=True)
        else:
            y = self._buffer("y", x.shape, x.dtype) if train else np.empty(x.shape, x.dtype)
            kernels().activation_forward(x.reshape(-1), y.reshape(-1), code)
        if train:
            self._cache = x, y
        return y

    def backward(self, pre_grad: ArrayLike) -> NDArray | None:
        """Return the gradient in the input, ``f'(x) pre_grad``."""
        x, y = self._saved_for_backward()
        dy = self._checked_array(pre_grad, y.shape, "pre_grad", y.dtype)
        dx = self._input_buffer(x)
        if dx is None:
            return None
        code = self.activation.elementwise_code
        if code is None:
            dx[...] = self.activation.backward(x, y, dy)
        else:
            source = x if code[0] in FROM_INPUT else y
            kernels().activation_backward(source.reshape(-1), dy.reshape(-1), dx.reshape(-1), code)
        return dx


class ReLU(Activation):
    """``max(0, x)``."""

    def __init__(self) -> None:
        super().__init__(activations.ReLU())


class LeakyReLU(Activation):
    """x where x > 0, else ``slope x``.

    Parameters
    ----------
    slope : float, at least 0
    """

    def __init__(self, slope: float = 0.3) -> None:
        self.activation: activations.LeakyReLU = activations.LeakyReLU(slope)

    @property
    def slope(self) -> float:
        """The slope where x < 0."""
        return self.activation.slope


class ELU(Activation):
    """x where x > 0, else ``alpha (e^x - 1)`` (Clevert et al. 2016).

    Parameters
    ----------
    alpha : float, at least 0
    """

    def __init__(self, alpha: float = 1.0) -> None:
        self.activation: activations.ELU = activations.ELU(alpha)

    @property
    def alpha(self) -> float:
        """The limit of -y for large negative x."""
        return self.activation.alpha


class PReLU(Layer):
    """x where x > 0, else ``alpha x`` with a learned `alpha` (He et al. 2015).

    Parameters
    ----------
    alpha_init : str or Initializer, optional, keyword-only
        Initializer of `alpha`, which has the shape of one sample, but size 1 along the shared axes.
    shared_axes : int or sequence of int, optional, keyword-only
        Axes along which all values have the same `alpha`; the sample axis is 0. ``(2, 3)`` makes
        one for each channel of images (N, C, H, W), ``1`` one for each feature of sequences
        (N, T, D). An axis whose size may change has to be shared.
    regularizer : str or Regularizer, optional, keyword-only
        Penalty on `alpha`.
    """

    alpha = ParameterView("alpha")
    dalpha = ParameterView("alpha", "grad")

    def __init__(
        self, *, alpha_init: Any = "zero", shared_axes: Any = None, regularizer: Any = None
    ) -> None:
        self.alpha_init = initializations.get(alpha_init)
        axes = shared_axes
        if axes is not None:
            axes = tuple(axes) if isinstance(axes, tuple | list) else (axes,)
            axes = tuple(sorted({check_int("shared_axes", axis, layer=self.name) for axis in axes}))
        self.shared_axes = axes
        self.regularizer = regularizers.get(regularizer)

    def build(self, in_shape: Shape) -> Shape:
        """Create `alpha`."""
        shared = self.shared_axes or ()
        if len(in_shape) < 2:
            raise self._error("The input must have at least 2 axes", shape=in_shape)
        if any(axis >= len(in_shape) for axis in shared):
            rule = f"`shared_axes` must lie in [1, {len(in_shape) - 1}]"
            raise self._error(rule, shared_axes=shared)
        unknown = [i for i, n in enumerate(in_shape) if i and n is None and i not in shared]
        if unknown:
            rule = f"Axis {unknown[0]} of the input must be known, or be in `shared_axes`"
            raise self._error(rule, shape=in_shape, shared_axes=self.shared_axes)
        sizes = [1 if i in shared else n for i, n in enumerate(in_shape) if i]
        self.add_parameter("alpha", self.alpha_init(tuple(n for n in sizes if n is not None)))
        return in_shape

    def forward(self, input: ArrayLike, train: bool = True) -> NDArray:
        """Return the activation of the input.

        Parameters
        ----------
        input : array_like, shape (N, ...)
            With the shape that the layer was built for, except along the shared axes.
        train : bool
            Whether to keep what `backward` needs.
        """
        if self.out_shape is None:
            raise self._not_built()
        alpha = self._parameters_by_name["alpha"].value
        shared = self.shared_axes or ()
        shape = ["N", *(f"S{i}" if i in shared else n for i, n in enumerate(alpha.shape, 1))]
        x = self._checked_array(input, shape, dtype=alpha.dtype)
        y = self._buffer("y", x.shape, x.dtype) if train else np.empty(x.shape, x.dtype)
        np.minimum(x, 0, out=y)
        y *= alpha
        y += np.maximum(x, 0)
        if train:
            self._cache = (x,)
        return y

    def backward(self, pre_grad: ArrayLike) -> NDArray | None:
        """Return the gradient in the input, and fill that of `alpha`."""
        (x,) = self._saved_for_backward()
        alpha = self._parameters_by_name["alpha"]
        dy = self._checked_array(pre_grad, x.shape, "pre_grad", x.dtype)
        if alpha.grad is not None:
            below = np.minimum(x, 0)
            below *= dy
            summed = (0, *(self.shared_axes or ()))
            total = below.sum(axis=summed, dtype=np.float64)
            alpha.grad[...] = total.reshape(alpha.grad.shape)
        dx = self._input_buffer(x)
        if dx is not None:
            # dy alpha where x <= 0, and dy elsewhere: one of the two terms is 0.
            positive = (x > 0).astype(x.dtype)
            np.subtract(1, positive, out=dx)
            dx *= alpha.value
            dx += positive
            dx *= dy
        return dx
