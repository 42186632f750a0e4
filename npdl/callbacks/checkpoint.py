"""Callbacks that save the model, and the state needed to resume a training run."""

from __future__ import annotations

import os
import weakref
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from npdl import serialization
from npdl._checks import check_int, error_message, warn
from npdl._files import StrPath
from npdl.callbacks.base import Callback, Logs
from npdl.callbacks.monitor import ALIASES, Monitor, prepare_file, say, validates_later


class _Saving(Callback):
    """Saves after every epoch, or every `save_freq` batches."""

    reads_batch_logs = False

    def __init__(self, save_freq: str | int) -> None:
        if save_freq != "epoch":
            if isinstance(save_freq, str):
                rule = "`save_freq` must be 'epoch' or a number of batches"
                raise ValueError(error_message(rule, save_freq=save_freq))
            save_freq = check_int("save_freq", save_freq)
        self.save_freq = save_freq
        self._batches = 0

    def _is_due(self) -> bool:
        """Count a batch; return whether a save is due."""
        self._batches += 1
        return self.save_freq != "epoch" and self._batches % self.save_freq == 0  # type: ignore[operator]


class ModelCheckpoint(_Saving):
    """Save the model after every epoch, or when a metric is the best so far.

    Parameters
    ----------
    filepath : path
        A name with placeholders for the epoch number, from 1, and its results:
        ``"{epoch:02d}-{val_loss:.2f}.safetensors"``. Missing folders are created. If the name
        contains a validation result, epochs without validation are not saved.
    monitor : str
        The result that `save_best_only` compares.
    verbose : int
        1 to print a message.
    save_best_only : bool
        Whether to save only when that result has improved.
    save_weights_only : bool
        Whether to write a file for `Model.load_weights`, instead of one for `npdl.load_model`.
    mode : {'auto', 'min', 'max'}
        Which way is better; 'auto' infers it from the name.
    save_freq : 'epoch' or int
        After every epoch, or every `save_freq` batches.
    initial_value_threshold : float, optional
        The value that the first one must improve on.
    """

    writes = True

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
        self.initial_value_threshold = initial_value_threshold
        self.best = initial_value_threshold
        self._last: weakref.ref[Any] | None = None
        self.reads_batch_logs = save_freq != "epoch"
        self._watched = Monitor(monitor, mode)
        self._epoch = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Check that saving will work, and find which direction is better.

        The best value so far belongs to one model; it is reset for another.
        """
        if self._last is not None and self._last() is not self.model:
            self.best, self._batches = self.initial_value_threshold, 0
        self._last = weakref.ref(self.model)
        self._watched.bind(self.model, self)
        if not self.save_weights_only:
            _require_savable(self.model, self)
        if "{" not in self.filepath:
            prepare_file(Path(self.filepath), self)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Remember the epoch number."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Save if a save is due."""
        if self._is_due():
            self._save(self._epoch, {"batch": batch + 1, **(logs or {})})

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Save the model, if a save is due."""
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
        (serialization.save_weights if self.save_weights_only else serialization.save_model)(
            self.model, path
        )
        if self.verbose:
            say(self, f"epoch {epoch + 1}: saved {path}", "batch" not in logs)

    def _path(self, epoch: int, logs: Logs) -> str | None:
        """The file name; None if it needs a validation and the epoch has none."""
        figures = {"epoch": epoch + 1, **{name: logs[name] for name in logs.keys()}}
        figures |= {name: logs[own] for name, own in ALIASES.items() if own in logs}
        try:
            return self.filepath.format(**figures)
        except (LookupError, ValueError) as error:
            missing = error.args[0] if isinstance(error, KeyError) else None
            if str(missing).startswith("val_") and validates_later(self.model.loop):
                return None
            rule = f"`filepath` must be filled in from {', '.join(figures)} ({error!r})"
            raise ValueError(error_message(rule, filepath=self.filepath)) from error

    def get_state(self) -> dict[str, Any]:
        """Return the best value so far."""
        return {"best": self.best, "batches": self._batches}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what `get_state` returned."""
        self.best, self._batches = state["best"], state["batches"]


