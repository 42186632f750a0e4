"""Symbolic values, and the calls of layers that connect them: networks of any shape.

::

    x = Input((8,))          # a value without a node
    h = Dense(4)(x)          # a Node: one call of a layer
    y = h + Dense(4)(h)      # merges are layers too

A value holds no numbers; it has a shape, and knows which call made it. `npdl.layers.plan` turns the
nodes into a list of steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from npdl._checks import check_int, error_message
from npdl.layers._shapes import Shape

#: The layers for operators between values; `npdl.layers.merging` fills it.
MERGES: dict[str, Callable[[], Any]] = {}

_numbers = itertools.count(1)


class Value:
    """An input of a network, or an output of a layer's call: a shape now, an array in each pass.

    Attributes
    ----------
    shape : tuple
        None on the sample axis, and on other axes whose size is open.
    node : Node or None
        The call that makes it; None for an input.
    index : int
        Which output of the call it is.
    name : str or None
        Name of an input.
    """

    __slots__ = ("index", "name", "node", "shape")

    def __init__(
        self, shape: Shape, node: Node | None = None, index: int = 0, name: str | None = None
    ) -> None:
        self.shape = tuple(shape)
        self.node = node
        self.index = index
        self.name = name

    @property
    def out_shape(self) -> Shape:
        """The shape, under the name that layers give it."""
        return self.shape

    @property
    def ndim(self) -> int:
        """Number of axes, that of the samples included."""
        return len(self.shape)

    def __add__(self, other: Value) -> Value:
        return self._merged("add", "+", other)

    def __sub__(self, other: Value) -> Value:
        return self._merged("subtract", "-", other)

    def __mul__(self, other: Value) -> Value:
        return self._merged("multiply", "*", other)

    def _merged(self, name: str, sign: str, other: Any) -> Value:
        if not isinstance(other, Value):
            raise TypeError(
                f"`{sign}` joins two values of a network; use Lambda or a layer of your own for "
                f"anything else. Received: {type(other).__name__}"
            )
        return MERGES[name]()(self, other)

    def __iter__(self) -> Any:
        raise TypeError("A symbolic value holds no numbers and can't be iterated over.")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            "A symbolic value holds no numbers; NumPy functions can't take it. Make a Model of the "
            "inputs and outputs, and call predict()."
        )

    def __repr__(self) -> str:
        made = "input" if self.node is None else f"output of {self.node.layer.name!r}"
        return f"<Value {self.shape}, {made}>"


class Node:
    """One call of a layer on some values."""

    __slots__ = ("inputs", "layer", "number", "outputs")

    def __init__(self, layer: Any, inputs: Sequence[Value]) -> None:
        self.layer = layer
        self.inputs = tuple(inputs)
        shapes = layer.shape_for(*inputs)
        many = layer.n_outputs > 1
        self.outputs = tuple(
            Value(shape, self, i) for i, shape in enumerate(shapes if many else (shapes,))
        )
        #: Nodes are numbered as they are made, so that inputs come before what reads them.
        self.number = next(_numbers)

    @property
    def output(self) -> Any:
        """The value, or the tuple of values, that a call of the layer returns."""
        return self.outputs if self.layer.n_outputs > 1 else self.outputs[0]


def Input(shape: Sequence[int | None], *, name: str | None = None) -> Value:
    """Return a symbolic input of a network.

    Parameters
    ----------
    shape : sequence of int or None
        Without the sample axis; None for an axis of any size: ``(1, 28, 28)``, ``(None, 64)``.
        One integer stands for ``(shape,)``.
    name : str, optional
        For data that are passed as a dict.

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive integer or None.
    """
    sizes = shape if isinstance(shape, tuple | list) else (shape,)
    known = tuple(None if size is None else check_int("shape", size) for size in sizes)
    if name is not None and not isinstance(name, str):
        raise TypeError(error_message("`name` must be a string", name=name))
    return Value((None, *known), name=name)


def as_values(given: Iterable[Any]) -> tuple[Value, ...] | None:
    """The values in the arguments of a layer's call, lists opened; None if something else is."""
    found: list[Value] = []
    for item in given:
        if isinstance(item, list | tuple):
            inner = as_values(item)
            if inner is None:
                return None
            found.extend(inner)
        elif isinstance(item, Value):
            found.append(item)
        else:
            return None
    return tuple(found)


def nodes_of(outputs: Iterable[Value], inputs: Iterable[Value] = ()) -> list[Node]:
    """The nodes that lead to `outputs`, each after those that it reads; they end at `inputs`."""
    ends = {id(value) for value in inputs}
    found: dict[int, Node] = {}
    waiting = [value for value in outputs if id(value) not in ends]
    while waiting:
        node = waiting.pop().node
        if node is not None and id(node) not in found:
            found[id(node)] = node
            waiting.extend(value for value in node.inputs if id(value) not in ends)
    return sorted(found.values(), key=lambda node: node.number)
