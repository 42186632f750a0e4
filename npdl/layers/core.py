"""Fully connected layers and dropout."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl import activations, initializations, regularizers
from npdl._checks import check_int, check_number
from npdl._ext import kernels
from npdl.activations import KernelCode
from npdl.layers._affine import Affine
from npdl.layers.base import Layer, Shape, cached_by_shape, shape_fits
from npdl.utils.random import get_rng


class Linear(Affine):
    """Fully connected layer, ``y = x W + b``, on the last axis of the input.

    Input of shape (N, ..., n_in) gives output of shape (N, ..., n_out).

    Parameters
    ----------
    n_out : int or tuple of int
        Number of outputs, or a tuple with their shape.
    n_in : int, optional
        Number of inputs; needed only for the first layer of a network.
    init : str or Initializer
        Initializer of `W`, shape (n_in, number of outputs). The bias `b` starts at zero.
    use_bias : bool, keyword-only
        Whether there is a bias `b`.
    regularizer : str or Regularizer, optional, keyword-only
        Penalty on `W`.
    """

    color = "#b7791f"

    def __init__(
        self,
        n_out: int | tuple[int, ...],
        n_in: int | None = None,
        init: Any = "glorot_uniform",
        *,
        use_bias: bool = True,
        regularizer: Any = None,
    ) -> None:
        shape = n_out if isinstance(n_out, tuple | list) else (n_out,)
        self._units = tuple(check_int("n_out", n, layer=self.name) for n in shape)
        self.n_out = self._units if isinstance(n_out, tuple | list) else self._units[0]
        self.n_in = self._optional_int("n_in", n_in)
        self.init = initializations.get(init)
        self.use_bias = bool(use_bias)
        self.regularizer = regularizers.get(regularizer)

    @property
    def in_shape(self) -> Shape | None:
        """(None, n_in), if `n_in` was given."""
        return None if self.n_in is None else (None, self.n_in)

    def build(self, in_shape: Shape) -> Shape:
        """Create `W` and `b`."""
        if len(in_shape) < 2:
            raise self._error("The input must have at least 2 axes", shape=in_shape)
        n_in = self._axis_size(in_shape, -1, "n_in", self.n_in)
        n_units = math.prod(self._units)
        self._add_weights(self.init((n_in, n_units)), n_units)
        return (*in_shape[:-1], *self._units)

    def _affine_forward(
        self, input: ArrayLike, act: KernelCode, train: bool
    ) -> tuple[NDArray, NDArray]:
        if self.out_shape is None:
            raise self._not_built()
        named = self._parameters_by_name
        w, b = named["W"].value, named["b"].value if self.use_bias else None
        dtype, n_in = w.dtype, len(w)
        x = rows = self._as_array(input, dtype)
        shape = _out_shape(x.shape, n_in, self._units)
        if shape is None:
            raise self._shape_error(x.shape, ("N", "...", n_in))
        y = y_rows = self._buffer("y", shape, dtype) if train else np.empty(shape, dtype)
        if len(shape) > 2:
            rows, y_rows = _rows(w, x, y)
        kernels().dense_forward(rows, w, b, y_rows, act)
        return x, y

    def _affine_backward(
        self, x: NDArray, y: NDArray, dy: NDArray, act: KernelCode
    ) -> NDArray | None:
        w, grads = self._parameters_by_name["W"].value, self._weight_grads()
        dx = dx_rows = self._input_buffer(x)
        if y.ndim > 2:
            x, y = _rows(w, x, y)
            dy = dy.reshape(y.shape)
            dx_rows = None if dx is None else dx.reshape(x.shape)
        kernels().dense_backward(x, w, y, dy, dx_rows, *grads, act)
        return dx


class Dense(Linear):
    """Fully connected layer with an activation, ``y = act(x W + b)``.

    Input of shape (N, ..., n_in) gives output of shape (N, ..., n_out).

    Parameters
    ----------
    n_out, n_in, init
        As in `Linear`.
    activation : str or Activation
        Softmax runs along the last axis of the output.
    use_bias : bool, keyword-only
        Whether there is a bias `b`.
    regularizer : str or Regularizer, optional, keyword-only
        Penalty on `W`.
    """

    def __init__(
        self,
        n_out: int | tuple[int, ...],
        n_in: int | None = None,
        init: Any = "glorot_uniform",
        activation: Any = "tanh",
        *,
        use_bias: bool = True,
        regularizer: Any = None,
    ) -> None:
        super().__init__(n_out, n_in, init, use_bias=use_bias, regularizer=regularizer)
        self.activation = activations.get(activation)


class Softmax(Dense):
    """Fully connected layer with softmax, ``y = softmax(x W + b)``: probabilities of classes.

    Parameters
    ----------
    n_out, n_in, init, use_bias, regularizer
        As in `Linear`.
    """

    color = "#b3452c"

    def __init__(
        self,
        n_out: int | tuple[int, ...],
        n_in: int | None = None,
        init: Any = "glorot_uniform",
        *,
        use_bias: bool = True,
        regularizer: Any = None,
    ) -> None:
        super().__init__(n_out, n_in, init, "softmax", use_bias=use_bias, regularizer=regularizer)


class Dropout(Layer):
    """Drop a random fraction of the values in training (Srivastava et al. 2014).

    In training, each value is set to 0 with probability `p`, and the others are scaled by
    ``1 / (1 - p)``, so that the mean is kept. At prediction the output is the input itself.

    Each training pass draws one number from npdl's generator. It and the positions of the values
    determine which are dropped, on every machine and backend.

    Parameters
    ----------
    p : float in [0, 1)
        Fraction to drop.
    """

    def __init__(self, p: float = 0.0) -> None:
        self.p = check_number("p", p, "[0, 1)", layer=self.name)

    def forward(self, input: ArrayLike, train: bool = True) -> NDArray:
        """Return the values that are kept, scaled; with ``train=False``, the input itself.

        Parameters
        ----------
        input : array_like, shape (N, ...)
        train : bool
            Whether to drop.
        """
        x = self._checked_array(input, ("N", "..."))
        if not train:
            return x
        y = self._buffer("y", x.shape, x.dtype)
        mask = self._buffer("mask", x.shape, np.uint8)
        seed = int(get_rng().integers(2**64, dtype=np.uint64))
        kernels().dropout_forward(_flat(x), seed, self.p, _flat(y), _flat(mask))
        self._cache = mask, x.dtype
        return y

    def backward(self, pre_grad: ArrayLike) -> NDArray | None:
        """Return the gradient in the input: that of the kept values, scaled likewise."""
        mask, dtype = self._saved_for_backward()
        dy = self._checked_array(pre_grad, mask.shape, "pre_grad").astype(dtype, copy=False)
        if not self.need_input_grad:
            return None
        dx = self._buffer("dx", mask.shape, dtype)
        kernels().dropout_backward(_flat(dy), _flat(mask), self.p, _flat(dx))
        return dx


@cached_by_shape
def _out_shape(shape: Any, n_in: int, units: Any) -> Any:
    """The shape of the output of `Linear`; None where that of the input does not fit."""
    return shape[:-1] + units if shape_fits(shape, ("N", "...", n_in)) else None


def _rows(w: NDArray, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    """Input and output as matrices, of a row for each product with `w`; views."""
    n_in, n_units = w.shape
    return x.reshape(-1, n_in), y.reshape(-1, n_units)


def _flat(array: NDArray) -> NDArray:
    """`array` with one axis, a view."""
    return array.reshape(-1)
