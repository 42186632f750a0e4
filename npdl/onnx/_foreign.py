"""Graphs that other programs wrote: a table of ops, each with the layer that it becomes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from npdl import layers as L
from npdl._checks import complaint
from npdl.layers.node import Input, Value
from npdl.model import Model


def array_of(tensor: Any) -> NDArray:
    """The array of a tensor that lies in the file itself."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise ValueError(complaint("The arrays must lie in the file itself", tensor=tensor.name))
    return np.array(onnx.numpy_helper.to_array(tensor))


class Reader:
    """Turns the nodes of a graph into calls of layers, one after the other.

    Attributes
    ----------
    values : dict
        What is known so far by name: a symbolic value, or an array that is constant.
    """

    def __init__(self, graph: Any, arrays: dict[str, NDArray], opset: int) -> None:
        self.graph, self.opset = graph, opset
        self.values: dict[str, Any] = dict(arrays)
        self.uses = Counter(name for node in graph.node for name in node.input)
        self.uses.update(value.name for value in graph.output)
        self.node: Any = None
        self.attributes: dict[str, Any] = {}

    def model(self) -> Model:
        """The model that computes what the graph does."""
        inputs = []
        for info in self.graph.input:
            if info.name not in self.values:
                dims = info.type.tensor_type.shape.dim
                if len(dims) < 2:
                    raise ValueError(f"Input {info.name!r} must have at least 2 axes.")
                sizes = [dim.dim_value if dim.dim_value > 0 else None for dim in dims]
                self.values[info.name] = Input(sizes[1:], name=info.name)
                inputs.append(self.values[info.name])
        for node in self.graph.node:
            self._read(node)
        outputs = {info.name: self.values.get(info.name) for info in self.graph.output}
        for name, value in outputs.items():
            if not isinstance(value, Value):
                raise ValueError(f"Output {name!r} must depend on an input.")
        if len(inputs) == len(outputs) == 1:
            return Model(inputs[0], next(iter(outputs.values())))
        return Model(inputs, outputs)

    def _read(self, node: Any) -> None:
        if node.output and node.output[0] in self.values:
            return  # an Add that became the bias of the layer before it
        self.node = node
        self.attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        read = OPS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if read is None:
            raise self.refusal("npdl has no layer for this op")
        for name in node.input:
            if name and name not in self.values:
                raise self.refusal("The input of a node must come before it", input=name)
        if any(name and self.uses[name] for name in node.output[1:]):
            raise self.refusal("Only the first output is known")
        try:
            self.values[node.output[0]] = read(self, *(self.values.get(n) for n in node.input))
        except (TypeError, ValueError) as error:
            if "node=" in str(error):
                raise
            raise self.refusal(str(error).rstrip(".")) from error

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
        """Refuse the node unless these inputs are computed."""
        if not all(isinstance(x, Value) for x in xs):
            raise self.refusal("The input must not be constant")

    def array(self, x: Any, ndim: int | None = None) -> NDArray:
        """A constant input, with so many axes."""
        if not isinstance(x, np.ndarray) or (ndim is not None and x.ndim != ndim):
            rule = "The input must be constant" + ("" if ndim is None else f", of {ndim} axes")
            raise self.refusal(rule)
        return x

    def list(self, name: str, x: Any = None) -> list[int] | None:
        """Integers that are an attribute in old opsets and an input in new ones."""
        if x is not None:
            return [int(i) for i in self.array(x).reshape(-1)]
        return None if name not in self.attributes else [int(i) for i in self.attributes[name]]


def _call(layer: Any, x: Value, **weights: NDArray) -> Any:
    """The output of a new layer that has these weights."""
    y = layer(x)
    for name, array in weights.items():
        own = layer._named[name].value
        if own.shape != array.shape:
            raise ValueError(f"{name} must have shape {own.shape}, not {array.shape}")
        own[...] = array
    layer.was_trained = True
    return y


def _layer(make: Callable[[Reader], Any]) -> Callable[..., Any]:
    def read(r: Reader, x: Any) -> Any:
        r.symbolic(x)
        return _call(make(r), x)

    return read


def _activation(name: str, **defaults: tuple[str, float]) -> Callable[..., Any]:
    """An activation; `defaults` has for each of its arguments the attribute and its default."""

    def make(r: Reader) -> Any:
        options = {key: float(r.take(*given)) for key, given in defaults.items()}
        return L.Activation({"name": name, **options})

    return _layer(make)


