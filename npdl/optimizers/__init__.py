"""Optimizers: one step of every parameter from its gradient, in place.

In the formulas p is a parameter, g its gradient, lr the rate of the step. The state of an optimizer
(velocities, mean squares) is kept by the name of the parameter.
"""

from npdl.optimizers.adam import Adam, Adamax, AdamW, Nadam, RAdam
from npdl.optimizers.adaptive import Adadelta, Adagrad, RMSprop
from npdl.optimizers.base import Optimizer, get, register
from npdl.optimizers.base import _registry as _registry
from npdl.optimizers.clipping import (
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    global_norm,
)
from npdl.optimizers.sgd import SGD, Lion, Momentum, NesterovMomentum

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "Momentum",
    "Nadam",
    "NesterovMomentum",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_value",
    "get",
    "global_norm",
    "register",
]
