"""Level 2: models and weights as files, without pickle.

A file has the layout of safetensors (`npdl._safetensors`), so that any reader of that format opens
it. The arrays of `Model.weights` have their names, ``"dense_1/W"``. The file of a whole model has
in its metadata, as JSON, the configuration ("npdl.model") and what a training goes on from
("npdl.state"): the memory of the optimizer and where the random generator stands. Arrays in these
two are further tensors, see `npdl._tree`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from npdl import _safetensors, _tree, graph
from npdl import layers as npdl_layers
from npdl._checks import complaint
from npdl._files import StrPath
from npdl._registry import (
    Registry,
    config_name,
    custom_objects,
    register_custom,
    to_json_type,
)
from npdl._version import __version__
from npdl.initializations import undrawn
from npdl.layers.base import Layer
from npdl.utils.random import get_dtype, get_rng_state, set_rng_state, use_dtype

if TYPE_CHECKING:
    from npdl.model import Model

__all__ = ["Mismatch", "custom_objects", "load_model", "register"]

#: The version of what is in a file beside the arrays. A file of a later one is not read.
FORMAT = 1

#: The arguments of `Model.compile`, which the model keeps under their names.
COMPILED = ("loss", "optimizer", "metrics", "weighted_metrics")

_layers: Registry[Layer] = Registry("layer", Layer)
for _name in npdl_layers.__all__:
    if issubclass(getattr(npdl_layers, _name), Layer):
        _layers.register()(getattr(npdl_layers, _name))

C = TypeVar("C", bound=type)


def register(cls: C | None = None, *, name: str | None = None) -> Any:
    """Make a class of your own known, so that files that name it can be loaded.

    A decorator, ``@register`` or ``@register(name="my_scale")``, for layers, losses, optimizers,
    activations and whatever else stands in the configuration of a model. A class that is registered
    again under its name, as happens in notebooks, takes the place of the old one.

    Parameters
    ----------
    cls : type
    name : str, optional
        The name in files; that of the class by default.

    Raises
    ------
    ValueError
        If npdl has something of this name.
    """

    def decorate(cls: C) -> C:
        known = name or cls.__name__
        if _layers.knows(known):
            raise ValueError(complaint("npdl has a layer of this name", name=known))
        register_custom(known, cls)
        return cls

    return decorate if cls is None else decorate(cls)


# --------------------------------------------------------------------------------- configuration


def model_config(
    model: Model, layer_config: Callable[[Layer], dict[str, Any]] = lambda layer: layer.to_json()
) -> dict[str, Any]:
    """What a model is made of, as JSON types; see `Model.to_json`."""
    first = model.layers[0].prev_layer if model.layers else None
    config: dict[str, Any] = {
        "layers": [
            {"class": config_name(layer), "name": layer.name, "config": layer_config(layer)}
            for layer in model.layers
        ],
        "input_shape": None if first is None else to_json_type(first.out_shape),
    }
    if model.compiled:
        config |= {
            name: _compiled_config(name, getattr(model, name))
            for name in COMPILED
            if getattr(model, name) is not None
        }
    return config


def _compiled_config(name: str, value: Any) -> Any:
    if name == "loss" and not hasattr(value, "get_config"):  # any object with forward and backward
        raise TypeError(
            f"A loss must be a subclass of npdl.objectives.Objective, or have get_config() and be "
            f"registered with npdl.saving.register, for its model to be saved; save_weights needs "
            f"none of this. Received: loss={type(value).__name__}"
        )
    return to_json_type(value)


def fill_model(model: Model, config: dict[str, Any]) -> None:
    """Add the layers of a configuration to an empty model, and compile it."""
    for entry in config["layers"]:
        layer = _layer_class(entry["class"]).from_json(entry["config"])
        if not isinstance(entry["name"], str):
            raise ValueError(complaint("The name of a layer must be a text", name=entry["name"]))
        layer.name = entry["name"]
        model.layers.append(layer)
    if "loss" in config:
        more = {name: config[name] for name in COMPILED[2:] if name in config}
        model.compile(config["loss"], config["optimizer"], **more)
    if config["input_shape"] is not None:
        model.build(tuple(config["input_shape"]))


def _layer_class(name: str) -> type[Layer]:
    try:
        cls = _layers.find(name)
    except ValueError:
        raise ValueError(
            f"Unknown layer {name!r}. Pass a class of your own as custom_objects={{{name!r}: ...}}"
            ", or register it with npdl.saving.register."
        ) from None
    if not (isinstance(cls, type) and issubclass(cls, Layer)):
        raise ValueError(complaint(f"{name!r} must be a class of layers", found=cls))
    return cls


# --------------------------------------------------------------------------------------- weights


class Mismatch(NamedTuple):
    """What did not fit where weights were loaded with ``strict=False``: names of arrays."""

    missing_keys: list[str]
    unexpected_keys: list[str]
    mismatched_keys: list[str]


def load_weights(model: Model, weights: Mapping[str, Any], strict: bool) -> Mismatch:
    """Copy arrays into a model, by name: all that fit, and if `strict` all of them or none."""
    own = model.weights
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if strict and (missing or extra):
        rule = "The weights must be those of the model"
        raise ValueError(complaint(rule, missing=missing, unexpected=extra))
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
    return Mismatch(missing, extra, sorted(unfit))


def _fitting(name: str, own: NDArray, array: NDArray) -> NDArray:
    """`array` in the dtype of `own`, whose shape it must have."""
    if array.shape != own.shape:
        rule = f"The weights {name!r} must have shape {own.shape}"
        raise ValueError(complaint(rule, shape=array.shape))
    if array.dtype.kind != own.dtype.kind:
        rule = f"The weights {name!r} must be of a kind with {own.dtype}"
        raise ValueError(complaint(rule, dtype=array.dtype.name))
    return np.asarray(array, own.dtype)


# ----------------------------------------------------------------------------------------- files


def save_model(model: Model, path: StrPath, **more: Any) -> None:
    """Write a built model to a file, see `Model.save`, with more to its state (`read_training`)."""
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
    _safetensors.write(path, tensors, _origin() | texts)


def save_weights(model: Model, path: StrPath) -> None:
    """Write the weights alone to a file; see `Model.save_weights`."""
    _safetensors.write(path, model.weights, _origin())


def read_weights(path: StrPath) -> dict[str, NDArray]:
    """The weights in a file of npdl, of a model or alone, or of any other writer."""
    return read_training(path)[0]


def read_training(path: StrPath) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """The weights in the file of a model, and its state."""
    tensors, metadata = _safetensors.read(path)
    _, state = _unpack(path, tensors, metadata)
    return tensors, state


def load_model(
    path: StrPath,
    custom_objects: Mapping[str, Any] | None = None,
    *,
    compile: bool = True,
    restore_rng: bool = True,
) -> Model:
    """Read a model that `Model.save` wrote; it is ready to predict, or to be trained further.

    Parameters
    ----------
    path : path
    custom_objects : dict, optional
        Classes of your own (layers, losses, ...) by their names; see also `register`.
    compile : bool
        Whether to take over loss and optimizer, and what the optimizer remembers.
    restore_rng : bool
        Whether npdl's generator goes on from where it was at the time of saving, so that further
        training gives what it would have given there.

    Raises
    ------
    ValueError
        If the file is damaged or holds no model, or something of an unknown class. The message says
        what is wrong; nothing is changed then.
    """
    from npdl.model import Model  # a model knows how to save itself

    tensors, metadata = _safetensors.read(path)
    config, state = _unpack(path, tensors, metadata)
    if config is None:
        raise ValueError(complaint("The file must be one that Model.save wrote", path=str(path)))
    try:
        if not compile:
            config = {key: config[key] for key in config if key not in COMPILED}
        # What is written there decides on sizes: the parameters can't be larger than the file.
        with undrawn(sum(array.size for array in tensors.values())), use_dtype(config["dtype"]):
            model = Model.from_json(config, custom_objects)
            if not model.built:
                model.build()
        _adopt(model, tensors, config["frozen"])
        if compile and "optimizer" in state:
            restore_optimizer(model, state["optimizer"])
        if restore_rng:
            set_rng_state(state["rng"])
    except Exception as error:
        what = str(error) if isinstance(error, ValueError) else repr(error)
        raise ValueError(f"{str(path)!r} holds no model that can be loaded: {what}") from error
    return model


def restore_optimizer(model: Model, state: Mapping[str, Any]) -> None:
    """Let the optimizer go on from a state, after a look at the shapes of its arrays."""
    weights = model.weights
    for name, slots in state.get("slots", {}).items():
        for key, array in slots.items():
            _fitting(f"{name}, {key}", weights[name], array)
    model.optimizer.set_state(dict(state))


def _unpack(
    path: StrPath, tensors: dict[str, NDArray], metadata: Mapping[str, str]
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Configuration and state from the metadata; their arrays are taken out of `tensors`."""
    version = metadata.get("npdl.format", str(FORMAT))
    if version != str(FORMAT):
        raise ValueError(
            f"{str(path)!r} has version {version!r} of the format; npdl {__version__} reads "
            f"version {FORMAT}. A newer npdl may read it."
        )
    try:
        found = [
            _tree.unpack(_safetensors.parse(metadata[key]), tensors) if key in metadata else None
            for key in ("npdl.model", "npdl.state")
        ]
        if not all(isinstance(tree, dict | None) for tree in found):
            raise ValueError("an object is expected")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} has damaged metadata: {error}") from error
    return found[0], found[1] or {}