def _along(name: str) -> Callable[..., Any]:
    def read(r: Reader, x: Any) -> Any:
        r.symbolic(x)
        axis = r.take("axis", -1 if r.opset >= 13 else 1)
        if axis % x.ndim == 0 or (r.opset < 13 and axis % x.ndim != x.ndim - 1):
            raise r.refusal("Not supported", axis=axis)
        return _call(L.Activation({"name": name, "axis": axis % x.ndim}), x)

    return read


def _gemm(r: Reader, x: Any, w: Any, b: Any = None) -> Any:
    r.symbolic(x)
    r.want(alpha=1.0, beta=1.0, transA=0)
    w = r.array(w, 2)
    return _linear(r, x, w.T if r.take("transB", 0) else w, b)


def _linear(r: Reader, x: Value, w: NDArray, b: Any) -> Any:
    layer = L.Linear(w.shape[1], use_bias=b is not None)
    if b is None:
        return _call(layer, x, W=w)
    b = r.array(b)
    if b.size not in (1, w.shape[1]) or b.size != max(b.shape[-1:] or (1,)):
        raise r.refusal("The bias must have a number for each output", shape=b.shape)
    return _call(layer, x, W=w, b=np.broadcast_to(b.reshape(-1), w.shape[1:]))


def _matmul(r: Reader, x: Any, w: Any) -> Any:
    r.symbolic(x)
    w, name = r.array(w, 2), r.node.output[0]
    after = [node for node in r.graph.node if name in node.input]
    if r.uses[name] == 1 and len(after) == 1 and after[0].op_type == "Add":
        other = [r.values.get(n) for n in after[0].input if n != name]
        if len(other) == 1 and isinstance(other[0], np.ndarray) and other[0].ndim == 1:
            y = r.values[after[0].output[0]] = _linear(r, x, w, other[0])
            return y
    return _linear(r, x, w, None)


def _window(r: Reader) -> dict[str, Any]:
    """Stride and padding of windows on images."""
    auto, pads = r.take("auto_pad", b"NOTSET"), r.take("pads", [0] * 4)
    if auto == b"SAME_LOWER":
        raise r.refusal("Not supported", auto_pad="SAME_LOWER")
    if len(pads) != 4:
        raise r.refusal("There must be two axes of an image", pads=pads)
    padding: Any = ((pads[0], pads[2]), (pads[1], pads[3]))
    if auto in (b"SAME_UPPER", b"VALID"):
        padding = "same" if auto == b"SAME_UPPER" else "valid"
    return {"stride": tuple(r.take("strides", [1, 1])), "padding": padding}


def _conv(r: Reader, x: Any, w: Any, b: Any = None) -> Any:
    r.symbolic(x)
    w = r.array(w, 4)
    transposed, groups = r.node.op_type == "ConvTranspose", r.take("group", 1)
    options = _window(r) | {"groups": groups, "use_bias": b is not None, "activation": "linear"}
    options["dilation"] = tuple(r.take("dilations", [1, 1]))
    weights = {"W": w} if b is None else {"W": w, "b": r.array(b, 1)}
    if not transposed:
        return _call(L.Convolution(len(w), w.shape[2:], **options), x, **weights)
    if "output_shape" in r.attributes or options["padding"] == "same":
        raise r.refusal("Only `pads` are supported")
    options["output_padding"] = tuple(r.take("output_padding", [0, 0]))
    filters = w.shape[1] * groups
    return _call(L.TransposedConvolution(filters, w.shape[2:], **options), x, **weights)


def _pool(r: Reader, x: Any) -> Any:
    r.symbolic(x)
    r.want(ceil_mode=0, dilations=[1, 1])
    options = _window(r)
    if r.node.op_type == "MaxPool":
        return _call(L.MaxPooling(tuple(r.take("kernel_shape", [])), **options), x)
    if any(r.take("pads", [])) or options["padding"] == "same":
        r.attributes.setdefault("count_include_pad", 0)
        r.want(count_include_pad=0)
    return _call(L.MeanPooling(tuple(r.take("kernel_shape", [])), **options), x)


def _global(make: Callable[[], Any]) -> Callable[..., Any]:
    def read(r: Reader, x: Any) -> Any:
        r.symbolic(x)
        if x.ndim != 4:
            raise r.refusal("The input must be images", shape=x.shape)
        return L.DimShuffle(3)(L.DimShuffle(2)(make()(x)))

    return read


