"""Trees of layers and sublayers: their names and numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import numpy as np

from npdl._checks import error_message
from npdl._registry import snake_case
from npdl.layers._names import LayerType

#: While a network is written: a number for each layer that occurs more than once, by its id; and
#: the layers that were written already.
_shared: ContextVar[tuple[dict[int, int], set[int]] | None] = ContextVar("_shared", default=None)


@contextlib.contextmanager
def writing(layers: Iterable[Any]) -> Iterator[None]:
    """Within the block, configurations say which layers of a network are the same."""
    counts: dict[int, int] = {}
    for layer in every_layer(layers):
        counts[id(layer)] = counts.get(id(layer), 0) + 1
    numbers = {key: i for i, key in enumerate(k for k, n in counts.items() if n > 1)}
    token = _shared.set((numbers, set()))
    try:
        yield
    finally:
        _shared.reset(token)


def shared_number(layer: Any) -> tuple[int | None, bool]:
    """The number of a layer that occurs more than once, and whether it was written."""
    numbers, written = _shared.get() or ({}, set())
    number = numbers.get(id(layer))
    before = id(layer) in written
    written.add(id(layer))
    return number, before and number is not None


#: Types of most attributes of a layer; none of them contains layers.
_WITHOUT_LAYERS = frozenset({str, int, float, bool, type(None), np.ndarray})


def collect(value: Any, found: dict[int, Any]) -> None:
    """Add the layers in `value` to `found`."""
    if type(value) in _WITHOUT_LAYERS:
        return
    if isinstance(type(value), LayerType):
        found[id(value)] = value
    elif isinstance(value, list | tuple):
        for item in value:
            collect(item, found)
    elif isinstance(value, dict):
        for item in value.values():
            collect(item, found)


def unique_names(
    layers: Sequence[Any], before: Mapping[Any, str] = MappingProxyType({})
) -> list[str]:
    """A name for each layer: its own, or that of its class, numbered: ``dense_1``, ``dense_2``.

    A number that a layer had before, or got from another model, is kept unless it is taken.

    Raises
    ------
    ValueError
        If two layers were given one name.
    """
    given = [layer._name for layer in layers if layer._name is not None]
    if len(given) != len(set(given)):
        raise ValueError(error_message("The names of layers must differ", names=given))
    taken = {*given, *(before[layer] for layer in layers if layer in before)}
    counts: dict[str, int] = {}
    names = []
    for layer in layers:
        name = layer._name or before.get(layer)
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


def every_layer(layers: Iterable[Any]) -> Iterator[Any]:
    """Yield the layers and all their sublayers, outer ones first."""
    for layer in layers:
        yield layer
        yield from every_layer(layer.sublayers)
