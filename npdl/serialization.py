"""Level 2: models and weights as files, without pickle.

A file is in safetensors format (`npdl._safetensors`), so any reader of that format opens it. The
arrays of `Model.weights` have their names, ``"dense_1/W"``. The file of a whole model has in its
metadata, as JSON, the configuration ("npdl.model") and the state needed to resume training
("npdl.state"): the states of the optimizer and the random generator. Arrays in these two are
further tensors, see `npdl._tree`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from npdl import _safetensors, _tree
from npdl._checks import error_message
from npdl._files import StrPath
from npdl._registry import (
    register_custom,
    to_json_type,
)
from npdl._version import __version__
from npdl.layers.base import Layer
from npdl.layers.config import (
    give_name,
    graph_config,
    graph_values,
    layer_from,
    reading,
    registry,
)
from npdl.layers.tree import writing
from npdl.utils.random import get_dtype, get_rng_state

#: The version of the contents of a file: 1 for a chain of layers, 2 for a graph. Files of later
#: versions are not read.
FORMAT, GRAPH_FORMAT = 1, 2
#: The arguments of `Model.compile`, which the model keeps under their names.
COMPILED = ("loss", "optimizer", "metrics", "weighted_metrics", "loss_weights")

C = TypeVar("C", bound=type)


def register(cls: C | None = None, *, name: str | None = None) -> Any:
    """Register a class of your own, so that files that name it can be loaded.

    A decorator, ``@register`` or ``@register(name="my_scale")``, for layers, losses, optimizers,
    activations and anything else in the configuration of a model. A class that is registered again
    under its name, as happens in notebooks, replaces the old one.

    Parameters
    ----------
    cls : type
    name : str, optional
        The name in files; that of the class by default.

    Raises
    ------
    ValueError
        If npdl uses this name.
    """

    def decorate(cls: C) -> C:
        known = name or cls.__name__
        if registry.knows(known):
            raise ValueError(error_message("npdl has a layer of this name", name=known))
        register_custom(known, cls)
        return cls

    return decorate if cls is None else decorate(cls)


# --------------------------------------------------------------------------------- configuration


def model_config(
    model: Any, layer_config: Callable[[Layer], dict[str, Any]] = lambda layer: layer.to_json()
) -> dict[str, Any]:
    """The configuration of a model as JSON types; see `Model.to_json`."""
    names, plan = model.layer_names, model.plan
    with writing(model.layers):
        entries = [_entry(layer, name, layer_config) for name, layer in zip(names, model.layers)]
    config: dict[str, Any] = {"layers": entries}
    if model.inputs is None or model.outputs is None or plan is None:
        config["input_shape"] = None if plan is None else to_json_type(plan.in_shapes[0])
    else:
        by_layer = dict(zip(model.layers, names))
        config |= graph_config(plan, model.input_names, model.output_names, by_layer)
        config["forms"] = [model.inputs.form, model.outputs.form]
    if model.name is not None:
        config["name"] = model.name
    if model.compiled:
        config |= {
            name: _compiled_config(name, getattr(model, name))
            for name in COMPILED
            if getattr(model, name) is not None
        }
    if model.terms:
        config["added_losses"] = [term.name for term in model.terms]
    return config


def _entry(
    layer: Layer, name: str, layer_config: Callable[[Layer], dict[str, Any]]
) -> dict[str, Any]:
    entry = {**layer.nested_config(), "name": name}
    if "config" in entry and not layer.sublayers:
        entry["config"] = layer_config(layer)
    return entry


def _compiled_config(name: str, value: Any) -> Any:
    if isinstance(value, dict):  # by output
        return {key: _compiled_config(name, one) for key, one in value.items()}
    if name == "loss" and not hasattr(value, "get_config"):  # any object with forward and backward
        raise TypeError(
            f"A loss must be a subclass of npdl.objectives.Objective, or have get_config() and be "
            f"registered with npdl.saving.register, for its model to be saved; save_weights needs "
            f"none of this. Received: loss={type(value).__name__}"
        )
    return to_json_type(value)


def fill_model(model: Any, config: dict[str, Any]) -> None:
    """Add the layers of a configuration to an empty model, connect and compile it."""
    layers: dict[str, Layer] = {}
    with reading():
        for entry in config["layers"]:
            layer, name = layer_from(entry), entry["name"]
            give_name(layer, name)
            if name in layers:
                raise ValueError(error_message("The names of layers must differ", name=name))
            layers[name] = layer
            dtypes = config.get("dtypes", {}).get(name)
            if dtypes:
                layer._dtypes = dtypes
    model.name = config.get("name")
    if "calls" in config:
        inputs, outputs = graph_values(config, layers)
        forms = config["forms"]
        ends: list[Any] = [[*inputs.items()], outputs]
        given: list[Any] = [
            dict(items) if form == "dict" else [value for _, value in items]
            for form, items in zip(forms, ends, strict=True)
        ]
        args = (items[0] if form == "one" else items for form, items in zip(forms, given))
        model.connect(*args)
    else:
        model.layers = list(layers.values())
    model.adopt_names(layers)
    if "loss" in config:
        more = {name: config[name] for name in COMPILED[2:] if name in config}
        model.compile(config["loss"], config["optimizer"], **more)
        if config.get("added_losses"):
            names = ", ".join(map(str, config["added_losses"]))
            warnings.warn(
                f"The file holds no functions: call add_loss() again before training, for {names}.",
                stacklevel=4,
            )
    if config.get("input_shape") is not None:
        model.build(tuple(config["input_shape"]))


# --------------------------------------------------------------------------------------- weights


class Mismatch(NamedTuple):
    """The names of arrays that did not match when weights were loaded with ``strict=False``."""

    missing_keys: list[str]
    unexpected_keys: list[str]
    mismatched_keys: list[str]


def load_weights(model: Any, weights: Mapping[str, Any], strict: bool) -> Mismatch:
    """Copy matching arrays into a model, by name; if `strict`, all of them or none."""
    own = model.weights
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if strict and (missing or extra):
        rule = "The weights must be those of the model"
        raise ValueError(error_message(rule, missing=missing, unexpected=extra))
    new, unfit = {}, []
    for name in (name for name in own if name in weights):
        try:
            new[name] = _fitting(name, own[name], np.asarray(weights[name]))
        except ValueError:
            if strict:
                raise
            unfit.append(name)
    for name, array in new.items():
        own[name][...] = array
    for layer in model.layers:
        layer.was_trained = True
    return Mismatch(missing, extra, sorted(unfit))


def _fitting(name: str, own: NDArray, array: NDArray) -> NDArray:
    """`array` in the dtype of `own`, whose shape it must have."""
    if array.shape != own.shape:
        rule = f"The weights {name!r} must have shape {own.shape}"
        raise ValueError(error_message(rule, shape=array.shape))
    if array.dtype.kind != own.dtype.kind:
        rule = f"The weights {name!r} must be of a kind with {own.dtype}"
        raise ValueError(error_message(rule, dtype=array.dtype.name))
    return np.asarray(array, own.dtype)


# ----------------------------------------------------------------------------------------- files


def save_model(model: Any, path: StrPath, **more: Any) -> None:
    """Write a built model to a file, see `Model.save`, with a further state (`read_training`)."""
    check_path(path)
    tensors = dict(model.weights)
    config = model_config(model, lambda layer: layer.saved_config())
    config |= {"dtype": _dtype(model), "frozen": _frozen(model)}
    state: dict[str, Any] = {"rng": get_rng_state(), **more}
    if model.compiled and hasattr(model.optimizer, "get_state"):
        state["optimizer"] = model.optimizer.get_state()
    texts = {
        "npdl.model": _to_text(_tree.pack(config, "config", tensors)),
        "npdl.state": _to_text(
            {key: _tree.pack(value, key, tensors) for key, value in state.items()}
        ),
    }
    _safetensors.write(path, tensors, _origin(model) | texts)


def check_path(path: StrPath) -> None:
    """Raise ValueError for the name of a folder, or of a format that npdl does not write."""
    name = os.fspath(path)
    if str(name).endswith(("/", os.sep)):
        raise ValueError(error_message("`path` must name a file, not a folder", path=name))
    if str(name).lower().endswith((".h5", ".hdf5", ".keras")):
        rule = "npdl writes safetensors: `path` must not end like a file of Keras"
        raise ValueError(error_message(rule, path=name))


def save_weights(model: Any, path: StrPath) -> None:
    """Write only the weights to a file; see `Model.save_weights`."""
    check_path(path)
    _safetensors.write(path, model.weights, _origin(model))


def read_weights(path: StrPath) -> dict[str, NDArray]:
    """The weights in a file: of a model, of `save_weights`, or of another program."""
    return read_training(path)[0]


def read_training(path: StrPath) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """The weights in the file of a model, and its state."""
    tensors, metadata = _safetensors.read(path)
    _, state = unpack(path, tensors, metadata)
    return tensors, state


def restore_optimizer(model: Any, state: Mapping[str, Any]) -> None:
    """Restore the optimizer from a state, after checking the shapes of its arrays."""
    weights = model.weights
    for name, slots in state.get("slots", {}).items():
        for key, array in slots.items():
            _fitting(f"{name}, {key}", weights[name], array)
    model.optimizer.set_state(dict(state))


def unpack(
    path: StrPath, tensors: dict[str, NDArray], metadata: Mapping[str, str]
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Configuration and state from the metadata; their arrays are taken out of `tensors`."""
    version = metadata.get("npdl.format", str(FORMAT))
    newer = (
        f"{str(path)!r} has version {version!r} of the format; npdl {__version__} reads version "
        f"{FORMAT}, and graphs of version {GRAPH_FORMAT}. A newer npdl may read it."
    )
    if version not in (str(FORMAT), str(GRAPH_FORMAT)):
        raise ValueError(newer)
    try:
        found = [
            _tree.unpack(_safetensors.parse(metadata[key]), tensors) if key in metadata else None
            for key in ("npdl.model", "npdl.state")
        ]
        if not all(isinstance(tree, dict | None) for tree in found):
            raise ValueError("an object is expected")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} has damaged metadata: {error}") from error
    if version == str(GRAPH_FORMAT) and found[0] is not None and "calls" not in found[0]:
        raise ValueError(newer)
    return found[0], found[1] or {}


def adopt(model: Any, weights: dict[str, NDArray], frozen: list[str]) -> None:
    """Give a model that was just made its weights, and say which are frozen."""
    for name, layer in zip(model.layer_names, model.layers):
        for path, parameter in layer.named_parameters():
            parameter.trainable = f"{name}/{path}" not in frozen
    load_weights(model, weights, strict=True)


def _dtype(model: Any) -> str:
    floats = (a.dtype.name for a in model.weights.values())
    return next(floats, get_dtype().name)


def _frozen(model: Any) -> list[str]:
    return [name for name, _, trained in model.named_arrays() if not trained]


def _origin(model: Any) -> dict[str, str]:
    version = FORMAT if model.inputs is None else GRAPH_FORMAT
    return {"format": "np", "npdl.format": str(version), "npdl.version": __version__}


def _to_text(tree: Any) -> str:
    import json

    return json.dumps(tree, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