def _batch_normal(r: Reader, x: Any, *weights: Any) -> Any:
    r.symbolic(x)
    r.want(training_mode=0)
    names = "gamma", "beta", "running_mean", "running_var"
    given = {name: r.array(w, 1) for name, w in zip(names, weights, strict=True)}
    layer = L.BatchNormal(float(r.take("epsilon", 1e-5)), float(r.take("momentum", 0.9)), 1)
    return _call(layer, x, **given)


def _reshape(r: Reader, x: Any, shape: Any) -> Any:
    r.symbolic(x)
    r.want(allowzero=0)
    sizes = r.list("shape", shape) or []
    kept = [x.shape[i] if n == 0 and i < x.ndim else n for i, n in enumerate(sizes)]
    if not sizes or None in kept[1:] or (sizes[0] > 0 and sizes[0] != x.shape[0]):
        raise r.refusal("The samples must stay on axis 0", shape=sizes)
    if sizes[0] == -1 and (None in x.shape[1:] or math.prod(kept[1:]) != math.prod(x.shape[1:])):
        raise r.refusal("The samples must stay on axis 0", shape=sizes)
    if len(kept) == 1:
        raise r.refusal("The output must have at least 2 axes", shape=sizes)
    return L.Reshape(tuple(kept[1:]))(x)


def _flatten(r: Reader, x: Any) -> Any:
    r.symbolic(x)
    r.want(axis=1)
    return L.Flatten()(x)


def _transpose(r: Reader, x: Any) -> Any:
    r.symbolic(x)
    order = r.take("perm", [])
    if not order or order[0] != 0:
        raise r.refusal("The samples must stay on axis 0", perm=order)
    return L.Permute(tuple(order[1:]))(x)


def _unsqueeze(r: Reader, x: Any, axes: Any = None) -> Any:
    r.symbolic(x)
    places = r.list("axes", axes) or []
    for axis in sorted(place % (x.ndim + len(places)) for place in places):
        if axis == 0:
            raise r.refusal("The samples must stay on axis 0", axes=places)
        x = L.DimShuffle(axis)(x)
    return x


def _same(r: Reader, x: Any, *more: Any) -> Any:
    if any(isinstance(one, np.ndarray) and one.dtype == bool and one.any() for one in more):
        raise r.refusal("Not supported in training")
    return x


def _merge(make: Callable[[], Any]) -> Callable[..., Any]:
    def read(r: Reader, *xs: Any) -> Any:
        r.symbolic(*xs)
        return make()(list(xs)) if len(xs) > 1 else xs[0]

    return read


def _concat(r: Reader, *xs: Any) -> Any:
    r.symbolic(*xs)
    return L.Concatenate(r.take("axis", 1))(list(xs))


def _gather(r: Reader, table: Any, ids: Any) -> Any:
    r.symbolic(ids)
    r.want(axis=0)
    table = r.array(table, 2)
    rows, columns = table.shape
    return _call(L.Embedding(input_size=rows, n_out=columns), ids, embed_words=table)


def _constant(r: Reader) -> Any:
    if "value" not in r.attributes:
        raise r.refusal("The constant must be an array")
    return array_of(r.attributes["value"])


OPS: dict[str, Callable[..., Any]] = {
    "Relu": _activation("relu"),
    "Sigmoid": _activation("sigmoid"),
    "Tanh": _activation("tanh"),
    "Softplus": _activation("soft_plus"),
    "Softsign": _activation("soft_sign"),
    "Exp": _activation("exponential"),
    "Elu": _activation("elu", alpha=("alpha", 1.0)),
    "LeakyRelu": _activation("leaky_relu", slope=("alpha", 0.01)),
    "Softmax": _along("softmax"),
    "LogSoftmax": _along("log_softmax"),
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Conv": _conv,
    "ConvTranspose": _conv,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global(L.GlobalMeanPooling),
    "GlobalMaxPool": _global(L.GlobalMaxPooling),
    "BatchNormalization": _batch_normal,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Identity": _same,
    "Dropout": _same,
    "Add": _merge(L.Add),
    "Sum": _merge(L.Add),
    "Sub": _merge(L.Subtract),
    "Mul": _merge(L.Multiply),
    "Max": _merge(L.Maximum),
    "Min": _merge(L.Minimum),
    "Mean": _merge(L.Average),
    "Concat": _concat,
    "Gather": _gather,
    "Constant": _constant,
}
