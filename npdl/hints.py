"""Level 2: warnings about data that a model can't learn from, before the first step."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl import activations
from npdl._checks import warn
from npdl.layers.base import Layer
from npdl.layers.convolution import Convolution
from npdl.objectives.kinds import Elementwise

#: The values that an activation takes.
_RANGES: dict[type, tuple[float, float]] = {
    activations.Tanh: (-1, 1),
    activations.SoftSign: (-1, 1),
    activations.SymmetricElliot: (-1, 1),
    activations.HardTanh: (-1, 1),
    activations.Sigmoid: (0, 1),
    activations.HardSigmoid: (0, 1),
    activations.Elliot: (0, 1),
    activations.Softmax: (0, 1),
    activations.ReLU: (0, np.inf),
    activations.SoftPlus: (0, np.inf),
    activations.Exponential: (0, np.inf),
}


def targets_out_of_reach(layer: Layer, loss: Any, y: NDArray) -> None:
    """Warn if most targets of a regression are outside the range of the last activation."""
    activation = getattr(layer, "activation", None)
    low, high = _RANGES.get(type(activation), (-np.inf, np.inf))
    if getattr(loss, "classifies", True) or not isinstance(loss, Elementwise) or not y.size:
        return
    if np.isinf(low) and np.isinf(high):
        return
    if np.count_nonzero((y < low) | (y > high)) > 0.8 * y.size:  # a few may be outliers
        least, most = float(np.min(y)), float(np.max(y))
        warn(
            f"The targets lie in [{least:g}, {most:g}], but the activation "
            f"{type(activation).__name__} of layer {layer.name!r} returns values in "
            f"[{low:g}, {high:g}]. Use activation='linear' for a regression."
        )


def channels_last(layer: Layer, x: NDArray) -> None:
    """Warn if images look channels-last."""
    if (
        isinstance(layer, Convolution)
        and layer.declared_shape is None
        and x.ndim == 4
        and x.shape[3] in (1, 3)
        and x.shape[1] > 4
        and x.shape[1] == x.shape[2]
    ):
        warn(
            f"Images of shape {x.shape[1:]} are taken as {x.shape[1]} channels of "
            f"{x.shape[2]} x {x.shape[3]} pixels. npdl's images are (N, C, H, W): use "
            "X.transpose(0, 3, 1, 2), or give input_shape=(C, H, W) if this is meant."
        )
