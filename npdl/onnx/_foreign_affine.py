"""Sums and products with constants, and normalizations, of other programs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl import layers as L
from npdl.layers.node import Value
from npdl.onnx._reader import Reader, call

#: With this variance the root that batch normalization divides by is exactly 1.
_EPSILON = 2.0**-20


def read_add(r: Reader, *xs: Any) -> Any:
    """A sum; of a value and a constant too."""
    return _with_constant(r, xs, L.Add, lambda c, first: (1.0, c))


def read_sub(r: Reader, *xs: Any) -> Any:
    """A difference."""
    return _with_constant(r, xs, L.Subtract, lambda c, first: (-1.0, c) if first else (1.0, -c))


def read_mul(r: Reader, *xs: Any) -> Any:
    """A product."""
    return _with_constant(r, xs, L.Multiply, lambda c, first: (c, 0.0))


def read_div(r: Reader, *xs: Any) -> Any:
    """A quotient, whose divisor is constant."""
    if len(xs) != 2 or not isinstance(xs[1], np.ndarray) or not xs[1].all():
        raise r.refusal("The divisor must be constant, and not 0")
    return _with_constant(r, xs, None, lambda c, first: (1 / c, 0.0))


def _with_constant(r: Reader, xs: Any, merge: Any, of: Any) -> Any:
    """A merge of values; or of a value and a constant, which gives a factor and a summand."""
    arrays = [x for x in xs if isinstance(x, np.ndarray)]
    if not arrays:
        r.symbolic(*xs)
        return merge()(list(xs)) if len(xs) > 1 else xs[0]
    if len(xs) != 2 or len(arrays) != 1 or arrays[0].dtype.kind != "f" or not arrays[0].size:
        raise r.refusal("One of two inputs may be a constant array of floats")
    first = isinstance(xs[0], np.ndarray)
    value = xs[1] if first else xs[0]
    r.symbolic(value)
    factor, summand = of(arrays[0].astype(np.float32), first)
    shape = np.broadcast_shapes(np.shape(factor), np.shape(summand))
    if len(shape) > value.ndim or any(
        n not in (1, m) for n, m in zip(shape[::-1], value.shape[::-1])
    ):
        raise r.refusal("The constant must fit the value", shape=shape, value=value.shape)
    wide = (1,) * (value.ndim - len(shape)) + shape
    axes = [axis for axis, size in enumerate(wide) if size > 1]
    if axes == [1, 2] and value.ndim == 3 and np.ndim(factor) == 0 and factor == 1:
        layer = L.PositionEmbedding(wide[1])
        return call(layer, value, positions=np.asarray(summand, np.float32).reshape(wide[1:]))
    if len(axes) > 1 or axes == [0]:
        raise r.refusal("The constant may differ along one axis only", shape=shape)
    return scaled(r, value, axes[0] if axes else None, factor, summand)


def scaled(r: Reader, x: Value, axis: int | None, factor: Any, summand: Any) -> Value:
    """`x` times a factor plus a summand: a batch normalization whose statistics are frozen."""
    if axis is None:
        axis = next((i for i in range(1, x.ndim) if x.shape[i] is not None), 0)
    size = x.shape[axis] if axis else None
    if size is None:
        raise r.refusal("The size of one axis must be known", value=x.shape)
    layer = L.BatchNormal(_EPSILON, axis=axis)
    gamma, beta = (np.broadcast_to(np.ravel(part), size) for part in (factor, summand))
    y = call(
        layer,
        x,
        gamma=gamma,
        beta=beta,
        running_mean=np.zeros(size),
        running_var=np.full(size, 1 - _EPSILON),
    )
    layer.trainable = False
    return y


def read_layer_norm(r: Reader, x: Any, gamma: Any, beta: Any = None) -> Any:
    """Layer normalization along the last axes."""
    r.symbolic(x)
    axis = r.take("axis", -1) % x.ndim
    axes = tuple(range(axis, x.ndim))
    if axis == 0:
        raise r.refusal("The samples must be normalized one by one", axis=0)
    gamma = r.array(gamma)
    beta = np.zeros_like(gamma) if beta is None else r.array(beta)
    layer = L.LayerNormalization(float(r.take("epsilon", 1e-5)), axis=axes)
    return call(layer, x, gamma=gamma, beta=beta)


def read_prelu(r: Reader, x: Any, slope: Any) -> Any:
    """PReLU, whose slopes may differ along any axis but that of the samples."""
    r.symbolic(x)
    slope = r.array(slope)
    if r.opset < 7 and slope.ndim == 1:  # of the channels
        slope = slope.reshape(-1, *(1,) * (x.ndim - 2))
    shape = (1,) * (x.ndim - slope.ndim) + slope.shape
    if len(shape) != x.ndim or shape[0] != 1:
        raise r.refusal("The slopes must fit a sample", shape=slope.shape)
    shared = tuple(axis for axis in range(1, x.ndim) if shape[axis] == 1)
    return call(L.PReLU(shared_axes=shared or None), x, alpha=slope.reshape(shape[1:]))


def read_mean(r: Reader, x: Any, axes: Any = None) -> Any:
    """The mean over the rows and columns of images, or over steps."""
    r.symbolic(x)
    places = r.list("axes", axes) or []
    gone = sorted(axis % x.ndim for axis in places)
    if (x.ndim, gone) not in ((4, [2, 3]), (3, [1])):
        raise r.refusal(
            "Only means over the pixels of images, or over steps, are known", axes=places
        )
    y = L.GlobalMeanPooling()(x)
    if r.take("keepdims", 1):
        for axis in gone:
            y = L.DimShuffle(axis)(y)
    return y


def read_pad(r: Reader, x: Any, pads: Any = None, value: Any = None, axes: Any = None) -> Any:
    """Zeros around images."""
    r.symbolic(x)
    sides = r.list("pads" if "pads" in r.attributes else "paddings", pads)
    number = r.take("value", 0.0) if value is None else float(np.ravel(r.array(value))[0])
    if r.take("mode", b"constant") != b"constant" or number or axes is not None:
        raise r.refusal("Only zeros can be added, on known axes", value=number)
    if x.ndim != 4 or not sides or len(sides) != 8 or any(sides[i] for i in (0, 1, 4, 5)):
        raise r.refusal("Zeros can be added around images only", pads=sides)
    if min(sides) < 0:
        if max(sides) > 0:
            raise r.refusal("Sides must be all added or all cut", pads=sides)
        cut = ((-sides[2], -sides[6]), (-sides[3], -sides[7]))
        return L.Cropping(cut)(x)
    return L.ZeroPadding(((sides[2], sides[6]), (sides[3], sides[7])))(x)


def folded(r: Reader, size: int, make: Any) -> NDArray:
    """An array that is made of constants; no larger than what shapes and indices need."""
    if size > 1 << 16:
        raise r.refusal("Constants are computed up to 65,536 numbers", size=size)
    return make()
