"""The base of all convolutions: options, shapes, and the kernel calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl import activations, initializations, regularizers
from npdl._checks import check_int, check_pair, error_message
from npdl._ext import kernels
from npdl.activations import KernelCode
from npdl.layers._affine import Affine
from npdl.layers._windows import SIDE_NAMES, check_sides, spread, window_geometry
from npdl.layers.base import Shape, cached_by_shape, shape_fits

#: The values of `padding` in error messages, for windows of one axis and of two.
_NUMBERS = {
    1: "an integer or (before, after)",
    2: "an integer, a pair of integers or ((top, bottom), (left, right))",
}


class Convolving(Affine):
    """Base of the convolutions: of images (N, C, H, W), or of sequences (N, T, D)."""

    #: Axes of a window: 2 for images, whose channels come first; 1 for sequences.
    _axes: int = 2
    #: The words that `padding` may be.
    _paddings: tuple[str, ...] = ("valid", "same")
    #: Whether the convolution is transposed.
    _transposed: bool = False

    input_shape: tuple[int | None, ...] | None
    filter_size: Any
    stride: Any
    dilation: Any
    padding: Any
    groups: int = 1
    output_padding: Any = 0

    # --------------------------------------------------------------------------------- options

    def _set_options(
        self,
        filter_size: Any,
        input_shape: Any,
        stride: Any,
        init: Any,
        activation: Any,
        padding: Any,
        dilation: Any,
        use_bias: bool,
        regularizer: Any,
    ) -> None:
        """Check and keep the options of all convolutions."""
        self.input_shape = self._checked_shape(input_shape)
        self.filter_size = self._for_each_axis("filter_size", filter_size)
        self.stride = self._for_each_axis("stride", stride)
        self.dilation = self._for_each_axis("dilation", dilation)
        self.init = initializations.get(init)
        self.activation = activations.get(activation)
        self.use_bias = bool(use_bias)
        self.regularizer = regularizers.get(regularizer)
        self.padding = self._checked_padding(padding)
        if self._axes == 2:
            self._rows_along = 1

    def _for_each_axis(self, name: str, value: Any, low: int = 1) -> Any:
        """An integer for the one axis of a window, a pair for two."""
        if self._axes == 2:
            return check_pair(name, value, low, layer=self.name)
        if isinstance(value, tuple | list) and len(value) == 1:
            value = value[0]
        return check_int(name, value, low, layer=self.name)

    def _checked_padding(self, padding: Any) -> Any:
        if isinstance(padding, str):
            if padding not in self._paddings:
                words = ", ".join(map(repr, self._paddings))
                rule = f"`padding` must be {words}, {_NUMBERS[self._axes]}"
                raise self._error(rule, padding=padding)
            return padding
        sides = check_sides("padding", padding, self._axes, layer=self.name)
        alike = all(before == after for before, after in sides)
        found = tuple(before for before, _ in sides) if alike else sides
        return found if self._axes == 2 else found[0]

    def _checked_shape(self, shape: Any) -> tuple[int | None, ...] | None:
        if shape is None:
            return None
        rule = f"`input_shape` must be {'(C, H, W)' if self._axes == 2 else '(T, D)'}"
        if isinstance(shape, str):
            rule += f". Write activation={shape!r} for an activation"
        elif isinstance(shape, int | np.integer):
            rule += f". Write stride={shape} for a stride; the number of channels in is no argument"
        if not isinstance(shape, tuple | list):
            raise TypeError(error_message(rule, layer=self.name, input_shape=shape))
        if len(shape) not in (self._axes + 1, self._axes + 2):
            raise self._error(rule, input_shape=shape)
        return tuple(shape)

    @property
    def in_shape(self) -> Shape | None:
        """Shape of the input, None on the sample axis, if `input_shape` was given."""
        return None if self.input_shape is None else (None, *self.input_shape[-1 - self._axes :])

    # ---------------------------------------------------------------------------------- shapes

    def _filters(self, channels: int) -> tuple[int, ...]:
        """Shape of `W` for this number of input channels."""
        raise NotImplementedError

    def _options(self) -> tuple[Any, ...]:
        """The options that, with the shapes, determine the windows."""
        over = self.output_padding if self._transposed else None
        return self._axes, self.stride, self.dilation, self.padding, self.groups, over

    def build(self, in_shape: Shape) -> Shape:
        """Create `W` and `b`."""
        self._check_rank(in_shape, self._axes + 2)
        axis, name = (1, "input_shape[-3]") if self._axes == 2 else (-1, "input_shape[-1]")
        declared = None if self.in_shape is None else self.in_shape[axis]
        channels = self._axis_size(in_shape, axis, name, declared)
        if channels % self.groups:
            rule = f"`groups` must divide the {channels} channels of the input"
            raise self._error(rule, groups=self.groups)
        shape = self._filters(channels)
        counts = self._counts(in_shape, shape)
        out = shape[1] * self.groups if self._transposed else shape[0]
        self._add_weights(self._draw(shape), out)
        return (None, out, *counts) if self._axes == 2 else (None, *counts, out)

    def _draw(self, shape: tuple[int, ...]) -> NDArray:
        """The first filters."""
        return self.init(shape)

    def _counts(self, in_shape: Sequence[int | None], filters: tuple[int, ...]) -> Shape:
        """Size of the output along the axes of a window; an error if it is empty."""
        counts, _ = _window_layout(tuple(in_shape), filters, *self._options())
        if 0 not in counts:
            return counts
        axis = counts.index(0)
        size = in_shape[2 + axis if self._axes == 2 else 1]
        if self._transposed:
            rule = "`padding` must leave something of the output"
            raise self._error(rule, padding=self.padding)
        place = f"image, {size} pixels {SIDE_NAMES[axis]}"
        if self._axes == 1:
            place = f"sequence of {size} steps"
        rule = f"The filter must fit into the {place}"
        if self.dilation in (1, (1, 1)):
            raise self._error(rule, filter_size=self.filter_size)
        raise self._error(rule, filter_size=self.filter_size, dilation=self.dilation)

    # ----------------------------------------------------------------------------- computation

    def _affine_forward(
        self, input: ArrayLike, act: KernelCode, train: bool
    ) -> tuple[NDArray, NDArray]:
        if self.out_shape is None:
            raise self._not_built()
        w, b = self._weights()
        x = self._as_array(input, w.dtype)
        plan = _geometry(x.shape, w.shape, *self._options())
        if plan is None:  # one of these raises the error
            channels = self._channels(w.shape)
            wanted = ("N", channels, "H", "W") if self._axes == 2 else ("N", "T", channels)
            self._checked_array(x, wanted)
            self._counts(x.shape, w.shape)
        shape, geometry = plan
        y = self._buffer("y", shape, w.dtype) if train else np.empty(shape, w.dtype)
        run = kernels().conv2d_transposed_forward if self._transposed else kernels().conv2d_forward
        if self._axes == 2:
            run(x, w, b, y, *geometry, act)
        else:
            run(x[:, :, None], w[..., None], b, y[:, :, None], *geometry, act)
        return x, y

    def _affine_backward(
        self, x: NDArray, y: NDArray, dy: NDArray, act: KernelCode
    ) -> NDArray | None:
        w, (dw, db) = self._parameters_by_name["W"].value, self._weight_grads()
        dx = self._input_buffer(x)
        _, geometry = _geometry(x.shape, w.shape, *self._options())
        arrays = [x, w, y, dy, dx, dw]
        if self._axes == 1:  # images of one column
            arrays = [
                a if a is None else a[..., None] if a is w or a is dw else a[:, :, None]
                for a in arrays
            ]
        name = "conv2d_transposed_backward" if self._transposed else "conv2d_backward"
        getattr(kernels(), name)(*arrays, db, *geometry, act)
        return dx

    def _channels(self, filters: tuple[int, ...]) -> int:
        return filters[0] if self._transposed else filters[1] * self.groups


def _window_layout(
    shape: Any,
    filters: Any,
    axes: int,
    stride: Any,
    dilation: Any,
    padding: Any,
    groups: int,
    over: Any,
) -> Any:
    """Size of the output along each axis of a window, and zeros before it."""
    size, window = (shape[2:] if axes == 2 else shape[1:2]), filters[2:]
    if axes == 1:
        stride, dilation, over = (stride,), (dilation,), (over,)
        padding = padding if isinstance(padding, str) else (padding,)
    reach = tuple(d * (k - 1) + 1 for k, d in zip(window, dilation))
    if over in (None, (None,)):
        return window_geometry(size, reach, stride, padding)
    return spread(size, reach, stride, padding, over)


@cached_by_shape
def _geometry(
    shape: Any,
    filters: Any,
    axes: int,
    stride: Any,
    dilation: Any,
    padding: Any,
    groups: int,
    over: Any,
) -> Any:
    """The output shape and the geometry for the kernels; None if the filter does not fit."""
    channels, out = filters[1] * groups, filters[0]
    if over is not None:
        channels, out = filters[0], filters[1] * groups
    if not shape_fits(shape, ("N", channels, "H", "W") if axes == 2 else ("N", "T", channels)):
        return None
    counts, before = _window_layout(shape, filters, axes, stride, dilation, padding, groups, over)
    if 0 in counts:
        return None
    if axes == 2:
        return (shape[0], out, *counts), (*stride, *before, *dilation, groups, 0)
    return (shape[0], *counts, out), (stride, 1, *before, 0, dilation, 1, groups, 1)
