"""The base of the metrics: figures over a whole set of samples, whatever its batches.

Letters: N samples, K classes. `y_true` are targets, `y_pred` outputs of the network, in the order
and under the names of Keras.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl import _checks
from npdl._registry import Configurable, Registry, config_name, custom_object, snake_case


class Metric(Configurable):
    """A figure that is collected batch by batch; to be subclassed.

    A subclass defines `update_state`, `result` and `reset_state`, as in Keras.

    Parameters
    ----------
    name : str, optional
        What it is called in logs and histories; by default the class's name in snake case.
    """

    #: Which way is better: "max" or "min".
    direction = "max"
    #: Whether `result` is cheap enough to be shown after every batch.
    in_batch_logs = True
    #: What was counted, for those whose sums are arrays.
    _sums: Any = None

    def __init__(self, name: str | None = None) -> None:
        self.name = name or snake_case(type(self).__name__)
        self.reset_state()

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON types, and the class under "class"."""
        return {"class": config_name(self), **super().get_config()}

    def bind(self, loss: Any) -> None:
        """Called by `Model.compile` with the loss, which tells what the outputs mean."""

    def update_state(
        self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> None:
        """Count one batch.

        Parameters
        ----------
        y_true, y_pred : array_like
            Targets and outputs.
        sample_weight : array_like, optional
            A weight for each sample, or for each step of each sample; 0 leaves it out.
        """
        raise NotImplementedError(f"{type(self).__name__} must define update_state.")

    def result(self) -> Any:
        """Return the figure over all that was counted since `reset_state`."""
        raise NotImplementedError(f"{type(self).__name__} must define result.")

    def reset_state(self) -> None:
        """Forget what was counted."""
        raise NotImplementedError(f"{type(self).__name__} must define reset_state.")

    def get_state(self) -> dict[str, Any]:
        """Return what was counted so far: all attributes that start with ``_sum``."""
        return {k: v for k, v in vars(self).items() if k.startswith("_sum")}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_state` returned."""
        vars(self).update(state)

    def __call__(
        self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> Any:
        """Count one batch, and return the figure so far."""
        self.update_state(y_true, y_pred, sample_weight)
        return self.result()


class MeanMetric(Metric):
    """A weighted mean over items; a subclass defines `_values`, a value for each item."""

    def _values(self, y_true: NDArray, y_pred: NDArray) -> NDArray:
        raise NotImplementedError

    def update_state(
        self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> None:
        """Count one batch; see `Metric.update_state`."""
        values = np.asarray(self._values(np.asarray(y_true), np.asarray(y_pred)))
        if sample_weight is None:
            yes_or_no = values.dtype.kind == "b"
            self._sum += np.count_nonzero(values) if yes_or_no else float(values.sum(dtype="f8"))
            self._sum_weights += values.size
        else:
            weights = weights_like(values, sample_weight)
            # A value that does not count may be nan.
            self._sum += float((values * weights).sum(where=weights != 0, dtype=np.float64))
            self._sum_weights += float(weights.sum(dtype=np.float64))

    def result(self) -> float:
        """The mean; nan of nothing."""
        return self._sum / self._sum_weights if self._sum_weights else float("nan")

    def reset_state(self) -> None:
        """Forget what was counted."""
        self._sum = 0.0
        self._sum_weights = 0.0


class FunctionMetric(MeanMetric):
    """The mean of what a function returns: values of items, or one value for the batch.

    Parameters
    ----------
    function : callable
        ``function(y_true, y_pred)``.
    name : str, optional
        That of the function by default.
    """

    direction = "min"

    def __init__(self, function: Callable[..., Any], name: str | None = None) -> None:
        if isinstance(function, str):  # in a configuration
            function = custom_object(function)
        super().__init__(name or getattr(function, "__name__", None))
        self.function = function

    def _values(self, y_true: NDArray, y_pred: NDArray) -> NDArray:
        values = np.asarray(self.function(y_true, y_pred))
        return values if values.ndim else np.full(len(y_true), values)


def weights_like(values: NDArray, sample_weight: ArrayLike) -> NDArray:
    """`sample_weight`, one for each of the leading axes of `values`, broadcast to its shape."""
    return np.broadcast_to(_checks.weights_like(values.shape, sample_weight), values.shape)


_registry: Registry[Metric] = Registry("metric", Metric)
register = _registry.register


def get(metric: Any) -> Metric:
    """Return a metric.

    Parameters
    ----------
    metric : str, Metric, class, dict or function
        ``"accuracy"``, ``"top_k"``, ``"f1"``, ...: a name is also what the figure is called in
        logs, except that accuracy is called ``acc``. An instance is returned as it is; a dict is
        what `Metric.get_config` returned, or holds a name and arguments; of a function
        ``f(y_true, y_pred)`` the mean is taken.

    Raises
    ------
    ValueError
        If the name is unknown; the message lists the valid ones.
    """
    if isinstance(metric, str):
        found = _registry.get(metric)
        if found.name != "acc":
            found.name = metric
        return found
    if inspect.isfunction(metric) or inspect.ismethod(metric):
        return FunctionMetric(metric)
    if isinstance(metric, dict) and "class" in metric:
        arguments = {k: v for k, v in metric.items() if k != "class"}
        own = metric["class"] == FunctionMetric.__name__
        return (FunctionMetric if own else _registry.find(metric["class"]))(**arguments)
    return _registry.get(metric)
