"""The parameters of a network in one array for each dtype, and their gradients in another.

An update of the whole network is then one call of a kernel (`npdl.optimizers.units`), a norm over
all gradients one pass, and a sum over processes one reduction. Each parameter stays an array of its
own shape: a view.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from npdl.layers.base import Layer
from npdl.layers.owning import relocate
from npdl.layers.parameter import Parameter
from npdl.layers.tree import every_layer


def flatten(layers: Iterable[Layer]) -> None:
    """Move the trainable parameters into one array; those that were moved before stay."""
    found: dict[np.dtype, dict[int, tuple[Layer, Parameter]]] = {}
    for layer in every_layer(layers):
        for parameter in layer._parameters_by_name.values():
            if parameter.learns and not _is_home(parameter):
                alike = found.setdefault(parameter.value.dtype, {})
                alike[id(parameter)] = layer, parameter
    for dtype, pairs in found.items():
        values, grads = (
            np.zeros(sum(p.value.size for _, p in pairs.values()), dtype) for _ in "vg"
        )
        end = 0
        for layer, parameter in pairs.values():
            shape, start = parameter.value.shape, end
            end += parameter.value.size
            value, grad = (flat[start:end].reshape(shape) for flat in (values, grads))
            relocate(layer, parameter, value, grad)
            parameter.home = value, grad


def _is_home(parameter: Parameter) -> bool:
    return parameter.home is not None and parameter.home[0] is parameter.value
