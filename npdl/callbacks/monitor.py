"""Common parts of callbacks: the monitored result, its better direction, and their files."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from npdl._checks import check_choice, error_message, warn
from npdl.results import ALIASES

if TYPE_CHECKING:
    from pathlib import Path

    from npdl.callbacks.base import Callback
    from npdl.trainer import Trainer

#: Words in the names of results that grow, and that shrink, as a model gets better. They are used
#: for results that are not the model's own but were added to the logs by a callback.
_GROWING = ("acc", "auc", "precision", "recall", "f1", "r2", "top_k")
_SHRINKING = ("loss", "error", "mse", "mae", "mape", "msle", "perplexity")


def figure(logs: Mapping[str, float], name: str) -> float | None:
    """The value of this name, or of the name that it is an alias of; None if there is none."""
    return logs.get(name, logs.get(ALIASES.get(name, name)))


def say(callback: Callback, message: str, after_line: bool = False) -> None:
    """Print a line where `fit` prints; with a progress line pending, after that line."""
    params = getattr(callback, "params", {})
    if after_line and params.get("verbose"):
        params.setdefault("after_line", []).append(message)
    else:
        print(message, file=params.get("file") or sys.stdout, flush=True)


class Monitor:
    """Finds a result in the logs of an epoch, and decides whether it has improved.

    Parameters
    ----------
    name : str
        Such as ``"val_loss"``. ``"val_accuracy"`` means ``"val_acc"``.
    mode : {'auto', 'min', 'max'}
        Which way is better; 'auto' asks the model's metrics, or infers it from the name.
    min_delta : float
        A change of at most this much is no improvement.

    Attributes
    ----------
    mode : {'min', 'max'} or None
        None where 'auto' does not know.
    """

    def __init__(self, name: str, mode: str = "auto", min_delta: float = 0.0) -> None:
        self.name = name
        self._auto = check_choice("mode", mode, ("auto", "min", "max")) == "auto"
        self.mode: str | None = _by_name(name) if self._auto else mode
        self.min_delta = abs(min_delta)
        self._warned = False
        self._loop: Any = None

    def bind(self, model: Trainer, who: Any = None) -> None:
        """For 'auto', ask the metrics of a model which direction is better.

        Raises
        ------
        ValueError
            If the metric does not know either.
        """
        self._warned, self._loop = False, model.loop
        own = self.name.removeprefix("val_")
        for name, metric, _ in model.named_metrics if self._auto else ():
            if own in (name, metric.alias) or name == ALIASES.get(own):
                self.mode = metric.direction
                self._require_mode(who)

    def _require_mode(self, who: Any) -> None:
        if self.mode is None:
            rule = f"{type(who).__name__} must be told which way {self.name!r} is better, by `mode`"
            raise ValueError(error_message(f"{rule}: 'min' or 'max'", mode="auto"))

    def value(self, logs: Mapping[str, float] | None, who: Any) -> float | None:
        """The value, or None (with one warning) if `logs` has no such name.

        There is no warning in an epoch that has no validation, where others have one.
        """
        value = figure(logs or {}, self.name)
        if value is None and not self._warned and not self._comes_later():
            self._warned = True
            names = ", ".join(logs or {})
            warn(
                f"{type(who).__name__} watches {self.name!r}, which is not there. "
                f"Available: {names}."
            )
        if value is not None:
            self._require_mode(who)
        return value

    def _comes_later(self) -> bool:
        return self.name.startswith("val_") and validates_later(self._loop)

    def improved(self, value: float, best: float | None) -> bool:
        """Whether `value` is better than `best` by more than `min_delta`.

        Anything but nan is better than None; nan never is better.
        """
        if best is None:
            return value == value
        if self.mode == "max":
            return value - self.min_delta > best
        return value + self.min_delta < best


def prepare_file(path: Path, who: Any) -> None:
    """Create the folder of a file that a callback will write, and check that it can be written.

    Raises
    ------
    OSError
        As the system would report it later.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(
            errno.EISDIR, f"{type(who).__name__} can't write its file: it is a folder", str(path)
        )
    place = path if path.exists() else path.parent
    if not os.access(place, os.W_OK):
        raise PermissionError(
            errno.EACCES, f"{type(who).__name__} can't write its file: it is read-only", str(path)
        )


def validates_later(loop: Any) -> bool:
    """Whether the run validates, in other epochs than the current one."""
    if loop is None or loop.validation is None:
        return False
    return (loop.epoch + 1) % loop.validation_freq != 0


def _by_name(name: str) -> str | None:
    words = name.lower()
    if any(word in words for word in _GROWING):
        return "max"
    return "min" if any(word in words for word in _SHRINKING) else None
