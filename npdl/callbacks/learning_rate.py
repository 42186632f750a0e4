"""Callbacks that change the learning rate."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

from npdl._checks import check_int, check_number, error_message
from npdl.callbacks.base import Callback, Logs
from npdl.callbacks.monitor import Monitor, say
from npdl.optimizers import Optimizer


def plain_rate(optimizer: Optimizer, who: Any) -> float:
    """The learning rate of an optimizer, which must be a number, not a schedule."""
    if callable(optimizer.lr):
        rule = f"{type(who).__name__} needs an optimizer whose `lr` is a number"
        raise TypeError(error_message(rule, lr=optimizer.lr))
    return float(optimizer.lr)


class ReduceLROnPlateau(Callback):
    """Lower the learning rate when a metric has stopped improving.

    Parameters
    ----------
    monitor : str
        The name of the metric.
    factor : float
        What the rate is multiplied by, below 1.
    patience : int
        How many epochs without an improvement to wait for.
    verbose : int
        1 to print a message.
    mode : {'auto', 'min', 'max'}
        Which way is better; 'auto' infers it from the name.
    min_delta : float
        A change of at most this much is no improvement.
    cooldown : int
        How many epochs to wait after a change before watching again.
    min_lr : float
        The rate is not lowered below this.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 0.0001,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        self.monitor = monitor
        self.factor = check_number("factor", factor, "(0, 1)")
        self.patience = check_int("patience", patience, 0)
        self.verbose = verbose
        self.mode = mode
        self.min_delta = check_number("min_delta", min_delta, "[0, inf)")
        self.cooldown = check_int("cooldown", cooldown, 0)
        self.min_lr = check_number("min_lr", min_lr, "[0, inf)")
        self._watched = Monitor(monitor, mode, self.min_delta)
        self._reset()

    def _reset(self) -> None:
        self.best: float | None = None
        self.wait = 0
        self.cooldown_counter = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Reset the state of an earlier training run."""
        plain_rate(self.model.optimizer, self)
        self._reset()
        self._watched.bind(self.model, self)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Compare the value with the best one so far; add ``learning_rate`` to the logs."""
        rate = plain_rate(self.model.optimizer, self)
        if logs is not None:
            logs["learning_rate"] = rate
        current = self._watched.value(logs, self)
        if current is None:
            return
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.wait = 0
        if self._watched.improved(current, self.best):
            self.best, self.wait = current, 0
        elif self.cooldown_counter <= 0:
            self.wait += 1
            if self.wait >= self.patience and rate > self.min_lr:
                self.model.optimizer.lr = max(rate * self.factor, self.min_lr)
                if self.verbose:
                    lowered = f"{self.model.optimizer.lr:.3g}"
                    say(self, f"epoch {epoch + 1}: the learning rate is lowered to {lowered}", True)
                self.cooldown_counter, self.wait = self.cooldown, 0

    def get_state(self) -> dict[str, Any]:
        """Return the best value so far, and the counters."""
        return {name: getattr(self, name) for name in ("best", "wait", "cooldown_counter")}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what `get_state` returned."""
        vars(self).update(state)


class LearningRateScheduler(Callback):
    """Set the learning rate at the start of each epoch; `npdl.schedules` do so at each step.

    Parameters
    ----------
    schedule : callable
        ``schedule(epoch, lr)``, or ``schedule(epoch)``, returns the rate; epochs from 0.
    verbose : int
        1 to print a message.
    """

    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        if not callable(schedule):
            raise TypeError(error_message("`schedule` must be a function", schedule=schedule))
        self.schedule = schedule
        self.verbose = verbose
        self._takes_lr = True
        with contextlib.suppress(ValueError):  # a function written in C has no signature
            self._takes_lr = _can_take(inspect.signature(schedule), 0, 0.1)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Set the rate."""
        optimizer = self.model.optimizer
        now = plain_rate(optimizer, self)
        rate = self.schedule(epoch, now) if self._takes_lr else self.schedule(epoch)
        optimizer.lr = check_number("the result of `schedule`", rate, "[0, inf)")
        if self.verbose:
            say(self, f"epoch {epoch + 1}: the learning rate is {optimizer.lr:.3g}")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Add ``learning_rate`` to the logs."""
        if logs is not None:
            logs["learning_rate"] = plain_rate(self.model.optimizer, self)


def _can_take(signature: inspect.Signature, *args: Any) -> bool:
    try:
        signature.bind(*args)
    except TypeError:
        return False
    return True
