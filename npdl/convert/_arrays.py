"""The arrays of Keras's layers in the form that npdl's layers have.

Channels come first, filters are (out, in, rows, columns), and the gates of an LSTM are in the order
i, f, o, g.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl import layers
from npdl._checks import error_message
from npdl.convert._files import Weights

#: A parameter's layer, its name, and the array for it.
Found = tuple[layers.Layer, str, NDArray]
#: (C, H, W) of an image that was flattened: Keras has the numbers in the order H, W, C.
Image = tuple[int, int, int]


def keras_order(image: Image) -> NDArray:
    """The index, in Keras's order, of each number of a flattened image."""
    c, h, w = image
    return np.arange(c * h * w).reshape(h, w, c).transpose(2, 0, 1).reshape(-1)


def arrays_for(
    layer: layers.Layer, weights: Weights, path: str, image: Image | None = None
) -> list[Found]:
    """The arrays of a file for a layer.

    Parameters
    ----------
    layer : Layer
        Built.
    weights : Weights
    path : str
        Path of the layer in the file.
    image : tuple, optional
        The input is an image of this shape that was flattened.

    Raises
    ------
    ValueError
        If the arrays are not those of such a layer.
    """
    if isinstance(layer, layers.Bidirectional):
        return [
            *arrays_for(layer.forward_layer, weights, f"{path}/forward_layer"),
            *arrays_for(layer.backward_layer, weights, f"{path}/backward_layer"),
        ]
    if isinstance(layer, layers.TimeDistributed):
        return arrays_for(layer.layer, weights, f"{path}/layer")
    if isinstance(layer, layers.SeparableConvolution | layers.SeparableConvolution1D):
        return _separable(layer, weights.arrays(path))
    if isinstance(layer, layers.MultiHeadAttention):
        return _fitted(layer, _heads(layer, weights, path))
    inner = f"{path}/cell" if isinstance(layer, layers.Recurrent) else path
    given = weights.arrays(inner)
    if isinstance(layer, layers.BatchNormal | layers.PReLU) and image is not None:
        given = [array.reshape(-1)[keras_order(image)] for array in given]
        image = None
    for cls, turn in _TURNS.items():
        if isinstance(layer, cls):
            found = turn(layer, given)
            if image is not None and isinstance(layer, layers.Linear) and len(found) > 0:
                found["W"] = found["W"][_checked_order(layer, found["W"], image)]
            return _fitted(layer, found)
    if layer.parameters or given:
        rule = f"{type(layer).__name__} has no counterpart in Keras's files"
        raise ValueError(error_message(rule, layer=layer.name, arrays=len(given)))
    return []


def _checked_order(layer: layers.Layer, w: NDArray, image: Image) -> NDArray:
    order = keras_order(image)
    if len(order) != len(w):
        rule = f"The kernel must have {len(order)} rows"
        raise ValueError(error_message(rule, layer=layer.name, rows=len(w)))
    return order


def _fitted(layer: layers.Layer, found: dict[str, NDArray]) -> list[Found]:
    """The arrays, if there is one of the right shape for each parameter."""
    wanted = {name: p.value.shape for name, p in layer._parameters_by_name.items()}
    got = {name: array.shape for name, array in found.items()}
    if wanted != got:
        rule = f"The arrays for layer {layer.name!r} must have the shapes {wanted}"
        raise ValueError(f"{rule}. Received: {got}")
    return [(layer, name, array) for name, array in found.items()]


def put(found: Iterable[Found]) -> None:
    """Write arrays into the parameters."""
    for layer, name, array in found:
        layer._parameters_by_name[name].value[...] = array


def _named(layer: layers.Layer, given: list[NDArray], *names: str) -> dict[str, NDArray]:
    """The arrays under these names; there must be as many."""
    if len(given) != len(names):
        rule = f"The file must have {len(names)} arrays for layer {layer.name!r}"
        raise ValueError(f"{rule}. Received: {len(given)}")
    return dict(zip(names, given))


def _affine(turn: Callable[[NDArray], NDArray]) -> Callable[..., dict[str, NDArray]]:
    def turned(layer: Any, given: list[NDArray]) -> dict[str, NDArray]:
        found = _named(layer, given, *(("W", "b") if layer.use_bias else ("W",)))
        found["W"] = turn(found["W"])
        return found

    return turned


def _filters(kernel: NDArray) -> NDArray:
    """(rows, columns, in, out), or (steps, in, out), with the last two axes first."""
    return kernel.T if kernel.ndim == 2 else np.moveaxis(kernel, (-1, -2), (0, 1))


def _depthwise(kernel: NDArray) -> NDArray:
    """(rows, columns, C, M) as (C M, 1, rows, columns)."""
    moved = np.moveaxis(kernel, (-2, -1), (0, 1))
    return moved.reshape(-1, 1, *moved.shape[2:])


def _separable(layer: Any, given: list[NDArray]) -> list[Found]:
    found = _named(layer, given, *(("d", "p", "b") if layer.use_bias else ("d", "p")))
    point = {"W": _filters(found["p"]), **({"b": found["b"]} if layer.use_bias else {})}
    return [
        *_fitted(layer.depthwise, {"W": _depthwise(found["d"])}),
        *_fitted(layer.pointwise, point),
    ]


def _batch_normal(layer: Any, given: list[NDArray]) -> dict[str, NDArray]:
    """`gamma` and `beta`, as far as the layer trains them, and the statistics."""
    learned = [n for n in ("gamma", "beta") if layer._parameters_by_name[n].learns]
    if len(given) == 2:
        learned = []
    found = _named(layer, given, *learned, "running_mean", "running_var")
    return {**_defaults(layer), **found}


