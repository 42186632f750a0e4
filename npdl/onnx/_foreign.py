"""Graphs that other programs wrote: a table of ops, each with the layer that it becomes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl import layers as L
from npdl.layers.node import Value
from npdl.onnx._arrays import array_of
from npdl.onnx._foreign_affine import (
    folded,
    read_add,
    read_div,
    read_layer_norm,
    read_mean,
    read_mul,
    read_pad,
    read_prelu,
    read_sub,
    scaled,
)
from npdl.onnx._foreign_recurrent import (
    concatenated,
    picked,
    read_recurrent,
    reshaped,
    squeezed,
    transposed,
)
from npdl.onnx._foreign_windows import read_conv, read_pool
from npdl.onnx._reader import DIRECTION, Laid, Reader, call, laid

#: The constants alpha and gamma of SELU.
SELU = 1.67326319217681884765625, 1.05070102214813232421875


def _layer(make: Callable[[Reader], Any]) -> Callable[..., Any]:
    def read(r: Reader, x: Any) -> Any:
        r.symbolic(x)
        return call(make(r), x)

    return read


def _activation(name: str, **defaults: tuple[str, float]) -> Callable[..., Any]:
    """An activation; `defaults` has for each of its arguments the attribute and its default."""

    def make(r: Reader) -> Any:
        options = {key: float(r.take(*given)) for key, given in defaults.items()}
        return L.Activation({"name": name, **options})

    return _layer(make)


def _selu(r: Reader, x: Any) -> Any:
    alpha, gamma = r.take("alpha", SELU[0]), r.take("gamma", SELU[1])
    if max(abs(alpha - SELU[0]), abs(gamma - SELU[1])) < 1e-6:
        return _activation("selu")(r, x)
    return scaled(r, _activation("elu", alpha=("alpha", alpha))(r, x), None, gamma, 0.0)


def _hard_sigmoid(r: Reader, x: Any) -> Any:
    slope, middle = r.take("alpha", 0.2), r.take("beta", 0.5)
    r.symbolic(x)
    if abs(slope - 1 / 6) > 1e-6 or middle != 0.5:  # npdl's has these
        x = scaled(r, x, None, 6 * slope, 6 * middle - 3)
    return _activation("hard_sigmoid")(r, x)


def _gelu(r: Reader, x: Any) -> Any:
    r.want(approximate=b"none")
    return _activation("gelu")(r, x)


def _along(name: str) -> Callable[..., Any]:
    def read(r: Reader, x: Any) -> Any:
        axis = r.take("axis", -1 if r.opset >= 13 else 1)
        if isinstance(x, Laid) and DIRECTION not in x.order and r.opset >= 13:
            axis = x.order[axis]
            if axis > 0:
                y = call(L.Activation({"name": name, "axis": axis}), x.values[0])
                return Laid((y,), x.order)
        r.symbolic(x)
        if axis % x.ndim == 0 or (r.opset < 13 and axis % x.ndim != x.ndim - 1):
            raise r.refusal("Not supported", axis=axis)
        return call(L.Activation({"name": name, "axis": axis % x.ndim}), x)

    return read


def _gemm(r: Reader, x: Any, w: Any, b: Any = None) -> Any:
    r.symbolic(x)
    r.want(transA=0)
    w = r.take("alpha", 1.0) * r.array(w, 2)
    b = b if b is None or r.take("beta", 1.0) == 1 else r.take("beta", 1.0) * r.array(b)
    return _linear(r, x, w.T if r.take("transB", 0) else w, b)


def _linear(r: Reader, x: Value, w: NDArray, b: Any) -> Any:
    layer = L.Linear(w.shape[1], use_bias=b is not None)
    if b is None:
        return call(layer, x, W=w)
    b = r.array(b)
    if b.size not in (1, w.shape[1]) or b.size != max(b.shape[-1:] or (1,)):
        raise r.refusal("The bias must have a number for each output", shape=b.shape)
    return call(layer, x, W=w, b=np.broadcast_to(b.reshape(-1), w.shape[1:]))


def _matmul(r: Reader, x: Any, w: Any) -> Any:
    r.symbolic(x)
    if isinstance(w, Value) and x.ndim == w.ndim == 3:
        return L.Dot((2, 1))([x, w])
    w, name = r.array(w, 2), r.node.output[0]
    after = r.after.get(name, [])
    if r.uses[name] == 1 and len(after) == 1 and after[0].op_type == "Add":
        other = [r.values.get(n) for n in after[0].input if n != name]
        if len(other) == 1 and isinstance(other[0], np.ndarray) and other[0].ndim == 1:
            y = r.values[after[0].output[0]] = _linear(r, x, w, other[0])
            return y
    return _linear(r, x, w, None)


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
    return call(layer, x, **given)


def _reshape(r: Reader, x: Any, shape: Any = None) -> Any:
    if isinstance(x, np.ndarray):
        sizes = r.list("shape", shape) or []
        return x.reshape([x.shape[i] if n == 0 and i < x.ndim else n for i, n in enumerate(sizes)])
    if isinstance(x, Laid):
        return reshaped(r, x, r.list("shape", shape) or [])
    r.symbolic(x)
    r.want(allowzero=0)
    sizes = r.list("shape", shape) or []
    if sizes and sizes[0] == r.batch:
        sizes[0] = 0  # the number of samples, which the file has fixed
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
    if isinstance(x, np.ndarray):
        return x.transpose(r.take("perm", None))
    n_axes = len(laid(x).order) if isinstance(x, Value | Laid) else 0
    order = r.take("perm", [*range(n_axes)][::-1])
    if sorted(order) != [*range(n_axes)]:
        raise r.refusal("The order must have each axis once", perm=order)
    y = transposed(x, order)
    if isinstance(y, Laid) and not r.is_recurrent:
        raise r.refusal("The samples must stay on axis 0", perm=order)
    return y


def _squeeze(r: Reader, x: Any, axes: Any = None) -> Any:
    places = r.list("axes", axes)
    if places is None:
        raise r.refusal("The axes must be given")
    if isinstance(x, np.ndarray):
        return x.squeeze(tuple(places))
    if isinstance(x, Laid):
        return squeezed(r, x, places)
    r.symbolic(x)
    gone = {axis % x.ndim for axis in places}
    if any(x.shape[axis] != 1 for axis in gone) or x.ndim - len(gone) < 2:
        raise r.refusal("The axes must have size 1, and 2 must be left", axes=places)
    sizes = [n for axis, n in enumerate(x.shape) if axis and axis not in gone]
    return L.Reshape(tuple(-1 if n is None else n for n in sizes))(x)


def _unsqueeze(r: Reader, x: Any, axes: Any = None) -> Any:
    places = r.list("axes", axes) or []
    if isinstance(x, np.ndarray):
        return np.expand_dims(x, tuple(places))
    if isinstance(x, Value) and places == [0] and r.is_recurrent:  # the directions of a first state
        return Laid((x,), (DIRECTION, *laid(x).order))
    r.symbolic(x)
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
    if all(isinstance(x, np.ndarray) for x in xs):
        return folded(r, sum(x.size for x in xs), lambda: np.concatenate(xs, r.take("axis", 0)))
    if all(isinstance(x, Laid) for x in xs):
        return concatenated(r, list(xs))
    r.symbolic(*xs)
    return L.Concatenate(r.take("axis", 1))(list(xs))


def _gather(r: Reader, table: Any, ids: Any) -> Any:
    if isinstance(ids, np.ndarray):
        if isinstance(table, np.ndarray):
            axis = r.take("axis", 0)
            size = ids.size * (table.size // max(table.shape[axis], 1) if table.ndim else 1)
            return folded(r, size, lambda: table.take(ids, axis))
        if ids.size != 1 or not isinstance(table, Value | Laid):
            raise r.refusal("Only one index is known", shape=ids.shape)
        if ids.ndim:
            raise r.refusal("The index must be a number", shape=ids.shape)
        return picked(r, table, int(ids))
    r.attributes.setdefault("axis", 0)
    r.want(axis=0)
    table = r.array(table, 2)
    rows, columns = table.shape
    if isinstance(ids, Laid) and ids.order == (1, 0):
        layer = L.Embedding(input_size=rows, n_out=columns)
        return Laid((call(layer, ids.values[0], embed_words=table),), (1, 0, 2))
    r.symbolic(ids)
    return call(L.Embedding(input_size=rows, n_out=columns), ids, embed_words=table)


def _constant(r: Reader) -> Any:
    for name in ("value_int", "value_ints", "value_float", "value_floats"):
        if name in r.attributes:
            return np.array(r.attributes[name], np.int64 if "int" in name else np.float32)
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
    "Conv": read_conv,
    "ConvTranspose": read_conv,
    "MaxPool": read_pool,
    "AveragePool": read_pool,
    "GlobalAveragePool": _global(L.GlobalMeanPooling),
    "GlobalMaxPool": _global(L.GlobalMaxPooling),
    "BatchNormalization": _batch_normal,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Identity": _same,
    "Dropout": _same,
    "Add": read_add,
    "Sum": _merge(L.Add),
    "Sub": read_sub,
    "Mul": read_mul,
    "Div": read_div,
    "LayerNormalization": read_layer_norm,
    "PRelu": read_prelu,
    "ReduceMean": read_mean,
    "Pad": read_pad,
    "HardSigmoid": _hard_sigmoid,
    "Gelu": _gelu,
    "Mish": _activation("mish"),
    "Max": _merge(L.Maximum),
    "Min": _merge(L.Minimum),
    "Mean": _merge(L.Average),
    "Concat": _concat,
    "Gather": _gather,
    "Constant": _constant,
    "RNN": read_recurrent,
    "GRU": read_recurrent,
    "LSTM": read_recurrent,
    "Selu": _selu,
}
