"""Level 2: what a model is made of, and how large it is, in words."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, TextIO

from npdl import graph
from npdl.layers.base import Layer, Shape
from npdl.utils.random import get_dtype

if TYPE_CHECKING:
    from npdl.network import Network


class Row(NamedTuple):
    """One layer.

    Attributes
    ----------
    layer : Layer
    parameters, trained : int
        How many numbers it owns, and how many of them are trained.
    weights, gradients : int
        Bytes of them.
    output : int or None
        Bytes of its output for one sample; None if not all sizes are known.
    """

    layer: Layer
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


def describe(layers: Iterable[Layer]) -> list[Row]:
    """Return a row for each layer."""
    return [_row(layer) for layer in layers]


def _row(layer: Layer) -> Row:
    own = list(graph.arrays(layer))
    trained = [array for _, array, trainable in own if trainable]
    itemsize = own[0][1].itemsize if own else get_dtype().itemsize
    sizes = (layer.out_shape or (None, None))[1:]
    known = [size for size in sizes if size is not None]
    return Row(
        layer,
        sum(array.size for _, array, _ in own),
        sum(array.size for array in trained),
        sum(array.nbytes for _, array, _ in own),
        sum(array.nbytes for array in trained),
        math.prod(known) * itemsize if len(known) == len(sizes) else None,
    )


def print_summary(model: Network, file: TextIO | None) -> None:
    """Print a table of the layers, and what they take of the memory."""
    rows = describe(model.layers)
    table = [("layer", "class", "output shape", "parameters", "trained", "memory")]
    for row in rows:
        shape = shape_text(row.layer.out_shape)
        size = size_text(row.weights) if row.weights else ""
        names = row.layer.name, type(row.layer).__name__
        table.append((*names, shape, f"{row.parameters:,}", row.is_trained, size))
    widths = [max(map(len, column)) for column in zip(*table)]
    lines = [
        "   ".join(f"{cell:{'<<<><>'[i]}{w}}" for i, (cell, w) in enumerate(zip(cells, widths)))
        for cells in table
    ]
    rule = "-" * len(lines[0])
    total, trained = sum(row.parameters for row in rows), sum(row.trained for row in rows)
    print(lines[0], rule, *lines[1:], rule, sep="\n", file=file)
    print(f"{total:,} parameters, {trained:,} of them trained", file=file)
    print(f"memory: {_memory(model, rows)}", file=file)


def _memory(model: Network, rows: list[Row]) -> str:
    """What training takes, but for the data and a layer's scratch."""
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


def shape_text(shape: Shape | None) -> str:
    """``(N, 8, 3, 3)``: N for the sample axis, ? for another axis whose length is open."""
    if shape is None:
        return "?"
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
