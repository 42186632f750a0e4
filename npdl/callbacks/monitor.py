"""What the callbacks that watch a figure share: its name, and which way is better."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from npdl._checks import check_choice, warn
from npdl.scores import ALIASES

if TYPE_CHECKING:
    from npdl.callbacks.base import Callback
    from npdl.model import Model

#: Figures that grow as a model gets better, by the words in their names.
_GROWING = ("acc", "auc", "precision", "recall", "f1", "r2", "top_k")


def figure(logs: Mapping[str, float], name: str) -> float | None:
    """The figure of this name, or of the one that it is an alias of; None if there is none."""
    return logs.get(name, logs.get(ALIASES.get(name, name)))


def say(callback: Callback, message: str) -> None:
    """Print a line where the training prints its own."""
    params = getattr(callback, "params", {})
    print(message, file=params.get("file") or sys.stdout, flush=True)


class Monitor:
    """Finds a figure in the logs of an epoch, and says whether it has improved.

    Parameters
    ----------
    name : str
        Such as ``"val_loss"``. ``"val_accuracy"`` means ``"val_acc"``.
    mode : {'auto', 'min', 'max'}
        Which way is better; 'auto' asks the model's metrics, or tells it from the name.
    min_delta : float
        A change of at most this much is no improvement.
    """

    def __init__(self, name: str, mode: str = "auto", min_delta: float = 0.0) -> None:
        self.name = name
        self._auto = check_choice("mode", mode, ("auto", "min", "max")) == "auto"
        if self._auto:
            mode = "max" if any(word in name.lower() for word in _GROWING) else "min"
        self.mode = mode
        self.min_delta = abs(min_delta)
        self._warned = False

    def bind(self, model: Model) -> None:
        """Ask the metrics of a model which way is better, if 'auto' is to tell."""
        own = self.name.removeprefix("val_")
        for name, metric, _ in model.figures if self._auto else ():
            if name == ALIASES.get(own, own):
                self.mode = metric.direction

    def value(self, logs: Mapping[str, float] | None, who: Any) -> float | None:
        """The figure, or None after a warning, given once, that `who` looks for it in vain."""
        value = figure(logs or {}, self.name)
        if value is None and not self._warned:
            self._warned = True
            names = ", ".join(logs or {})
            warn(
                f"{type(who).__name__} watches {self.name!r}, which is not there. "
                f"What is there: {names}."
            )
        return value

    def improved(self, value: float, best: float | None) -> bool:
        """Whether `value` is better than `best` by more than `min_delta`.

        Anything but nan is better than None; nan never is better.
        """
        if best is None:
            return value == value
        if self.mode == "max":
            return value - self.min_delta > best
        return value + self.min_delta < best
