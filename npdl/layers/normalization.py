"""Batch normalization."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl import initializations
from npdl._checks import check_int, check_number
from npdl._ext import kernels
from npdl._ext.activation_np import RELU
from npdl.layers._fusing import IDENTITY
from npdl.layers.activation import Activation, ReLU
from npdl.layers.base import Layer, ParameterView, Shape, cached_by_shape, shape_fits


class BatchNormal(Layer):
    """Batch normalization (Ioffe and Szegedy 2015).

    In training, ``y = gamma (x - mean) / sqrt(var + epsilon) + beta`` with mean and (biased)
    variance of the batch; at prediction, with their running means. A frozen layer (``trainable =
    False``) takes the running means in training too, and leaves them as they are.

    A training batch that has only one value for each mean has no variance; it leaves the running
    means as they are.

    Masked steps do not count: they are left out of the statistics, and their output and gradient
    are 0.

    Parameters
    ----------
    epsilon : float
    momentum : float in [0, 1]
        ``running = momentum * running + (1 - momentum) * batch`` after each training batch.
    axis : int
        0: every feature is normalized over the batch, and `gamma` and `beta` have the shape of one
        sample. Otherwise the axis whose entries are normalized apart, each over all other axes,
        which may have any size: ``axis=1`` treats the channels of (N, C, H, W), and `gamma` and
        `beta` have shape (C,).
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
        self.epsilon = check_epsilon(self, epsilon)
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
        shape = tuple(self._axis_size(in_shape, axis, "axis") for axis in axes)
        self.add_parameter("gamma", self.gamma_init(shape))
        self.add_parameter("beta", self.beta_init(shape))
        self.add_parameter("running_mean", np.zeros(shape), trainable=False)
        self.add_parameter("running_var", np.ones(shape), trainable=False)
        return in_shape

    def takes_over(self, layer: Layer) -> bool:
        """Whether the `layer` behind is ReLU, which the kernels know."""
        own = type(self) in (BatchNormal, BatchNormalization)
        return own and type(layer) in (Activation, ReLU) and self._is_relu(layer)

    @staticmethod
    def _is_relu(layer: Any) -> bool:
        return (layer.activation.kernel_code or IDENTITY)[0] == RELU

    def forward(self, input: ArrayLike, train: bool = True, mask: NDArray | None = None) -> NDArray:
        """Return the normalized input.

        Parameters
        ----------
        input : array_like
            Of the shape that the layer was connected with, except for axes of any size.
        train : bool
            Whether to use, and to keep, the statistics of the batch; if not, the running ones.
        mask : ndarray, shape (N, T), optional
            0 for the steps of an input (N, T, ...) that do not count.
        """
        if self.out_shape is None:
            raise self._not_built()
        gamma, beta, *running = (_flat(p.value) for p in self._parameters_by_name.values())
        x = self._as_array(input, gamma.dtype)
        view = _view(x.shape, self.out_shape, self.axis)
        if view is None:
            raise self._shape_error(x.shape, _expected(self.out_shape, self.axis))
        real = None if mask is None or x.ndim < 3 else self._real_steps(mask, x.shape)
        y = self._buffer("y", x.shape, x.dtype) if train else np.empty(x.shape, x.dtype)
        if not train or not self.trainable:
            fixed = x.reshape(view), gamma, beta, *running, self.epsilon, y.reshape(view)
            kernels().norm_fixed_forward(*fixed)
            if real is not None:
                y[~real] = 0
            if train:
                self._cache = "fixed", x.shape, self.follower, view, real
                return y if self.follower is None else self.follower.forward(y)
            return y
        mean, var = (self._buffer(key, gamma.shape, x.dtype) for key in ("mean", "var"))
        parts, behind, act = [], self.follower, IDENTITY
        if behind is not None and self._is_relu(behind):
            act, behind = behind.activation.kernel_code, None
        if real is not None:
            y[...] = 0
        for index, channels, shape in _parts(x.shape, view, self.axis, real):
            part = x if index is None else x[index]
            out = y if index is None else np.empty_like(part)
            batch = mean[channels], var[channels]
            kernels().norm_forward(
                part.reshape(shape),
                gamma[channels],
                beta[channels],
                self.epsilon,
                out.reshape(shape),
                *batch,
                act,
            )
            if index is not None:
                y[index] = out
            if shape[0] * shape[2] > 1:
                for old, new in zip(running, batch):
                    old[channels] *= self.momentum
                    old[channels] += (1 - self.momentum) * new
            parts.append((part, index, channels, shape))
        self._cache = "batch", x.shape, behind, parts, (mean, var), act
        return y if behind is None else behind.forward(y)

    def backward(self, pre_grad: ArrayLike) -> NDArray | None:
        """Return the gradient in the input, and fill `dgamma` and `dbeta`.

        The mean and the variance depend on the input too (M values in each)::

            dx = gamma / sqrt(var + epsilon) * (dy - Σ dy / M - xhat Σ (dy xhat) / M)
        """
        kind, in_shape, behind, *kept = self._saved_for_backward()
        gamma, beta = self._parameters_by_name["gamma"], self._parameters_by_name["beta"]
        dtype = gamma.value.dtype
        dy = self._checked_array(pre_grad, in_shape, "pre_grad", dtype)
        if behind is not None:
            dy = behind.backward(dy)
        dx = self._buffer("dx", in_shape, dtype) if self.need_input_grad else None
        if kind == "fixed":
            return self._backward_fixed(dy, dx, *kept)
        parts, statistics, act = kept
        if dx is not None and parts[0][1] is not None:
            dx[...] = 0
        for x, index, channels, shape in parts:
            out = dx if dx is None or index is None else np.empty_like(x)
            kernels().norm_backward(
                x.reshape(shape),
                *(_flat(p.value)[channels] for p in (gamma, beta)),
                *(array[channels] for array in statistics),
                self.epsilon,
                (dy if index is None else dy[index]).reshape(shape),
                None if out is None else out.reshape(shape),
                None if gamma.grad is None else _flat(gamma.grad)[channels],
                None if beta.grad is None else _flat(beta.grad)[channels],
                act,
            )
            if index is not None and dx is not None:
                dx[index] = out
        return dx

    def _backward_fixed(
        self, dy: NDArray, dx: NDArray | None, view: tuple[int, int, int], real: NDArray | None
    ) -> NDArray | None:
        """The gradient in the input where the statistics are given: dy gamma / √(var + ε)."""
        if dx is None:
            return None
        own = self._parameters_by_name
        gamma, var = (_flat(own[key].value) for key in ("gamma", "running_var"))
        zero = np.zeros_like(gamma)
        kernels().norm_fixed_forward(
            dy.reshape(view), gamma, zero, zero, var, self.epsilon, dx.reshape(view)
        )
        if real is not None:
            dx[~real] = 0
        return dx

    def _real_steps(self, mask: NDArray, shape: tuple[int, ...]) -> NDArray | None:
        """A mask as booleans; None where all steps count."""
        if mask.shape != shape[:2]:
            rule = f"`mask` must have shape {shape[:2]}"
            raise self._error(rule, shape=mask.shape)
        real = mask != 0
        return None if real.all() else real


