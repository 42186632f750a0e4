"""Transposed convolutions: from fewer pixels, or steps, to more."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl._checks import check_int
from npdl.layers._convolving import Convolving


class _Transposed(Convolving):
    """Base of both: their common options."""

    _transposed = True

    def _set_all(self, nb_filter: Any, groups: Any, output_padding: Any, *options: Any) -> None:
        self.nb_filter = check_int("nb_filter", nb_filter, layer=self.name)
        self.groups = check_int("groups", groups, layer=self.name)
        if self.nb_filter % self.groups:
            rule = f"`groups` must divide the number of filters, {self.nb_filter}"
            raise self._error(rule, groups=groups)
        self._set_options(*options)
        self.output_padding = self._for_each_axis("output_padding", output_padding, 0)
        more, bounds = (
            value if self._axes == 2 else (value,)
            for value in (self.output_padding, self._bounds())
        )
        if any(m >= bound for m, bound in zip(more, bounds)):
            rule = "`output_padding` must be less than the stride or the dilation"
            raise self._error(rule, output_padding=output_padding, stride=self.stride)
        if self.padding == "same" and any(more):
            rule = "`output_padding` must be 0 where `padding` is 'same'"
            raise self._error(rule, output_padding=output_padding)

    def _bounds(self) -> Any:
        if self._axes == 1:
            return max(self.stride, self.dilation)
        return tuple(map(max, self.stride, self.dilation))

    def _filters(self, channels: int) -> tuple[int, ...]:
        window = self.filter_size if self._axes == 2 else (self.filter_size,)
        return channels, self.nb_filter // self.groups, *window

    def _draw(self, shape: tuple[int, ...]) -> NDArray:
        # the layer goes from axis 0 of W to axis 1, the opposite of a convolution
        drawn = self.init((shape[1], shape[0], *shape[2:]))
        return np.swapaxes(drawn, 0, 1)


class TransposedConvolution(_Transposed):
    """Transposed convolution of images, with an activation: the adjoint of `Convolution`.

    Input of shape (N, C, H, W) gives output of shape (N, nb_filter, OH, OW). Where a convolution
    gathers the pixels of a window into one, this spreads one over a window; where windows overlap,
    they add up. It is the gradient of a `Convolution` from the output to the input.

    Parameters
    ----------
    nb_filter : int
        Number of filters, and of channels of the output.
    filter_size : int or (int, int)
        Height and width of the filters.
    input_shape : tuple, optional
        (C, H, W), or (None, C, H, W).
    stride : int or (int, int)
        Step from window to window in the output.
    init : str or Initializer
        Initializer of the filters `W`, shape (C, nb_filter / groups, KH, KW). The bias `b` starts
        at zero.
    activation : str or Activation
        Softmax runs over the channels.
    padding : {"valid", "same"}, int, (int, int) or ((int, int), (int, int)), keyword-only
        Rows and columns that are cut off from the output: its height is
        ``(H - 1) * stride + KH - top - bottom + output_padding``. "valid": none. "same": for a
        height of ``H * stride``.
    output_padding : int or (int, int), keyword-only
        Further rows below and columns on the right; less than the stride.
    dilation, groups, use_bias, regularizer : keyword-only
        As in `Convolution`.
    """

    def __init__(
        self,
        nb_filter: int,
        filter_size: int | tuple[int, int],
        input_shape: tuple[int | None, ...] | None = None,
        stride: int | tuple[int, int] = 1,
        init: Any = "glorot_uniform",
        activation: Any = "relu",
        *,
        padding: Any = "valid",
        output_padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        use_bias: bool = True,
        regularizer: Any = None,
    ) -> None:
        options = stride, init, activation, padding, dilation, use_bias, regularizer
        self._set_all(nb_filter, groups, output_padding, filter_size, input_shape, *options)


class TransposedConvolution1D(_Transposed):
    """Transposed convolution of sequences: the adjoint of `Convolution1D`.

    Input of shape (N, T, D) gives output of shape (N, T', nb_filter).

    Parameters
    ----------
    nb_filter : int
        Number of filters, and of numbers of a step of the output.
    filter_size : int
        Steps of a window.
    input_shape : tuple, optional
        (T, D), or (None, T, D); T may be None.
    stride : int
        Steps from window to window in the output.
    init : str or Initializer
        Initializer of the filters `W`, shape (D, nb_filter / groups, K). The bias `b` starts at
        zero.
    activation : str or Activation
    padding : {"valid", "same"}, int or (int, int), keyword-only
        Steps that are cut off from the output: its length is
        ``(T - 1) * stride + K - before - after + output_padding``. "valid": none. "same": for a
        length of ``T * stride``.
    output_padding : int, keyword-only
        Further steps at the end; less than the stride.
    dilation, groups, use_bias, regularizer : keyword-only
        As in `Convolution1D`.
    """

    _axes = 1

    def __init__(
        self,
        nb_filter: int,
        filter_size: int,
        input_shape: tuple[int | None, ...] | None = None,
        stride: int = 1,
        init: Any = "glorot_uniform",
        activation: Any = "relu",
        *,
        padding: Any = "valid",
        output_padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        use_bias: bool = True,
        regularizer: Any = None,
    ) -> None:
        options = stride, init, activation, padding, dilation, use_bias, regularizer
        self._set_all(nb_filter, groups, output_padding, filter_size, input_shape, *options)