def _adopt(model: Model, weights: dict[str, NDArray], frozen: list[str]) -> None:
    """Give a model that was just made its weights, with their dtypes, and say which are frozen."""
    for layer in model.layers:
        for parameter in layer.parameters:
            name = f"{layer.name}/{parameter.name}"
            array = weights.get(name)
            graded = parameter.grad is not None
            dtype = parameter.value.dtype
            if array is not None and array.dtype in (np.float32, np.float64):
                dtype = array.dtype
            if dtype != parameter.value.dtype:
                parameter.value = parameter.value.astype(dtype)
                parameter.grad = None
            parameter.trainable = name not in frozen
            # A frozen one may have a gradient too: there are kernels that know no other way.
            if parameter.grad is None and (parameter.trainable or graded):
                parameter.grad = np.zeros_like(parameter.value)
    load_weights(model, weights, strict=True)


def _dtype(model: Model) -> str:
    floats = (a.dtype.name for a in model.weights.values())
    return next(floats, get_dtype().name)


def _frozen(model: Model) -> list[str]:
    return [
        name for layer in model.layers for name, _, trained in graph.arrays(layer) if not trained
    ]


def _origin() -> dict[str, str]:
    return {"format": "np", "npdl.format": str(FORMAT), "npdl.version": __version__}


def _to_text(tree: Any) -> str:
    import json

    return json.dumps(tree, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
