"""Batch normalization."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl import initializations
from npdl._checks import check_int, check_number
from npdl._ext import kernels
from npdl.layers.base import Layer, ParameterView, Shape, by_shape, fits


class BatchNormal(Layer):
    """Batch normalization (Ioffe and Szegedy 2015).

    In training, ``y = gamma (x - mean) / sqrt(var + epsilon) + beta`` with mean and (biased)
    variance of the batch; at prediction, with their running means.

    Parameters
    ----------
    epsilon : float
    momentum : float in [0, 1]
        ``running = momentum * running + (1 - momentum) * batch`` after each training batch.
    axis : int
        0: every feature is normalized over the batch, and `gamma` and `beta` have the shape of one
        sample. Otherwise the axis whose entries are normalized apart, each over all other axes:
        ``axis=1`` treats the channels of (N, C, H, W), and `gamma` and `beta` have shape (C,).
    beta_init, gamma_init : str or Initializer
    """

    color = "#7a8794"

    gamma = ParameterView("gamma")
    beta = ParameterView("beta")
    dgamma = ParameterView("gamma", "grad")
    dbeta = ParameterView("beta", "grad")
    running_mean = ParameterView("running_mean")
    running_var = ParameterView("running_var")

    def __init__(
        self,
        epsilon: float = 1e-6,
        momentum: float = 0.9,
        axis: int = 0,
        beta_init: Any = "zero",
        gamma_init: Any = "one",
    ) -> None:
        self.epsilon = check_number("epsilon", epsilon, "(0, inf)", layer=self.name)
        self.momentum = check_number("momentum", momentum, "[0, 1]", layer=self.name)
        self.axis = check_int("axis", axis, low=-64, layer=self.name)
        self.beta_init = initializations.get(beta_init)
        self.gamma_init = initializations.get(gamma_init)

    def build(self, in_shape: Shape) -> Shape:
        """Create `gamma`, `beta` and the running statistics."""
        n_axes = len(in_shape)
        if n_axes < 2:
            raise self._error("The input must have at least 2 axes", shape=in_shape)
        if not -n_axes < self.axis < n_axes:
            raise self._error(f"`axis` must lie in ({-n_axes}, {n_axes})", axis=self.axis)
        axes = range(1, n_axes) if self.axis == 0 else [self.axis]
        shape = tuple(self._size(in_shape, axis, "axis") for axis in axes)
        self.add_parameter("gamma", self.gamma_init(shape))
        self.add_parameter("beta", self.beta_init(shape))
        self.add_parameter("running_mean", np.zeros(shape), trainable=False)
        self.add_parameter("running_var", np.ones(shape), trainable=False)
        return in_shape

    def forward(self, input: ArrayLike, train: bool = True) -> NDArray:
        """Return the normalized input.

        Parameters
        ----------
        input : array_like, of the shape that the layer was connected with
        train : bool
            Whether to use, and to keep, the statistics of the batch; if not, the running ones.
        """
        if self.out_shape is None:
            raise self._not_built()
        named = self._named
        gamma, beta = _flat(named["gamma"].value), _flat(named["beta"].value)
        running = _flat(named["running_mean"].value), _flat(named["running_var"].value)
        x = self._numbers(input, gamma.dtype)
        view = _view(x.shape, self.out_shape, self.axis)
        if view is None:
            raise self._misshapen(x.shape, _expected(self.out_shape))
        y = self._buffer("y", x.shape, x.dtype) if train else np.empty(x.shape, x.dtype)
        channels = x.reshape(view), gamma, beta
        if not train:
            kernels().norm_fixed_forward(*channels, *running, self.epsilon, y.reshape(view))
            return y
        batch = [self._buffer(key, gamma.shape, x.dtype) for key in ("mean", "var")]
        kernels().norm_forward(*channels, self.epsilon, y.reshape(view), *batch)
        for mean, new in zip(running, batch):
            mean *= self.momentum
            mean += (1 - self.momentum) * new
        self._cache = x, view, *batch
        return y

    def backward(self, pre_grad: ArrayLike) -> NDArray | None:
        """Return the gradient in the input, and fill `dgamma` and `dbeta`.

        The mean and the variance depend on the input too (M values in each)::

            dx = gamma / sqrt(var + epsilon) * (dy - Σ dy / M - xhat Σ (dy xhat) / M)
        """
        x, view, mean, var = self._remembered()
        gamma, beta = self._named["gamma"], self._named["beta"]
        dy = self._array(pre_grad, x.shape, "pre_grad", x.dtype)
        dx = self._input_buffer(x)
        kernels().norm_backward(
            x.reshape(view),
            _flat(gamma.value),
            mean,
            var,
            self.epsilon,
            dy.reshape(view),
            None if dx is None else dx.reshape(view),
            _flat(gamma.grad),
            _flat(beta.grad),
        )
        return dx


def _expected(shape: Shape) -> tuple[Any, ...]:
    return tuple("N" if size is None else size for size in shape)


@by_shape
def _view(shape: Any, built_for: Any, axis: int) -> Any:
    """An input's shape as (axes before, entries that are normalized apart, axes behind).

    None if it is not one that the layer was built for.
    """
    if not fits(shape, _expected(built_for)):
        return None
    kept = axis % len(shape)
    if kept == 0:
        return shape[0], math.prod(shape[1:]), 1
    return math.prod(shape[:kept]), shape[kept], math.prod(shape[kept + 1 :])


def _flat(array: Any) -> Any:
    """`array` with one axis, a view."""
    return array if array.ndim == 1 else array.reshape(-1)
