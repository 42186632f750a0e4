"""Layers that change the shape alone. What they return is a view of their input."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl._checks import check_int
from npdl.layers.base import Layer, Shape, by_shape


class Reshaping(Layer):
    """Base of the layers that change the shape alone; a subclass defines `_reshaped`."""

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
            Whether to remember what `backward` needs.
        """
        x = np.ascontiguousarray(input)
        y = x.reshape(self._reshaped(x.shape))  # type: ignore[arg-type]
        if train:
            self._cache = x.shape, y.shape
        return y

    def backward(self, pre_grad: ArrayLike) -> NDArray | None:
        """Return the gradient in the shape of the input."""
        x_shape, y_shape = self._remembered()
        dy = self._array(pre_grad, y_shape, "pre_grad")
        return dy.reshape(x_shape) if self.need_input_grad else None


class Flatten(Reshaping):
    """Keep the first ``outdim - 1`` axes and make one of all that follow.

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


@by_shape
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
