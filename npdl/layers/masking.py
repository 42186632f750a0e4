"""Masks computed from the data."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl._checks import check_number
from npdl.layers.base import Layer, Shape


class Masking(Layer):
    """Mask the steps whose features all have one value; their features become 0.

    The mask travels with the values: recurrent layers, pooling, losses and metrics skip those
    steps.

    Parameters
    ----------
    mask_value : float
        May be NaN.
    """

    makes_mask = True

    def __init__(self, mask_value: float = 0) -> None:
        if isinstance(mask_value, float) and np.isnan(mask_value):
            self.mask_value = float(mask_value)
        else:
            self.mask_value = check_number("mask_value", mask_value, "[-inf, inf]", layer=self.name)

    def build(self, in_shape: Shape) -> Shape:
        """Check the shape of the input."""
        if len(in_shape) < 3:
            raise self._error("The input must have at least 3 axes", shape=in_shape)
        return in_shape

    def make_mask(self, *inputs: NDArray) -> NDArray:
        """Return 1 where any feature of a step differs from `mask_value`, shape (N, T)."""
        x = np.asarray(inputs[0])
        other = ~np.isnan(x) if np.isnan(self.mask_value) else x != self.mask_value
        return other.any(axis=tuple(range(2, x.ndim))).astype(np.uint8)

    def forward(self, input: ArrayLike, train: bool = True) -> NDArray:
        """Return the input, with 0 in the steps that are masked.

        Parameters
        ----------
        input : array_like, shape (N, T, ...)
        train : bool
            Whether to keep what `backward` needs.
        """
        x = self._checked_array(input, ("N", "T", "...", "D"))
        real = self.make_mask(np.asarray(input)) != 0
        real = real.reshape(*real.shape, *(1,) * (x.ndim - 2))
        if train:
            self._cache = real, x.shape, x.dtype
        y = self._buffer("y", x.shape, x.dtype) if train else np.empty(x.shape, x.dtype)
        return _only(real, x, y)

    def backward(self, pre_grad: ArrayLike) -> NDArray | None:
        """Return the gradient in the input, 0 in the steps that are masked."""
        real, shape, dtype = self._saved_for_backward()
        dy = self._checked_array(pre_grad, shape, "pre_grad").astype(dtype, copy=False)
        if not self.need_input_grad:
            return None
        return _only(real, dy, self._buffer("dx", shape, dtype))


def _only(real: NDArray, x: NDArray, y: NDArray) -> NDArray:
    """Fill y with x in real steps, with 0 elsewhere, even where x is NaN."""
    y.fill(0)
    np.copyto(y, x, where=real)
    return y
