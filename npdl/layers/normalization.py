"""Batch normalization."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl import initializations
from npdl._checks import check_int, check_number
from npdl.layers.base import Layer, ParameterView, Shape


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

    def _geometry(self, n_axes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The axes to average over, and the shape that spreads a parameter over the input."""
        if self.axis == 0:
            return (0,), self.gamma.shape
        kept = self.axis % n_axes
        spread = [1] * n_axes
        spread[kept] = len(self.gamma)
        return tuple(a for a in range(n_axes) if a != kept), tuple(spread)

    def forward(self, input: ArrayLike, train: bool = True) -> NDArray:
        """Return the normalized input.

        Parameters
        ----------
        input : array_like, of the shape that the layer was connected with
        train : bool
            Whether to use, and to keep, the statistics of the batch; if not, the running ones.
        """
        self._require_built()
        x = self._array(input, _expected(self.out_shape))
        axes, spread = self._geometry(x.ndim)
        gamma, beta = self.gamma.reshape(spread), self.beta.reshape(spread)
        if not train:
            scale = gamma / np.sqrt(self.running_var.reshape(spread) + self.epsilon)
            return (x - self.running_mean.reshape(spread)) * scale + beta
        mean = x.mean(axis=axes)
        xhat = np.subtract(x, mean.reshape(spread), out=self._buffer("xhat", x.shape, x.dtype))
        y = np.square(xhat, out=self._buffer("y", x.shape, x.dtype))
        var = y.mean(axis=axes)
        inverse = 1 / np.sqrt(var + self.epsilon)
        xhat *= inverse.reshape(spread)
        np.multiply(xhat, gamma, out=y)
        y += beta
        for running, batch in (self.running_mean, mean), (self.running_var, var):
            running *= self.momentum
            running += (1 - self.momentum) * batch
        self._cache = xhat, inverse
        return y

    def backward(self, pre_grad: ArrayLike) -> NDArray | None:
        """Return the gradient in the input, and fill `dgamma` and `dbeta`.

        The mean and the variance depend on the input too (M values in each)::

            dx = gamma / sqrt(var + epsilon) * (dy - Σ dy / M - xhat Σ (dy xhat) / M)
        """
        xhat, inverse = self._remembered()
        dy = self._array(pre_grad, xhat.shape, "pre_grad")
        axes, spread = self._geometry(xhat.ndim)
        dx = self._buffer("dx", xhat.shape, xhat.dtype)
        np.multiply(dy, xhat, out=dx)
        np.sum(dx, axis=axes, out=self.dgamma)
        np.sum(dy, axis=axes, out=self.dbeta)
        if not self.need_input_grad:
            return None
        share = self.gamma.size / xhat.size  # 1 / M
        np.multiply(xhat, (self.dgamma * share).reshape(spread), out=dx)
        np.subtract(dy, dx, out=dx)
        dx -= (self.dbeta * share).reshape(spread)
        dx *= (self.gamma * inverse).reshape(spread)
        return dx


def _expected(shape: Shape | None) -> list[Any]:
    return ["N" if size is None else size for size in shape or ()]
