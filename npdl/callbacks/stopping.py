"""Callbacks that end training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from npdl._checks import check_int, check_number
from npdl.callbacks.base import Callback, Logs
from npdl.callbacks.monitor import Monitor, say


class EarlyStopping(Callback):
    """End training when a metric has stopped improving.

    Parameters
    ----------
    monitor : str
        The metric, such as ``"val_loss"`` or ``"val_acc"``.
    min_delta : float
        A change of at most this much is no improvement.
    patience : int
        How many epochs without one to wait for.
    verbose : int
        1 to print a message.
    mode : {'auto', 'min', 'max'}
        Which way is better; 'auto' infers it from the name.
    baseline : float, optional
        Only a better value than this counts as an improvement.
    restore_best_weights : bool
        Whether to restore the weights of the best epoch at the end.
    start_from_epoch : int
        Number of epochs before monitoring begins.

    Attributes
    ----------
    best, best_epoch, stopped_epoch, wait
        As in Keras.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        self.monitor = monitor
        self.min_delta = check_number("min_delta", min_delta, "(-inf, inf)")
        self.patience = check_int("patience", patience, 0)
        self.verbose = verbose
        self.mode = mode
        self.baseline = baseline
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = check_int("start_from_epoch", start_from_epoch, 0)
        self._watched = Monitor(monitor, mode, self.min_delta)
        self._reset()

    def _reset(self) -> None:
        self.wait = 0
        self.stopped_epoch = 0
        self.best: float | None = None
        self.best_epoch = 0
        self.best_weights: dict[str, np.ndarray] | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Reset the state of an earlier training run."""
        self._reset()
        self._watched.bind(self.model, self)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Compare the value with the best one so far."""
        current = self._watched.value(logs, self)
        if current is None or epoch < self.start_from_epoch:
            return
        if self.restore_best_weights and self.best_weights is None:
            self._keep(epoch)
        self.wait += 1
        if self._watched.improved(current, self.best):
            self.best, self.best_epoch = current, epoch
            if self.restore_best_weights:
                self._keep(epoch)
            if self._watched.improved(current, self.baseline):
                self.wait = 0
            return
        if self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def _keep(self, epoch: int) -> None:
        self.best_epoch = epoch
        self.best_weights = {name: array.copy() for name, array in self.model.weights.items()}

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Restore the best weights, if requested."""
        if self.stopped_epoch > 0 and self.verbose:
            say(self, f"epoch {self.stopped_epoch + 1}: early stopping")
        if self.restore_best_weights and self.best_weights is not None:
            if self.verbose:
                say(self, f"restoring the weights of the best epoch, {self.best_epoch + 1}")
            for name, array in self.model.weights.items():
                array[...] = self.best_weights[name]

    def get_state(self) -> dict[str, Any]:
        """Return the best value so far, and how long ago it was."""
        names = ("wait", "stopped_epoch", "best", "best_epoch", "best_weights")
        return {name: getattr(self, name) for name in names}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what `get_state` returned."""
        vars(self).update(state)


class TerminateOnNaN(Callback):
    """End training when the loss is nan or infinite."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Check the loss."""
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            say(self, f"batch {batch}: the loss is {loss}, terminating the training")
            self.model.stop_training = True
