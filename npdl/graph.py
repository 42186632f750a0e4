"""Level 2: what `npdl.model.Model` does with its chain of layers."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl._checks import complaint
from npdl._weights import steps_mask
from npdl.layers.base import Layer, Shape


class Input:
    """Stands before the first layer of a network: the shape of the data."""

    def __init__(self, shape: Shape) -> None:
        self.out_shape = tuple(shape)


def chain(layers: Iterable[Layer] | Layer | None) -> list[Layer]:
    """The layers from input to output: a list as it is, or all that lead to an output layer."""
    if not isinstance(layers, Layer):
        return list(layers or ())
    found = [layers]
    while isinstance(found[-1].prev_layer, Layer):
        found.append(found[-1].prev_layer)
        if len(found) != len({id(layer) for layer in found}):
            raise ValueError(complaint("The layers must not go round", layer=layers.name))
    return found[::-1]


def connect(layers: Sequence[Layer], before: Any) -> None:
    """Connect each layer to the one before it, the first to `before`.

    What is connected already and fits is left alone, so that it keeps its weights.
    """
    for layer in layers:
        old = getattr(layer.prev_layer, "out_shape", None)
        if before is None and old is not None:  # the upper part of another network
            before = Input(old)
        if not is_connected(layer, before):
            if layer.out_shape is None or old != before.out_shape:
                layer.connect_to(before)
            layer.prev_layer = before
        before = layer


def is_connected(layer: Layer, before: Any) -> bool:
    """Whether a layer is connected to `before`; for the first layer, to no other layer."""
    if layer.out_shape is None:
        return False
    return layer.prev_layer is before or (
        not isinstance(before, Layer) and not isinstance(layer.prev_layer, Layer)
    )


def give_names(layers: Sequence[Layer]) -> None:
    """Number the layers that have no name of their own: ``dense_1``, ``dense_2``."""
    taken = [layer.name for layer in layers if layer._name is not None]
    if len(taken) != len(set(taken)):
        raise ValueError(complaint("The names of layers must differ", names=taken))
    for layer in layers:
        if layer._name is None:
            numbered = (f"{layer.name}_{i}" for i in itertools.count(1))
            layer.name = next(name for name in numbered if name not in taken)
            taken.append(layer.name)


def run(layers: Iterable[Layer], x: ArrayLike, train: bool, mask: NDArray | None = None) -> NDArray:
    """The output of the last layer for the input `x` of the first.

    A mask of steps goes to the layers that take one, as long as there are steps.
    """
    for layer in layers:
        # A layer of the user's own need not know about training, nor about masks.
        takes_train, takes_mask = _options(type(layer).forward)
        if takes_train and mask is None:
            x = layer.forward(x, train=train)
            continue
        options: dict[str, Any] = {"train": train} if takes_train else {}
        if takes_mask and mask is not None:
            options["mask"] = mask
        x = layer.forward(x, **options)
        mask = None if mask is None else steps_mask(mask, x.shape)
    return np.asarray(x)


def run_back(layers: Sequence[Layer], grad: ArrayLike | None) -> NDArray | None:
    """The gradient in the input of the first layer, for that in the output of the last."""
    for layer in reversed(layers):
        grad = layer.backward(grad)  # type: ignore[arg-type]
    return None if grad is None else np.asarray(grad)


@functools.cache
def _options(forward: Callable[..., Any]) -> tuple[bool, bool]:
    """Whether the forward of a layer takes the arguments `train` and `mask`."""
    return accepts(forward, "train"), accepts(forward, "mask")


@functools.cache
def accepts(function: Callable[..., Any], argument: str) -> bool:
    """Whether a function can be called with this keyword."""
    parameters = inspect.signature(function).parameters
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def arrays(layer: Layer) -> Iterator[tuple[str, NDArray, bool]]:
    """Yield (name, array, trained or not) of all arrays of a layer."""
    if type(layer).params is not Layer.params:  # a list of the user's own
        for i, array in enumerate(layer.params):
            yield f"{layer.name}/{i}", array, True
    else:
        for p in layer.parameters:
            yield f"{layer.name}/{p.name}", p.value, p.trainable
