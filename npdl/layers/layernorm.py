"""Layer, group and RMS normalization: of each sample, or of each of its steps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl import initializations
from npdl._checks import check_int
from npdl._ext import kernels
from npdl.layers.base import Layer, ParameterView, Shape
from npdl.layers.normalization import check_epsilon


class _Rows(Layer):
    """A normalization of rows, each with its own statistics.

    A subclass defines the axes that have separate scales, the *kept* axes, and how to view an input
    whose kept axes were moved to `_place` as rows, (rows, channels of a row, values of a channel).
    """

    #: Whether the mean is subtracted, and there is a `beta`.
    _centred = True

    gamma = ParameterView("gamma")
    dgamma = ParameterView("gamma", "grad")

    epsilon: float
    gamma_init: Any
    beta_init: Any = None
    #: The kept axes, from 1 on.
    _axes: tuple[int, ...] = ()

    def _row_view(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        raise NotImplementedError

    def _places(self, ndim: int) -> tuple[int, ...]:
        """Where the kept axes of an array of `ndim` axes have to be."""
        raise NotImplementedError

    def build(self, in_shape: Shape) -> Shape:
        """Create `gamma`, and `beta` where the mean is subtracted."""
        if len(in_shape) < 2:
            raise self._error("The input must have at least 2 axes", shape=in_shape)
        self._axes = self._kept_axes(len(in_shape))
        shape = tuple(self._axis_size(in_shape, axis, "axis") for axis in self._axes)
        self._check_sizes(shape)
        self.add_parameter("gamma", self.gamma_init(shape))
        if self._centred:
            self.add_parameter("beta", self.beta_init(shape))
        return in_shape

    def _kept_axes(self, ndim: int) -> tuple[int, ...]:
        """`axis`, which the constructor has kept, as positive numbers in order."""
        given: Any = self.axis  # type: ignore[attr-defined]
        axes = given if isinstance(given, tuple | list) else (given,)
        if not all(-ndim < axis < ndim and axis for axis in axes):
            rule = f"`axis` must lie in [1, {ndim - 1}], or be counted from the end"
            raise self._error(rule, axis=given)
        found = tuple(sorted({axis % ndim for axis in axes}))
        if len(found) != len(axes):
            raise self._error("The numbers of `axis` must differ", axis=given)
        return found

    def _check_sizes(self, shape: tuple[int, ...]) -> None:
        """Raise an error where the sizes of the kept axes do not fit the options."""

    def forward(self, input: ArrayLike, train: bool = True) -> NDArray:
        """Return the normalized input.

        Parameters
        ----------
        input : array_like, shape (N, ...)
            Of the rank that the layer was connected with, and of its sizes along `axis`.
        train : bool
            Whether to keep what `backward` needs.
        """
        if self.out_shape is None:
            raise self._not_built()
        gamma = self._parameters_by_name["gamma"].value
        beta = self._parameters_by_name["beta"].value.reshape(-1) if self._centred else None
        kept = dict(zip(self._axes, gamma.shape))
        sizes = [kept.get(i, f"S{i}") for i in range(1, len(self.out_shape))]
        given = self._checked_array(input, ("N", *sizes), dtype=gamma.dtype)
        x = self._turned(given)
        view = self._row_view(x.shape)
        y = self._buffer("y", x.shape, x.dtype) if train else np.empty(x.shape, x.dtype)
        mean = self._row_numbers("mean", view[0], x.dtype, train) if self._centred else None
        scale = self._row_numbers("scale", view[0], x.dtype, train)
        kernels().layernorm_forward(
            x.reshape(view), gamma.reshape(-1), beta, self.epsilon, y.reshape(view), mean, scale
        )
        if train:
            self._cache = x, given.shape, view, mean, scale
        return self._turned_back(y)

    def backward(self, pre_grad: ArrayLike) -> NDArray | None:
        """Return the gradient in the input, and fill those of `gamma` and `beta`."""
        x, shape, view, mean, scale = self._saved_for_backward()
        gamma, beta = self._parameters_by_name["gamma"], self._parameters_by_name.get("beta")
        dy = self._turned(self._checked_array(pre_grad, shape, "pre_grad", x.dtype))
        dx = self._input_buffer(x)
        kernels().layernorm_backward(
            x.reshape(view),
            gamma.value.reshape(-1),
            mean,
            scale,
            dy.reshape(view),
            None if dx is None else dx.reshape(view),
            None if gamma.grad is None else gamma.grad.reshape(-1),
            None if beta is None or beta.grad is None else beta.grad.reshape(-1),
        )
        return None if dx is None else self._turned_back(dx)

    def _row_numbers(self, key: str, rows: int, dtype: Any, train: bool) -> NDArray:
        return self._buffer(key, (rows,), dtype) if train else np.empty(rows, dtype)

    def _turned(self, array: NDArray) -> NDArray:
        """`array` with the kept axes in their places, C-ordered."""
        places = self._places(array.ndim)
        if places == self._axes:
            return array
        return np.ascontiguousarray(np.moveaxis(array, self._axes, places))

    def _turned_back(self, array: NDArray) -> NDArray:
        places = self._places(array.ndim)
        if places == self._axes:
            return array
        return np.ascontiguousarray(np.moveaxis(array, places, self._axes))


class LayerNormalization(_Rows):
    """Layer normalization (Ba et al. 2016): of each sample, or each step, over its features.

    ``y = gamma (x - mean) / sqrt(var + epsilon) + beta``, with mean and (biased) variance along
    `axis`, at prediction as in training. A step's result depends on no other step and no other
    sample, so masks have no effect.

    Parameters
    ----------
    epsilon : float
    axis : int or tuple of int
        What is normalized together, and has entries of `gamma` and `beta`: by default the last
        axis, the features of (N, D) and (N, T, D). ``axis=(1, 2, 3)`` normalizes a whole image.
    beta_init, gamma_init : str or Initializer
    """

    beta = ParameterView("beta")
    dbeta = ParameterView("beta", "grad")

    def __init__(
        self,
        epsilon: float = 1e-5,
        axis: Any = -1,
        beta_init: Any = "zero",
        gamma_init: Any = "one",
    ) -> None:
        self.epsilon = check_epsilon(self, epsilon)
        self.axis = _checked_axis(self, axis)
        self.beta_init = initializations.get(beta_init)
        self.gamma_init = initializations.get(gamma_init)

    def _places(self, ndim: int) -> tuple[int, ...]:
        return tuple(range(ndim - len(self._axes), ndim))

    def _row_view(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        behind = len(shape) - len(self._axes)
        return math.prod(shape[:behind]), math.prod(shape[behind:]), 1


class RMSNormalization(LayerNormalization):
    """RMS normalization (Zhang and Sennrich 2019): layer normalization without the mean.

    ``y = gamma x / sqrt(mean(x²) + epsilon)``, the mean along `axis`.

    Parameters
    ----------
    epsilon : float
    axis : int or tuple of int
        As in `LayerNormalization`.
    gamma_init : str or Initializer
    """

    _centred = False
    beta = dbeta = None

    def __init__(self, epsilon: float = 1e-6, axis: Any = -1, gamma_init: Any = "one") -> None:
        super().__init__(epsilon, axis, gamma_init=gamma_init)


class GroupNormalization(_Rows):
    """Group normalization (Wu and He 2018): of each sample, over groups of channels.

    ``y = gamma (x - mean) / sqrt(var + epsilon) + beta``, with mean and (biased) variance of the
    channels of a group over all places, at prediction as in training; `gamma` and `beta` have an
    entry for each channel.

    Parameters
    ----------
    groups : int
        Must divide the number of channels. 1 is layer normalization over the whole sample,
        -1 instance normalization: each channel is a group.
    axis : int
        The axis of the channels.
    epsilon : float
    beta_init, gamma_init : str or Initializer
    """

    beta = ParameterView("beta")
    dbeta = ParameterView("beta", "grad")

    def __init__(
        self,
        groups: int = 32,
        axis: int = 1,
        epsilon: float = 1e-3,
        beta_init: Any = "zero",
        gamma_init: Any = "one",
    ) -> None:
        self.groups = groups if groups == -1 else check_int("groups", groups, layer=self.name)
        self.axis = check_int("axis", axis, low=-64, layer=self.name)
        self.epsilon = check_epsilon(self, epsilon)
        self.beta_init = initializations.get(beta_init)
        self.gamma_init = initializations.get(gamma_init)

    def _check_sizes(self, shape: tuple[int, ...]) -> None:
        if self.groups > 0 and shape[0] % self.groups:
            rule = f"`groups` must divide the number of channels, {shape[0]}"
            raise self._error(rule, groups=self.groups)

    def _places(self, ndim: int) -> tuple[int, ...]:
        return (1,)

    def _row_view(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        groups = shape[1] if self.groups == -1 else self.groups
        return shape[0] * groups, shape[1] // groups, math.prod(shape[2:])


def _checked_axis(layer: Layer, axis: Any) -> int | tuple[int, ...]:
    """`axis`, checked: an integer or a tuple of integers."""
    if isinstance(axis, tuple | list):
        if not axis:
            raise layer._error("`axis` must hold at least one axis", axis=axis)
        return tuple(check_int("axis", one, low=-64, layer=layer.name) for one in axis)
    return check_int("axis", axis, low=-64, layer=layer.name)
