"""Folded layers: at prediction, batch normalization is part of the weights of the layer before it.

There it is only a scale and a shift of each channel::

    scale (x W + b - mean) + beta = x (scale W) + (scale (b - mean) + beta)
    scale = gamma / sqrt(var + epsilon)

The new weights are computed again at each call, as the old ones may have changed. `Folded.keep`
ends that, for a network that stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl import activations
from npdl.layers._affine import Affine
from npdl.layers._convolving import Convolving
from npdl.layers._fusing import joined, pairs
from npdl.layers.base import Layer
from npdl.layers.convolution import Convolution, Convolution1D
from npdl.layers.core import Dense, Linear
from npdl.layers.normalization import BatchNormal, BatchNormalization
from npdl.layers.parameter import Parameter
from npdl.layers.separable import (
    DepthwiseConvolution,
    DepthwiseConvolution1D,
    SeparableConvolution,
    SeparableConvolution1D,
)
from npdl.layers.step import Step
from npdl.layers.transposed import TransposedConvolution, TransposedConvolution1D

_SEPARABLE = (SeparableConvolution, SeparableConvolution1D)
_AFFINE = (
    *(Linear, Dense, Convolution, Convolution1D, DepthwiseConvolution, DepthwiseConvolution1D),
    *(TransposedConvolution, TransposedConvolution1D, *_SEPARABLE),
)


class Folded(Layer):
    """An affine layer, the batch normalization behind it, and perhaps ReLU; only for prediction.

    Parameters
    ----------
    affine : Layer
        Dense, or a convolution.
    norm : BatchNormal
    act : Layer, optional
        The activation layer behind them.
    """

    def __init__(self, affine: Any, norm: Any, act: Any = None) -> None:
        self.affine, self.norm, self.act = affine, norm, act
        self.out_shape = norm.out_shape
        #: The layer that does the work of all three, if nothing changes any more.
        self.whole: Any = None

    def keep(self) -> None:
        """Compute the weights once and for all."""
        self.whole = self._joined()

    def _joined(self) -> Any:
        """The layer that does the work of all; None if a change by the user forbids it."""
        affine, norm, act = self.affine, self.norm, self.act
        if _is_patched(affine) or _is_patched(norm) or not _is_linear(affine):
            return None
        if act is None:
            return _scaled(affine, norm, None)
        if _is_patched(act) or not norm.takes_over(act):
            return None
        return _scaled(affine, norm, act.activation)

    def forward(self, input: ArrayLike, train: bool = False) -> NDArray:
        """Return the output of the layers."""
        whole = self.whole if self.whole is not None else self._joined()
        if whole is None:
            return self.forward_masked((input,), (None,), train)[0]
        return whole.forward(input, False)

    def forward_masked(
        self, inputs: Sequence[Any], masks: Sequence[NDArray | None], train: bool
    ) -> tuple[Any, Any]:
        """Return the output of the layers, and its mask; see `Layer.forward_masked`."""
        whole = self.whole if self.whole is not None else self._joined()
        if whole is None:
            y, mask = inputs[0], masks[0]
            for layer in (self.affine, self.norm, self.act):
                if layer is not None:
                    y, mask = layer.forward_masked((y,), (mask,), train)
            return y, mask
        y, mask = whole.forward_masked(inputs, masks, False)
        if mask is not None and y.ndim >= 3:  # as the normalization does
            y[np.asarray(mask) == 0] = 0
        return y, mask


def folded_steps(
    steps: Sequence[Step], repeated: Sequence[Step], kept: Collection[int]
) -> list[Step]:
    """The steps of a plan at prediction; see `pairs` for the arguments."""
    behind = pairs(steps, repeated, kept, are_foldable)
    found = joined(steps, behind, lambda step, norm: Folded(step.owner, norm.owner))
    behind = pairs(found, repeated, kept, _are_with_relu)
    return joined(found, behind, lambda step, act: _with(step.owner, act.owner))


def are_foldable(affine: Any, norm: Any) -> bool:
    """Whether the weights of a layer can do the work of the normalization behind it."""
    if type(affine) not in _AFFINE or type(norm) not in (BatchNormal, BatchNormalization):
        return False
    shape, last = affine.out_shape, _last(affine)
    if shape is None or norm.out_shape is None or len(getattr(last, "_units", (0,))) != 1:
        return False
    n_axes = len(shape)
    channels = 1 if isinstance(last, Convolving) and last._axes == 2 else n_axes - 1
    own = n_axes - 1 if norm.axis == 0 and n_axes == 2 else norm.axis % n_axes
    return own == channels and norm.gamma.dtype == last.W.dtype and _is_linear(affine)


def _last(affine: Any) -> Any:
    """The layer whose weights are scaled: of a separable convolution its second part."""
    return affine.pointwise if type(affine) in _SEPARABLE else affine


def _is_linear(affine: Any) -> bool:
    return type(_last(affine).activation) is activations.Linear


def _is_patched(layer: Any) -> bool:
    return "forward" in vars(layer)


def _are_with_relu(folded: Any, act: Any) -> bool:
    return isinstance(folded, Folded) and folded.norm.takes_over(act)


def _with(folded: Any, act: Layer) -> Folded:
    return Folded(folded.affine, folded.norm, act)


def _scaled(layer: Any, norm: BatchNormal, act: Any) -> Any:
    """A copy of a layer with weights that do the work of a normalization, and an activation."""
    made = object.__new__(type(layer))
    vars(made).update(vars(layer))
    if type(layer) in _SEPARABLE:
        made.pointwise = _scaled(layer.pointwise, norm, act)
        return made
    w, b = layer._weights()
    gamma, beta, mean, var = (p.value for p in norm._parameters_by_name.values())
    with np.errstate(all="ignore"):  # the kernels don't warn either
        scale = gamma / np.sqrt(var + norm.epsilon)
        weights = w * _along_outputs(layer, w, scale)
        bias = beta - mean * scale if b is None else beta + (b - mean) * scale
    made._parameters_by_name = {
        "W": Parameter.constant("W", weights),
        "b": Parameter.constant("b", bias),
    }
    made.use_bias = True
    if act is not None:
        made.activation = act
    return made


def _along_outputs(layer: Affine, w: NDArray, scale: NDArray) -> NDArray:
    """The scale of each output, in a shape that is broadcast to the weights `w`."""
    if not isinstance(layer, Convolving):
        return scale
    ones = (1,) * layer._axes
    if not layer._transposed:
        return scale.reshape(-1, 1, *ones)
    # (C, F / groups, ...): the channels of a group lead to the outputs of that group
    each = np.repeat(scale.reshape(layer.groups, -1), len(w) // layer.groups, axis=0)
    return each.reshape(*each.shape, *ones)