def _defaults(layer: Any) -> dict[str, NDArray]:
    """1 for `gamma`, 0 for `beta`: what Keras leaves out."""
    start = {"gamma": np.ones, "beta": np.zeros}
    named = layer._parameters_by_name
    return {n: make(named[n].value.shape) for n, make in start.items() if n in named}


def _layer_norm(layer: Any, given: list[NDArray]) -> dict[str, NDArray]:
    learned = [n for n in layer._parameters_by_name if layer._parameters_by_name[n].learns]
    return {**_defaults(layer), **_named(layer, given, *learned)}


def _prelu(layer: Any, given: list[NDArray]) -> dict[str, NDArray]:
    found = _named(layer, given, "alpha")
    if found["alpha"].ndim == 3:  # of images (H, W, C)
        found["alpha"] = found["alpha"].transpose(2, 0, 1)
    return found


def recurrent_matrix(
    kernel: NDArray, recurrent: NDArray, biases: list[NDArray], order: list[int]
) -> NDArray:
    """`AllW` from arrays with the gates side by side, in another order."""
    rows = np.vstack([*biases, kernel, recurrent])
    parts = np.split(rows, len(order), axis=1)
    return np.hstack([parts[k] for k in order])


def _recurrent(layer: Any, given: list[NDArray]) -> dict[str, NDArray]:
    names = ("kernel", "recurrent_kernel", *(("bias",) if layer.use_bias else ()))
    found = _named(layer, given, *names)
    kernel = found["kernel"]
    width = layer._n_gates * layer.n_out
    bias = found.get("bias", np.zeros((layer._n_biases, width)))
    shapes = {
        "kernel": (layer.AllW.shape[0] - layer._n_biases - layer.n_out, width),
        "recurrent_kernel": (layer.n_out, width),
        "bias": (width,) if layer._n_biases == 1 else (2, width),
    }
    for name, array in found.items():
        if array.shape != shapes[name]:
            rule = f"The {name} of layer {layer.name!r} must have shape {shapes[name]}"
            if name == "bias" and isinstance(layer, layers.GRU):
                rule += f", as reset_after={layer.reset_after}"
            raise ValueError(f"{rule}. Received: {array.shape}")
    order = [0, 1, 3, 2] if isinstance(layer, layers.LSTM) else [*range(layer._n_gates)]
    rows = [np.atleast_2d(bias)]
    return {"AllW": recurrent_matrix(kernel, found["recurrent_kernel"], rows, order)}


def _heads(layer: Any, weights: Weights, path: str) -> dict[str, NDArray]:
    """The projections: (in, heads, size), and (heads, size, out), as matrices."""
    found: dict[str, NDArray] = {}
    for part in ("query", "key", "value", "output"):
        names = (f"{part}_W", f"{part}_b")[: 1 + layer.use_bias]
        own = _named(layer, weights.arrays(f"{path}/{part}_dense"), *names)
        w = own[f"{part}_W"]
        if w.ndim != 3:
            rule = f"The kernels of layer {layer.name!r} must have 3 axes"
            raise ValueError(error_message(rule, shape=w.shape))
        found[f"{part}_W"] = (
            w.reshape(-1, w.shape[2]) if part == "output" else w.reshape(len(w), -1)
        )
        if layer.use_bias:
            found[f"{part}_b"] = own[f"{part}_b"].reshape(-1)
    return {name: found[name] for name in layer._parameters_by_name}


def _embedding(layer: Any, given: list[NDArray]) -> dict[str, NDArray]:
    return _named(layer, given, "embed_words")


_TURNS: dict[Any, Callable[..., dict[str, NDArray]]] = {
    layers.Linear: _affine(lambda kernel: kernel),
    (layers.DepthwiseConvolution, layers.DepthwiseConvolution1D): _affine(_depthwise),
    (layers.Convolution, layers.Convolution1D): _affine(_filters),
    (layers.TransposedConvolution, layers.TransposedConvolution1D): _affine(_filters),
    layers.BatchNormal: _batch_normal,
    (layers.LayerNormalization, layers.GroupNormalization): _layer_norm,
    layers.RMSNormalization: _layer_norm,
    layers.PReLU: _prelu,
    layers.Recurrent: _recurrent,
    layers.Embedding: _embedding,
    layers.Attention: lambda layer, given: _named(layer, given, *layer._parameters_by_name),
}

#: The groups in Keras's files, by the class of npdl's layer; they are numbered: dense, dense_1.
GROUPS: dict[Any, str] = {
    layers.Linear: "dense",
    layers.Convolution: "conv2d",
    layers.Convolution1D: "conv1d",
    layers.TransposedConvolution: "conv2d_transpose",
    layers.TransposedConvolution1D: "conv1d_transpose",
    layers.DepthwiseConvolution: "depthwise_conv2d",
    layers.DepthwiseConvolution1D: "depthwise_conv1d",
    layers.SeparableConvolution: "separable_conv2d",
    layers.SeparableConvolution1D: "separable_conv1d",
    layers.BatchNormal: "batch_normalization",
    layers.RMSNormalization: "rms_normalization",  # before its base
    layers.LayerNormalization: "layer_normalization",
    layers.GroupNormalization: "group_normalization",
    layers.PReLU: "p_re_lu",
    layers.SimpleRNN: "simple_rnn",
    layers.GRU: "gru",
    layers.LSTM: "lstm",
    layers.Embedding: "embedding",
    layers.MultiHeadAttention: "multi_head_attention",
    layers.Attention: "additive_attention",  # others have no weights
    layers.Bidirectional: "bidirectional",
    layers.TimeDistributed: "time_distributed",
}
