"""The arguments of the optimizers: Keras's names, and likely mistakes."""

from __future__ import annotations

import inspect
import math
from typing import Any

from npdl._checks import check_number, warn
from npdl._registry import constructor_arguments


def warn_if_rate(cls: type, args: tuple[Any, ...]) -> None:
    """Warn if the first positional argument looks like a learning rate but is another argument."""
    first = next(iter(constructor_arguments(cls)))
    usual = (0, 1e-4) if first == "epsilon" else (0.5, math.inf)
    if args and first != "lr" and isinstance(args[0], float) and 0 < args[0] < 1:
        if not usual[0] <= args[0] <= usual[1]:
            warn(
                f"The first argument of {cls.__name__} is `{first}`, and {args[0]} is unusual "
                f"for it. A learning rate is given by name: {cls.__name__}(lr={args[0]})."
            )


class ShownSignature:
    """What `help` shows of a class: the arguments of `__init__`, not those of `__new__`."""

    def __get__(self, instance: Any, cls: type) -> inspect.Signature:
        signature = inspect.signature(cls.__init__)  # type: ignore[misc]
        return signature.replace(parameters=[*signature.parameters.values()][1:])


#: Keras's names of arguments that have another name here.
_ALIASES = {"learning_rate": "lr", "clipvalue": "clip"}


def by_own_names(cls: str, aliases: dict[str, Any]) -> dict[str, Any]:
    """Return arguments under the names that they have here; raise TypeError for unknown ones."""
    unknown = sorted(aliases.keys() - _ALIASES.keys())
    if unknown and unknown[0] in ("momentum", "nesterov"):
        other = "NesterovMomentum" if aliases.get("nesterov") else "Momentum"
        raise TypeError(
            f"{cls}() got an unexpected keyword argument {unknown[0]!r}: gradient descent with a "
            f"velocity is npdl.optimizers.{other}(momentum=0.9, lr=0.01)"
        )
    if unknown:
        raise TypeError(f"{cls}() got an unexpected keyword argument {unknown[0]!r}")
    return {_ALIASES[k]: v for k, v in aliases.items() if v is not None}


def optional(name: str, value: float | None, interval: str) -> float | None:
    """Return `value` as a float in `interval`, or None."""
    return None if value is None else check_number(name, value, interval)
