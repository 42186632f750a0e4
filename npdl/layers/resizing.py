"""Layers that make images larger or smaller, and sequences longer or shorter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl._checks import check_choice, check_int, check_pair
from npdl._ext import kernels
from npdl.layers._windows import Sides, check_sides
from npdl.layers.base import Layer, Shape


class _Resizing(Layer):
    """Base: a subclass defines `_resized`, `_fill` and `_fill_back`."""

    #: The shapes of inputs, for messages.
    _shapes: tuple[tuple[str, ...], ...] = ("N", "H", "W"), ("N", "C", "H", "W")

    def _resized(self, shape: Any) -> tuple[Any, ...]:
        """The shape of the output, unknown axes None in both."""
        raise NotImplementedError

    def _fill(self, x: NDArray, y: NDArray) -> None:
        """Fill y."""
        raise NotImplementedError

    def _fill_back(self, dy: NDArray, dx: NDArray) -> None:
        """Fill dx."""
        raise NotImplementedError

    def build(self, in_shape: Shape) -> Shape:
        """Return the shape of the output; there are no parameters."""
        self._check_rank(in_shape, *map(len, self._shapes))
        return self._resized(in_shape)

    def forward(self, input: ArrayLike, train: bool = True) -> NDArray:
        """Return the resized input.

        Parameters
        ----------
        input : array_like, shape (N, C, H, W) or (N, H, W); of a 1-D layer (N, T, D)
        train : bool
            Whether to keep what `backward` needs.
        """
        x = self._as_array(input)
        wanted = next((s for s in self._shapes if len(s) == x.ndim), self._shapes[-1])
        x = self._checked_array(x, wanted)
        shape = self._resized(x.shape)
        y = self._buffer("y", shape, x.dtype) if train else np.empty(shape, x.dtype)
        self._fill(x, y)
        if train:
            self._cache = x.shape, shape
        return y

    def backward(self, pre_grad: ArrayLike) -> NDArray | None:
        """Return the gradient in the input."""
        x_shape, y_shape = self._saved_for_backward()
        dy = self._checked_array(pre_grad, y_shape, "pre_grad")
        if not self.need_input_grad:
            return None
        dx = self._buffer("dx", x_shape, dy.dtype)
        self._fill_back(dy, dx)
        return dx


# ------------------------------------------------------------------------------------ larger


class UpSampling(_Resizing):
    """Make images larger by a whole factor: (N, C, H, W) gives (N, C, SH H, SW W).

    Parameters
    ----------
    size : int or (int, int)
        Factors of height and width.
    interpolation : {"nearest", "bilinear"}, keyword-only
        Repeat each pixel, or interpolate linearly between the centres of pixels, and repeat the
        edge beyond the outer ones, as Keras does, and PyTorch with ``align_corners=False``.
    """

    def __init__(self, size: int | tuple[int, int] = 2, *, interpolation: str = "nearest") -> None:
        self.size = check_pair("size", size, layer=self.name)
        self.interpolation = check_choice("interpolation", interpolation, ("nearest", "bilinear"))

    def _resized(self, shape):
        sizes = zip(shape[-2:], self.size, strict=True)
        return *shape[:-2], *(None if n is None else n * factor for n, factor in sizes)

    def _fill(self, x, y):
        linear = self.interpolation == "bilinear"
        kernels().enlarge_forward(_images(x), _images(y), linear)

    def _fill_back(self, dy, dx):
        linear = self.interpolation == "bilinear"
        kernels().enlarge_backward(_images(dy), _images(dx), linear)


def _images(array: NDArray) -> NDArray:
    """A view of an array (N, C, H, W), (N, H, W) or (N, T, D) as images."""
    return array if array.ndim == 4 else array[:, None]


class UpSampling1D(_Resizing):
    """Repeat each step of a sequence: (N, T, D) gives (N, size T, D). A mask is repeated too.

    Parameters
    ----------
    size : int
        Number of repetitions.
    """

    _shapes = (("N", "T", "D"),)

    def __init__(self, size: int = 2) -> None:
        self.size = check_int("size", size, layer=self.name)

    def _resized(self, shape):
        n, steps, width = shape
        return n, None if steps is None else steps * self.size, width

    def _fill(self, x, y):
        kernels().enlarge_forward(_images(x), _images(y), False)

    def _fill_back(self, dy, dx):
        kernels().enlarge_backward(_images(dy), _images(dx), False)

    def next_mask(self, masks: Sequence[NDArray | None], y: Any) -> NDArray | None:
        """Return the mask of the output."""
        return None if masks[0] is None else np.repeat(masks[0], self.size, axis=1)


# ------------------------------------------------------------------------- frames of an image


def _inside(array: NDArray, sides: Sides) -> NDArray:
    """A view without some entries at the beginning and end of the last axes."""
    axes = zip(array.shape[array.ndim - len(sides) :], sides)
    inside: tuple[Any, ...] = tuple(slice(before, size - after) for size, (before, after) in axes)
    return array[(..., *inside)]


def _grown(shape: Any, sides: Sides, sign: int) -> tuple[Any, ...]:
    """The shape with entries added to, or removed from, both ends of its last axes."""
    start = len(shape) - len(sides)
    ends = (
        None if size is None else size + sign * (before + after)
        for size, (before, after) in zip(shape[start:], sides)
    )
    return *shape[:start], *ends


class _Padding(_Resizing):
    _sides: Sides

    def _resized(self, shape):
        return _grown(shape, self._sides, 1)

    def _fill(self, x, y):
        y[...] = 0
        _inside(y, self._sides)[...] = x

    def _fill_back(self, dy, dx):
        dx[...] = _inside(dy, self._sides)


class _Cut(_Resizing):
    _sides: Sides

    def _resized(self, shape):
        out_shape = _grown(shape, self._sides, -1)
        if any(size is not None and size < 1 for size in out_shape[1:]):
            rule = f"`cropping` must leave something of the input, {tuple(shape)}"
            raise self._error(rule, cropping=self.cropping)  # type: ignore[attr-defined]
        return out_shape

    def _fill(self, x, y):
        y[...] = _inside(x, self._sides)

    def _fill_back(self, dy, dx):
        dx[...] = 0
        _inside(dx, self._sides)[...] = dy


class ZeroPadding(_Padding):
    """Put zeros around images: (N, C, H, W) gives (N, C, top + H + bottom, left + W + right).

    Parameters
    ----------
    padding : int, (int, int) or ((int, int), (int, int))
        On all sides; above and below, left and right; or ``((top, bottom), (left, right))``.
    """

    def __init__(self, padding: Any = 1) -> None:
        self.padding = self._sides = check_sides("padding", padding, layer=self.name)


class ZeroPadding1D(_Padding):
    """Put zeros before and after the steps of sequences: (N, T, D) gives (N, T', D).

    In a mask these steps are not real.

    Parameters
    ----------
    padding : int or (int, int)
        On both sides, or before and after.
    """

    _shapes = (("N", "T", "D"),)

    def __init__(self, padding: Any = 1) -> None:
        self.padding = check_sides("padding", padding, 1, layer=self.name)[0]
        self._sides = self.padding, (0, 0)

    def next_mask(self, masks: Sequence[NDArray | None], y: Any) -> NDArray | None:
        """Return the mask of the output."""
        return None if masks[0] is None else np.pad(masks[0], ((0, 0), self.padding))


class Cropping(_Cut):
    """Cut the edges off images: (N, C, H, W) gives (N, C, H - top - bottom, W - left - right).

    Parameters
    ----------
    cropping : int, (int, int) or ((int, int), (int, int))
        On all sides; above and below, left and right; or ``((top, bottom), (left, right))``.
    """

    def __init__(self, cropping: Any = 0) -> None:
        self.cropping = self._sides = check_sides("cropping", cropping, layer=self.name)


class Cropping1D(_Cut):
    """Cut steps off the start and the end of sequences: (N, T, D) gives (N, T', D).

    A mask is cut likewise.

    Parameters
    ----------
    cropping : int or (int, int)
        On both sides, or at the start and the end.
    """

    _shapes = (("N", "T", "D"),)

    def __init__(self, cropping: Any = 1) -> None:
        self.cropping = check_sides("cropping", cropping, 1, layer=self.name)[0]
        self._sides = self.cropping, (0, 0)

    def next_mask(self, masks: Sequence[NDArray | None], y: Any) -> NDArray | None:
        """Return the mask of the output."""
        return None if masks[0] is None else _inside(np.asarray(masks[0]), (self.cropping,)).copy()
