"""One step of a plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from npdl._calls import forward_takes
from npdl.layers.base import Layer, Shape


class Step:
    """One call of a layer.

    Attributes
    ----------
    layer : Layer
        What runs; in training a twin of `owner` where that is called again.
    owner : Layer
        The layer as the user made it.
    sources, targets : tuple of int
        The slots that are read and filled.
    shapes : tuple of tuple
        The shapes of the targets, None for sizes that are open.
    free : tuple of int
        The slots that no later step reads.
    built : object
        `owner.out_shape` at the time of planning: another object if the layer is built again.
    forward : function
        The `forward` of the layer's class at the last check.
    takes_train : bool
        Whether that has the argument `train`, which a user's layer need not have.
    """

    __slots__ = (
        *("built", "forward", "free", "layer", "owner", "shapes", "sources", "takes_train"),
        "targets",
    )

    def __init__(
        self,
        layer: Layer,
        sources: tuple[int, ...],
        targets: tuple[int, ...],
        shapes: tuple[Shape, ...],
    ) -> None:
        self.layer = self.owner = layer
        self.sources = sources
        self.targets = targets
        self.shapes = shapes
        self.free: tuple[int, ...] = ()
        self.built = layer.out_shape
        self.look_at(type(layer).forward)

    def __getstate__(self) -> dict[str, Any]:
        kept = (name for name in self.__slots__ if name not in ("forward", "takes_train"))
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self.look_at(type(self.layer).forward)

    def look_at(self, forward: Callable[..., Any]) -> None:
        """Look up the arguments that the `forward` of the layer takes."""
        self.forward = forward
        self.takes_train = forward_takes(forward)[0]
