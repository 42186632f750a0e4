"""Composites: layers made of other layers, for the usual shapes of a network."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from typing import Any

from npdl import activations
from npdl._checks import check_choice, check_int, error_message
from npdl._registry import to_json_type
from npdl.layers.activation import Activation
from npdl.layers.base import Layer, Shape
from npdl.layers.block import Block
from npdl.layers.config import layer_from
from npdl.layers.merging import Add, Average, Concatenate, Maximum, Merge, Minimum, Multiply
from npdl.layers.node import Node, Value
from npdl.layers.plan import Plan

#: The merges of `Parallel` by name.
_MERGES: dict[str, type[Merge]] = {
    "concat": Concatenate,
    "sum": Add,
    "mul": Multiply,
    "ave": Average,
    "max": Maximum,
    "min": Minimum,
}


def _chain(name: str, layers: Any) -> list[Layer]:
    """A layer, or a list of layers or of what `Layer.nested_config` makes of them, as a list."""
    given = [*layers] if isinstance(layers, list | tuple) else [layers]
    if not all(isinstance(one, Layer | Mapping) for one in given):
        rule = f"`{name}` must be a layer or a list of layers"
        raise TypeError(error_message(rule, **{name: layers}))
    return [layer_from(one) for one in given]


def _through(layers: SequenceOf[Layer], value: Value) -> Value:
    """The symbolic output of a chain."""
    for layer in layers:
        value = Node(layer, [value]).output
    return value


class Sequence(Block):
    """A chain of layers as one layer.

    Parameters
    ----------
    layers : list of Layer
        From input to output.
    """

    def __init__(self, layers: SequenceOf[Layer]) -> None:
        super().__init__(_chain("layers", layers))


class _Composite(Block):
    """Base: a subclass keeps its layers, and wires them in `_wire`."""

    def _wire(self, value: Value) -> Value:
        """The symbolic output for an input."""
        raise NotImplementedError

    def build(self, *in_shapes: Any, **kwargs: Any) -> Shape:
        """Connect the layers; those that are built keep their weights."""
        if len(in_shapes) != 1:
            raise self._error("There must be one input", shapes=in_shapes)
        entry = Value(in_shapes[0])
        self._plan = Plan([entry], [self._wire(entry)])
        return self._plan.out_shapes[0]

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> Block:
        """Make a layer from what `get_config` returned."""
        return cls(**config)

    @property
    def in_shape(self) -> Any:
        """The shape that a first layer declares."""
        for layer in self._first_layers():
            if layer.declared_shape is not None:
                return layer.declared_shape
        return None

    def _first_layers(self) -> list[Layer]:
        raise NotImplementedError


class Residual(_Composite):
    """A body of layers whose input is added to its output: ``activation(body(x) + shortcut(x))``.

    Parameters
    ----------
    body : Layer or list of Layer
    shortcut : Layer or list of Layer, optional
        Applied to the input before it is added, such as a convolution of 1 x 1 if the body changes
        the number of channels. By default the input is added unchanged.
    activation : str or Activation
        Activation of the sum.
    """

    def __init__(self, body: Any, shortcut: Any = None, activation: Any = "linear") -> None:
        self.body = _chain("body", body)
        self.shortcut = None if shortcut is None else _chain("shortcut", shortcut)
        self.activation = activations.get(activation)
        self._sum = Add()
        self._act = Activation(self.activation)
        super().__init__([*self.body, *(self.shortcut or ()), self._sum, self._act])

    def get_config(self) -> dict[str, Any]:
        """Return the layers and the activation as JSON types."""
        return {
            "body": [layer.nested_config() for layer in self.body],
            "shortcut": self.shortcut and [layer.nested_config() for layer in self.shortcut],
            "activation": to_json_type(self.activation),
        }

    def _first_layers(self) -> list[Layer]:
        return [*self.body[:1], *(self.shortcut or ())[:1]]

    def _wire(self, value: Value) -> Value:
        through, around = _through(self.body, value), _through(self.shortcut or (), value)
        if through.shape != around.shape:
            rule = "The outputs of `body` and `shortcut` must have the same shape"
            raise self._error(rule, body=through.shape, shortcut=around.shape)
        return _through([self._act], Node(self._sum, [through, around]).output)


class Parallel(_Composite):
    """Branches that get the same input, and whose outputs are merged.

    Parameters
    ----------
    branches : list
        Each a layer or a list of layers; an empty list passes the input on unchanged.
    merge : {"concat", "sum", "mul", "ave", "max", "min"}
        See `Concatenate`, `Add`, `Multiply`, `Average`, `Maximum`, `Minimum`.
    axis : int, keyword-only
        Of "concat": 1 for the channels of images, -1 for the features of sequences.
    """

    def __init__(self, branches: SequenceOf[Any], merge: str = "concat", *, axis: int = 1) -> None:
        if not isinstance(branches, list | tuple) or not branches:
            rule = "`branches` must be a list of layers, or of lists of layers"
            raise TypeError(error_message(rule, layer=self.name, branches=branches))
        self.branches = [_chain("branches", branch) for branch in branches]
        self.merge = check_choice("merge", merge, tuple(_MERGES))
        self.axis = check_int("axis", axis, low=-64, layer=self.name)
        self._merge = Concatenate(self.axis) if merge == "concat" else _MERGES[merge]()
        super().__init__([*(layer for branch in self.branches for layer in branch), self._merge])

    def get_config(self) -> dict[str, Any]:
        """Return the layers and the merge as JSON types."""
        branches = [[layer.nested_config() for layer in branch] for branch in self.branches]
        return {"branches": branches, "merge": self.merge, "axis": self.axis}

    def _first_layers(self) -> list[Layer]:
        return [layer for branch in self.branches for layer in branch[:1]]

    def _wire(self, value: Value) -> Value:
        return Node(self._merge, [_through(branch, value) for branch in self.branches]).output
