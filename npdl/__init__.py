"""npdl: train convolutional and recurrent networks on the CPU you already have."""

import importlib
from typing import TYPE_CHECKING, Any

from npdl import (
    activations,
    callbacks,
    initializations,
    layers,
    metrics,
    model,
    objectives,
    optimizers,
    regularizers,
    saving,
    schedules,
    utils,
)
from npdl._ext import (
    get_num_threads,
    get_precision,
    release_memory,
    set_num_threads,
    set_precision,
    use_backend,
)
from npdl._version import __version__
from npdl.layers import Input
from npdl.model import Model
from npdl.saving import load_model
from npdl.utils import use_dtype, use_rng

if TYPE_CHECKING:
    from npdl import autodiff, data, datasets, models, testing, viz
    from npdl.config import show_config
    from npdl.convert import load_keras, load_keras_weights, load_torch_weights
    from npdl.diagram import plot_model
    from npdl.onnx import export_onnx as export_onnx
    from npdl.onnx import import_onnx as import_onnx

__all__ = [
    "Input",
    "Model",
    "__version__",
    "activations",
    "autodiff",
    "callbacks",
    "data",
    "datasets",
    "get_num_threads",
    "get_precision",
    "initializations",
    "layers",
    "load_keras",
    "load_keras_weights",
    "load_model",
    "load_torch_weights",
    "metrics",
    "model",
    "models",
    "objectives",
    "optimizers",
    "plot_model",
    "regularizers",
    "release_memory",
    "saving",
    "schedules",
    "set_num_threads",
    "set_precision",
    "show_config",
    "testing",
    "use_backend",
    "use_dtype",
    "use_rng",
    "utils",
    "viz",
]

#: Modules, and functions of modules, that are imported on first use, as few programs need them.
#: `sklearn`, `distributed`, `onnx` and the functions of it are not in `__all__`, as they can't be
#: imported without other packages; nor is `predictor`, whose class `Model.predictor` makes.
_LATER = (
    *("autodiff", "data", "datasets", "distributed", "models", "onnx", "predictor", "sklearn"),
    *("testing", "viz"),
)
_LATER_FROM = {
    **{"plot_model": "diagram", "show_config": "config"},
    **dict.fromkeys(("export_onnx", "import_onnx"), "onnx"),
    **dict.fromkeys(("load_keras", "load_keras_weights", "load_torch_weights"), "convert"),
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return importlib.import_module(f"npdl.{name}")  # which makes it an attribute
    if name in _LATER_FROM:
        found = getattr(importlib.import_module(f"npdl.{_LATER_FROM[name]}"), name)
        globals()[name] = found
        return found
    hint = ". A chain of layers is npdl.Model([...])." if name == "Sequential" else ""
    raise AttributeError(f"module 'npdl' has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
