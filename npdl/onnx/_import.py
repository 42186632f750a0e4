"""Reading a model from an ONNX file."""

from __future__ import annotations

import os
from typing import Any

import onnx
from numpy.typing import NDArray

from npdl import _safetensors, _tree
from npdl._checks import error_message
from npdl._files import StrPath
from npdl.initializations import no_random_init
from npdl.layers.recurrent import Recurrent
from npdl.layers.tree import every_layer
from npdl.model import Model
from npdl.onnx._arrays import array_of
from npdl.onnx._foreign import OPS
from npdl.onnx._reader import Reader
from npdl.onnx._recurrent import PARTS, joined
from npdl.serialization import adopt
from npdl.utils.random import use_dtype

#: The largest file that protobuf can hold.
_MOST = 2**31 - 1


def import_onnx(path: StrPath) -> Model:
    """Read a model from an ONNX file; it is ready to predict, or to be compiled and trained.

    What `export_onnx` wrote comes back as it was: layers, names, options, and the weights in
    float32. In a file of another program each node becomes a layer, if npdl has one for it.

    Parameters
    ----------
    path : path

    Raises
    ------
    ValueError
        If the file is damaged, or holds a node that no layer of npdl computes. The message has the
        name of the node and its op.
    """
    where = os.fspath(path)
    size = os.path.getsize(path)
    if size > _MOST:
        raise ValueError(
            error_message("An ONNX file must be smaller than 2 GB", path=where, size=size)
        )
    made = onnx.ModelProto()
    try:
        with open(path, "rb") as file:
            made.ParseFromString(file.read(_MOST))
    except Exception as error:  # of protobuf, in one of its several forms
        raise ValueError(f"{where!r} is no ONNX file: {error}") from error
    texts = {entry.key: entry.value for entry in made.metadata_props}
    try:
        folder = os.path.dirname(os.path.abspath(path))
        arrays = {tensor.name: array_of(tensor, folder) for tensor in made.graph.initializer}
        if "npdl.model" in texts:
            return _own(texts["npdl.model"], arrays)
        return _foreign(made, arrays)
    except Exception as error:
        what = str(error) if isinstance(error, ValueError) else repr(error)
        raise ValueError(f"{where!r} holds no model that can be loaded: {what}") from error


def _foreign(made: Any, arrays: dict[str, NDArray]) -> Model:
    """The model that another program wrote."""
    opset = max(
        (one.version for one in made.opset_import if one.domain in ("", "ai.onnx")), default=1
    )
    floats = sum(array.size for array in arrays.values())
    # A constant may be in a node, and running statistics and biases are made beside the weights.
    with no_random_init(2 * floats + 2**24), use_dtype("float32"):
        return Reader(made.graph, arrays, opset, OPS).model()


def _own(text: str, arrays: dict[str, NDArray]) -> Model:
    """The model that npdl wrote, from its configuration and the arrays of the graph."""
    config = _tree.unpack(_safetensors.parse(text), {})
    # The configuration gives sizes: the parameters can't be larger than the file.
    with no_random_init(sum(array.size for array in arrays.values())), use_dtype("float32"):
        model = Model.from_json(config)
        if not model.built:
            model.build()
    weights = {name: arrays[name] for name in model.weights if name in arrays}
    for name, layer in _recurrent_layers(model):
        parts = [arrays.get(name + part) for part in PARTS]
        if not any(part is None for part in parts):
            weights[name] = joined(layer, *parts)  # type: ignore[arg-type]
    adopt(model, weights, config["frozen"])
    return model


def _recurrent_layers(model: Model) -> list[tuple[str, Recurrent]]:
    """The recurrent layers, each with the name of its `AllW`."""
    owners = {
        id(layer._parameters_by_name["AllW"]): layer
        for layer in every_layer(model.layers)
        if isinstance(layer, Recurrent)
    }
    return [
        (f"{name}/{path}", owners[id(parameter)])
        for name, layer in zip(model.layer_names, model.layers)
        for path, parameter in layer.named_parameters()
        if id(parameter) in owners
    ]
