"""Attention as products and a softmax, with the masks of both sides."""

from __future__ import annotations

from typing import Any

import numpy as np

from npdl.layers.base import Shape
from npdl.onnx._graph import Graph, Tensor, read_mask

#: The score of a key that a query does not attend to.
_NEVER = np.float32(-1e30)


def attention(g: Graph, layer: Any, path: str, xs: list[Tensor], shape: Shape) -> str:
    """Attention without projections."""
    query, value, key = layer._all_three(xs)
    allowed, rows = _masks(g, layer, xs)
    if layer.score == "additive":
        both = g.op("Add", g.unsqueeze(query.name, 2), g.unsqueeze(key.name, 1))
        scale = g.reshape(g.weight(path + "scale", layer.scale), -1, 1)
        scores = g.unsqueeze(g.squeeze(g.op("MatMul", g.op("Tanh", both), scale), 3), 1)
        y = _read(g, layer, scores, g.unsqueeze(_cleared(g, layer, value), 1), allowed)
    else:
        q, v, k = (
            g.unsqueeze(name, 1) for name in (query.name, _cleared(g, layer, value), key.name)
        )
        y = _read(g, layer, _dots(g, layer, q, k), v, allowed)
    y = g.squeeze(y, 1)
    return y if rows is None else g.where_real(rows, y, g.constant(0), 3)


def multi_head(g: Graph, layer: Any, path: str, xs: list[Tensor], shape: Shape) -> str:
    """Attention with several heads, each with its own projections."""
    query, value, key = layer._all_three(xs)
    allowed, rows = _masks(g, layer, xs)
    own = layer._parameters_by_name

    def projected(name: str, x: str) -> str:
        y = g.op("MatMul", x, g.weight(f"{path}{name}_W", own[f"{name}_W"].value))
        if not layer.use_bias:
            return y
        return g.op("Add", y, g.weight(f"{path}{name}_b", own[f"{name}_b"].value))

    inputs = ("query", query.name), ("key", key.name), ("value", _cleared(g, layer, value))
    q, k, v = (
        g.turned(g.reshape(projected(name, x), 0, 0, layer.heads, -1), 0, 2, 1, 3)
        for name, x in inputs
    )
    y = g.turned(_read(g, layer, _dots(g, layer, q, k), v, allowed), 0, 2, 1, 3)
    y = projected("output", g.reshape(y, 0, 0, len(own["output_W"].value)))
    return y if rows is None else g.where_real(rows, y, g.constant(0), 3)


def _dots(g: Graph, layer: Any, q: str, k: str) -> str:
    scores = g.op("MatMul", q, g.turned(k, 0, 1, 3, 2))
    return g.op("Mul", scores, g.constant(layer._score()[1]))


def _read(g: Graph, layer: Any, scores: str, v: str, allowed: str | None) -> str:
    if allowed is not None:
        scores = g.op("Where", allowed, scores, g.constant(_NEVER))
    return g.op("MatMul", g.op("Softmax", scores, axis=-1), v)


def _cleared(g: Graph, layer: Any, value: Tensor) -> str:
    """The value with 0 in masked steps, which may hold NaN."""
    mask = read_mask(value, layer)
    return value.name if mask is None else g.where_real(mask, value.name, g.constant(0), 3)


def _masks(g: Graph, layer: Any, xs: list[Tensor]) -> tuple[str | None, str | None]:
    """Which key each query may attend to, and the queries that attend to any."""
    masks = [read_mask(x, layer) for x in xs]
    rows, *sides = layer._all_three(masks)
    given = list(dict.fromkeys(mask for mask in sides if mask is not None))
    allowed = None
    if layer.causal:
        query, value, _ = layer._all_three(xs)
        at, to = (
            g.op("CumSum", g.op("Expand", one, g.op("Shape", x.name, start=1, end=2)), zero)
            for one, zero in [(g.constant(1), g.constant(0, np.int64))]
            for x in (query, value)
        )
        allowed = g.op("GreaterOrEqual", g.unsqueeze(at, 1), g.unsqueeze(to, 0))
    if not given:
        return allowed, rows
    keys = given[0] if len(given) == 1 else g.op("Mul", *given)
    real = g.unsqueeze(g.cast(keys, "BOOL"), 1, 2)
    allowed = real if allowed is None else g.op("And", real, allowed)
    some = g.op("ReduceMax", g.cast(allowed, "FLOAT"), axes=[3], keepdims=0)
    some = g.squeeze(some, 1)  # (N, TQ), or (N, 1) where it is the same for all queries
    if rows is None:
        ones = g.op("Expand", g.constant(1), g.op("Shape", xs[0].name, start=0, end=2))
        return allowed, g.op("Mul", ones, some)
    return allowed, g.op("Mul", rows, some)
