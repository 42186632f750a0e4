"""The graph that is being exported: nodes, constants and weights of an ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npdl._checks import error_message
from npdl.layers.base import Layer, Shape


class Unexpressed(NamedTuple):
    """A mask that the export does not compute; an error only where a layer reads it."""

    layer: str


Mask = str | Unexpressed | None


class Tensor(NamedTuple):
    """A value of the graph: its name, its shape with None for open sizes, and its mask."""

    name: str
    shape: Shape
    mask: Mask = None
    ints: bool = False

    @property
    def ndim(self) -> int:
        """Number of axes, that of the samples included."""
        return len(self.shape)


class Graph:
    """Collects the parts of an ONNX graph."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.initializers: dict[str, NDArray] = {}
        #: The names of the values that layers return, which no other value takes.
        self._n_values = 0
        self.prefix = ""

    def op(self, kind: str, *inputs: str, outputs: Any = 1, **attributes: Any) -> Any:
        """Add a node, and return the name of its output, a list of names for several."""
        names = [self._fresh(kind) for _ in range(outputs)]
        node = self.onnx.helper.make_node(kind, inputs, names, name=names[0], **attributes)
        self.nodes.append(node)
        return names[0] if outputs == 1 else names

    def _fresh(self, kind: str) -> str:
        self._n_values += 1
        return f"{self.prefix}:{kind}_{self._n_values}"

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """The name of a constant."""
        array = np.asarray(value, dtype)
        name = f"constant:{array.dtype}{list(array.shape)}{array.ravel().tolist()}"
        if array.size > 16:
            name = self._fresh("constant")
        self.initializers[name] = array
        return name

    def ints(self, *values: int) -> str:
        """The name of a constant list of integers."""
        return self.constant(values, np.int64)

    def weight(self, path: str, array: NDArray) -> str:
        """The name of a weight, float32; a layer that is called twice has it once."""
        self.initializers[path] = np.asarray(array, np.float32)
        return path

    # ---------------------------------------------------------------------------- small things

    def reshape(self, x: str, *sizes: int) -> str:
        """`x` reshaped; 0 keeps a size, -1 is inferred."""
        return self.op("Reshape", x, self.ints(*sizes))

    def unsqueeze(self, x: str, *axes: int) -> str:
        """`x` with axes of size 1 put in."""
        return self.op("Unsqueeze", x, self.ints(*axes))

    def squeeze(self, x: str, *axes: int) -> str:
        """`x` without axes of size 1."""
        return self.op("Squeeze", x, self.ints(*axes))

    def turned(self, x: str, *order: int) -> str:
        """`x` with its axes in another order."""
        if order == tuple(range(len(order))):
            return x
        return self.op("Transpose", x, perm=list(order))

    def sum(self, x: str, *axes: int, keepdims: bool = True) -> str:
        """The sum of `x` along some axes."""
        return self.op("ReduceSum", x, self.ints(*axes), keepdims=int(keepdims))

    def mean(self, x: str, *axes: int) -> str:
        """The mean of `x` along some axes, which stay, of size 1."""
        return self.op("ReduceMean", x, axes=list(axes), keepdims=1)

    def cast(self, x: str, kind: str) -> str:
        """`x` as numbers of another kind: FLOAT, INT64, INT32, BOOL."""
        return self.op("Cast", x, to=getattr(self.onnx.TensorProto, kind))

    def where_real(self, mask: str, x: str, other: str, ndim: int) -> str:
        """`x` in real steps, `other` in masked ones."""
        real = self.cast(mask, "BOOL")
        if ndim > 2:
            real = self.unsqueeze(real, *range(2, ndim))
        return self.op("Where", real, x, other)


def read_mask(tensor: Tensor, layer: Layer) -> str | None:
    """The mask of a tensor for a layer that needs it.

    Raises
    ------
    ValueError
        If the export has no form for it.
    """
    if isinstance(tensor.mask, Unexpressed):
        raise ValueError(
            error_message(
                "The mask that this layer reads can't be exported to ONNX",
                made_by=tensor.mask.layer,
                layer=layer.name,
            )
        )
    return tensor.mask


def kept_mask(x: Tensor, shape: Shape) -> Mask:
    """The mask of `x`, for an output that still has its steps."""
    return x.mask if len(shape) >= 3 and x.ndim >= 2 and shape[1] == x.shape[1] else None


def refuse(layer: Layer, why: str, **received: Any) -> ValueError:
    """The error for a layer that has no form in ONNX."""
    received = received or {"class": type(layer).__name__}
    return ValueError(
        error_message(f"{why}, so that it can't be exported to ONNX", layer=layer.name, **received)
    )


def axes_in_place(axes: Sequence[int], sizes: Sequence[int], ndim: int) -> list[int]:
    """A shape with these sizes along these axes, and 1 along all others."""
    shape = [1] * ndim
    for axis, size in zip(axes, sizes):
        shape[axis] = size
    return shape
