"""Depthwise and separable convolutions: first of each channel, then across the channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike, NDArray

from npdl._checks import check_int
from npdl.layers._convolving import Convolving
from npdl.layers.base import Layer, Shape
from npdl.layers.convolution import Convolution, Convolution1D, steps_of_windows


class _Depthwise(Convolving):
    """Base of both: a convolution in as many groups as there are channels."""

    depth_multiplier: int

    def build(self, in_shape: Shape) -> Shape:
        """Create `W` and `b`."""
        self._check_rank(in_shape, self._axes + 2)
        axis = 1 if self._axes == 2 else -1
        declared = None if self.in_shape is None else self.in_shape[axis]
        self.groups = in_shape[axis] or declared or 1
        return super().build(in_shape)

    def _filters(self, channels: int) -> tuple[int, ...]:
        window = self.filter_size if self._axes == 2 else (self.filter_size,)
        return channels * self.depth_multiplier, 1, *window


class DepthwiseConvolution(_Depthwise):
    """Separate convolution of each channel of images, with an activation.

    Input of shape (N, C, H, W) gives output of shape (N, C * depth_multiplier, OH, OW): channel
    ``c * depth_multiplier + m`` is that of filter m on channel c.

    Parameters
    ----------
    filter_size : int or (int, int)
        Height and width of the filters.
    depth_multiplier : int
        Number of filters for each channel.
    input_shape : tuple, optional
        (C, H, W), or (None, C, H, W).
    stride, activation, padding, dilation, use_bias, regularizer
        As in `Convolution`.
    init : str or Initializer
        Initializer of the filters `W`, shape (C * depth_multiplier, 1, KH, KW). The bias `b`
        starts at zero.
    """

    def __init__(
        self,
        filter_size: int | tuple[int, int],
        depth_multiplier: int = 1,
        input_shape: tuple[int | None, ...] | None = None,
        stride: int | tuple[int, int] = 1,
        init: Any = "glorot_uniform",
        activation: Any = "relu",
        *,
        padding: Any = "valid",
        dilation: int | tuple[int, int] = 1,
        use_bias: bool = True,
        regularizer: Any = None,
    ) -> None:
        self.depth_multiplier = check_int("depth_multiplier", depth_multiplier, layer=self.name)
        options = stride, init, activation, padding, dilation, use_bias, regularizer
        self._set_options(filter_size, input_shape, *options)


class DepthwiseConvolution1D(_Depthwise):
    """Separate convolution of each feature of sequences, with an activation.

    Input of shape (N, T, D) gives output of shape (N, T', D * depth_multiplier).

    Parameters
    ----------
    filter_size : int
        Steps of a window.
    depth_multiplier : int
        Number of filters for each of the D numbers.
    input_shape : tuple, optional
        (T, D), or (None, T, D); T may be None.
    stride, activation, padding, dilation, use_bias, regularizer
        As in `Convolution1D`, masks too.
    init : str or Initializer
        Initializer of the filters `W`, shape (D * depth_multiplier, 1, K). The bias `b` starts at
        zero.
    """

    _axes = 1
    _paddings = ("valid", "same", "causal")

    def __init__(
        self,
        filter_size: int,
        depth_multiplier: int = 1,
        input_shape: tuple[int | None, ...] | None = None,
        stride: int = 1,
        init: Any = "glorot_uniform",
        activation: Any = "relu",
        *,
        padding: Any = "valid",
        dilation: int = 1,
        use_bias: bool = True,
        regularizer: Any = None,
    ) -> None:
        self.depth_multiplier = check_int("depth_multiplier", depth_multiplier, layer=self.name)
        options = stride, init, activation, padding, dilation, use_bias, regularizer
        self._set_options(filter_size, input_shape, *options)

    def next_mask(self, masks: Sequence[NDArray | None], y: Any) -> Any:
        """Return the mask of the output, see `Convolution1D`."""
        return steps_of_windows(self, masks[0], y)


class _Separable(Layer):
    """Base of both: two sublayers, `depthwise` and `pointwise`."""

    depthwise: Any
    pointwise: Any

    def _set_parts(
        self,
        nb_filter: Any,
        filter_size: Any,
        input_shape: Any,
        stride: Any,
        init: Any,
        activation: Any,
        padding: Any,
        dilation: Any,
        depth_multiplier: Any,
        use_bias: bool,
        regularizer: Any,
    ) -> None:
        depthwise, pointwise = (
            (DepthwiseConvolution, Convolution)
            if isinstance(self, SeparableConvolution)
            else (DepthwiseConvolution1D, Convolution1D)
        )
        self.depthwise = depthwise(
            filter_size, depth_multiplier, input_shape, stride, init, "linear",
            padding=padding, dilation=dilation, use_bias=False, regularizer=regularizer,
        )  # fmt: skip
        self.pointwise = pointwise(
            nb_filter, 1, None, 1, init, activation, use_bias=use_bias, regularizer=regularizer
        )
        self.depthwise.name, self.pointwise.name = "depthwise", "pointwise"
        self.nb_filter, self.depth_multiplier = nb_filter, depth_multiplier
        first = self.depthwise
        self.filter_size, self.stride, self.padding = first.filter_size, first.stride, first.padding
        self.dilation, self.input_shape, self.init = first.dilation, first.input_shape, first.init
        self.activation, self.use_bias = self.pointwise.activation, self.pointwise.use_bias
        self.regularizer = first.regularizer

    @property
    def in_shape(self) -> Shape | None:
        """Shape of the input, None on the sample axis, if `input_shape` was given."""
        return self.depthwise.in_shape

    def build(self, in_shape: Shape) -> Shape:
        """Create the parameters of both parts."""
        self.depthwise.connect_to(_Source(in_shape))
        self.pointwise.connect_to(self.depthwise)
        return self.pointwise.out_shape

    def forward(self, input: ArrayLike, train: bool = True) -> NDArray:
        """Return the output of the layer.

        Parameters
        ----------
        input : array_like, shape (N, C, H, W); of the 1-D layer (N, T, D)
        train : bool
            Whether to keep what `backward` needs.
        """
        return self.pointwise.forward(self.depthwise.forward(input, train), train)

    def backward(self, pre_grad: ArrayLike) -> NDArray | None:
        """Return the gradient in the input, and fill those of the parameters."""
        self.depthwise.need_input_grad = self.need_input_grad
        return self.depthwise.backward(self.pointwise.backward(pre_grad))

    def next_mask(self, masks: Sequence[NDArray | None], y: Any) -> Any:
        """Return the mask of the output, see `Convolution1D`."""
        if isinstance(self, SeparableConvolution):
            return super().next_mask(masks, y)
        return steps_of_windows(self.depthwise, masks[0], y)


class SeparableConvolution(_Separable):
    """Depthwise convolution of images, then one of 1x1 across the channels (Chollet 2017).

    Input of shape (N, C, H, W) gives output of shape (N, nb_filter, OH, OW). Between the two parts
    there is no bias and no activation.

    Parameters
    ----------
    nb_filter : int
        Number of filters of the second part.
    filter_size : int or (int, int)
        Height and width of the filters of the first part.
    input_shape : tuple, optional
        (C, H, W), or (None, C, H, W).
    stride, padding, dilation
        Options of the first part, as in `Convolution`.
    init : str or Initializer
        Initializer of the filters of both parts, ``layer.depthwise.W`` of shape
        (C * depth_multiplier, 1, KH, KW) and ``layer.pointwise.W`` of shape
        (nb_filter, C * depth_multiplier, 1, 1).
    activation : str or Activation
        Activation of the output.
    depth_multiplier : int, keyword-only
        Number of filters of the first part for each channel.
    use_bias : bool, keyword-only
        Whether the second part has a bias.
    regularizer : str or Regularizer, optional, keyword-only
        Penalty on the filters of both parts.
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
        dilation: int | tuple[int, int] = 1,
        depth_multiplier: int = 1,
        use_bias: bool = True,
        regularizer: Any = None,
    ) -> None:
        options = stride, init, activation, padding, dilation, depth_multiplier
        self._set_parts(nb_filter, filter_size, input_shape, *options, use_bias, regularizer)


class SeparableConvolution1D(_Separable):
    """Depthwise convolution of sequences, then a product with each step.

    Input of shape (N, T, D) gives output of shape (N, T', nb_filter).

    Parameters
    ----------
    nb_filter, filter_size, input_shape, stride, init, activation
    padding, dilation, depth_multiplier, use_bias, regularizer : keyword-only
        As in `SeparableConvolution`, for sequences as in `Convolution1D`.
    """

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
        dilation: int = 1,
        depth_multiplier: int = 1,
        use_bias: bool = True,
        regularizer: Any = None,
    ) -> None:
        options = stride, init, activation, padding, dilation, depth_multiplier
        self._set_parts(nb_filter, filter_size, input_shape, *options, use_bias, regularizer)


class _Source:
    """The shape that a sublayer is connected to."""

    def __init__(self, out_shape: Any) -> None:
        self.out_shape = out_shape
