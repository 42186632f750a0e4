"""Layers that change only the shape, or the order of the axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl._checks import check_int
from npdl.layers.base import Layer, Shape, cached_by_shape


class Reshaping(Layer):
    """Base of the layers that change only the shape: they return a view of their input.

    A subclass defines `_reshaped`.
    """

    def _reshaped(self, shape: Shape) -> Shape:
        """The shape of the output for an input of this shape, either with unknown axes None."""
        raise NotImplementedError

    def build(self, in_shape: Shape) -> Shape:
        """Return the shape of the output; there are no parameters."""
        return self._reshaped(in_shape)

    def forward(self, input: ArrayLike, train: bool = True) -> NDArray:
        """Return the input in its new shape, integers as integers.

        Parameters
        ----------
        input : array_like
        train : bool
            Whether to keep what `backward` needs.
        """
        x = np.ascontiguousarray(input)
        y = x.reshape(self._reshaped(x.shape))  # type: ignore[arg-type]
        if train:
            self._cache = x.shape, y.shape
        return y

    def backward(self, pre_grad: ArrayLike) -> NDArray | None:
        """Return the gradient in the shape of the input."""
        x_shape, y_shape = self._saved_for_backward()
        dy = self._checked_array(pre_grad, y_shape, "pre_grad")
        return dy.reshape(x_shape) if self.need_input_grad else None


class Flatten(Reshaping):
    """Keep the first ``outdim - 1`` axes and flatten the rest into one.

    Parameters
    ----------
    outdim : int
        Number of axes of the output.
    """

    def __init__(self, outdim: int = 2) -> None:
        self.outdim = check_int("outdim", outdim, layer=self.name)

    def _reshaped(self, shape: Shape) -> Shape:
        if len(shape) < self.outdim:
            raise self._error(f"The input must have at least {self.outdim} axes", shape=shape)
        return _flattened(shape, self.outdim)


@cached_by_shape
def _flattened(shape: Any, outdim: int) -> Any:
    tail = shape[outdim - 1 :]
    return *shape[: outdim - 1], None if None in tail else math.prod(tail)


class DimShuffle(Reshaping):
    """Insert an axis of length 1.

    Parameters
    ----------
    axis : int
        Place of the new axis in the output; negative counts from the end.
    """

    def __init__(self, axis: int = 1) -> None:
        self.axis = check_int("axis", axis, low=-64, layer=self.name)

    def _reshaped(self, shape: Shape) -> Shape:
        n_axes = len(shape) + 1
        if not -n_axes <= self.axis < n_axes:
            raise self._error(f"`axis` must lie in [{-n_axes}, {n_axes})", axis=self.axis)
        at = self.axis % n_axes
        return (*shape[:at], 1, *shape[at:])


class Reshape(Reshaping):
    """Reshape each sample; its numbers keep their order.

    Parameters
    ----------
    shape : int or sequence of int
        Of a sample, without the sample axis. One size may be -1: it is inferred.

    Notes
    -----
    A mask ends here, since the axis of steps may become another one.
    """

    def __init__(self, shape: int | Sequence[int]) -> None:
        sizes = shape if isinstance(shape, tuple | list | np.ndarray) else (shape,)
        self.shape = tuple(
            -1 if size == -1 else check_int("shape", size, layer=self.name) for size in sizes
        )
        if self.shape.count(-1) > 1:
            raise self._error("Only one size in `shape` may be -1", shape=shape)

    def next_mask(self, masks: Sequence[NDArray | None], y: Any) -> None:
        """Return None."""

    def _reshaped(self, shape: Shape) -> Shape:
        if not shape:
            raise self._error("The input must have at least 1 axis", shape=shape)
        out_shape = _reshaped(tuple(shape), self.shape)
        if out_shape is None:
            rule = f"A sample must have as many numbers as `shape` {self.shape}"
            raise self._error(rule, shape=tuple(shape))
        return out_shape


@cached_by_shape
def _reshaped(shape: Any, wanted: Any) -> Any:
    """The new shape; None if it holds another number of elements. Unknown sizes may fit."""
    fixed = math.prod(size for size in wanted if size != -1)
    if None in shape[1:]:
        return shape[0], *(None if size == -1 else size for size in wanted)
    numbers = math.prod(shape[1:])
    rest, over = divmod(numbers, fixed)
    if over or (rest != 1 and -1 not in wanted):
        return None
    return shape[0], *(rest if size == -1 else size for size in wanted)


class Permute(Layer):
    """Permute the axes of each sample.

    Parameters
    ----------
    axes : sequence of int
        The axes behind that of the samples, from 1, in their new order: ``Permute((2, 1))`` turns
        (N, T, D) into (N, D, T).

    Notes
    -----
    A mask ends here, since the axis of steps may move.
    """

    def __init__(self, axes: Sequence[int]) -> None:
        order = axes if isinstance(axes, tuple | list | np.ndarray) else (axes,)
        self.axes = tuple(check_int("axes", axis, layer=self.name) for axis in order)
        if sorted(self.axes) != list(range(1, len(self.axes) + 1)):
            rule = "`axes` must be the numbers from 1 to that of the axes, each once"
            raise self._error(rule, axes=axes)

    def build(self, in_shape: Shape) -> Shape:
        """Return the shape of the output; there are no parameters."""
        self._check_rank(in_shape, len(self.axes) + 1)
        return in_shape[0], *(in_shape[axis] for axis in self.axes)

    def next_mask(self, masks: Sequence[NDArray | None], y: Any) -> None:
        """Return None."""

    def forward(self, input: ArrayLike, train: bool = True) -> NDArray:
        """Return the input with its axes in the new order, integers as integers.

        Parameters
        ----------
        input : array_like
        train : bool
            Whether to keep what `backward` needs.
        """
        x = np.asarray(input)
        self._check_rank(x.shape, len(self.axes) + 1)
        turned = x.transpose(0, *self.axes)
        y = self._buffer("y", turned.shape, x.dtype) if train else np.empty(turned.shape, x.dtype)
        y[...] = turned
        if train:
            self._cache = x.shape, y.shape
        return y

    def backward(self, pre_grad: ArrayLike) -> NDArray | None:
        """Return the gradient in the input."""
        x_shape, y_shape = self._saved_for_backward()
        dy = self._checked_array(pre_grad, y_shape, "pre_grad")
        if not self.need_input_grad:
            return None
        dx = self._buffer("dx", x_shape, dy.dtype)
        dx.transpose(0, *self.axes)[...] = dy
        return dx


class RepeatVector(Layer):
    """Repeat each sample as the steps of a sequence: (N, D) gives (N, n, D).

    Parameters
    ----------
    n : int
        Number of steps.
    """

    def __init__(self, n: int) -> None:
        self.n = check_int("n", n, layer=self.name)

    def build(self, in_shape: Shape) -> Shape:
        """Return the shape of the output; there are no parameters."""
        self._check_rank(in_shape, 2)
        return in_shape[0], self.n, in_shape[1]

    def next_mask(self, masks: Sequence[NDArray | None], y: Any) -> None:
        """Return None: all steps are real."""

    def forward(self, input: ArrayLike, train: bool = True) -> NDArray:
        """Return the repeated input.

        Parameters
        ----------
        input : array_like, shape (N, D)
        train : bool
            Whether to keep what `backward` needs.
        """
        x = self._checked_array(input, ("N", "D"))
        shape = len(x), self.n, x.shape[1]
        y = self._buffer("y", shape, x.dtype) if train else np.empty(shape, x.dtype)
        y[...] = x[:, None]
        if train:
            self._cache = (shape,)
        return y

    def backward(self, pre_grad: ArrayLike) -> NDArray | None:
        """Return the gradient in the input, the sum over the steps."""
        (shape,) = self._saved_for_backward()
        dy = self._checked_array(pre_grad, shape, "pre_grad")
        if not self.need_input_grad:
            return None
        dx = self._buffer("dx", (shape[0], shape[2]), dy.dtype)
        return dy.sum(axis=1, dtype=np.float64, out=dx)
