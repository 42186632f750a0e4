"""The table of layers: for each class the function that writes its nodes, and its mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from npdl import layers as L
from npdl.layers.base import Layer, Shape
from npdl.layers.node import Value
from npdl.layers.plan import Plan
from npdl.onnx import _attention, _recurrent, _windows
from npdl.onnx._activations import activation
from npdl.onnx._graph import (
    Graph,
    Mask,
    Tensor,
    Unexpressed,
    axes_in_place,
    kept_mask,
    read_mask,
    refuse,
)
from npdl.onnx._merging import combined, concatenated, concatenated_mask, dot, union_mask

# ----------------------------------------------------------------------------- dense and shapes


def _linear(g: Graph, layer: Any, path: str, xs: list[Tensor], shape: Shape) -> str:
    (x,) = xs
    weights = [g.weight(path + "W", layer.W)]
    if layer.use_bias:
        weights.append(g.weight(path + "b", layer.b))
    if x.ndim == 2 and layer.use_bias:
        y = g.op("Gemm", x.name, *weights)
    else:
        y = g.op("MatMul", x.name, weights[0])
        y = g.op("Add", y, weights[1]) if layer.use_bias else y
    if len(layer._units) > 1:
        y = g.reshape(y, *[0] * (x.ndim - 1), *layer._units)
    return activation(g, layer, layer.activation, y)


def _activation(g: Graph, layer: Any, path: str, xs: list[Tensor], shape: Shape) -> str:
    return activation(g, layer, layer.activation, xs[0].name)


def _prelu(g: Graph, layer: Any, path: str, xs: list[Tensor], shape: Shape) -> str:
    return g.op("PRelu", xs[0].name, g.weight(path + "alpha", layer.alpha))


def _same(g: Graph, layer: Layer, path: str, xs: list[Tensor], shape: Shape) -> str:
    return xs[0].name


def _flatten(g: Graph, layer: Any, path: str, xs: list[Tensor], shape: Shape) -> str:
    return g.reshape(xs[0].name, *[0] * (layer.outdim - 1), -1)


def _dim_shuffle(g: Graph, layer: Any, path: str, xs: list[Tensor], shape: Shape) -> str:
    return g.unsqueeze(xs[0].name, layer.axis)


def _reshape(g: Graph, layer: Any, path: str, xs: list[Tensor], shape: Shape) -> str:
    return g.reshape(xs[0].name, 0, *layer.shape)


def _permute(g: Graph, layer: Any, path: str, xs: list[Tensor], shape: Shape) -> str:
    return g.turned(xs[0].name, 0, *layer.axes)


def _repeat(g: Graph, layer: Any, path: str, xs: list[Tensor], shape: Shape) -> str:
    return g.op("Expand", g.unsqueeze(xs[0].name, 1), g.ints(1, layer.n, 1))


def _embedding(g: Graph, layer: Any, path: str, xs: list[Tensor], shape: Shape) -> str:
    table = g.weight(path + "embed_words", layer.embed_words)
    ids = xs[0].name if xs[0].ints else g.cast(xs[0].name, "INT64")
    return g.op("Gather", table, ids)


def _embedding_mask(g: Graph, layer: Any, xs: list[Tensor], shape: Shape) -> Mask:
    (x,) = xs
    if not layer.mask_zero or x.ndim != 2:
        return kept_mask(x, shape)
    zero = g.constant(0, np.int64 if x.ints else np.float32)
    made = g.cast(g.op("Not", g.op("Equal", x.name, zero)), "FLOAT")
    before = read_mask(x, layer)
    return made if before is None else g.op("Mul", made, before)


def _positions(g: Graph, layer: Any, path: str, xs: list[Tensor], shape: Shape) -> str:
    (x,) = xs
    table = g.weight(path + "positions", layer.positions)
    first = g.op("Slice", table, g.ints(0), g.op("Shape", x.name, start=1, end=2), g.ints(0))
    return g.op("Add", x.name, first)


def _masking(g: Graph, layer: Any, path: str, xs: list[Tensor], shape: Shape) -> Any:
    (x,) = xs
    if np.isnan(layer.mask_value):
        masked = g.op("IsNaN", x.name)
    else:
        masked = g.op("Equal", x.name, g.constant(layer.mask_value))
    other = g.cast(g.op("Not", masked), "FLOAT")
    made = g.op("ReduceMax", other, axes=[*range(2, x.ndim)], keepdims=0)
    before = read_mask(x, layer)
    mask = made if before is None else g.op("Mul", made, before)
    return [g.where_real(made, x.name, g.constant(0), x.ndim)], mask


# ------------------------------------------------------------------------------- normalization


def _batch_normal(g: Graph, layer: Any, path: str, xs: list[Tensor], shape: Shape) -> str:
    (x,) = xs
    names = "gamma", "beta", "running_mean", "running_var"
    weights = [g.weight(path + name, getattr(layer, name)) for name in names]
    kept = layer.axis % x.ndim
    if kept == 1 or (kept == 0 and x.ndim == 2):
        y = g.op("BatchNormalization", x.name, *weights, epsilon=layer.epsilon)
    else:
        if kept not in (0, x.ndim - 1):
            sizes = axes_in_place([kept], layer.gamma.shape, x.ndim)
            weights = [g.reshape(name, *sizes) for name in weights]
        gamma, beta, mean, var = weights
        y = _scaled(g, g.op("Sub", x.name, mean), var, layer.epsilon, gamma, beta)
    mask = read_mask(x, layer) if x.ndim >= 3 else None
    return y if mask is None else g.where_real(mask, y, g.constant(0), x.ndim)


def _scaled(g: Graph, x: str, var: str, epsilon: float, gamma: str, beta: str | None) -> str:
    root = g.op("Sqrt", g.op("Add", var, g.constant(epsilon)))
    y = g.op("Mul", g.op("Div", x, root), gamma)
    return y if beta is None else g.op("Add", y, beta)


def _layer_normalization(g: Graph, layer: Any, path: str, xs: list[Tensor], shape: Shape) -> str:
    (x,) = xs
    axes = layer._axes
    weights = [g.weight(path + "gamma", layer.gamma)]
    if layer._centred:
        weights.append(g.weight(path + "beta", layer.beta))
        if axes == (*range(axes[0], x.ndim),):
            options = {"axis": axes[0], "epsilon": layer.epsilon}
            return g.op("LayerNormalization", x.name, *weights, **options)
    sizes = axes_in_place(axes, layer.gamma.shape, x.ndim)
    gamma, *beta = [g.reshape(name, *sizes) for name in weights]
    rest = g.op("Sub", x.name, g.mean(x.name, *axes)) if layer._centred else x.name
    var = g.mean(g.op("Mul", rest, rest), *axes)
    return _scaled(g, rest, var, layer.epsilon, gamma, beta[0] if beta else None)


def _group_normalization(g: Graph, layer: Any, path: str, xs: list[Tensor], shape: Shape) -> str:
    (x,) = xs
    (axis,) = layer._axes
    channels = layer.gamma.shape[0]
    groups = channels if layer.groups == -1 else layer.groups
    order = [0, axis, *(i for i in range(1, x.ndim) if i != axis)]
    turned = g.turned(x.name, *order)
    rows = g.reshape(turned, 0, groups, -1)
    rest = g.op("Sub", rows, g.mean(rows, 2))
    root = g.op("Sqrt", g.op("Add", g.mean(g.op("Mul", rest, rest), 2), g.constant(layer.epsilon)))
    y = g.op("Reshape", g.op("Div", rest, root), g.op("Shape", turned))
    sizes = axes_in_place([1], [channels], x.ndim)
    gamma, beta = (
        g.reshape(g.weight(path + name, getattr(layer, name)), *sizes) for name in ("gamma", "beta")
    )
    y = g.op("Add", g.op("Mul", y, gamma), beta)
    return g.turned(y, *np.argsort(order).tolist())


# ------------------------------------------------------------------------------ layers in layers


def _separable(g: Graph, layer: Any, path: str, xs: list[Tensor], shape: Shape) -> str:
    between = layer.depthwise.shape_for(Value(xs[0].shape))
    inner = _windows.convolution(g, layer.depthwise, f"{path}depthwise/", xs, between)
    first = [Tensor(inner, between)]
    return _windows.convolution(g, layer.pointwise, f"{path}pointwise/", first, shape)


def _block(g: Graph, layer: Any, path: str, xs: list[Tensor], shape: Shape) -> Any:
    plan = layer._steps.rewired([Value(x.shape) for x in xs])
    names = {id(one): name for name, one in layer.named_sublayers()}
    ys = run(g, plan, {id(one): f"{path}{names[id(one)]}/" for one in plan.layers}, xs)
    return [y.name for y in ys], [y.mask for y in ys]


def _time_distributed(g: Graph, layer: Any, path: str, xs: list[Tensor], shape: Shape) -> str:
    (x,) = xs
    inner, (name, _) = layer.layer, layer.named_sublayers()[0]
    sample = g.op("Concat", g.ints(-1), g.op("Shape", x.name, start=2), axis=0)
    step = Tensor(g.op("Reshape", x.name, sample), (None, *x.shape[2:]), None, x.ints)
    out = inner.shape_for(Value(step.shape))
    (y,) = write(g, inner, f"{path}{name}/", [step], (out,))
    both = g.op("Shape", x.name, start=0, end=2), g.op("Shape", y.name, start=1)
    return g.op("Reshape", y.name, g.op("Concat", *both, axis=0))


# ------------------------------------------------------------------------------------ the table

Writer = Callable[..., Any]

#: Class: what writes its nodes. It returns the name of the output, or a list of names with the mask
#: of the first or a list of masks. A layer of another class, also a subclass, is refused.
WRITERS: dict[type[Layer], Writer] = {
    **dict.fromkeys((L.Linear, L.Dense, L.Softmax), _linear),
    **dict.fromkeys((L.Activation, L.ReLU, L.LeakyReLU, L.ELU), _activation),
    **dict.fromkeys((L.Dropout, L.SpatialDropout, L.GaussianNoise), _same),
    **dict.fromkeys((L.Convolution, L.Convolution1D), _windows.convolution),
    **dict.fromkeys((L.DepthwiseConvolution, L.DepthwiseConvolution1D), _windows.convolution),
    **dict.fromkeys((L.TransposedConvolution, L.TransposedConvolution1D), _windows.convolution),
    **dict.fromkeys((L.SeparableConvolution, L.SeparableConvolution1D), _separable),
    **dict.fromkeys((L.MaxPooling, L.MaxPooling1D), _windows.pooling("MaxPool")),
    **dict.fromkeys((L.MeanPooling, L.MeanPooling1D), _windows.pooling("AveragePool")),
    **dict.fromkeys((L.UpSampling, L.UpSampling1D), _windows.up_sampling),
    **dict.fromkeys((L.ZeroPadding, L.ZeroPadding1D), _windows.padding),
    **dict.fromkeys((L.Cropping, L.Cropping1D), _windows.cropping),
    **dict.fromkeys((L.BatchNormal, L.BatchNormalization), _batch_normal),
    **dict.fromkeys((L.LayerNormalization, L.RMSNormalization), _layer_normalization),
    **dict.fromkeys((L.Block, L.Sequence, L.Residual, L.Parallel), _block),
    **{kind: lambda g, layer, path, xs, _: _recurrent.recurrent(g, layer, path, xs)
       for kind in _recurrent.OPS},
    **{kind: combined for kind in (L.Add, L.Subtract, L.Multiply, L.Average)},
    **{kind: combined for kind in (L.Maximum, L.Minimum)},
    L.Bidirectional: lambda g, layer, path, xs, _: _recurrent.bidirectional(g, layer, path, xs),
    L.TimeDistributed: _time_distributed,
    L.GlobalMaxPooling: _windows.global_pooling("ReduceMax"),
    L.GlobalMeanPooling: _windows.global_pooling("ReduceMean"),
    L.GroupNormalization: _group_normalization,
    L.PReLU: _prelu,
    L.Flatten: _flatten,
    L.DimShuffle: _dim_shuffle,
    L.Reshape: _reshape,
    L.Permute: _permute,
    L.RepeatVector: _repeat,
    L.Embedding: _embedding,
    L.Masking: _masking,
    L.Attention: _attention.attention,
    L.MultiHeadAttention: _attention.multi_head,
    L.PositionEmbedding: _positions,
    L.Concatenate: concatenated,
    L.Dot: dot,
}  # fmt: skip

_ENDS = (L.Reshape, L.Permute, L.RepeatVector, L.Dot, L.GlobalMaxPooling, L.GlobalMeanPooling)
_MERGES = (L.Add, L.Subtract, L.Multiply, L.Average, L.Maximum, L.Minimum)
_CONVOLVED = (
    *(L.Convolution1D, L.DepthwiseConvolution1D, L.SeparableConvolution1D),
    L.TransposedConvolution1D,
)

#: Layers that take integers as they are.
_KEEP_INTS = (L.Flatten, L.DimShuffle, L.Reshape, L.Permute, L.TimeDistributed, L.Embedding)


def _mask_after(g: Graph, layer: Any, xs: list[Tensor], shape: Shape) -> Mask:
    """The mask of the output, for the layers that do not return it themselves."""
    x, kind = xs[0], type(layer)
    if kind in _ENDS:
        return None
    if kind is L.Embedding:
        return _embedding_mask(g, layer, xs, shape)
    if kind in _MERGES:
        return union_mask(g, layer, xs, shape)
    if kind is L.Concatenate:
        return concatenated_mask(g, layer, xs, shape)
    if x.mask is None:
        return None
    if kind in (L.MaxPooling1D, L.MeanPooling1D):
        return _windows.pooled_mask(g, layer, x)
    if isinstance(x.mask, Unexpressed):
        return x.mask
    if kind in (L.ZeroPadding1D, L.Cropping1D):
        return _windows.framed_mask(g, layer, x)
    if kind is L.UpSampling1D:
        return _windows.repeated_mask(g, layer, x)
    if kind in _CONVOLVED:
        return _convolved_mask(layer, x)
    return kept_mask(x, shape)


def _convolved_mask(layer: Any, x: Tensor) -> Mask:
    if isinstance(layer, L.TransposedConvolution1D):
        return None if layer.stride > 1 else Unexpressed(layer.name)
    if layer.stride == 1 and layer.padding in ("same", "causal"):
        return x.mask
    return Unexpressed(layer.name)


def write(
    g: Graph, layer: Layer, path: str, xs: list[Tensor], shapes: tuple[Shape, ...]
) -> list[Tensor]:
    """Add the nodes of one call of a layer, and return its outputs.

    Raises
    ------
    ValueError
        If the layer, or one of its options, has no form in ONNX.
    """
    writer = WRITERS.get(type(layer))
    if writer is None:
        raise refuse(layer, "The layer has no form in ONNX")
    before, g.prefix = g.prefix, path.rstrip("/")
    if not isinstance(layer, (*_KEEP_INTS, L.Block)):
        xs = [x._replace(name=g.cast(x.name, "FLOAT"), ints=False) if x.ints else x for x in xs]
    found = writer(g, layer, path, xs, shapes[0])
    if isinstance(found, str):
        found = [found], _mask_after(g, layer, xs, shapes[0])
    names, masks = found
    if not isinstance(masks, list):
        masks = [masks] + [None] * (len(names) - 1)
    g.prefix = before
    ints = xs[0].ints and isinstance(layer, _KEEP_INTS[:4])
    return [Tensor(n, s, m, ints) for n, s, m in zip(names, shapes, masks, strict=True)]


def run(g: Graph, plan: Plan, paths: dict[int, str], inputs: list[Tensor]) -> list[Tensor]:
    """Add the nodes of all steps, and return the outputs."""
    values: dict[int, Tensor] = dict(enumerate(inputs))
    for step in plan.steps:
        taken = [values[slot] for slot in step.sources]
        outputs = write(g, step.owner, paths[id(step.owner)], taken, step.shapes)
        values.update(zip(step.targets, outputs))
    return [values[slot] for slot in plan.out_slots]


def int_inputs(plan: Plan) -> set[int]:
    """The numbers of the inputs that are looked up in a table, and so are integers."""
    wanted: set[int] = set()
    for step in reversed(plan.steps):
        layer: Any = step.owner
        inner: Any = layer
        while isinstance(inner, L.TimeDistributed):
            inner = inner.layer
        if isinstance(inner, L.Embedding):
            wanted.add(step.sources[0])
        elif isinstance(inner, L.Block):
            wanted |= {step.sources[i] for i in int_inputs(inner._steps)}
        elif isinstance(inner, _KEEP_INTS) and step.targets[0] in wanted:
            wanted.add(step.sources[0])
    return wanted & {*range(len(plan.in_shapes))}
