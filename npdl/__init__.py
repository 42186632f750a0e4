"""npdl: train convolutional and recurrent networks on the CPU you already have."""

from npdl import (
    activations,
    callbacks,
    data,
    datasets,
    initializations,
    layers,
    metrics,
    model,
    objectives,
    optimizers,
    regularizers,
    saving,
    schedules,
    testing,
    utils,
    viz,
)
from npdl._ext import get_num_threads, get_precision, set_num_threads, set_precision, use_backend
from npdl._version import __version__
from npdl.config import show_config
from npdl.diagram import plot_model
from npdl.model import Model
from npdl.saving import load_model

__all__ = [
    "Model",
    "__version__",
    "activations",
    "callbacks",
    "data",
    "datasets",
    "get_num_threads",
    "get_precision",
    "initializations",
    "layers",
    "load_model",
    "metrics",
    "model",
    "objectives",
    "optimizers",
    "plot_model",
    "regularizers",
    "saving",
    "schedules",
    "set_num_threads",
    "set_precision",
    "show_config",
    "testing",
    "use_backend",
    "utils",
    "viz",
]
