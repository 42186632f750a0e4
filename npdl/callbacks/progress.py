"""The output of `Model.fit`, `evaluate` and `predict`: a progress bar, and a line per epoch.

The bar is tqdm's. Where that is not installed, or where the output is neither a terminal nor a
notebook, only the lines are printed, without control codes.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import numpy as np

from npdl._checks import error_message
from npdl.callbacks.base import Callback, Logs

#: Seconds between two updates of the results, and before a bar is shown at all.
_PAUSE = 0.1


class LinePrinter(Callback):
    """Prints a line for each epoch.

    Parameters
    ----------
    file : text file
    """

    reads_batch_logs = False
    writes = True

    def __init__(self, file: TextIO) -> None:
        self.file = file

    @property
    def loop(self) -> Any:
        """The running training loop."""
        return self.model.loop

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Print the results, and the speed of training without validation."""
        speed = self.loop.speed
        line = epoch_line(epoch + 1, self.params["epochs"], logs or {}, speed)
        print(line, file=self.file, flush=True)
        for message in self.params.pop("after_line", ()):  # messages of other callbacks
            print(message, file=self.file, flush=True)

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Report it if Ctrl-C ended training."""
        if self.loop.interrupted:
            print(f"stopped by Ctrl-C in epoch {self.loop.epoch + 1}", file=self.file)

    def close(self) -> None:
        """Close the bar, even if training failed."""


class ProgressBar(LinePrinter):
    """Shows a bar while an epoch runs, and a line at its end.

    Parameters
    ----------
    file : text file
    make : callable
        tqdm, that of terminals or that of notebooks.
    """

    def __init__(self, file: TextIO, make: Callable[..., Any]) -> None:
        super().__init__(file)
        self._make = make
        self._bar: Any = None
        self._next = 0.0

    def _open(self, total: int | None, text: str, unit: str) -> None:
        self.close()
        style = {"leave": False, "dynamic_ncols": True, "delay": _PAUSE}
        self._bar = self._make(total=total, desc=text, unit=unit, file=self.file, **style)
        self._next = 0.0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Open a bar."""
        text = f"epoch {epoch + 1}/{self.params['epochs']}"
        self._open(self.params["samples"], text, " samples")

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Update the bar."""
        loop = self.loop
        now = time.perf_counter()
        if now >= self._next:
            self._next = now + _PAUSE
            self._bar.set_postfix_str(
                results_text(loop.metrics.results(False), ", "), refresh=False
            )
        self._bar.update(loop.samples - self._bar.n)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Remove the bar and print the summary line."""
        self.close()
        super().on_epoch_end(epoch, logs)

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Remove the bar."""
        self.close()
        super().on_train_end(logs)

    def _alone(self) -> bool:
        return self.model.loop is None

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Open a bar, for an evaluation outside of `fit`."""
        if self._alone():
            self._open(self.params["steps"], "evaluate", " batches")

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Open a bar."""
        self._open(self.params["steps"], "predict", " batches")

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Update the bar."""
        if self._alone():
            self._bar.update()

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        """Update the bar."""
        self._bar.update()

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Remove the bar."""
        if self._alone():
            self.close()

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """Remove the bar."""
        self.close()

    def close(self) -> None:
        """Remove the bar, even if training failed."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def make_progress(verbose: Any, file: TextIO) -> LinePrinter | None:
    """The callback that prints, for a value of `verbose`.

    Parameters
    ----------
    verbose : {0, 1, 2, 'auto'} or bool
        0: nothing. 1: a bar where possible, otherwise lines. 2: lines. 'auto' and True mean 1.
    file : text file
    """
    if isinstance(verbose, str) and verbose == "auto":
        verbose = 1
    if not isinstance(verbose, int) or verbose not in (0, 1, 2):
        raise ValueError(error_message("`verbose` must be 0, 1, 2 or 'auto'", verbose=verbose))
    if not verbose:
        return None
    make = _tqdm(file) if verbose == 1 else None
    return LinePrinter(file) if make is None else ProgressBar(file, make)


def _tqdm(file: TextIO) -> Callable[..., Any] | None:
    """The bar that suits a file; None if there is none."""
    notebook = file is sys.stdout and type(file).__module__.startswith("ipykernel")
    if not notebook and not getattr(file, "isatty", lambda: False)():
        return None
    from importlib.util import find_spec  # few programs have such a bar

    if find_spec("tqdm") is None:
        return None
    if notebook and find_spec("ipywidgets") is not None:
        return importlib.import_module("tqdm.notebook").tqdm
    return importlib.import_module("tqdm").tqdm


def epoch_line(epoch: int, epochs: int, values: Mapping[str, Any], speed: float) -> str:
    """``epoch  3/20  loss 0.1234    acc 0.9712       45,678 samples/s``."""
    count = f"epoch {epoch:>{len(str(epochs))}}/{epochs}"
    return f"{count}  {results_text(values)}  {speed:>9,.0f} samples/s"


def results_text(values: Mapping[str, Any], between: str = "  ") -> str:
    """The results that are numbers, in columns unless `between` is given."""
    width = 8 if between == "  " else 0
    numbers = {key: value for key, value in values.items() if np.ndim(value) == 0}
    return between.join(f"{key} {_figure(value):<{width}}" for key, value in numbers.items())


def _figure(value: float) -> str:
    """Six to eight characters, whatever the size of the value."""
    plain = value == 0 or 1e-3 <= abs(value) < 1e3
    return f"{value:.4f}" if plain else f"{value:.2e}"
