"""Two-dimensional convolution."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl import activations, initializations, regularizers
from npdl._checks import check_int, check_pair
from npdl._ext import kernels
from npdl.activations import KernelCode
from npdl.layers._affine import Affine
from npdl.layers._windows import SIDES, windows
from npdl.layers.base import Shape, by_shape, fits


class Convolution(Affine):
    """Two-dimensional convolution of images, with an activation.

    Input of shape (N, C, H, W) gives output of shape (N, nb_filter, OH, OW). The formula stands in
    ``npdl._ext.conv_np``.

    Parameters
    ----------
    nb_filter : int
        Number of filters.
    filter_size : int or (int, int)
        Height and width of the filters.
    input_shape : tuple, optional
        (C, H, W), or (None, C, H, W); only the first layer of a network has to be told.
    stride : int or (int, int)
        Step from window to window, downwards and to the right.
    init : str or Initializer
        Of the filters `W`, shape (nb_filter, C, KH, KW). The bias `b` starts at zero.
    activation : str or Activation
        Softmax runs along the last axis, OW.
    padding : {"valid", "same"} or int or (int, int), keyword-only
        Zeros around the image. "valid": none. "same": as many as it takes for the output to have
        ``ceil(H / stride)`` rows, one more below and on the right where their number is odd.
        Numbers: rows above and below, columns left and right.
    regularizer : str or Regularizer, optional, keyword-only
        Of `W`.
    """

    color = "#1f5fa8"

    def __init__(
        self,
        nb_filter: int,
        filter_size: int | tuple[int, int],
        input_shape: tuple[int | None, ...] | None = None,
        stride: int | tuple[int, int] = 1,
        init: Any = "glorot_uniform",
        activation: Any = "relu",
        *,
        padding: str | int | tuple[int, int] = "valid",
        regularizer: Any = None,
    ) -> None:
        self.nb_filter = check_int("nb_filter", nb_filter, layer=self.name)
        self.filter_size = check_pair("filter_size", filter_size, layer=self.name)
        self.input_shape = None if input_shape is None else tuple(input_shape)
        if self.input_shape is not None and len(self.input_shape) not in (3, 4):
            raise self._error("`input_shape` must be (C, H, W)", input_shape=input_shape)
        self.stride = check_pair("stride", stride, layer=self.name)
        self.init = initializations.get(init)
        self.activation = activations.get(activation)
        self.regularizer = regularizers.get(regularizer)
        if isinstance(padding, str):
            if padding not in ("valid", "same"):
                rule = "`padding` must be 'valid', 'same', an integer or a pair of integers"
                raise self._error(rule, padding=padding)
            self.padding: str | tuple[int, int] = padding
        else:
            self.padding = check_pair("padding", padding, low=0, layer=self.name)

    @property
    def in_shape(self) -> Shape | None:
        """(None, C, H, W), if `input_shape` was given."""
        return None if self.input_shape is None else (None, *self.input_shape[-3:])

    def build(self, in_shape: Shape) -> Shape:
        """Create `W` and `b`."""
        self._rank(in_shape, 4)
        declared = None if self.in_shape is None else self.in_shape[1]
        channels = self._size(in_shape, 1, "input_shape[-3]", declared)
        self._add_weights((self.nb_filter, channels, *self.filter_size), self.nb_filter, self.init)
        counts, _ = self._windows(in_shape[2:])
        return None, self.nb_filter, *counts

    def _windows(self, size: Shape) -> tuple[Shape, tuple[int, int]]:
        """Number of windows along the axes of an image of this size, and zeros before them."""
        counts, before = windows(size, self.filter_size, self.stride, self.padding)
        if 0 in counts:
            axis = counts.index(0)
            rule = f"The filter must fit into the image, {size[axis]} pixels {SIDES[axis]}"
            raise self._error(rule, filter_size=self.filter_size)
        return counts, before

    def _map(self, input: ArrayLike, act: KernelCode, train: bool) -> tuple[NDArray, NDArray]:
        if self.out_shape is None:
            raise self._not_built()
        w, b = self._named["W"].value, self._named["b"].value
        x = self._numbers(input, w.dtype)
        plan = _plan(x.shape, w.shape, self.stride, self.padding)
        if plan is None:  # one of these says why
            self._array(x, ("N", w.shape[1], "H", "W"))
            self._windows(x.shape[2:])
        shape, geometry = plan
        y = self._buffer("y", shape, w.dtype) if train else np.empty(shape, w.dtype)
        kernels().conv2d_forward(x, w, b, y, *geometry, act)
        return x, y

    def _map_back(self, x: NDArray, y: NDArray, dy: NDArray, act: KernelCode) -> NDArray | None:
        w, b = self._named["W"], self._named["b"]
        dx = self._input_buffer(x)
        _, geometry = _plan(x.shape, w.value.shape, self.stride, self.padding)
        kernels().conv2d_backward(x, w.value, y, dy, dx, w.grad, b.grad, *geometry, act)
        return dx


@by_shape
def _plan(shape: Any, filters: Any, stride: Any, padding: Any) -> Any:
    """The shape of the output, and what the kernels take of the geometry; None if nothing fits."""
    if not fits(shape, ("N", filters[1], "H", "W")):
        return None
    counts, before = windows(shape[2:], filters[2:], stride, padding)
    return None if 0 in counts else ((shape[0], filters[0], *counts), (*stride, *before))
