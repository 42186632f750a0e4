"""Layers and what they own: names, arrays, layers in layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from npdl._checks import complaint
from npdl._registry import snake_case
from npdl.layers._names import LayerType

if TYPE_CHECKING:
    from npdl.layers.base import Layer


def collect(value: Any, found: dict[int, Layer]) -> None:
    """Add the layers in `value` to `found`."""
    if isinstance(type(value), LayerType):
        found[id(value)] = value
    elif isinstance(value, list | tuple):
        for item in value:
            collect(item, found)
    elif isinstance(value, dict):
        for item in value.values():
            collect(item, found)


def unique_names(layers: Sequence[Layer]) -> list[str]:
    """A name for each layer: its own, or that of its class, numbered: ``dense_1``, ``dense_2``.

    A number that a layer got from another model is kept, unless it is taken.

    Raises
    ------
    ValueError
        If two layers were given one name.
    """
    given = [layer._name for layer in layers if layer._name is not None]
    if len(given) != len(set(given)):
        raise ValueError(complaint("The names of layers must differ", names=given))
    taken = set(given)
    counts: dict[str, int] = {}
    names = []
    for layer in layers:
        name = layer._name
        if name is None and layer._auto_name is not None and layer._auto_name not in taken:
            name = layer._auto_name
        while name is None:
            kind = snake_case(type(layer).__name__)
            counts[kind] = counts.get(kind, 0) + 1
            numbered = f"{kind}_{counts[kind]}"
            name = None if numbered in taken else numbered
        taken.add(name)
        names.append(name)
    return names


def every_layer(layers: Iterable[Layer]) -> Iterator[Layer]:
    """Yield the layers and all that they own, outer ones first."""
    for layer in layers:
        yield layer
        yield from every_layer(layer.sublayers)


def named_arrays(layer: Layer) -> Iterator[tuple[str, NDArray, bool]]:
    """Yield (name, array, trained or not) of all arrays of a layer, ``"W"``, ``"dense_1/W"``."""
    from npdl.layers.base import Layer  # it imports this module

    if type(layer).params is not Layer.params:  # a list of the user's own
        for i, array in enumerate(layer.params):
            yield str(i), array, True
        return
    for parameter in layer._named.values():
        yield parameter.name, parameter.value, parameter.trainable
    for name, sub in layer.named_sublayers():
        for path, array, trained in named_arrays(sub):
            yield f"{name}/{path}", array, trained
