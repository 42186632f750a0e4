"""The record that `Model.fit` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from npdl.callbacks.base import Callback, Logs
from npdl.results import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class History(Callback):
    """The record that `Model.fit` returns; always the last callback.

    Attributes
    ----------
    epochs : list of int
        The numbers of the epochs, from 1.
    history : dict of str to list
        One value per epoch: ``loss``, the metrics such as ``acc``, and after a validation
        ``val_loss``, ``val_acc``. ``accuracy`` finds ``acc``.
    interrupted : bool
        Whether Ctrl-C ended training.
    """

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.history = Results()
        self.interrupted = False

    def record(self, epoch: int, values: Logs) -> None:
        """Append the values of one epoch, counted from 1."""
        self.epochs.append(epoch)
        for key, value in values.items():
            value = value.item() if isinstance(value, np.generic) else value
            self.history.setdefault(key, []).append(value)
        if isinstance(values, Results):
            self.history.aliases |= values.aliases

    def __repr__(self) -> str:
        last = {key: values[-1] for key, values in self.history.items() if values}
        shown = [f"{k}={v:.4g}" for k, v in last.items() if isinstance(v, int | float)]
        return f"History({', '.join([f'epochs={len(self.epochs)}', *shown])})"

    @property
    def epoch(self) -> list[int]:
        """The numbers of the epochs from 0, as in Keras."""
        return [epoch - 1 for epoch in self.epochs]

    def plot(self) -> Figure:
        """Plot the results of each epoch; see `npdl.viz.plot_history`."""
        from npdl.viz import plot_history  # on demand, as it takes matplotlib

        return plot_history(self)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Start a new record."""
        self.epochs, self.history = [], Results()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Record the results."""
        self.record(epoch + 1, logs or {})

    def get_state(self) -> dict[str, Any]:
        """Return the record so far."""
        copied = {key: list(values) for key, values in self.history.items()}
        return {"epochs": list(self.epochs), "history": copied}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue the record that `get_state` returned."""
        self.epochs = list(state["epochs"])
        self.history = Results({key: list(values) for key, values in state["history"].items()})

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("model", "params")}
