"""Callbacks that write results to files."""

from __future__ import annotations

import csv
import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from npdl._checks import check_int, error_message
from npdl.callbacks.base import Callback, Logs
from npdl.callbacks.monitor import prepare_file


class CSVLogger(Callback):
    """Write the results of each epoch to a file, a row at a time.

    The columns are ``epoch``, counted from 0, and the names of the results in order. A training run
    that `BackupAndRestore` resumes continues its file.

    Parameters
    ----------
    filename : path
        Its folder is created if missing.
    separator : str
        Between the columns.
    append : bool
        Whether to append to an existing file, instead of overwriting it.
    """

    writes = True

    def __init__(
        self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False
    ) -> None:
        self.filename = Path(filename)
        self.separator = separator
        self.append = append
        self._going = False
        self._keys: list[str] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Create the folder, and find the row to append after."""
        prepare_file(self.filename, self)
        self._keys = []
        self._going = False
        if self.append and self.filename.exists():
            with self.filename.open(newline="") as file:
                header = next(csv.reader(file, delimiter=self.separator), [])
            self._keys, self._going = header[1:], bool(header)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Write a row."""
        logs = logs or {}
        self._keys = self._keys or self._columns(logs)
        row = [epoch, *(_cell(logs.get(key, "NA")) for key in self._keys)]
        with self.filename.open("a" if self._going else "w", newline="") as file:
            writer = csv.writer(file, delimiter=self.separator, lineterminator="\n")
            if not self._going:
                writer.writerow(["epoch", *self._keys])
            writer.writerow(row)
        self._going = True

    def _columns(self, logs: Logs) -> list[str]:
        """The names of all results, also of a validation that does not run in every epoch."""
        keys = sorted(logs)
        loop = self.model.loop
        if loop is not None and loop.validation is not None and loop.validation_freq > 1:
            plain = [key for key in keys if not key.startswith("val_")]
            keys = [*plain, *(f"val_{key}" for key in plain if key != "learning_rate")]
        return keys

    def get_state(self) -> dict[str, Any]:
        """Return how much of the file is written."""
        size = self.filename.stat().st_size if self._going else 0
        return {"keys": list(self._keys), "size": size}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue the file, without the rows that were written after `get_state`."""
        self._keys = list(state["keys"])
        self._going = bool(state["size"]) and self.filename.exists()
        if self._going and self.filename.stat().st_size > state["size"]:
            os.truncate(self.filename, state["size"])


def _cell(value: Any) -> Any:
    return np.asarray(value).tolist() if isinstance(value, np.ndarray | np.generic) else value


def _writers() -> Any:
    try:
        return importlib.import_module("tensorboardX")
    except ImportError:
        raise ImportError(
            "TensorBoard needs the package tensorboardX: pip install npdl[tensorboard]"
        ) from None


class TensorBoard(Callback):
    """Write results for TensorBoard, by `tensorboardX`: ``pip install npdl[tensorboard]``.

    Those of training go to the folder ``train``, those of validation to ``validation``, under
    Keras's names, ``epoch_loss``, ``epoch_acc``, ``batch_loss``.

    Parameters
    ----------
    log_dir : path
    update_freq : 'epoch', 'batch' or int
        Whether to write results of batches too: every batch, or every *n* batches.
    """

    writes = True

    def __init__(
        self, log_dir: str | os.PathLike[str] = "logs", update_freq: str | int = "epoch"
    ) -> None:
        self.log_dir = Path(log_dir)
        if update_freq not in ("epoch", "batch") and not hasattr(update_freq, "__index__"):
            rule = "`update_freq` must be 'epoch', 'batch' or a number of batches"
            raise ValueError(error_message(rule, update_freq=update_freq))
        self.update_freq = update_freq
        every = 1 if update_freq == "batch" else update_freq
        self._every = 0 if every == "epoch" else check_int("update_freq", every)
        self.reads_batch_logs = self._every > 0
        self._writers: dict[str, Any] = {}
        self._step = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Import the package."""
        _writers()

    def _write(self, part: str, figures: dict[str, Any], step: int) -> None:
        if part not in self._writers:
            writers = _writers()
            self._writers[part] = writers.SummaryWriter(str(self.log_dir / part))
        for name, value in figures.items():
            if np.ndim(value) == 0:
                self._writers[part].add_scalar(name, float(value), step)
        self._writers[part].flush()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Write the results of the epoch so far."""
        self._step += 1
        if self._every and self._step % self._every == 0:
            self._write("train", {f"batch_{k}": v for k, v in (logs or {}).items()}, self._step)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Write the results of the epoch."""
        parts: dict[str, dict[str, Any]] = {"train": {}, "validation": {}}
        for name, value in (logs or {}).items():
            part = "validation" if name.startswith("val_") else "train"
            parts[part][f"epoch_{name.removeprefix('val_')}"] = value
        for part, figures in parts.items():
            if figures:
                self._write(part, figures, epoch)

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def get_state(self) -> dict[str, Any]:
        """Return how many batches were seen."""
        return {"step": self._step}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what `get_state` returned."""
        self._step = int(state["step"])
