"""Convolutions, pooling and resizing of images and sequences, as nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from npdl import layers as L
from npdl.layers.base import Layer, Shape
from npdl.onnx._activations import activation
from npdl.onnx._graph import Graph, Tensor, read_mask


def _pads(sizes: Sequence[int | None], reach: Any, stride: Any, padding: Any) -> dict[str, Any]:
    """The attribute that says how far windows reach beyond the edges."""
    if padding == "causal":
        return {"pads": [reach[0] - 1, 0]}
    if padding == "same":
        ends = []
        for size, window, step in zip(sizes, reach, stride):
            if size is None and step > 1:
                return {"auto_pad": "SAME_UPPER"}
            total = max((-(-(size or 1) // step) - 1) * step + window - (size or 1), 0)
            ends.append((total // 2, total - total // 2))
    elif padding == "valid":
        return {}
    else:
        ends = [p if isinstance(p, tuple) else (p, p) for p in padding]
    return {"pads": [before for before, _ in ends] + [after for _, after in ends]}


def _geometry(layer: Any) -> tuple[Any, Any, Any, Any]:
    """Stride, dilation, reach of a window and padding, with an entry for each axis."""
    stride, dilation, padding = layer.stride, layer.dilation, layer.padding
    window = layer.filter_size
    if layer._axes == 1:
        stride, dilation, window = (stride,), (dilation,), (window,)
        padding = padding if isinstance(padding, str) else (padding,)
    reach = tuple(d * (k - 1) + 1 for k, d in zip(window, dilation))
    return stride, dilation, reach, padding


def convolution(g: Graph, layer: Any, path: str, xs: list[Tensor], shape: Shape) -> str:
    """A convolution, forwards or transposed; sequences are turned, with the features in front."""
    stride, dilation, reach, padding = _geometry(layer)
    steps = layer._axes == 1
    x = g.turned(xs[0].name, 0, 2, 1) if steps else xs[0].name
    sizes = xs[0].shape[1:2] if steps else xs[0].shape[2:]
    options: dict[str, Any] = {"strides": stride, "dilations": dilation, "group": layer.groups}
    weights = [g.weight(path + "W", layer.W)]
    if layer.use_bias:
        weights.append(g.weight(path + "b", layer.b))
    if layer._transposed:
        more = layer.output_padding if not steps else (layer.output_padding,)
        if padding == "same":  # an output of `stride` times the size
            cut = [max(k - s, 0) for k, s in zip(reach, stride)]
            more = [max(s - k, 0) for k, s in zip(reach, stride)]
            padding = tuple((c // 2, c - c // 2) for c in cut)
        options |= _pads(sizes, reach, stride, padding) | {"output_padding": list(more)}
        y = g.op("ConvTranspose", x, *weights, **options)
    else:
        options |= _pads(sizes, reach, stride, padding)
        y = g.op("Conv", x, *weights, **options)
    y = g.turned(y, 0, 2, 1) if steps else y
    return activation(g, layer, layer.activation, y, layer._rows_along)


def pooling(kind: str) -> Callable[..., str]:
    """The writer of a pooling of windows."""

    def write(g: Graph, layer: Any, path: str, xs: list[Tensor], shape: Shape) -> str:
        (x,) = xs
        window, stride, padding = layer.pool_size, layer.stride, layer.padding
        options: dict[str, Any] = {"count_include_pad": 0} if kind == "AveragePool" else {}
        steps = layer._n_axes == 1
        if steps:
            window, stride = (window,), (stride,)
            if read_mask(x, layer) is not None:
                return _masked_pooling(g, layer, x, kind)
        sizes = x.shape[1:2] if steps else x.shape[-2:]
        options |= _pads(sizes, window, stride, padding)
        options |= {"kernel_shape": window, "strides": stride}
        if steps:
            return g.turned(g.op(kind, g.turned(x.name, 0, 2, 1), **options), 0, 2, 1)
        if x.ndim == 4:
            return g.op(kind, x.name, **options)
        return g.squeeze(g.op(kind, g.unsqueeze(x.name, 1), **options), 1)

    return write


def _pool_steps(g: Graph, layer: Any, x: str, size: int | None, kind: str) -> str:
    window, stride = (layer.pool_size,), (layer.stride,)
    options: dict[str, Any] = {"count_include_pad": 0} if kind == "AveragePool" else {}
    options |= _pads((size,), window, stride, layer.padding)
    return g.op(kind, x, kernel_shape=window, strides=stride, **options)


def _masked_pooling(g: Graph, layer: Any, x: Tensor, kind: str) -> str:
    """The pooling of real steps; 0 where a window has none."""
    mask = str(x.mask)
    size, zero = x.shape[1], g.constant(0)
    neutral = zero if kind == "AveragePool" else g.constant(-np.inf)
    kept = g.where_real(mask, x.name, neutral, 3)
    y = g.turned(_pool_steps(g, layer, g.turned(kept, 0, 2, 1), size, kind), 0, 2, 1)
    share = _pool_steps(g, layer, g.unsqueeze(mask, 1), size, "AveragePool")
    share = g.turned(share, 0, 2, 1)
    some = g.op("Greater", share, zero)
    if kind == "AveragePool":
        y = g.op("Div", y, g.op("Where", some, share, g.constant(1)))
    return g.op("Where", some, y, zero)


def pooled_mask(g: Graph, layer: Any, x: Tensor) -> str:
    """The mask of a pooling of steps: 1 for windows that hold a real one."""
    most = _pool_steps(g, layer, g.unsqueeze(str(x.mask), 1), x.shape[1], "MaxPool")
    return g.squeeze(most, 1)


def global_pooling(kind: str) -> Callable[..., str]:
    """The writer of a pooling of all places."""

    def write(g: Graph, layer: Layer, path: str, xs: list[Tensor], shape: Shape) -> str:
        (x,) = xs
        if x.ndim == 4:
            return g.op(kind, x.name, axes=[2, 3], keepdims=0)
        mask = read_mask(x, layer)
        if mask is None:
            return g.op(kind, x.name, axes=[1], keepdims=0)
        zero, count = g.constant(0), g.sum(mask, 1)
        if kind == "ReduceMean":
            total = g.sum(g.where_real(mask, x.name, zero, 3), 1, keepdims=False)
            return g.op("Div", total, g.op("Max", count, g.constant(1)))
        kept = g.where_real(mask, x.name, g.constant(-np.inf), 3)
        most = g.op(kind, kept, axes=[1], keepdims=0)
        return g.op("Where", g.cast(count, "BOOL"), most, zero)

    return write


def up_sampling(g: Graph, layer: Any, path: str, xs: list[Tensor], shape: Shape) -> str:
    """Images or sequences made larger."""
    (x,) = xs
    one_axis = isinstance(layer, L.UpSampling1D)
    factors = [1.0, layer.size, 1.0] if one_axis else [1.0, 1.0, *layer.size]
    name = g.unsqueeze(x.name, 1) if x.ndim == 3 and not one_axis else x.name
    linear = getattr(layer, "interpolation", "nearest") == "bilinear"
    if linear:
        options = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    else:
        options = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}
        options["nearest_mode"] = "floor"
    y = g.op("Resize", name, "", g.constant(factors), **options)
    return g.squeeze(y, 1) if name != x.name else y


def _frame(layer: Any, ndim: int) -> tuple[list[int], list[int], list[int]]:
    """The axes of `_sides`, and the numbers before and after each."""
    sides = layer._sides
    axes = [*range(ndim - len(sides), ndim)]
    return axes, [before for before, _ in sides], [after for _, after in sides]


def padding(g: Graph, layer: Any, path: str, xs: list[Tensor], shape: Shape) -> str:
    """Zeros around images or sequences."""
    (x,) = xs
    axes, before, after = _frame(layer, x.ndim)
    front = [0] * (x.ndim - len(axes))
    return g.op("Pad", x.name, g.ints(*front, *before, *front, *after))


def cropping(g: Graph, layer: Any, path: str, xs: list[Tensor], shape: Shape) -> str:
    """Images or sequences without their edges."""
    axes, before, after = _frame(layer, xs[0].ndim)
    ends = [-n if n else np.iinfo(np.int64).max for n in after]
    return g.op("Slice", xs[0].name, g.ints(*before), g.ints(*ends), g.ints(*axes))


def framed_mask(g: Graph, layer: Any, x: Tensor) -> str:
    """The mask of a sequence with steps added or removed."""
    mask = str(x.mask)
    if isinstance(layer, L.ZeroPadding1D):
        before, after = layer.padding
        return g.op("Pad", mask, g.ints(0, before, 0, after))
    before, after = layer.cropping
    end = -after if after else np.iinfo(np.int64).max
    return g.op("Slice", mask, g.ints(before), g.ints(end), g.ints(1))


def repeated_mask(g: Graph, layer: Any, x: Tensor) -> str:
    """The mask of a sequence whose steps are repeated."""
    pairs = g.op("Expand", g.unsqueeze(str(x.mask), 2), g.ints(1, 1, layer.size))
    return g.reshape(pairs, 0, -1)
