"""Folded layers: at prediction, batch normalization is part of the weights of the layer before it.

There it is only a scale and a shift of each channel::

    scale (x W + b - mean) + beta = x (scale W) + (scale (b - mean) + beta)
    scale = gamma / sqrt(var + epsilon)

The new weights are computed again at each call, as the old ones may have changed. `Folded.keep`
ends that, for a network that stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl import activations
from npdl.layers._affine import Affine
from npdl.layers._convolving import Convolving
from npdl.layers._fusing import are_replaced, joined, pairs
from npdl.layers.activation import Activation, ReLU
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
_NORMS = (BatchNormal, BatchNormalization)
#: The most weights of a folded layer for each output of a sample. With more, computing them at each
#: call costs more than a separate normalization of a few samples.
MOST = 10


class Folded(Layer):
    """An affine layer, the batch normalization behind it, and perhaps an activation behind that.

    Only for prediction. The layers run one by one where a change by the user forbids the rest.

    Parameters
    ----------
    affine : Layer
        Dense, or a convolution.
    norm : BatchNormal
    act : Layer, optional
        The activation layer behind them; it is folded too if it is ReLU.
    """

    def __init__(self, affine: Any, norm: Any, act: Any = None) -> None:
        self.affine, self.norm, self.act = affine, norm, act
        self.out_shape = norm.out_shape
        #: What `_parts` returns, if nothing changes any more.
        self.kept: list[Any] | None = None

    def keep(self) -> None:
        """Compute the weights once and for all."""
        self.kept = self._parts()

    def _parts(self) -> list[Any]:
        """The layers that compute the output; the first is the folded one if there is one."""
        if self.kept is not None:
            return self.kept
        affine, norm, act = self.affine, self.norm, self.act
        behind = [] if act is None else [act]
        if not _are_foldable(affine, norm):
            return [affine, norm, *behind]
        if act is not None and norm.takes_over(act) and not are_replaced(act):
            return [_scaled(affine, norm, act.activation)]
        return [_scaled(affine, norm, None), *behind]

    def forward(self, input: ArrayLike, train: bool = False) -> NDArray:
        """Return the output of the layers."""
        return self.forward_masked((input,), (None,), train)[0]

    def forward_masked(
        self, inputs: Sequence[Any], masks: Sequence[NDArray | None], train: bool
    ) -> tuple[Any, Any]:
        """Return the output of the layers, and its mask; see `Layer.forward_masked`."""
        first, *rest = self._parts()
        y, mask = first.forward_masked(inputs, masks, False)
        if first is not self.affine:
            if y.ndim != len(self.norm.out_shape):  # Dense takes it, but not the normalization
                self.norm.forward(self.affine.forward(inputs[0], False), False)
            if mask is not None and y.ndim >= 3:  # as the normalization does
                y[np.asarray(mask) == 0] = 0
        for layer in rest:
            y, mask = layer.forward_masked((y,), (mask,), False)
        return y, mask


def folded_steps(
    steps: Sequence[Step], repeated: Sequence[Step], kept: Collection[int]
) -> list[Step]:
    """The steps of a plan at prediction; see `pairs` for the arguments.

    They depend on nothing that may change after the plan was made.
    """
    behind = pairs(steps, repeated, kept, _may_fold)
    found = joined(steps, behind, lambda step, norm: Folded(step.owner, norm.owner))
    behind = pairs(found, repeated, kept, _may_follow)
    return joined(found, behind, _with)


def _may_fold(step: Step, behind: Step) -> bool:
    """Whether a layer may do the work of the normalization behind it, in less time."""
    affine, norm = step.owner, behind.owner
    sizes: Any = step.shapes[0][1:]
    if type(affine) not in _AFFINE or type(norm) not in _NORMS or not _fit(affine, norm):
        return False
    return None in sizes or affine.count_params() <= MOST * math.prod(sizes)


def _fit(affine: Any, norm: Any) -> bool:
    """Whether each output of a layer has its own scale."""
    n_axes = len(affine.out_shape)
    images = isinstance(affine, Convolving) and affine._axes == 2
    channels = 1 if images or type(affine) is SeparableConvolution else n_axes - 1
    own = n_axes - 1 if norm.axis == 0 and n_axes == 2 else norm.axis % n_axes
    return own == channels and len(getattr(affine, "_units", (0,))) == 1


def _may_follow(step: Step, behind: Step) -> bool:
    return isinstance(step.owner, Folded) and type(behind.owner) in (Activation, ReLU)


def _with(step: Any, behind: Step) -> Folded:
    return Folded(step.owner.affine, step.owner.norm, behind.owner)


def _are_foldable(affine: Any, norm: Any) -> bool:
    """Whether the weights of a layer, as it is now, can do the work of a normalization."""
    last = affine.pointwise if type(affine) in _SEPARABLE else affine
    if type(last) not in _AFFINE or type(last.activation) is not activations.Linear:
        return False
    if are_replaced(affine) or are_replaced(norm) or are_replaced(last):
        return False
    return norm.gamma.dtype == last.W.dtype and _fit(affine, norm)


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
        scale = gamma / np.sqrt(var + float(norm.epsilon))
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
