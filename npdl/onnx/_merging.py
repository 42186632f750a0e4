"""Merges as nodes, and the masks of their outputs."""

from __future__ import annotations

from typing import Any

from npdl import layers as L
from npdl.layers.base import Layer, Shape
from npdl.onnx._graph import Graph, Mask, Tensor, Unexpressed, refuse

#: Class: op, and whether it takes any number of inputs.
_OPS: dict[type[Layer], tuple[str, bool]] = {
    L.Add: ("Add", False),
    L.Average: ("Mean", True),
    L.Subtract: ("Sub", False),
    L.Multiply: ("Mul", False),
    L.Maximum: ("Max", True),
    L.Minimum: ("Min", True),
}


def combined(g: Graph, layer: Any, path: str, xs: list[Tensor], shape: Shape) -> str:
    """An elementwise merge."""
    kind, many = _OPS[type(layer)]
    names = [x.name for x in xs]
    if many and len(names) > 1:
        return g.op(kind, *names)
    y = names[0]
    for name in names[1:]:
        y = g.op(kind, y, name)
    return y


def union_mask(g: Graph, layer: Layer, xs: list[Tensor], shape: Shape) -> Mask:
    """The steps that are real in any input that has a mask."""
    given = [x for x in xs if x.mask is not None]
    if not given or len(shape) < 3 or any(x.shape[1] not in (1, shape[1]) for x in given):
        return None
    masks = [x.mask for x in given]
    names = [mask for mask in masks if isinstance(mask, str)]
    if len(names) < len(masks):
        return Unexpressed(layer.name)
    return names[0] if len(names) == 1 else g.op("Max", *names)


def concatenated(g: Graph, layer: Any, path: str, xs: list[Tensor], shape: Shape) -> str:
    """The inputs concatenated."""
    return g.op("Concat", *(x.name for x in xs), axis=layer.axis)


def concatenated_mask(g: Graph, layer: Any, xs: list[Tensor], shape: Shape) -> Mask:
    """The masks concatenated, or their union."""
    if layer.axis % len(shape) != 1:
        return union_mask(g, layer, xs, shape)
    if len(shape) < 3 or all(x.mask is None for x in xs):
        return None
    if any(isinstance(x.mask, Unexpressed) for x in xs):
        return Unexpressed(layer.name)
    parts = [x.mask if isinstance(x.mask, str) else _or_ones(g, x) for x in xs]
    return g.op("Concat", *parts, axis=1)


def _or_ones(g: Graph, x: Tensor) -> str:
    return g.op("Expand", g.constant(1), g.op("Shape", x.name, start=0, end=2))


def dot(g: Graph, layer: Any, path: str, xs: list[Tensor], shape: Shape) -> str:
    """Scalar products: both inputs as matrices of rows, and one product for each sample."""
    sides = []
    for x, axis in zip(xs, layer.axes):
        at = axis % x.ndim
        order = [i for i in range(x.ndim) if i != at]
        name = g.turned(x.name, *order, at)
        if x.ndim == 2:
            name = g.unsqueeze(name, 1)
        elif x.ndim > 3:
            if x.shape[at] is None:
                raise refuse(layer, "The size along `axes` must be known", shape=x.shape)
            name = g.reshape(name, 0, -1, x.shape[at])
        if layer.normalize:
            square = g.sum(g.op("Mul", name, name), 2)
            least = g.constant(layer._smallest)
            name = g.op("Div", name, g.op("Sqrt", g.op("Max", square, least)))
        sides.append(name)
    y = g.op("MatMul", sides[0], g.turned(sides[1], 0, 2, 1))
    if [x.ndim for x in xs] == [3, 3]:
        return y
    if sum(size is None for size in shape[1:]) > 1:
        raise refuse(layer, "At most one size of the output may be open", shape=shape)
    return g.reshape(y, 0, *(-1 if size is None else size for size in shape[1:]))
