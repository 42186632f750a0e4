"""Losses that are plain functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl._autograd import make_vjp
from npdl._checks import error_message, float_array, weights_like
from npdl._registry import custom_object, function_name
from npdl.objectives.base import Objective, aligned, taken_by


class FunctionLoss(Objective):
    """A loss that is a function.

    Parameters
    ----------
    function : callable
        One of two kinds. ``function(y_true, y_pred)``, as in Keras, returns the loss: one number,
        or a value for each item, whose mean is taken. It is differentiated, so it must be written
        in `autograd.numpy` (``pip install 'npdl[autodiff]'``). Or ``function(outputs, targets)``
        returns a tuple: the loss, a number, and its gradient in the outputs, an array like them.
        Where sample weights or a mask are used, a function that returns one number must take the
        arguments `sample_weight` or `mask` too.
    """

    #: Whether the function returns the gradient too; None as long as it has not been called.
    _both: bool | None = None

    def __init__(self, function: Callable[..., Any]) -> None:
        if isinstance(function, str):  # in a configuration
            function = custom_object(function)
        super().__init__()
        self.function = function

    def get_config(self) -> dict[str, Any]:
        """Return the function's name, which `custom_objects` must then know."""
        return {"function": function_name(self.function, "loss")}

    def takes(self, sample_weight: Any = None, mask: Any = None) -> None:
        """Say which arguments `forward` takes; whether the function takes them is checked later."""

    def forward(self, outputs, targets, sample_weight=None, mask=None):
        """Return the loss; see `Objective.forward`."""
        call = _Call(self, outputs, targets, sample_weight, mask)
        if call.both is not None:
            return float(call.both[0])
        values = np.asarray(call.function(call.p))
        if not values.ndim:
            return float(values)
        weighed = values if call.weights is None else values * call.weights
        return float(np.sum(weighed, dtype=np.float64) / max(call.count(values), 1))

    def backward(self, outputs, targets, sample_weight=None, mask=None):
        """Return the gradient; see `Objective.backward`."""
        call = _Call(self, outputs, targets, sample_weight, mask)
        if call.both is None:
            grad = call.gradient(f"the loss {self.name}")
        else:
            grad = float_array(call.both[1], "gradient")
        if grad.shape != np.shape(outputs):
            rule = f"The gradient of {self.name} must have the outputs' shape, {np.shape(outputs)}"
            raise ValueError(error_message(rule, shape=grad.shape))
        return grad

    def count(self, outputs, targets, mask=None):
        """Return the number of items that the mean is taken over; see `Objective.count`."""
        if not self.returns_both(np.asarray(outputs), aligned(self, outputs, targets), {}):
            try:
                call = _Call(self, outputs, targets, None, mask)
            except ValueError:  # one number, and a mask that the function does not take
                return len(outputs)
            values = np.asarray(call.function(call.p))
            if values.ndim:
                return call.count(values)
        return len(outputs) if mask is None else int(np.count_nonzero(mask))

    def returns_both(self, outputs: NDArray, targets: NDArray, given: dict[str, Any]) -> bool:
        """Whether the function returns a value and its gradient; determined by a call.

        Parameters
        ----------
        outputs, targets : ndarray
        given : dict
            Weights and mask, where they were given.
        """
        if self._both is not None:
            return self._both
        own = {k: v for k, v in given.items() if k in taken_by(self.function)}
        result, failure = None, None
        try:
            result = self.function(targets, outputs, **own)
        except Exception as error:
            failure = error
        if failure is None and not isinstance(result, tuple):
            self._both = False
            return False
        try:
            result = self.function(outputs, targets, **given)
        except Exception:
            if failure is not None and "true" in next(iter(_names(self.function)), ""):
                raise failure from None
            raise
        if not isinstance(result, tuple) or len(result) != 2 or np.ndim(result[0]):
            rule = f"A function as a loss must return the loss, or (loss, gradient): {self.name}"
            raise TypeError(error_message(rule, type=type(result).__name__)) from failure
        self._both = True
        return True

    @property
    def name(self) -> str:
        """Name of the function."""
        return getattr(self.function, "__name__", repr(self.function))


class _Call:
    """A call of the function with one batch: the items that count, and their weights."""

    def __init__(
        self,
        loss: FunctionLoss,
        outputs: ArrayLike,
        targets: ArrayLike,
        sample_weight: ArrayLike | None,
        mask: ArrayLike | None,
    ) -> None:
        p = float_array(outputs, "outputs")
        t = aligned(loss, p, targets)
        pairs = {"sample_weight": sample_weight, "mask": mask}
        given = {name: value for name, value in pairs.items() if value is not None}
        self.both: tuple[Any, Any] | None = None
        self.kept: NDArray | None = None
        self.weights: NDArray | None = None
        self.number: int | None = None
        self.shape, self.p, self.name = p.shape, p, loss.name
        if loss.returns_both(p, t, given):
            self.both = loss.function(p, t, **given)
            return
        own = {k: v for k, v in given.items() if k in taken_by(loss.function)}
        rest = {k: v for k, v in given.items() if k not in own}
        if rest:
            with np.errstate(all="ignore"):  # items that do not count may hold anything
                items = np.shape(loss.function(t, p, **own))
            t = self._choose(items, t, rest)
        self.function = lambda outputs: loss.function(t, outputs, **own)

    def _choose(self, items: tuple[int, ...], t: NDArray, rest: dict[str, Any]) -> NDArray:
        """Leave out the items that don't count."""
        if not items:
            rule = f"With {' and '.join(rest)}, {self.name}, which returns one number, must take"
            raise ValueError(f"{rule} {'them' if len(rest) > 1 else 'it'}. Received: no argument")
        self._check(items)
        kept = np.ones(items, bool)
        if "mask" in rest:
            kept &= weights_like(items, rest["mask"], "mask") != 0
        self.number = int(np.count_nonzero(kept))
        if "sample_weight" in rest:
            weights = np.broadcast_to(weights_like(items, rest["sample_weight"]), items)
            kept &= weights != 0
            self.weights = weights[kept].astype(self.p.dtype)
        self.kept, self.p = kept, self.p[kept]
        return t[kept]

    def _check(self, items: tuple[int, ...]) -> None:
        if items != self.shape[: len(items)]:
            rule = f"{self.name} must return one number, or a value for each item of the outputs"
            raise ValueError(error_message(rule, shape=items, outputs=self.shape))

    def count(self, values: NDArray) -> int:
        """How many items the mean is over."""
        if self.kept is None:
            self._check(values.shape)
        return values.size if self.number is None else self.number

    def gradient(self, what: str) -> NDArray:
        """The gradient in the outputs."""
        whole = np.zeros(self.shape, self.p.dtype)
        if not self.p.size:
            return whole
        pull_back, values = make_vjp(self.function, self.p, what)
        factors = np.ones(np.shape(values), np.asarray(values).dtype)
        if factors.ndim:
            factors /= max(self.count(factors), 1)
            if self.weights is not None:
                factors *= self.weights
        whole[... if self.kept is None else self.kept] = pull_back(factors)
        return whole


def _names(function: Callable[..., Any]) -> list[str]:
    import inspect

    return list(inspect.signature(function).parameters)
