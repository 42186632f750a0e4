"""Which arguments a function takes: a user's layer, loss or optimizer may leave some out."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any


@functools.cache
def takes(function: Callable[..., Any], argument: str) -> bool:
    """Whether a function can be called with this keyword."""
    parameters = inspect.signature(function).parameters
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


@functools.cache
def forward_takes(forward: Callable[..., Any]) -> tuple[bool, bool]:
    """Whether the `forward` of a layer takes the arguments `train` and `mask`."""
    return takes(forward, "train"), takes(forward, "mask")


def call_forward(layer: Any, inputs: tuple[Any, ...], train: bool, mask: Any = None) -> Any:
    """The output of a layer; `train` and `mask` are passed if its `forward` takes them."""
    takes_train, takes_mask = forward_takes(type(layer).forward)
    options: dict[str, Any] = {"train": train} if takes_train else {}
    if takes_mask and mask is not None:
        options["mask"] = mask
    return layer.forward(*inputs, **options)


def also_called(**names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Let a method take some of its arguments under other names too: ``also_called(x="X")``."""

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def renamed(*args: Any, **kwargs: Any) -> Any:
            for other, own in names.items() if kwargs else ():
                if other in kwargs:
                    if own in kwargs:
                        raise TypeError(f"{method.__name__}() got `{own}` twice, once as `{other}`")
                    kwargs[own] = kwargs.pop(other)
            return method(*args, **kwargs)

        return renamed

    return decorate
