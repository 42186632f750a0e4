"""Callbacks that report to other tools: searches, experiment trackers, notebooks."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np

from npdl._checks import check_int, error_message, warn
from npdl.callbacks.base import Callback, Logs
from npdl.callbacks.history import History
from npdl.callbacks.monitor import figure, validates_later


class OptunaPruning(Callback):
    """End an unpromising trial of a search by Optuna, which the study's pruner decides.

    Reports a metric value at the end of each epoch. If the pruner decides so, `fit` is ended by
    the exception ``optuna.TrialPruned``, which the study expects from its objective. Needs Optuna:
    ``pip install 'npdl[optuna]'``.

    Parameters
    ----------
    trial : optuna.Trial
        The trial of the running objective.
    monitor : str
        The metric, such as ``"val_loss"`` or ``"val_acc"``. Whether less or more of it is better is
        the `direction` of the study.

    Warns
    -----
    RuntimeWarning
        Once, if the logs do not hold the metric. The trial is then never pruned.
    """

    def __init__(self, trial: Any, monitor: str = "val_loss") -> None:
        if not (hasattr(trial, "report") and hasattr(trial, "should_prune")):
            raise TypeError(error_message("`trial` must be a trial of Optuna", trial=trial))
        self.trial = trial
        self.monitor = monitor
        self._warned = False

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Find Optuna, before any time is spent."""
        self._warned = False
        _optuna()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Report the value, and raise if the trial is to end."""
        value = figure(logs or {}, self.monitor)
        if value is None:
            self._miss(logs or {})
            return
        self.trial.report(float(value), step=epoch)
        if self.trial.should_prune():
            message = f"The trial was pruned after epoch {epoch + 1}, {self.monitor} {value:.6g}."
            raise _optuna().TrialPruned(message)

    def _miss(self, logs: Logs) -> None:
        if self._warned or (self.monitor.startswith("val_") and validates_later(self.model.loop)):
            return
        self._warned = True
        names = ", ".join(logs)
        warn(f"OptunaPruning reports {self.monitor!r}, which is not in the logs: {names}.")


def _optuna() -> Any:
    try:
        return importlib.import_module("optuna")
    except ImportError:
        raise ImportError("OptunaPruning needs Optuna: pip install 'npdl[optuna]'") from None


class Tracker(Callback):
    """Hand the metric values of each epoch to an experiment tracker, or to any function.

    It fits ``wandb.log``, ``trackio.log``, ``mlflow.log_metrics`` and all functions like them. Open
    and close the run yourself, around `fit`.

    Parameters
    ----------
    log : callable
        ``log(values, step)``: a dict of floats by name, and the epoch, from 0. Results that are not
        a single number, such as a confusion matrix, are left out.
    on_start : callable, optional
        ``on_start(parameters)`` before the first epoch, such as ``mlflow.log_params`` or
        ``wandb.config.update``: a dict of numbers and strings. It holds "epochs", "steps" and
        "samples" where they are known, "loss", "optimizer", "lr" where it is a number, and
        "parameters", how many numbers the model learns.
    on_end : callable, optional
        ``on_end(model)`` when `fit` ends: to save the model as an artifact of the run, say.

    Examples
    --------
    >>> import npdl
    >>> model = npdl.Model([npdl.layers.Linear(1, n_in=2)])
    >>> model.compile("mse")
    >>> def log(values, step):
    ...     print(step, *values)
    >>> tracker = npdl.callbacks.Tracker(log)
    >>> _ = model.fit([[1.0, 2.0]], [[3.0]], epochs=2, verbose=0, callbacks=[tracker])
    0 loss
    1 loss
    """

    writes = True

    def __init__(
        self,
        log: Callable[[dict[str, float], int], Any],
        on_start: Callable[[dict[str, Any]], Any] | None = None,
        on_end: Callable[[Any], Any] | None = None,
    ) -> None:
        for name, function in (("log", log), ("on_start", on_start), ("on_end", on_end)):
            if not (callable(function) or (function is None and name != "log")):
                raise TypeError(error_message(f"`{name}` must be a function", **{name: function}))
        self.log = log
        self.on_start = on_start
        self.on_end = on_end

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Report the parameters of the run."""
        if self.on_start is not None:
            self.on_start(self._parameters())

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Report the values of the epoch."""
        values = {k: float(v) for k, v in (logs or {}).items() if v is not None and np.ndim(v) == 0}
        self.log(values, epoch)

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Hand on the model."""
        if self.on_end is not None:
            self.on_end(self.model)

    def _parameters(self) -> dict[str, Any]:
        model = self.model
        found = {name: self.params.get(name) for name in ("epochs", "steps", "samples")}
        found = {name: value for name, value in found.items() if value is not None}
        found["loss"] = ", ".join(type(head.loss).__name__ for head in model.heads)
        found["optimizer"] = type(model.optimizer).__name__
        lr = getattr(model.optimizer, "lr", None)
        if isinstance(lr, int | float):
            found["lr"] = float(lr)
        found["parameters"] = sum(param.size for param in model.params)
        return found


class LiveCurves(Callback):
    """Show the curves of a training run in a notebook, in one picture that is redrawn.

    Needs matplotlib, ``pip install 'npdl[plot]'``, and IPython, which notebooks run on. The picture
    is that of `npdl.viz.plot_history`.

    Parameters
    ----------
    every : int
        Draw after every n-th epoch, and after the last one. A picture takes some 0.1 s.
    """

    writes = True

    def __init__(self, every: int = 1) -> None:
        self.every = check_int("every", every)
        self._history = History()
        self._handle: Any = None
        self._drawn = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Start a new picture."""
        _display()
        try:
            importlib.import_module("matplotlib.figure")
        except ImportError:
            raise ImportError("LiveCurves needs matplotlib: pip install 'npdl[plot]'") from None
        self._history.on_train_begin()
        self._handle, self._drawn = None, 0

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Draw the curves up to this epoch."""
        self._history.on_epoch_end(epoch, logs)
        if len(self._history.epochs) % self.every == 0:
            self._draw()

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Draw the epochs that are not in the picture yet."""
        if self._drawn < len(self._history.epochs):
            self._draw()

    def _draw(self) -> None:
        buffer, display = io.BytesIO(), _display()
        self._history.plot().savefig(buffer, format="png")
        image = display.Image(buffer.getvalue())
        if self._handle is None:
            self._handle = display.display(image, display_id=True)
        else:
            self._handle.update(image)
        self._drawn = len(self._history.epochs)

    def get_state(self) -> dict[str, Any]:
        """Return the curves so far."""
        return self._history.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue the curves that `get_state` returned."""
        self._history.set_state(state)

    def __getstate__(self) -> dict[str, Any]:
        gone = ("model", "params", "_handle")
        return {**{k: v for k, v in vars(self).items() if k not in gone}, "_handle": None}


def _display() -> Any:
    try:
        return importlib.import_module("IPython.display")
    except ImportError:
        rule = "LiveCurves draws in a notebook, by IPython"
        raise ImportError(f"{rule}: pip install 'npdl[plot]' ipython") from None
