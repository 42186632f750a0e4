"""Convolutions of images and sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl._checks import check_int
from npdl.layers._convolving import Convolving


class Convolution(Convolving):
    """Two-dimensional convolution of images, with an activation.

    Input of shape (N, C, H, W) gives output of shape (N, nb_filter, OH, OW). The formula is in
    ``npdl._ext.conv_np``.

    Parameters
    ----------
    nb_filter : int
        Number of filters.
    filter_size : int or (int, int)
        Height and width of the filters.
    input_shape : tuple, optional
        (C, H, W), or (None, C, H, W); needed only for the first layer of a network that is built
        before it has seen data.
    stride : int or (int, int)
        Step from window to window, downwards and to the right.
    init : str or Initializer
        Initializer of the filters `W`, shape (nb_filter, C / groups, KH, KW). The bias `b` starts
        at zero.
    activation : str or Activation
        Softmax runs over the channels.
    padding : {"valid", "same"}, int, (int, int) or ((int, int), (int, int)), keyword-only
        Zeros around the image. "valid": none. "same": as many as it takes for the output to have
        ``ceil(H / stride)`` rows, one more below and on the right where their number is odd.
        Numbers: rows above and below, columns left and right; or
        ``((top, bottom), (left, right))``.
    dilation : int or (int, int), keyword-only
        Step from one pixel of a window to the next, downwards and to the right.
    groups : int, keyword-only
        Into how many parts channels and filters are divided: each part of the filters sees its
        own part of the channels.
    use_bias : bool, keyword-only
        Whether there is a bias `b`.
    regularizer : str or Regularizer, optional, keyword-only
        Penalty on `W`.
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
        padding: Any = "valid",
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        use_bias: bool = True,
        regularizer: Any = None,
    ) -> None:
        self.nb_filter = check_int("nb_filter", nb_filter, layer=self.name)
        self.groups = _checked_groups(self, groups)
        options = stride, init, activation, padding, dilation, use_bias, regularizer
        self._set_options(filter_size, input_shape, *options)

    def _filters(self, channels: int) -> tuple[int, ...]:
        return self.nb_filter, channels // self.groups, *self.filter_size


class Convolution1D(Convolving):
    """Convolution of sequences, with an activation.

    Input of shape (N, T, D) gives output of shape (N, T', nb_filter) ::

        y[n,t,f] = act(b[f] + Σ_{d,k} W[f,d,k] · x[n, t*stride + k*dilation - before, d])

    Parameters
    ----------
    nb_filter : int
        Number of filters.
    filter_size : int
        Steps of a window.
    input_shape : tuple, optional
        (T, D), or (None, T, D); T may be None.
    stride : int
        Steps from window to window.
    init : str or Initializer
        Initializer of the filters `W`, shape (nb_filter, D / groups, K). The bias `b` starts at
        zero.
    activation : str or Activation
    padding : {"valid", "same", "causal"}, int or (int, int), keyword-only
        Steps of zeros around the sequence. "valid": none. "same": for ``ceil(T / stride)`` windows,
        one more at the end where their number is odd. "causal": all of them before the sequence,
        so that no output sees a later step. Numbers: before and after.
    dilation : int, keyword-only
        Steps from one number of a window to the next.
    groups, use_bias, regularizer : keyword-only
        As in `Convolution`.

    Notes
    -----
    A mask (N, T) of steps is passed on. With "same" and "causal" a window has the mask
    of the step that it belongs to; otherwise it is real if all of its steps are.
    """

    _axes = 1
    _paddings = ("valid", "same", "causal")

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
        groups: int = 1,
        use_bias: bool = True,
        regularizer: Any = None,
    ) -> None:
        self.nb_filter = check_int("nb_filter", nb_filter, layer=self.name)
        self.groups = _checked_groups(self, groups)
        options = stride, init, activation, padding, dilation, use_bias, regularizer
        self._set_options(filter_size, input_shape, *options)

    def _filters(self, channels: int) -> tuple[int, ...]:
        return self.nb_filter, channels // self.groups, self.filter_size

    def next_mask(self, masks: Sequence[NDArray | None], y: Any) -> Any:
        """Return the mask of the output, see the notes of the class."""
        return steps_of_windows(self, masks[0], y)


def _checked_groups(layer: Any, groups: Any) -> int:
    groups = check_int("groups", groups, layer=layer.name)
    if layer.nb_filter % groups:
        rule = f"`groups` must divide the number of filters, {layer.nb_filter}"
        raise layer._error(rule, groups=groups)
    return groups


def steps_of_windows(layer: Convolving, mask: NDArray | None, y: NDArray) -> NDArray | None:
    """The mask (N, T') of the windows of a convolution of sequences, from that of the steps."""
    if mask is None:
        return None
    mask, n_windows = np.asarray(mask) != 0, y.shape[1]
    if layer.padding in ("same", "causal"):
        return mask[:, :: layer.stride]
    before, after = (0, 0) if layer.padding == "valid" else _pair(layer.padding)
    real = np.pad(mask, ((0, 0), (before, after)), constant_values=True)
    counts = np.ones((len(mask), n_windows), bool)
    for k in range(layer.filter_size):
        first = k * layer.dilation
        counts &= real[:, first : first + layer.stride * (n_windows - 1) + 1 : layer.stride]
    return counts


def _pair(padding: Any) -> tuple[int, int]:
    return padding if isinstance(padding, tuple) else (padding, padding)
