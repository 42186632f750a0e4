"""A graph that another program wrote, read node by node.

npdl has the samples on axis 0, ONNX on any axis: a recurrent node takes (T, N, D) and gives (T,
directions, N, U). Nodes that only transpose, squeeze or select axes make no layer: a `Laid` records
the order of the axes, until they are back in npdl's order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from npdl import layers as L
from npdl.layers.node import Input, Value
from npdl.model import Model

#: In the order of a `Laid`: the axis of the directions.
DIRECTION = -1


class Laid(NamedTuple):
    """Values whose axes are in another order in the graph.

    Attributes
    ----------
    values : tuple of Value
        Several where `order` has the axis of directions: one for each.
    order : tuple of int
        For each axis of the graph's array, that of the values, or `DIRECTION`.
    """

    values: tuple[Value, ...]
    order: tuple[int, ...]


class Filled(NamedTuple):
    """An array of any shape that holds one number, such as a first state of zeros."""

    number: float


class Sizes:
    """Sizes that the graph computes; only the shape of a `Filled` may depend on them."""


class Lengths:
    """How many steps each sequence has: in npdl a mask, which comes with the data."""


#: Ops that are elementwise, or use only the last axis; and ops of sizes, and of arrays that hold
#: one number.
PLAIN = {
    *("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Exp", "Elu", "LeakyRelu", "Selu"),
    *("HardSigmoid", "Gelu", "Mish"),
    *("Identity", "Dropout", "Add", "Sum", "Sub", "Mul", "Max", "Min", "Mean", "MatMul"),
}
_MOVES = {"Slice", "Squeeze", "Unsqueeze", "Gather", "Identity", "Reshape", "Cast", "Concat"}
_OF_SIZES = _MOVES | {"Add", "Sub", "Mul", "Div"}
_OF_FILLED = _MOVES | {"Transpose", "Expand", "Split"}
RECURRENT = ("RNN", "GRU", "LSTM")


class Reader:
    """Turns the nodes of a graph into calls of layers, one after the other.

    Attributes
    ----------
    values : dict
        The known values by name: symbolic values, constant arrays, or one of the above.
    ends : dict
        The last state behind the outputs of all steps, by the id of their value.
    """

    def __init__(
        self,
        graph: Any,
        arrays: dict[str, NDArray],
        opset: int,
        ops: Mapping[str, Callable[..., Any]],
    ) -> None:
        self.graph, self.opset, self.ops = graph, opset, ops
        self.values: dict[str, Any] = dict(arrays)
        self.uses = Counter(name for node in graph.node for name in node.input)
        self.uses.update(value.name for value in graph.output)
        #: The nodes that read a value, by its name.
        self.after: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in {*node.input}:
                self.after.setdefault(name, []).append(node)
        self.ends: dict[int, Value] = {}
        #: The number of samples that the file is made for; None for any.
        self.batch: int | None = None
        self.is_recurrent = any(node.op_type in RECURRENT for node in graph.node)
        self.node: Any = None
        self.attributes: dict[str, Any] = {}

    def model(self) -> Model:
        """The model that computes what the graph does."""
        turned = self._turned_inputs()
        inputs = []
        for info in self.graph.input:
            if info.name not in self.values:
                found = self._input(info, info.name in turned)
                self.values[info.name] = found
                inputs += [] if isinstance(found, Lengths) else [*laid(found).values]
        for node in self.graph.node:
            self._read(node)
        outputs = {info.name: self.values.get(info.name) for info in self.graph.output}
        ends: dict[str, Value] = {}
        for name, value in outputs.items():
            if not isinstance(value, Value | Laid):
                raise ValueError(f"Output {name!r} must depend on an input.")
            ends[name] = _samples_first(value)
        (one,) = ends.values() if len(ends) == 1 else (None,)
        return Model(inputs[0] if len(inputs) == 1 else inputs, ends if one is None else one)

    def _turned_inputs(self) -> set[str]:
        """The inputs (T, N, ...) of recurrent nodes, directly or through an embedding."""
        makers = {name: node for node in self.graph.node for name in node.output}
        found: set[str] = set()
        seen: set[str] = set()
        for node in self.graph.node:
            layouts = [a.i for a in node.attribute if a.name == "layout"]
            if node.op_type not in RECURRENT or not node.input or any(layouts):
                continue
            name = node.input[0]
            while name not in seen:
                seen.add(name)
                before = makers.get(name)
                if before is None:
                    found.add(name)
                elif before.op_type == "Gather":
                    name = before.input[-1]
                elif before.op_type in PLAIN and before.input:
                    name = next((n for n in before.input if n not in self.values), "")
        return found

    def _input(self, info: Any, turned: bool) -> Any:
        dims = info.type.tensor_type.shape.dim
        sizes = [dim.dim_value if dim.dim_value > 0 else None for dim in dims]
        # Where it goes in the recurrent nodes that read it.
        places = {
            tuple(node.input).index(info.name) if node.op_type in RECURRENT else None
            for node in self.after.get(info.name, [])
        }
        if len(dims) == 1 and places == {4}:
            return Lengths()
        if len(dims) == 3 and places and places <= {5, 6} and sizes[0] == 1:
            return Laid((Input(sizes[2:], name=info.name),), (DIRECTION, 0, 1))
        if len(dims) < 2:
            raise ValueError(f"Input {info.name!r} must have at least 2 axes.")
        if turned:
            value = Input([sizes[0], *sizes[2:]], name=info.name)
            return Laid((value,), (1, 0, *range(2, len(sizes))))
        if self.batch and sizes[0] not in (None, self.batch):
            raise ValueError(f"Input {info.name!r} must have as many samples as the others.")
        self.batch = self.batch or sizes[0]
        return Input(sizes[1:], name=info.name)

    def _read(self, node: Any) -> None:
        if node.output and node.output[0] in self.values:
            return  # an Add that became the bias of the layer before it
        self.node = node
        self.attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        read = self.ops.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        for name in node.input:
            if name and name not in self.values:
                raise self.refusal("The input of a node must come before it", input=name)
        xs = [self.values.get(name) for name in node.input]
        known = self._known(xs)
        if known is not None:
            self.values.update((name, known) for name in node.output if name)
            return
        if read is None:
            raise self.refusal("npdl has no layer for this op")
        if any(isinstance(x, Sizes | Filled | Lengths) for x in xs) and (
            node.op_type not in RECURRENT
        ):
            raise self.refusal("npdl can't compute with sizes, or with an array made of them")
        try:
            made = self._laid_out(read, xs) if node.op_type in PLAIN else read(self, *xs)
        except (TypeError, ValueError) as error:
            if "node=" in str(error):
                raise
            raise self.refusal(str(error).rstrip(".")) from error
        many = made if isinstance(made, list) else [made]
        for name, value in zip(node.output, many):
            self.values[name] = value
        if any(name and self.uses[name] for name in node.output[len(many) :]):
            raise self.refusal("Only the first output is known")

    def _known(self, xs: list[Any]) -> Sizes | Filled | None:
        """The result for sizes, and for arrays that hold one number; None for anything else."""
        op = self.node.op_type
        if op == "Shape" or (op in _OF_SIZES and any(isinstance(x, Sizes) for x in xs[:2])):
            if all(isinstance(x, Sizes | np.ndarray | None) for x in xs) or op == "Shape":
                return Sizes()
        if op == "ConstantOfShape":
            value = self.attributes.get("value")
            number = 0.0 if value is None else onnx.numpy_helper.to_array(value).reshape(-1)[0]
            return Filled(float(number))
        if op == "Expand" and isinstance(xs[0], np.ndarray) and xs[0].size:
            number = xs[0].reshape(-1)[0]
            return Filled(float(number)) if (xs[0] == number).all() else None
        if op in _OF_FILLED and xs and isinstance(xs[0], Filled):
            return xs[0] if op != "Concat" or all(x == xs[0] for x in xs) else None
        return None

    def _laid_out(self, read: Callable[..., Any], xs: list[Any]) -> Any:
        """Let a node work on values whose axes are elsewhere, if they are so in all of them."""
        orders = {x.order for x in xs if isinstance(x, Laid)}
        if not orders:
            return read(self, *xs)
        (order,) = orders if len(orders) == 1 else (None,)
        alike = all(isinstance(x, Laid | np.ndarray | None) for x in xs)
        if self.node.op_type == "MatMul":  # of two values it would add up over the samples
            alike = alike and not all(isinstance(x, Laid) for x in xs)
        if order is None or DIRECTION in order or order[-1] != len(order) - 1 or not alike:
            raise self.refusal("The samples must be on the same axis of all inputs")
        made = read(self, *(x.values[0] if isinstance(x, Laid) else x for x in xs))
        return Laid((made,), order)

    def refusal(self, rule: str, **received: Any) -> ValueError:
        """The error for the node that is being read."""
        name = self.node.name or (self.node.output[0] if self.node.output else "")
        more = "".join(f", {key}={value!r}" for key, value in received.items())
        return ValueError(f"{rule}. Received: node={name!r}, op={self.node.op_type!r}{more}")

    def take(self, name: str, default: Any) -> Any:
        """An attribute of the node."""
        return self.attributes.get(name, default)

    def want(self, **wanted: Any) -> None:
        """Refuse the node unless its attributes, where it has them, are these."""
        for name, value in wanted.items():
            if self.take(name, value) != value:
                raise self.refusal("Not supported", **{name: self.attributes[name]})

    def symbolic(self, *xs: Any) -> None:
        """Refuse the node unless these inputs are computed, with the samples on axis 0."""
        if any(isinstance(x, Laid) for x in xs):
            raise self.refusal("The samples must be on axis 0")
        if not all(isinstance(x, Value) for x in xs):
            raise self.refusal("The input must not be constant")

    def array(self, x: Any, ndim: int | None = None) -> NDArray:
        """A constant input, with this number of axes."""
        if not isinstance(x, np.ndarray) or (ndim is not None and x.ndim != ndim):
            rule = "The input must be constant" + ("" if ndim is None else f", of {ndim} axes")
            raise self.refusal(rule)
        return x

    def list(self, name: str, x: Any = None) -> list[int] | None:
        """Integers that are an attribute in old opsets and an input in new ones."""
        if x is not None:
            return [int(i) for i in self.array(x).reshape(-1)]
        return None if name not in self.attributes else [int(i) for i in self.attributes[name]]


def call(layer: Any, x: Value, **weights: NDArray) -> Any:
    """The output of a new layer that has these weights."""
    y = layer(x)
    for name, array in weights.items():
        own = layer._parameters_by_name[name].value
        if own.shape != array.shape:
            raise ValueError(f"{name} must have shape {own.shape}, not {array.shape}")
        own[...] = array
    layer.was_trained = True
    return y


def laid(x: Any) -> Laid:
    """A value with its axes as they are."""
    return x if isinstance(x, Laid) else Laid((x,), tuple(range(x.ndim)))


def settled(x: Laid) -> Any:
    """A plain value, where the samples are on axis 0 and there is one direction."""
    if DIRECTION in x.order or x.order[0] != 0:
        return x
    if x.order == tuple(range(len(x.order))):
        return x.values[0]
    return L.Permute(x.order[1:])(x.values[0])


def _samples_first(x: Value | Laid) -> Value:
    """The value of an output: the samples on axis 0, the directions before the last axis."""
    if isinstance(x, Value):
        return x
    rest = sorted(axis for axis in x.order if axis > 0)
    if len(x.values) == 1 or not rest:
        return x.values[0]
    joined = L.Concatenate(-1)(list(x.values))
    steps = (-1,) if joined.ndim == 3 else ()
    return L.Reshape((*steps, len(x.values), x.values[0].shape[-1] or 1))(joined)
