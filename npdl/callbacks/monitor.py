"""What the callbacks that watch a figure share: its name, and which way is better."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

from npdl._checks import check_choice

#: Other names of figures, those of Keras.
ALIASES = {"accuracy": "acc", "val_accuracy": "val_acc"}

#: Figures that grow as a model gets better, by the words in their names.
_GROWING = ("acc", "auc", "precision", "recall", "f1", "r2")


def figure(logs: Mapping[str, float], name: str) -> float | None:
    """The figure of this name, or of the one that it is an alias of; None if there is none."""
    return logs.get(name, logs.get(ALIASES.get(name, name)))


class Monitor:
    """Finds a figure in the logs of an epoch, and says whether it has improved.

    Parameters
    ----------
    name : str
        Such as ``"val_loss"``. ``"val_accuracy"`` means ``"val_acc"``.
    mode : {'auto', 'min', 'max'}
        Which way is better; 'auto' tells it from the name.
    min_delta : float
        A change of at most this much is no improvement.
    """

    def __init__(self, name: str, mode: str = "auto", min_delta: float = 0.0) -> None:
        self.name = name
        mode = check_choice("mode", mode, ("auto", "min", "max"))
        if mode == "auto":
            mode = "max" if any(word in name.lower() for word in _GROWING) else "min"
        self.mode = mode
        self.min_delta = abs(min_delta)
        self._warned = False

    @property
    def worst(self) -> float:
        """A value that every finite one improves on."""
        return -math.inf if self.mode == "max" else math.inf

    def value(self, logs: Mapping[str, float] | None, who: Any) -> float | None:
        """The figure, or None after a warning, given once, that `who` looks for it in vain."""
        value = figure(logs or {}, self.name)
        if value is None and not self._warned:
            self._warned = True
            names = ", ".join(logs or {})
            warnings.warn(
                f"{type(who).__name__} watches {self.name!r}, which is not there. "
                f"What is there: {names}.",
                RuntimeWarning,
                stacklevel=2,
            )
        return value

    def improved(self, value: float, best: float) -> bool:
        """Whether `value` is better than `best` by more than `min_delta`; nan never is."""
        if self.mode == "max":
            return value - self.min_delta > best
        return value + self.min_delta < best
