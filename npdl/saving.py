"""Level 2: reading a model from a file; `npdl.serialization` has the format.

`register` and `custom_objects` make classes of your own known to files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from npdl import _safetensors
from npdl._checks import error_message
from npdl._files import StrPath
from npdl._registry import custom_objects
from npdl.initializations import no_random_init
from npdl.model import Model
from npdl.serialization import (
    COMPILED,
    FORMAT,
    Mismatch,
    adopt,
    load_weights,
    read_training,
    read_weights,
    register,
    restore_optimizer,
    save_model,
    save_weights,
    unpack,
)
from npdl.utils.random import set_rng_state, use_dtype

__all__ = [
    "FORMAT",
    "Mismatch",
    "custom_objects",
    "load_model",
    "load_weights",
    "read_training",
    "read_weights",
    "register",
    "restore_optimizer",
    "save_model",
    "save_weights",
]


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
        Whether to restore the loss, and the optimizer with its state.
    restore_rng : bool
        Whether to restore npdl's random generator to its state when the model was saved, so that
        training continues with the same bits.

    Raises
    ------
    ValueError
        If the file is damaged or holds no model, or something of an unknown class. The message says
        the problem; nothing is changed then.
    """
    tensors, metadata = _safetensors.read(path)
    config, state = unpack(path, tensors, metadata)
    if config is None:
        raise ValueError(
            error_message("The file must be one that Model.save wrote", path=str(path))
        )
    try:
        if not compile:
            config = {key: config[key] for key in config if key not in COMPILED}
        config = {**config, "dtypes": _other_dtypes(tensors, config["dtype"])}
        # The configuration gives sizes: the parameters can't be larger than the file.
        with (
            no_random_init(sum(array.size for array in tensors.values())),
            use_dtype(config["dtype"]),
        ):
            model = Model.from_json(config, custom_objects)
            if not model.built:
                model.build()
        adopt(model, tensors, config["frozen"])
        if compile and "optimizer" in state:
            restore_optimizer(model, state["optimizer"])
        if restore_rng:
            set_rng_state(state["rng"])
    except Exception as error:
        what = str(error) if isinstance(error, ValueError) else repr(error)
        raise ValueError(f"{str(path)!r} holds no model that can be loaded: {what}") from error
    return model


def _other_dtypes(tensors: Mapping[str, Any], dtype: Any) -> dict[str, dict[str, Any]]:
    """The dtypes of parameters that are floats of another dtype than the model's, by layer."""
    found: dict[str, dict[str, Any]] = {}
    for name, array in tensors.items():
        layer, _, path = name.partition("/")
        if array.dtype in (np.float32, np.float64) and array.dtype != dtype:
            found.setdefault(layer, {})[path] = array.dtype
    return found
