"""The base of the metrics: values over a whole set of samples, independent of its batches.

Letters: N samples, K classes. `y_true` are targets, `y_pred` outputs of the network, in the order
and under the names of Keras.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl import _checks
from npdl._checks import error_message
from npdl._registry import (
    Configurable,
    Registry,
    config_name,
    custom_object,
    function_name,
    snake_case,
)


class Metric(Configurable):
    """Base class of metrics, which are accumulated batch by batch.

    A subclass defines `update_state`, `result` and `reset_state`, as in Keras; and `direction`, if
    callbacks should know which direction is better. A model passes only the items that count,
    without masked steps and classes that the loss ignores.

    Parameters
    ----------
    name : str, optional
        Its name in logs and histories; by default the class's name in snake case.
    """

    _former = MappingProxyType({"_values": "values"})

    #: Which direction is better: "max" or "min"; None if unknown.
    direction: str | None = None
    #: The name by which it was requested, if it is not `name`; logs find it too.
    alias: str | None = None
    #: Whether `result` is cheap enough to be shown after every batch.
    in_batch_logs = True
    #: The accumulated sums, for metrics whose sums are arrays.
    _sums: Any = None

    def __init__(self, name: str | None = None) -> None:
        self.name = name or snake_case(type(self).__name__)
        self.reset_state()

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON types, and the class under "class"."""
        return {"class": config_name(self), **super().get_config()}

    def bind(self, loss: Any) -> None:
        """Called by `Model.compile` with the loss, which determines the meaning of the outputs."""

    def update_state(
        self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> None:
        """Count one batch.

        Parameters
        ----------
        y_true, y_pred : array_like
            Targets and outputs.
        sample_weight : array_like, optional
            A weight for each sample, or for each step of each sample; 0 leaves it out, whatever
            it holds.
        """
        raise NotImplementedError(f"{type(self).__name__} must define update_state.")

    def result(self) -> Any:
        """Return the value over everything counted since `reset_state`."""
        raise NotImplementedError(f"{type(self).__name__} must define result.")

    def reset_state(self) -> None:
        """Reset the sums."""
        raise NotImplementedError(f"{type(self).__name__} must define reset_state.")

    def get_state(self) -> dict[str, Any]:
        """Return the sums so far: all attributes that start with ``_sum``."""
        return {k: v for k, v in vars(self).items() if k.startswith("_sum")}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what `get_state` returned."""
        vars(self).update(state)

    def merge_state(self, metrics: Iterable[Any]) -> None:
        """Add the sums of other metrics of this kind: all attributes that start with ``_sum``.

        Parameters
        ----------
        metrics : iterable of Metric
        """
        for other in metrics:
            for name, counted in vars(other).items():
                if name.startswith("_sum") and counted is not None:
                    own = getattr(self, name)
                    setattr(self, name, counted if own is None else own + counted)

    def __call__(
        self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> Any:
        """Count one batch, and return the value so far."""
        self.update_state(y_true, y_pred, sample_weight)
        return self.result()


class MeanMetric(Metric):
    """A weighted mean over items; a subclass defines `values`, a value for each item."""

    def values(self, y_true: NDArray, y_pred: NDArray) -> NDArray:
        """Return a value for each item, of the shape of the leading axes of `y_pred`.

        Parameters
        ----------
        y_true, y_pred : ndarray
            Targets and outputs of the items that count.
        """
        raise NotImplementedError(f"{type(self).__name__} must define values(y_true, y_pred).")

    def update_state(
        self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> None:
        """Count one batch; see `Metric.update_state`."""
        y, p, weights = what_counts(y_true, y_pred, sample_weight)
        if not len(p):
            return
        values = np.asarray(self.values(y, p))
        if not values.ndim or values.shape != p.shape[: values.ndim]:
            rule = f"{self.name!r} must have a value for each item of outputs of shape {p.shape}"
            raise ValueError(error_message(rule, shape=values.shape, targets=y.shape))
        self._add(values, weights)

    def _add(self, values: NDArray, weights: NDArray | None) -> None:
        if weights is None:
            yes_or_no = values.dtype.kind == "b"
            total = np.count_nonzero(values) if yes_or_no else values.sum(dtype=np.float64)
            self._sum += float(total)
            self._sum_weights += values.size
        else:
            weights = weights_like(values, weights)
            self._sum += float((values * weights).sum(dtype=np.float64))
            self._sum_weights += float(weights.sum(dtype=np.float64))

    def result(self) -> float:
        """The mean, or nan if there were no items."""
        return self._sum / self._sum_weights if self._sum_weights else float("nan")

    def reset_state(self) -> None:
        """Reset the sums."""
        self._sum = 0.0
        self._sum_weights = 0.0


class FunctionMetric(MeanMetric):
    """A function of the targets and outputs of a whole set as a metric.

    A function that returns a value for each item is averaged. One that returns a single number is
    called once, at the end, with all targets and outputs, which are kept until then.

    Parameters
    ----------
    function : callable
        ``function(y_true, y_pred)``. Where the outputs have a last axis of length 1 and the targets
        lack it, the targets get it; class numbers lose theirs. Among weighted metrics, one that
        returns a single number must take `sample_weight` too; one that takes it must return a
        single number.
    name : str, optional
        That of the function by default.
    """

    #: Whether the function returns one number for all samples.
    _whole: bool = False

    def __init__(self, function: Callable[..., Any], name: str | None = None) -> None:
        if isinstance(function, str):  # in a configuration
            function = custom_object(function)
        super().__init__(name or getattr(function, "__name__", None))
        self.function = function

    def get_config(self) -> dict[str, Any]:
        """Return the names of class and function; `custom_objects` must know the latter."""
        function = function_name(self.function, "metric")
        return {"class": FunctionMetric.__name__, "function": function, "name": self.name}

    @property
    def in_batch_logs(self) -> bool:  # type: ignore[override]
        """False if the function takes the whole set."""
        return not self._whole

    def update_state(
        self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> None:
        """Count one batch; see `Metric.update_state`."""
        y, p, weights = what_counts(y_true, y_pred, sample_weight)
        if not len(p):
            return
        if (*y.shape, 1) == p.shape:
            y = y[..., None]
        elif p.shape[-1] != 1 and y.shape == (*p.shape[:-1], 1):
            y = y[..., 0]
        whole = self._whole or self._takes_weights
        values = np.zeros(()) if whole else np.asarray(self.function(y, p))
        if values.ndim:
            if values.shape != p.shape[: values.ndim]:
                rule = f"{self.name!r} must return one number, or a value for each item"
                raise ValueError(
                    error_message(rule, shape=values.shape, y_true=y.shape, y_pred=p.shape)
                )
            self._add(values, weights)
            return
        if weights is not None and not self._takes_weights and (weights != 1).any():
            rule = (
                f"{self.name!r} returns one number for all samples: to be weighted it must take "
                "the argument sample_weight"
            )
            raise ValueError(error_message(rule, sample_weight=weights.shape))
        self._whole = True
        parts = (y, p) if weights is None else (y, p, weights)
        self._sum_of.append([np.array(part) for part in parts])

    def result(self) -> float:
        """The value, or nan if there were no items."""
        if not self._sum_of:
            return super().result()
        ranks = {tuple(part.shape[1:] for part in parts) for parts in self._sum_of}
        y, p, *weights = (
            np.concatenate([part if len(ranks) == 1 else _steps(part, i) for part in parts])
            for i, parts in enumerate(zip(*self._sum_of))
        )
        more = {"sample_weight": weights[0]} if weights and self._takes_weights else {}
        return float(self.function(y, p, **more))

    def reset_state(self) -> None:
        """Reset the sums."""
        super().reset_state()
        self._whole = False
        self._sum_of: list[list[NDArray]] = []

    def get_state(self) -> dict[str, Any]:
        """Return the sums so far."""
        sums = {"_sum": self._sum, "_sum_weights": self._sum_weights}
        return {**sums, "batches": [list(parts) for parts in self._sum_of]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what `get_state` returned."""
        self._sum, self._sum_weights = float(state["_sum"]), float(state["_sum_weights"])
        self._sum_of = [[np.asarray(part) for part in parts] for parts in state["batches"]]
        self._whole = bool(self._sum_of)

    def merge_state(self, metrics: Iterable[Any]) -> None:
        """Add the sums of other metrics of this kind."""
        super().merge_state(metrics := list(metrics))
        self._whole = self._whole or any(other._whole for other in metrics)

    @property
    def _takes_weights(self) -> bool:
        try:
            return "sample_weight" in inspect.signature(self.function).parameters
        except ValueError:  # a function written in C has no signature
            return False


def _steps(part: NDArray, index: int) -> NDArray:
    """Sequences of batches of different lengths as one list of steps."""
    return part.reshape(-1, *part.shape[2:])


def what_counts(
    y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None
) -> tuple[NDArray, NDArray, NDArray | None]:
    """Targets, outputs and weights as arrays, without the items of weight 0.

    Where some are left out, the axes that the weights have become one.
    """
    y, p = np.asarray(y_true), np.asarray(y_pred)
    if sample_weight is None:
        return y, p, None
    weights = np.asarray(sample_weight)
    while weights.ndim > 1 and weights.shape[-1] == 1:
        weights = weights[..., 0]
    kept = weights != 0
    shape = kept.shape
    fits = shape and shape == p.shape[: len(shape)] and shape == y.shape[: len(shape)]
    if not fits or kept.all():  # a wrong shape is an error later on
        return y, p, weights
    if p.ndim > 1 and shape == p.shape:  # weights of elements
        return np.where(kept, y, 0), np.where(kept, p, 0), np.where(kept, weights, 0)
    return y[kept], p[kept], weights[kept]


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
        ``"accuracy"``, ``"top_k"``, ``"f1"``, ...: the name is also used in logs, where accuracy is
        ``acc`` and is found under the given name too. An instance is returned as it is; a dict is
        what `Metric.get_config` returned, or holds a name and arguments; a function ``f(y_true,
        y_pred)`` becomes a `FunctionMetric`.

    Raises
    ------
    ValueError
        If the name is unknown; the message lists the valid ones.
    """
    if isinstance(metric, str):
        found = _registry.get(metric)
        if found.name != "acc":
            found.name = metric
        elif metric != "acc":
            found.alias = metric
        return found
    if inspect.isfunction(metric) or inspect.ismethod(metric):
        return FunctionMetric(metric)
    if isinstance(metric, dict) and "class" in metric:
        arguments = {k: v for k, v in metric.items() if k != "class"}
        own = metric["class"] == FunctionMetric.__name__
        return (FunctionMetric if own else _registry.find(metric["class"]))(**arguments)
    return _registry.get(metric)
