"""Callbacks: what `Model.fit` calls on its way, with the hooks and names of Keras."""

from npdl.callbacks.averaging import SwapEMAWeights
from npdl.callbacks.base import Callback, CallbackList
from npdl.callbacks.checkpoint import BackupAndRestore, ModelCheckpoint
from npdl.callbacks.history import History
from npdl.callbacks.lambdas import LambdaCallback
from npdl.callbacks.loggers import CSVLogger, TensorBoard
from npdl.callbacks.monitor import Monitor
from npdl.callbacks.rates import LearningRateScheduler, ReduceLROnPlateau
from npdl.callbacks.stopping import EarlyStopping, TerminateOnNaN

__all__ = [
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "Monitor",
    "ReduceLROnPlateau",
    "SwapEMAWeights",
    "TensorBoard",
    "TerminateOnNaN",
]
