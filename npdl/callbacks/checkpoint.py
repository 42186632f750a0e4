"""Callbacks that save: the model as it gets better, and all that a killed training goes on from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from npdl import saving
from npdl._checks import check_int, complaint
from npdl._files import StrPath
from npdl.callbacks.base import Callback, Logs
from npdl.callbacks.monitor import ALIASES, Monitor, say, validates_later


class _Saving(Callback):
    """Saves after each epoch, or after each so many batches."""

    reads_batch_logs = False

    def __init__(self, save_freq: str | int) -> None:
        if save_freq != "epoch":
            if isinstance(save_freq, str):
                rule = "`save_freq` must be 'epoch' or a number of batches"
                raise ValueError(complaint(rule, save_freq=save_freq))
            save_freq = check_int("save_freq", save_freq)
        self.save_freq = save_freq
        self._batches = 0

    def _is_due(self) -> bool:
        """Count a batch, and say whether it is the last of so many."""
        self._batches += 1
        return self.save_freq != "epoch" and self._batches % self.save_freq == 0  # type: ignore[operator]


class ModelCheckpoint(_Saving):
    """Save the model after each epoch, or where a figure is the best so far.

    Parameters
    ----------
    filepath : path
        A name with places for the number of the epoch, from 1, and its figures:
        ``"{epoch:02d}-{val_loss:.2f}.safetensors"``. Folders are made where they are missing. An
        epoch without the validation that a name speaks of is not saved.
    monitor : str
        The figure that `save_best_only` looks at.
    verbose : int
        1 to say so.
    save_best_only : bool
        Whether to save only where the figure has improved.
    save_weights_only : bool
        Whether to write a file for `Model.load_weights`, instead of one for `npdl.load_model`.
    mode : {'auto', 'min', 'max'}
        Which way is better; 'auto' tells it from the name.
    save_freq : 'epoch' or int
        After each epoch, or after so many batches.
    initial_value_threshold : float, optional
        What the first figure has to be better than.
    """

    def __init__(
        self,
        filepath: StrPath,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
    ) -> None:
        super().__init__(save_freq)
        self.filepath = os.fspath(filepath)
        self.monitor = monitor
        self.verbose = verbose
        self.save_best_only = save_best_only
        self.save_weights_only = save_weights_only
        self.best = initial_value_threshold
        self.reads_batch_logs = save_freq != "epoch"
        self._watched = Monitor(monitor, mode)
        self._epoch = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Ask the model's metrics which way is better."""
        self._watched.bind(self.model, self)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Take note of the epoch."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Save where it is time."""
        if self._is_due():
            self._save(self._epoch, {"batch": batch + 1, **(logs or {})})

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Save the model, if it is to be."""
        if self.save_freq == "epoch":
            self._save(epoch, logs or {})

    def _save(self, epoch: int, logs: Logs) -> None:
        if self.save_best_only:
            value = self._watched.value(logs, self)
            if value is None or not self._watched.improved(value, self.best):
                return
            self.best = value
        name = self._path(epoch, logs)
        if name is None:
            return
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        (saving.save_weights if self.save_weights_only else saving.save_model)(self.model, path)
        if self.verbose:
            say(self, f"epoch {epoch + 1}: saved {path}")

    def _path(self, epoch: int, logs: Logs) -> str | None:
        """The name of the file; None in an epoch without the validation that it needs."""
        figures = {"epoch": epoch + 1, **{name: logs[name] for name in logs.keys()}}
        figures |= {name: logs[own] for name, own in ALIASES.items() if own in logs}
        try:
            return self.filepath.format(**figures)
        except (LookupError, ValueError) as error:
            missing = error.args[0] if isinstance(error, KeyError) else None
            if str(missing).startswith("val_") and validates_later(self.model.loop):
                return None
            rule = f"`filepath` must be filled in from {', '.join(figures)} ({error!r})"
            raise ValueError(complaint(rule, filepath=self.filepath)) from error

    def get_state(self) -> dict[str, Any]:
        """Return the best figure so far."""
        return {"best": self.best, "batches": self._batches}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_state` returned."""
        self.best, self._batches = state["best"], state["batches"]


class BackupAndRestore(_Saving):
    """Let a training that was killed go on where it was, to the same bits.

    The backup holds the model, the optimizer's memory, the generator's state, the place in the
    data, and what the other callbacks and the history remember. To go on, run the same program
    again: `fit` finds the backup and begins there. It is deleted when the training has come to its
    end; after Ctrl-C or an error it stays.

    Parameters
    ----------
    backup_dir : path
        A folder for this training alone; made if it is missing.
    save_freq : 'epoch' or int
        After each epoch, or also after each so many batches.
    delete_checkpoint : bool
        False to keep the backup at the end.
    """

    def __init__(
        self,
        backup_dir: StrPath,
        save_freq: str | int = "epoch",
        *,
        delete_checkpoint: bool = True,
    ) -> None:
        super().__init__(save_freq)
        self.backup_dir = os.fspath(backup_dir)
        self.delete_checkpoint = delete_checkpoint

    @property
    def path(self) -> Path:
        """The file of the backup, which `npdl.load_model` reads too."""
        return Path(self.backup_dir, "backup.safetensors")

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Restore the backup, if there is one."""
        Path(self.backup_dir).mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            return
        model, loop = self.model, self._loop
        weights, state = saving.read_training(self.path)
        try:
            place = state["loop"]
            saving.load_weights(model, weights, strict=True)
            if "optimizer" in state:
                saving.restore_optimizer(model, state["optimizer"])
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f"{str(self.path)!r} is no backup of this training: {error}. "
                "Delete it to begin anew."
            ) from error
        loop.set_state(place)

    def on_rest(self, epoch: int, batch: int) -> None:
        """Write the backup, where it is time."""
        if batch and self.model.stop_training:  # the epoch ends now, and then there is a rest
            return
        if batch == 0 or self._is_due():
            saving.save_model(self.model, self.path, loop=self._loop.get_state())

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Delete the backup, if the training has come to its end."""
        if self.delete_checkpoint and not self._loop.interrupted:
            self.path.unlink(missing_ok=True)

    @property
    def _loop(self) -> Any:
        return self.model.loop

    def get_state(self) -> dict[str, Any]:
        """Return how many batches were counted."""
        return {"batches": self._batches}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_state` returned."""
        self._batches = state["batches"]
