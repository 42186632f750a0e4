"""Level 2: the figures of a model over a set of samples: loss and metrics."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from npdl import metrics
from npdl._checks import complaint
from npdl.feed import Batch, steps_mask, times
from npdl.metrics import Metric
from npdl.objectives import (
    BinaryCrossEntropy,
    CategoricalHinge,
    HellingerDistance,
    Hinge,
    SoftmaxCategoricalCrossEntropy,
    SquaredHinge,
)

if TYPE_CHECKING:
    from npdl.model import Model

#: The losses for which an accuracy makes sense.
CLASSIFYING = (
    *(SoftmaxCategoricalCrossEntropy, HellingerDistance, CategoricalHinge),
    *(BinaryCrossEntropy, Hinge, SquaredHinge),
)

#: Names of figures in Keras, and what they are called here.
ALIASES = {"accuracy": "acc", "val_accuracy": "val_acc"}


class Figures(dict[str, Any]):
    """Figures by name; ``"accuracy"`` and ``"val_accuracy"`` find "acc" and "val_acc"."""

    def __missing__(self, name: str) -> Any:
        if name in ALIASES and ALIASES[name] in self:
            return self[ALIASES[name]]
        raise KeyError(name)


class Score(tuple):
    """``(loss, accuracy)``, or the loss and all metrics that `Model.compile` was given.

    The accuracy is None where the loss does not classify and no metrics were asked for.

    Attributes
    ----------
    loss : float
    accuracy : float or None
    figures : dict
        All of it by name.
    """

    figures: Figures

    def __new__(cls, figures: Mapping[str, Any]) -> Score:
        """Make the tuple from figures by name, the loss first."""
        values = [*figures.values()]
        self = super().__new__(cls, values if len(values) > 1 else [*values, None])
        self.figures = Figures(figures)
        return self

    def __getnewargs__(self) -> tuple[Figures]:
        return (self.figures,)

    def __repr__(self) -> str:
        return f"Score({', '.join(f'{k}={v!r}' for k, v in self.figures.items())})"

    @property
    def loss(self) -> float:
        """The loss."""
        return self.figures["loss"]

    @property
    def accuracy(self) -> float | None:
        """The accuracy, if it was counted."""
        return self.figures.get("acc")


class Tally:
    """Adds up loss and metrics of batches so that every sample counts once.

    Parameters
    ----------
    model : Model
        A compiled one. Its metrics are copied, so that several sets can be counted at once.
    """

    def __init__(self, model: Model) -> None:
        self._sums = getattr(model.loss, "reduction", "mean") == "sum"
        self._ignored = getattr(model.loss, "ignore_class", None)
        self.batches = 0
        self._loss = 0.0
        self._count = 0.0
        self._metrics: list[tuple[str, Metric, bool]] = []
        for name, metric, weighted in model.figures:
            own = copy.copy(metric)
            own.reset_state()
            self._metrics.append((name, own, weighted))

    def add(self, loss: float, outputs: NDArray, batch: Batch) -> None:
        """Count one batch."""
        self.batches += 1
        x, y, weight, mask = batch
        n: float = len(x)
        if mask is not None:
            mask = steps_mask(mask, outputs.shape)
            n = n if mask is None else float(mask.sum())
        if self._ignored is not None and y is not None and y.ndim < outputs.ndim:
            kept = y != self._ignored
            y, mask = np.where(kept, y, 0), times(mask, kept)
            n = float(kept.sum())
        self._count += n
        self._loss += loss if self._sums else loss * n
        for _, metric, weighted in self._metrics:
            w = times(weight, mask) if weighted else mask
            metric.update_state(y, outputs, w)  # type: ignore[arg-type]

    def figures(self, everything: bool = True) -> Figures:
        """Loss and metrics of all batches so far; of metrics perhaps only those that are cheap."""
        loss = self._loss if self._sums else self._loss / max(self._count, 1)
        found = Figures(loss=loss)
        for name, metric, _ in self._metrics:
            if everything or metric.in_batch_logs:
                found[name] = metric.result()
        return found

    def get_state(self) -> dict[str, Any]:
        """Return what was counted so far."""
        states = [metric.get_state() for _, metric, _ in self._metrics]
        sums = {"batches": self.batches, "loss": self._loss, "count": self._count}
        return {**sums, "metrics": states}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_state` returned."""
        self.batches = int(state["batches"])
        self._loss, self._count = float(state["loss"]), float(state["count"])
        for (_, metric, _), own in zip(self._metrics, state["metrics"], strict=True):
            metric.set_state(own)


def named_metrics(
    loss: Any, plain: list[Metric] | None, weighted: list[Metric] | None
) -> list[tuple[str, Metric, bool]]:
    """The figures of a model beside its loss: name, metric, and whether sample weights count.

    Where no metrics at all are asked for, a loss that classifies has the accuracy.
    """
    if plain is None and weighted is None and isinstance(loss, CLASSIFYING):
        plain = [metrics.Accuracy()]
    found: dict[str, tuple[Metric, bool]] = {}
    for metric, by_weight in [
        *((m, False) for m in plain or ()),
        *((m, True) for m in weighted or ()),
    ]:
        metric.bind(loss)
        name = metric.name
        if name in found and by_weight:
            name = f"weighted_{name}"
        if name in found or name == "loss":
            raise ValueError(complaint("Each metric must have a name of its own", name=name))
        found[name] = metric, by_weight
    return [(name, *rest) for name, rest in found.items()]


def accuracy(outputs: NDArray, targets: NDArray, loss: Any) -> float:
    """Fraction of right answers; see `npdl.metrics.Accuracy`."""
    metric = metrics.Accuracy()
    metric.bind(loss)
    return metric(np.asarray(targets), np.asarray(outputs))
