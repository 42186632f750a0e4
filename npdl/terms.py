"""Level 2: terms of a model's loss, functions of its values, see `Model.add_loss`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl._autograd import make_vjp
from npdl._checks import error_message
from npdl.layers.base import Layer
from npdl.layers.node import Value
from npdl.layers.plan import Plan


class Term:
    """A term of the loss.

    Parameters
    ----------
    function : callable
        Called with the arrays of one batch. It returns a number and is differentiated by
        `autograd`, or it returns the number and the gradient in each array.
    places : tuple of Value or Layer
        Whose arrays it gets; those of the model's outputs if there are none.
    """

    def __init__(self, function: Callable[..., Any], places: tuple[Any, ...]) -> None:
        if not callable(function):
            raise TypeError(error_message("`function` must be a function", function=function))
        for place in places:
            if not isinstance(place, Value | Layer):
                rule = "The arguments of add_loss() behind the function must be values or layers"
                raise TypeError(error_message(rule, type=type(place).__name__))
        self.function = function
        self.places = places

    @property
    def name(self) -> str:
        """The function's name."""
        return getattr(self.function, "__name__", repr(self.function))

    def slots(self, plan: Plan) -> tuple[int, ...]:
        """Where a plan keeps the arrays.

        Raises
        ------
        ValueError
            If it has no such value.
        """
        found = []
        for place in self.places:
            slot = plan.slot_of(place)
            if slot is None:
                rule = "The outputs of the model must depend on the values passed to add_loss()"
                raise ValueError(error_message(rule, value=place))
            found.append(slot)
        return tuple(found) or plan.out_slots

    def forward(self, arrays: tuple[NDArray, ...], train: bool) -> tuple[float, Any]:
        """Return the term, and for training the gradients in the arrays."""
        found = self.function(*arrays)
        if isinstance(found, tuple):
            if len(found) != 2:
                rule = f"{self.name} must return a number, or a number and its gradients"
                raise ValueError(error_message(rule, items=len(found)))
            value, grads = found
            grads = grads if isinstance(grads, tuple | list) else (grads,)
        else:
            value, grads = found, ()
            if train:
                pull_back, _ = make_vjp(lambda given: self.function(*given), arrays, self.name)
                grads = pull_back(np.ones_like(value))
        if np.ndim(value):
            rule = f"{self.name}, a function of add_loss(), must return a number"
            raise ValueError(error_message(rule, shape=np.shape(value)))
        return float(value), self._checked(arrays, grads) if train else None

    def _checked(self, arrays: tuple[NDArray, ...], grads: Any) -> list[NDArray]:
        shapes, own = [np.shape(grad) for grad in grads], [a.shape for a in arrays]
        if shapes != own:
            rule = f"The gradients of {self.name} must have the shapes {own}"
            raise ValueError(error_message(rule, shapes=shapes))
        return [np.asarray(grad, a.dtype) for grad, a in zip(grads, arrays)]