class BatchNormalization(BatchNormal):
    """`BatchNormal` with the defaults of Keras, except the axis, which is that of npdl's channels.

    Parameters
    ----------
    axis : int
        1 for images (N, C, H, W) and for features (N, D); -1 for sequences (N, T, D).
    momentum, epsilon, beta_init, gamma_init
        As in `BatchNormal`.
    """

    def __init__(
        self,
        axis: int = 1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        beta_init: Any = "zero",
        gamma_init: Any = "one",
    ) -> None:
        super().__init__(epsilon, momentum, axis, beta_init, gamma_init)


def check_epsilon(layer: Layer, epsilon: Any) -> float:
    """Return `epsilon`; an integer was probably meant as the axis."""
    if isinstance(epsilon, int | np.integer) and not isinstance(epsilon, bool):
        rule = "`epsilon` must be a small float; an axis is given by name, `axis=1`"
        raise layer._error(rule, epsilon=epsilon)
    return check_number("epsilon", epsilon, "(0, inf)", layer=layer.name)


def _expected(shape: Shape, axis: int) -> tuple[Any, ...]:
    """The expected shape of an input: sizes where they are fixed, letters where any size fits."""
    kept = axis % len(shape)
    free = [f"S{i}" if kept and i != kept else size for i, size in enumerate(shape)]
    return "N", *free[1:]


@cached_by_shape
def _view(shape: Any, built_for: Any, axis: int) -> Any:
    """An input's shape as (axes before, entries that are normalized apart, axes behind).

    None if it is not one that the layer was built for.
    """
    if not shape_fits(shape, _expected(built_for, axis)):
        return None
    kept = axis % len(shape)
    if kept == 0:
        return shape[0], math.prod(shape[1:]), 1
    return math.prod(shape[:kept]), shape[kept], math.prod(shape[kept + 1 :])


def _parts(
    shape: tuple[int, ...], view: tuple[int, int, int], axis: int, real: NDArray | None
) -> Iterator[tuple[Any, slice, tuple[int, int, int]]]:
    """Yield the parts that are normalized at a time: an index of the input, its channels, its view.

    Without a mask that is everything, and the index None. Of a masked input (N, T, ...) it is all
    the real steps together; where each step has channels of its own (axis 0 and 1), one step of
    the samples that have it.
    """
    kept, rest = axis % len(shape), shape[2:]
    if real is None:
        yield None, slice(None), view
    elif kept > 1:
        count = int(np.count_nonzero(real))
        before, behind = math.prod(shape[2:kept]), math.prod(shape[kept + 1 :])
        yield real, slice(None), (count * before, shape[kept], behind)
    else:
        size = math.prod(rest)
        width = 1 if kept else size  # of the channels of a step
        for step in range(shape[1]):
            samples = np.flatnonzero(real[:, step])
            channels = slice(step * width, (step + 1) * width)
            yield (samples, step), channels, (len(samples), width, size // width)


def _flat(array: Any) -> Any:
    """`array` with one axis, a view."""
    return array if array.ndim == 1 else array.reshape(-1)
