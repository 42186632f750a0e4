"""Level 2: models and weights as files, without pickle.

A file is an .npz archive: one array for each of `Model.weights`, and for a whole model one entry
more, its configuration as a JSON text.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from npdl import layers as npdl_layers
from npdl._checks import complaint
from npdl._registry import to_json_type
from npdl.layers.base import Layer
from npdl.utils.random import get_dtype, set_dtype

if TYPE_CHECKING:
    from npdl.model import Model

StrPath = str | os.PathLike[str]

#: The entry that holds the configuration; no layer can have this name.
_CONFIG = "config.json"


class Storable:
    """What `npdl.model.Model` has to do with files, configurations and copies of its weights."""

    layers: list[Layer]
    compiled: bool

    def to_json(self) -> dict[str, Any]:
        """Return what the model is made of as JSON types: layers, loss, optimizer, no weights."""
        return model_config(self)  # type: ignore[arg-type]

    @classmethod
    def from_json(
        cls, config: dict[str, Any], custom_objects: Mapping[str, type[Layer]] | None = None
    ) -> Self:
        """Make a model from the dict that `to_json` returned; its weights are drawn anew.

        Parameters
        ----------
        config : dict
        custom_objects : dict, optional
            Layer classes of your own, by their names.
        """
        model = cls()
        fill_model(model, config, custom_objects)  # type: ignore[arg-type]
        return model

    def save(self, path: StrPath) -> None:
        """Write the model, configuration and weights, to an .npz file for `npdl.load_model`."""
        self._require_built_for("save")  # type: ignore[attr-defined]
        save_model(self, path)  # type: ignore[arg-type]

    def save_weights(self, path: StrPath) -> None:
        """Write the weights alone to an .npz file."""
        self._require_built_for("save_weights")  # type: ignore[attr-defined]
        write_npz(path, self.weights)  # type: ignore[attr-defined]

    def load_weights(self, path: StrPath) -> None:
        """Read the weights that `save_weights` wrote into a model of the same layers."""
        self._require_built_for("load_weights")  # type: ignore[attr-defined]
        set_weights(self, read_npz(path))  # type: ignore[arg-type]


def model_config(model: Model) -> dict[str, Any]:
    """What a model is made of, as JSON types; see `Model.to_json`."""
    first = model.layers[0].prev_layer if model.layers else None
    config: dict[str, Any] = {
        "layers": [
            {"class": type(layer).__name__, "name": layer.name, "config": layer.to_json()}
            for layer in model.layers
        ],
        "input_shape": None if first is None else to_json_type(first.out_shape),
    }
    if model.compiled:
        config |= {"loss": to_json_type(model.loss), "optimizer": to_json_type(model.optimizer)}
    return config


def fill_model(
    model: Model, config: dict[str, Any], custom_objects: Mapping[str, type[Layer]] | None
) -> None:
    """Add the layers of a configuration to an empty model, and compile it."""
    for entry in config["layers"]:
        layer = _layer_class(entry["class"], custom_objects or {}).from_json(entry["config"])
        layer.name = entry["name"]
        model.add(layer)
    if "loss" in config:
        model.compile(config["loss"], config["optimizer"])
    if config["input_shape"] is not None:
        model.build(tuple(config["input_shape"]))


def _layer_class(name: str, custom: Mapping[str, type[Layer]]) -> type[Layer]:
    cls = custom.get(name) or getattr(npdl_layers, name, None)
    if not (isinstance(cls, type) and issubclass(cls, Layer)):
        raise ValueError(
            f"Unknown layer {name!r}. Pass a class of your own as custom_objects={{{name!r}: ...}}."
        )
    return cls


def write_npz(path: StrPath, entries: Mapping[str, NDArray]) -> None:
    """Write arrays to an .npz file of exactly this name, in one go: all of it, or nothing."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            np.savez(file, allow_pickle=False, **entries)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_npz(path: StrPath) -> dict[str, NDArray]:
    """Read the arrays of an .npz file."""
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def set_weights(model: Model, weights: Mapping[str, NDArray]) -> None:
    """Copy arrays into a model that has just these names and shapes."""
    own = model.weights
    if own.keys() != weights.keys():
        missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
        rule = "The weights must be those of the model"
        raise ValueError(complaint(rule, missing=missing, unexpected=extra))
    for name, array in own.items():
        if array.shape != weights[name].shape:
            rule = f"The weights {name!r} must have shape {array.shape}"
            raise ValueError(complaint(rule, shape=weights[name].shape))
    for name, array in own.items():
        array[...] = weights[name]


def save_model(model: Model, path: StrPath) -> None:
    """Write a built model to a file; see `Model.save`."""
    config = json.dumps(model_config(model) | {"dtype": _dtype(model)})
    write_npz(path, {_CONFIG: np.array(config), **model.weights})


def load_model(path: StrPath, custom_objects: Mapping[str, type[Layer]] | None = None) -> Model:
    """Read a model that `Model.save` wrote; it is ready to predict, or to be trained further.

    Parameters
    ----------
    path : path
    custom_objects : dict, optional
        Layer classes of your own, by their names.

    Raises
    ------
    ValueError
        If the file holds no model, or a layer of an unknown class.
    """
    from npdl.model import Model  # a model knows how to save itself

    entries = read_npz(path)
    if _CONFIG not in entries:
        raise ValueError(complaint("The file must be one that Model.save wrote", path=str(path)))
    config = json.loads(str(entries.pop(_CONFIG)))
    before = get_dtype()
    set_dtype(config["dtype"])
    try:
        model = Model.from_json(config, custom_objects)
    finally:
        set_dtype(before)
    set_weights(model, entries)
    return model


def _dtype(model: Model) -> str:
    floats = (a.dtype.name for a in model.weights.values())
    return next(floats, get_dtype().name)
