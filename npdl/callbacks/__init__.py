"""Callbacks: objects that `Model.fit` calls during training, with Keras's hooks and names."""

import importlib
from typing import TYPE_CHECKING, Any

from npdl.callbacks.base import Callback, CallbackList
from npdl.callbacks.history import History

if TYPE_CHECKING:
    from npdl.callbacks.averaging import SwapEMAWeights
    from npdl.callbacks.checkpoint import BackupAndRestore, ModelCheckpoint
    from npdl.callbacks.lambda_callback import LambdaCallback
    from npdl.callbacks.learning_rate import LearningRateScheduler, ReduceLROnPlateau
    from npdl.callbacks.loggers import CSVLogger, TensorBoard
    from npdl.callbacks.monitor import Monitor
    from npdl.callbacks.stopping import EarlyStopping, TerminateOnNaN
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

#: Those that `Model.fit` does not use by itself, by their modules, which are imported when they are
#: first used.
_LATER = {
    "BackupAndRestore": "checkpoint",
    "CSVLogger": "loggers",
    "EarlyStopping": "stopping",
    "LambdaCallback": "lambda_callback",
    "LearningRateScheduler": "learning_rate",
    "LiveCurves": "tracking",
    "ModelCheckpoint": "checkpoint",
    "Monitor": "monitor",
    "OptunaPruning": "tracking",
    "ReduceLROnPlateau": "learning_rate",
    "SwapEMAWeights": "averaging",
    "TensorBoard": "loggers",
    "TerminateOnNaN": "stopping",
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
