"""A callback made of functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from npdl._checks import error_message
from npdl.callbacks.base import HOOKS, Callback


class LambdaCallback(Callback):
    """Calls functions.

    Parameters
    ----------
    **functions
        For any hook, by its name: ``on_epoch_end=lambda epoch, logs: ...``.
    """

    def __init__(self, **functions: Callable[..., Any] | None) -> None:
        for name, function in functions.items():
            if name not in HOOKS:
                rule = f"A callback has the hooks {', '.join(HOOKS)}"
                raise TypeError(error_message(rule, hook=name))
            if function is not None:
                setattr(self, name, function)
