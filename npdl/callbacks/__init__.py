"""Callbacks: objects that `Model.fit` calls during training, with Keras's hooks and names."""

import importlib
from typing import TYPE_CHECKING, Any

from npdl.callbacks.averaging import SwapEMAWeights
from npdl.callbacks.base import Callback, CallbackList
from npdl.callbacks.history import History
from npdl.callbacks.lambda_callback import LambdaCallback
from npdl.callbacks.learning_rate import LearningRateScheduler, ReduceLROnPlateau
from npdl.callbacks.monitor import Monitor
from npdl.callbacks.stopping import EarlyStopping, TerminateOnNaN

if TYPE_CHECKING:
    from npdl.callbacks.checkpoint import BackupAndRestore, ModelCheckpoint
    from npdl.callbacks.loggers import CSVLogger, TensorBoard
    from npdl.callbacks.tracking import LiveCurves, OptunaPruning, Tracker

__all__ = [
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "LiveCurves",
    "ModelCheckpoint",
    "Monitor",
    "OptunaPruning",
    "ReduceLROnPlateau",
    "SwapEMAWeights",
    "TensorBoard",
    "TerminateOnNaN",
    "Tracker",
]

#: Those that write files or call other tools, by their modules, which are imported when they are
#: first used.
_LATER = {
    "BackupAndRestore": "checkpoint",
    "CSVLogger": "loggers",
    "LiveCurves": "tracking",
    "ModelCheckpoint": "checkpoint",
    "OptunaPruning": "tracking",
    "TensorBoard": "loggers",
    "Tracker": "tracking",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'npdl.callbacks' has no attribute {name!r}")
    found = getattr(importlib.import_module(f"npdl.callbacks.{_LATER[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
