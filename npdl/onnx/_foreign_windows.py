"""Convolutions and pooling of other programs, of images and of signals (N, C, T)."""

from __future__ import annotations

from typing import Any

from npdl import layers as L
from npdl.layers.node import Value
from npdl.onnx._reader import Reader, call

#: Padding of each axis, before and behind.
Sides = tuple[tuple[int, int], ...]


def read_conv(r: Reader, x: Any, w: Any, b: Any = None) -> Any:
    """The output of a Conv or ConvTranspose node."""
    image, shape = _as_image(r, x)
    w = r.array(w, x.ndim)
    window = tuple(w.shape[2:])
    transposed, groups = r.node.op_type == "ConvTranspose", r.take("group", 1)
    stride, padding, dilation = _geometry(r, window, transposed)
    extra = tuple(r.take("output_padding", [0] * len(window)))
    if transposed:
        padding, extra = _cut(r, shape, window, stride, padding, dilation, extra)
    else:
        padding = _sides(r, shape, window, stride, padding, dilation)
    if x.ndim == 3:
        w = w[:, :, None]
    options: dict[str, Any] = {
        "stride": _pair(stride, 1),
        "padding": _pair(padding, (0, 0)) if isinstance(padding, tuple) else padding,
        "dilation": _pair(dilation, 1),
        "groups": groups,
        "use_bias": b is not None,
        "activation": "linear",
    }
    weights = {"W": w} if b is None else {"W": w, "b": r.array(b, 1)}
    layer: Any
    if transposed:
        options["output_padding"] = _pair(extra, 0)
        layer = L.TransposedConvolution(w.shape[1] * groups, w.shape[2:], **options)
    else:
        layer = L.Convolution(len(w), w.shape[2:], **options)
    return _back(call(layer, image, **weights), x)


def read_pool(r: Reader, x: Any) -> Any:
    """The output of a MaxPool or AveragePool node."""
    image, shape = _as_image(r, x)
    window = tuple(r.take("kernel_shape", []))
    if len(window) != len(shape):
        raise r.refusal("The window must have a size for each axis", kernel_shape=window)
    stride, padding, dilation = _geometry(r, window)
    if any(one != 1 for one in dilation):
        raise r.refusal("Not supported", dilations=list(dilation))
    padding = _sides(r, shape, window, stride, padding, dilation)
    if r.take("ceil_mode", 0):
        padding = _ceiled(r, shape, window, stride, padding)
    sides: Any = _pair(padding, (0, 0)) if isinstance(padding, tuple) else padding
    options = {"stride": _pair(stride, 1), "padding": sides}
    if r.node.op_type == "MaxPool":
        return _back(L.MaxPooling(_pair(window, 1), **options)(image), x)
    if r.take("count_include_pad", 0) and sides != "valid":
        if r.take("ceil_mode", 0) or isinstance(sides, str):
            r.want(count_include_pad=0)
        image, options["padding"] = L.ZeroPadding(sides)(image), "valid"
    return _back(L.MeanPooling(_pair(window, 1), **options)(image), x)


def _as_image(r: Reader, x: Any) -> tuple[Value, tuple[int | None, ...]]:
    """The input as images, and the sizes of the axes that windows move along."""
    r.symbolic(x)
    if x.ndim not in (3, 4):
        raise r.refusal("There must be one or two axes of windows", shape=x.shape)
    return L.DimShuffle(2)(x) if x.ndim == 3 else x, x.shape[2:]


def _back(y: Value, x: Value) -> Value:
    """The output with as many axes as the input has."""
    return L.Reshape((y.shape[1] or -1, y.shape[3] or -1))(y) if x.ndim == 3 else y


def _pair(values: tuple[Any, ...], other: Any) -> tuple[Any, ...]:
    """A value for each of two axes."""
    return values if len(values) == 2 else (other, *values)


def _geometry(
    r: Reader, window: tuple[int, ...], transposed: bool = False
) -> tuple[tuple[int, ...], Any, tuple[int, ...]]:
    """Stride, padding and dilation; the padding "same" and "lower" as words."""
    n = len(window)
    pads = list(r.take("pads", [0] * 2 * n))
    stride, dilation = (tuple(r.take(key, [1] * n)) for key in ("strides", "dilations"))
    if len(pads) != 2 * n or len(stride) != n or len(dilation) != n:
        raise r.refusal("There must be a number for each axis", pads=pads, strides=list(stride))
    words = {b"SAME_UPPER": "same", b"SAME_LOWER": "lower", b"VALID": "valid"}
    padding: Any = words.get(r.take("auto_pad", b"NOTSET"))
    return stride, padding or tuple(zip(pads[:n], pads[n:])), dilation


def _sides(
    r: Reader,
    shape: tuple[int | None, ...],
    window: tuple[int, ...],
    stride: tuple[int, ...],
    padding: Any,
    dilation: tuple[int, ...],
) -> Any:
    """The padding as numbers, where npdl has no word for it."""
    if padding not in ("lower", "same") or (padding == "same" and len(shape) == 2):
        return padding
    sides = []
    for size, k, s, d in zip(shape, window, stride, dilation):
        if size is None:
            raise r.refusal("The sizes of the input must be known", auto_pad="SAME_LOWER")
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        few, many = total // 2, total - total // 2
        sides.append((many, few) if padding == "lower" else (few, many))
    return tuple(sides)


def _cut(
    r: Reader,
    shape: tuple[int | None, ...],
    window: tuple[int, ...],
    stride: tuple[int, ...],
    padding: Any,
    dilation: tuple[int, ...],
    extra: tuple[int, ...],
) -> tuple[Any, tuple[int, ...]]:
    """The padding that a transposed convolution crops or adds, for a known size of the output."""
    wanted = r.take("output_shape", None)
    if len(extra) != len(window) or (wanted and len(wanted) < len(window)):
        raise r.refusal("There must be a number for each axis", output_padding=list(extra))
    if wanted is None and padding not in ("same", "lower"):
        return padding, extra
    sides, more = [], []
    wanted = wanted and wanted[-len(window) :]
    for i, (size, k, s, d) in enumerate(zip(shape, window, stride, dilation)):
        if size is None:
            raise r.refusal("The sizes of the input must be known")
        out = wanted[i] if wanted else size * s
        total = s * (size - 1) + extra[i] + (k - 1) * d + 1 - out
        if total < 0 and not wanted:  # ONNX Runtime's output is smaller than ONNX says
            raise r.refusal("The window must cover the stride", stride=list(stride))
        few, many = max(total, 0) // 2, -(-max(total, 0) // 2)
        sides.append((few, many) if padding == "same" else (many, few))
        more.append(extra[i] + max(-total, 0))
    return tuple(sides), tuple(more)


def _ceiled(
    r: Reader, shape: tuple[int | None, ...], window: Any, stride: Any, padding: Any
) -> Any:
    """The padding that lets the last windows, which are not full, count too."""
    if isinstance(padding, str):  # these have no partial windows, or define the rounding
        if padding == "same":
            return padding
        padding = ((0, 0),) * len(shape)
    sides = []
    for size, k, s, (before, behind) in zip(shape, window, stride, padding):
        if size is None:
            raise r.refusal("The sizes of the input must be known", ceil_mode=1)
        steps = -(-(size + before + behind - k) // s) + 1
        if (steps - 1) * s >= size + before:
            steps -= 1
        sides.append((before, max((steps - 1) * s + k - size - before, behind)))
    return tuple(sides)
