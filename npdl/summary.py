"""Level 2: a model as a table of layers, with sizes."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TextIO

from npdl.layers.base import Layer
from npdl.layers.owning import named_arrays
from npdl.utils.random import get_dtype


class Row(NamedTuple):
    """One layer.

    Attributes
    ----------
    layer : Layer
    name : str
        Its name in the model.
    depth : int
        0 for a layer of the model, 1 for one that such a layer owns, and so on.
    shape : tuple or None
        Shape of its output.
    sources : list of str
        Names of the inputs and layers that it reads.
    parameters, trained : int
        How many numbers it owns, and how many of them are trained.
    weights, gradients : int
        Bytes of them.
    output : int or None
        Bytes of its output for one sample; None if not all sizes are known.
    """

    layer: Layer
    name: str
    depth: int
    shape: Any
    sources: list[str]
    parameters: int
    trained: int
    weights: int
    gradients: int
    output: int | None

    @property
    def is_trained(self) -> str:
        """``"yes"``, ``"no"``, ``"partly"``, or ``""`` if there is nothing to train."""
        if not self.parameters:
            return ""
        return {self.parameters: "yes", 0: "no"}.get(self.trained, "partly")


def describe(model: Any) -> list[Row]:
    """Return a row for each layer, and one below it for each layer that it owns."""
    rows = []
    shapes, sources = _calls(model)
    for name, layer in zip(model.layer_names, model.layers):
        shape = shapes.get(id(layer), layer.out_shape)
        rows += _rows(layer, name, 0, shape, sources.get(id(layer), []))
    return rows


def _calls(model: Any) -> tuple[dict[int, Any], dict[int, list[str]]]:
    """The shape of each layer's output in a model, and the inputs of its calls."""
    plan = model.plan
    shapes: dict[int, Any] = {}
    sources: dict[int, list[str]] = {}
    if plan is None:
        return shapes, sources
    names = dict(zip(map(id, model.layers), model.layer_names))
    slots = [*model.input_names]
    for step in plan.steps:
        shapes.setdefault(id(step.owner), step.shapes if len(step.shapes) > 1 else step.shapes[0])
        read = sources.setdefault(id(step.owner), [])
        read += [name for name in (slots[slot] for slot in step.sources) if name not in read]
        slots += [names[id(step.owner)]] * len(step.targets)
    return shapes, sources


def _rows(layer: Layer, name: str, depth: int, shape: Any, sources: list[str]) -> list[Row]:
    own = list(named_arrays(layer))
    trained = [array for _, array, trainable in own if trainable]
    itemsize = own[0][1].itemsize if own else get_dtype().itemsize
    row = Row(
        layer,
        name,
        depth,
        shape,
        sources,
        sum(array.size for _, array, _ in own),
        sum(array.size for array in trained),
        sum(array.nbytes for _, array, _ in own),
        sum(array.nbytes for array in trained),
        _output_bytes(shape, itemsize),
    )
    inner = (
        one
        for path, sub in layer.named_sublayers()
        for one in _rows(sub, path, depth + 1, sub.out_shape, [])
    )
    return [row, *inner]


def _output_bytes(shape: Any, itemsize: int) -> int | None:
    """Bytes of one sample of an output; None if a size is open."""
    if shape is None:
        return None
    shapes = shape if isinstance(shape[0], tuple) else (shape,)
    sizes = [size for one in shapes for size in one[1:]]
    if None in sizes:
        return None
    return sum(math.prod(one[1:]) for one in shapes) * itemsize


def print_summary(model: Any, file: TextIO | None) -> None:
    """Print a table of the layers, and the memory they need."""
    rows = describe(model)
    graph = model.inputs is not None
    table = [("layer", "class", "output shape", "parameters", "trained", "memory", "connected to")]
    for row in rows:
        shape = shape_text(row.shape)
        size = size_text(row.weights) if row.weights else ""
        names = "  " * row.depth + row.name, type(row.layer).__name__
        count = f"{row.parameters:,}"
        table.append((*names, shape, count, row.is_trained, size, ", ".join(row.sources)))
    if not graph:
        table = [cells[:-1] for cells in table]  # type: ignore[misc]
    widths = [max(map(len, column)) for column in zip(*table)]
    lines = [
        "   ".join(
            f"{cell:{'<<<><><'[i]}{w}}" for i, (cell, w) in enumerate(zip(cells, widths))
        ).rstrip()
        for cells in table
    ]
    rule = "-" * max(map(len, lines))
    outer = [row for row in rows if not row.depth]
    total, trained = sum(row.parameters for row in outer), sum(row.trained for row in outer)
    print(lines[0], rule, *lines[1:], rule, sep="\n", file=file)
    print(f"{total:,} parameters, {trained:,} of them trained", file=file)
    print(f"memory: {_memory(model, outer)}", file=file)


def _memory(model: Any, rows: list[Row]) -> str:
    """Memory for training, except for the data and scratch buffers."""
    gradients = sum(row.gradients for row in rows)
    parts = [
        f"weights {size_text(sum(row.weights for row in rows))}",
        f"gradients {size_text(gradients)}",
    ]
    if model.compiled:
        slots = len(getattr(model.optimizer, "slot_names", ()))
        if slots:
            parts.append(f"{type(model.optimizer).__name__} {size_text(slots * gradients)}")
    outputs = [row.output for row in rows]
    if outputs and None not in outputs:
        each = size_text(sum(size for size in outputs if size is not None))
        parts.append(f"outputs {each} for each sample of a batch")
    return ", ".join(parts)


def shape_text(shape: Any) -> str:
    """``(N, 8, 3, 3)``: N for the sample axis, ? for another axis whose length is open."""
    if shape is None:
        return "?"
    if isinstance(shape[0], tuple):
        return ", ".join(map(shape_text, shape))
    sizes = ["?" if size is None else str(size) for size in shape]
    if shape[0] is None:
        sizes[0] = "N"
    return f"({', '.join(sizes)})"


def size_text(size: int) -> str:
    """``1.5 kB``: bytes in thousands."""
    if size < 1000:
        return f"{size} B"
    power = next((k for k in (1, 2, 3) if size < 999.95 * 1000**k), 4)
    return f"{size / 1000**power:.1f} {'kMGT'[power - 1]}B"
