"""The package `autograd`, which is imported where something is differentiated."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any


def make_vjp(function: Callable[[Any], Any], x: Any, what: str) -> tuple[Callable[..., Any], Any]:
    """Return what pulls a gradient in function(x) back to x, and function(x).

    Parameters
    ----------
    function : callable
        Written in `autograd.numpy`.
    x : ndarray, or a tuple, list or dict of ndarrays
    what : str
        What the error messages call the function.

    Raises
    ------
    ImportError
        If `autograd` is missing; the message names the extra.
    TypeError
        If the function can't be differentiated.
    """
    try:
        import autograd
    except ImportError as error:
        rule = f"To differentiate {what}, npdl needs autograd"
        raise ImportError(f"{rule}: pip install 'npdl[autodiff]'") from error
    try:
        with warnings.catch_warnings():
            # A function of plain NumPy may lose track of its input; the gradient would then be 0.
            warnings.filterwarnings("error", "Output seems independent", UserWarning)
            return autograd.make_vjp(function)(x)
    except (TypeError, AttributeError, NotImplementedError, UserWarning) as error:
        autograds = isinstance(error, NotImplementedError | UserWarning)
        if not autograds and "Box" not in str(error):
            raise
        rule = f"{what} must be written in functions of `autograd.numpy` that have a derivative"
        raise TypeError(f"{rule}. Received: {error}") from error
