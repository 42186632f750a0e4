"""Level 2: from the arguments of `Model` to a plan of steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from npdl._checks import error_message
from npdl.layers.base import Layer, Shape
from npdl.layers.node import Node, Value
from npdl.layers.plan import Plan


class Input:
    """A shape that takes the place of a layer before the first one of a network."""

    def __init__(self, shape: Shape) -> None:
        self.out_shape = tuple(shape)


class Named(NamedTuple):
    """The names of inputs or outputs, and the form in which they were given.

    Attributes
    ----------
    names : tuple of str or None
        None for values without a name.
    form : {'one', 'list', 'dict'}
    """

    names: tuple[str | None, ...]
    form: str

    @classmethod
    def of(cls, given: Any, what: str) -> tuple[Named, tuple[Value, ...]]:
        """Names, form and values of the argument of `Model`.

        Raises
        ------
        TypeError
            If anything else was passed.
        """
        if isinstance(given, Value):
            return cls((given.name,), "one"), (given,)
        if isinstance(given, Mapping):
            values: tuple[Any, ...] = tuple(given.values())
            names: tuple[str | None, ...] = tuple(map(str, given))
            form = "dict"
        elif isinstance(given, list | tuple):
            values, form = tuple(given), "list"
            names = tuple(getattr(value, "name", None) for value in values)
        else:
            values, names, form = (given,), (None,), "one"
        wrong = [value for value in values if not isinstance(value, Value)]
        if wrong or not values:
            got = type(wrong[0]).__name__ if wrong else "nothing"
            raise TypeError(f"`{what}` must be symbolic values, see npdl.Input. Received: {got}")
        return cls(names, form), values

    def packed(self, items: Sequence[Any], names: Sequence[str]) -> Any:
        """One item for each value, in the form in which the values were given."""
        if self.form == "one":
            return items[0]
        return dict(zip(names, items)) if self.form == "dict" else list(items)


def chain(layers: Iterable[Layer] | Layer | None) -> list[Layer]:
    """The layers from input to output: a list as it is, or all that lead to an output layer."""
    if not isinstance(layers, Layer):
        return list(layers or ())
    found = [layers]
    while isinstance(found[-1].prev_layer, Layer):
        if len(found[-1]._in_shapes or ()) > 1:
            raise ValueError(
                f"Layer {found[-1].name!r} has several inputs: pass the values, "
                "Model(inputs, outputs)."
            )
        found.append(found[-1].prev_layer)
        if len(found) != len({id(layer) for layer in found}):
            raise ValueError(error_message("The layers form a cycle", layer=layers.name))
    return found[::-1]


def entry_shape(first: Layer) -> Shape | None:
    """The shape of the input of a chain, as far as its first layer declares it, or was built for.

    A layer that was built for other inputs is the upper part of another network.
    """
    if first._in_shapes is not None:
        return first._in_shapes[0]
    before = getattr(first.prev_layer, "out_shape", None)
    return first.declared_shape if before is None else before


def plan_chain(layers: Sequence[Layer], shape: Shape) -> Plan:
    """Connect each layer to the one before it; one that is built keeps its weights if they fit."""
    entry = value = Value(shape)
    for layer in layers:
        try:
            value = Node(layer, [value]).output
        except ValueError:
            # Weights that were never trained may be drawn again, for other inputs.
            if layer.out_shape is None or layer.was_trained:
                raise
            layer.connect_to(value)
            value = Node(layer, [value]).output
        if not isinstance(value, Value):
            rule = "A layer of several outputs needs Model(inputs, outputs)"
            raise ValueError(error_message(rule, layer=layer.name))
    return Plan([entry], [value])
