"""Max and mean pooling."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl._checks import check_pair
from npdl._ext import kernels
from npdl.layers._windows import SIDES, windows
from npdl.layers.base import Layer, Shape, by_shape


class Pooling(Layer):
    """Base of the two pooling layers.

    Input of shape (N, C, H, W) gives output of shape (N, C, OH, OW), with
    ``OH = (H - KH) // SH + 1``; (N, H, W) gives (N, OH, OW). Pixels that no whole window reaches,
    at the lower and right edge, are left out.

    Parameters
    ----------
    pool_size : int or (int, int)
        Height and width of the window.
    stride : int or (int, int), keyword-only
        Step from window to window; the window's size if not given.
    """

    def __init__(
        self,
        pool_size: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] | None = None,
    ) -> None:
        self.pool_size = check_pair("pool_size", pool_size, layer=self.name)
        self.stride = (
            self.pool_size if stride is None else check_pair("stride", stride, layer=self.name)
        )

    def build(self, in_shape: Shape) -> Shape:
        """Return the shape of the output; there are no parameters."""
        self._rank(in_shape, 3, 4)
        return (*in_shape[:-2], *self._counts(in_shape[-2:]))

    def _counts(self, size: Shape) -> Shape:
        """Number of windows along the axes of an image of this size."""
        counts, _ = windows(size, self.pool_size, self.stride)
        if 0 in counts:
            axis = counts.index(0)
            rule = f"The window must fit into the image, {size[axis]} pixels {SIDES[axis]}"
            raise self._error(rule, pool_size=self.pool_size)
        return counts

    def forward(self, input: ArrayLike, train: bool = True) -> NDArray:
        """Return the pooled images.

        Parameters
        ----------
        input : array_like, shape (N, C, H, W) or (N, H, W)
        train : bool
            Whether to remember what `backward` needs.
        """
        x = self._numbers(input)
        shape = _out_shape(x.shape, self.pool_size, self.stride)
        if shape is None:  # one of these says why
            self._array(x, ("N", "H", "W") if x.ndim == 3 else ("N", "C", "H", "W"))
            self._counts(x.shape[-2:])
        y = self._buffer("y", shape, x.dtype) if train else np.empty(shape, x.dtype)
        images, pooled = (x, y) if len(shape) == 4 else (x[:, None], y[:, None])
        winners = self._pool(images, pooled, train)
        if train:
            self._cache = x.shape, shape, winners
        return y

    def backward(self, pre_grad: ArrayLike) -> NDArray | None:
        """Return the gradient in the input."""
        x_shape, y_shape, winners = self._remembered()
        dy = self._array(pre_grad, y_shape, "pre_grad")
        if not self.need_input_grad:
            return None
        dx = self._buffer("dx", x_shape, dy.dtype)
        slopes, sources = (dy, dx) if len(x_shape) == 4 else (dy[:, None], dx[:, None])
        self._pool_back(slopes, winners, sources)
        return dx

    def _pool(self, x: NDArray, y: NDArray, train: bool) -> NDArray | None:
        """Fill y, and return what `_pool_back` needs."""
        raise NotImplementedError

    def _pool_back(self, dy: NDArray, winners: NDArray | None, dx: NDArray) -> None:
        """Fill dx."""
        raise NotImplementedError


class MaxPooling(Pooling):
    """Greatest value of each window; of equal ones the first takes the gradient.

    Parameters
    ----------
    pool_size : int or (int, int)
        Height and width of the window.
    stride : int or (int, int), keyword-only
        Step from window to window; the window's size if not given. See `Pooling` for the shapes.
    """

    def _pool(self, x, y, train):
        winners = self._buffer("winners", y.shape, np.int32) if train else None
        kernels().maxpool_forward(x, y, winners, *self.pool_size, *self.stride)
        return winners

    def _pool_back(self, dy, winners, dx):
        kernels().maxpool_backward(dy, winners, dx)


class MeanPooling(Pooling):
    """Mean of each window.

    Parameters
    ----------
    pool_size : int or (int, int)
        Height and width of the window.
    stride : int or (int, int), keyword-only
        Step from window to window; the window's size if not given. See `Pooling` for the shapes.
    """

    def _pool(self, x, y, train):
        kernels().meanpool_forward(x, y, *self.pool_size, *self.stride)

    def _pool_back(self, dy, winners, dx):
        kernels().meanpool_backward(dy, dx, *self.pool_size, *self.stride)


@by_shape
def _out_shape(shape: Any, window: Any, stride: Any) -> Any:
    """The shape of the output; None where not even one window fits, or there are no images."""
    if 0 in shape or len(shape) not in (3, 4):
        return None
    counts, _ = windows(shape[-2:], window, stride)
    return None if 0 in counts else shape[:-2] + counts