def _require_savable(model: Any, who: Callback) -> None:
    """Raise now any error that a save after an epoch would raise."""
    try:
        model.to_json()
    except (TypeError, ValueError) as error:
        raise type(error)(f"{type(who).__name__} can't save this model. {error}") from error


class BackupAndRestore(_Saving):
    """Resume a training run that was killed, with the same bits as one that was not.

    The backup holds the model, the states of the optimizer and the random generator, the position
    in the data, and the states of the other callbacks and the history. To resume, run the same
    program again: `fit` finds the backup and starts there. It is deleted when training is complete;
    after Ctrl-C or an error it stays.

    Parameters
    ----------
    backup_dir : path
        A folder for only this training run; created if missing. A backup that was made with other
        arrays is an error.
    save_freq : 'epoch' or int
        After every epoch, or also every `save_freq` batches.
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

    #: Whether this process writes the file; one of several does, see `npdl.distributed`.
    writes_here = True

    @property
    def path(self) -> Path:
        """The file of the backup, which `npdl.load_model` reads too."""
        return Path(self.backup_dir, "backup.safetensors")

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Restore the backup, if there is one."""
        prepare_file(self.path, self)
        _require_savable(self.model, self)
        if not self.path.exists():
            return
        model, loop = self.model, self._loop
        weights, state = serialization.read_training(self.path)
        try:
            place = state["loop"]
            self._compare(place.get("data"))
            serialization.load_weights(model, weights, strict=True)
            if "optimizer" in state:
                serialization.restore_optimizer(model, state["optimizer"])
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f"{str(self.path)!r} is no backup of this training: {error}. "
                "Delete it to start over."
            ) from error
        if int(place["epoch"]) > loop.epochs:
            warn(
                f"The backup {str(self.path)!r} has {place['epoch']} epochs done, more than the "
                f"{loop.epochs} that are asked for: there is nothing left to train."
            )
        loop.set_state(place)

    def _compare(self, before: Any) -> None:
        """Raise ValueError if the backup is of other data."""
        now = _fingerprint(self._loop.feed)
        if before is not None and now is not None and before != now:
            raise ValueError("it was made with other data")

    def on_step_boundary(self, epoch: int, batch: int) -> None:
        """Write the backup, if it is due."""
        if batch and self.model.stop_training:  # the epoch ends now, with a step boundary after it
            return
        if batch == 0 or self._is_due():
            place = self._place()
            if self.writes_here:
                serialization.save_model(self.model, self.path, loop=place)

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Delete the backup, if training is complete."""
        if self.delete_checkpoint and self.writes_here and not self._loop.interrupted:
            self.path.unlink(missing_ok=True)

    def _place(self) -> dict[str, Any]:
        return {**self._loop.get_state(), "data": _fingerprint(self._loop.feed)}

    @property
    def _loop(self) -> Any:
        return self.model.loop

    def get_state(self) -> dict[str, Any]:
        """Return how many batches were counted."""
        return {"batches": self._batches}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what `get_state` returned."""
        self._batches = state["batches"]


def _fingerprint(feed: Any) -> list[Any] | None:
    """Shapes, dtypes, first and last sample of the arrays of a feed; None for an iterable."""
    if not hasattr(feed, "data"):
        return None
    return [_mark(array) for array in _arrays(feed.data)]


def _arrays(tree: Any) -> Iterator[np.ndarray]:
    if isinstance(tree, np.ndarray):
        yield tree
    elif isinstance(tree, Mapping):
        tree = tree.values()
    for part in tree if isinstance(tree, Iterable) and not isinstance(tree, np.ndarray) else ():
        yield from _arrays(part)


def _mark(array: np.ndarray) -> list[Any]:
    ends = zlib.crc32(array[0].tobytes()), zlib.crc32(array[-1].tobytes())
    return [list(array.shape), array.dtype.name, *ends]
