"""Level 2: loss and metrics of a model over a set of samples."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl import metrics
from npdl._weights import selected
from npdl.batch import Batch
from npdl.heads import Head, Result
from npdl.metrics import FunctionMetric, Metric
from npdl.objectives import Objective
from npdl.objectives.base import aligned, count_of

#: Keras's names of results, and what they are called here.
ALIASES = {"accuracy": "acc", "val_accuracy": "val_acc"}


class Results(dict[str, Any]):
    """Loss and metric values by name, which are found under some other names too.

    Those are ``"accuracy"`` and ``"val_accuracy"`` for "acc" and "val_acc", and any other name
    under which a metric was requested. `keys` lists all names; iteration, `items` and `len` count
    each value once.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: The names of values, without a prefix "val_", by their other names.
        self.aliases: dict[str, str] = {"accuracy": "acc"}
        for other in args:
            self.aliases |= getattr(other, "aliases", {})

    def _own(self, name: Any) -> Any:
        """The name under which a value is kept."""
        if isinstance(name, str) and not super().__contains__(name):
            plain = name.removeprefix("val_")
            if plain == "acc":  # one that a user named in full
                return name.replace("acc", "accuracy")
            if plain in self.aliases:
                return name.removesuffix(plain) + self.aliases[plain]
        return name

    def __contains__(self, name: object) -> bool:
        return super().__contains__(self._own(name))

    def __missing__(self, name: str) -> Any:
        own = self._own(name)
        if own == name or not super().__contains__(own):
            raise KeyError(name)
        return super().__getitem__(own)

    def get(self, name: Any, default: Any = None) -> Any:
        """The value of this name, or of the name that it is an alias of."""
        return super().get(self._own(name), default)

    def keys(self) -> Any:
        """All names, first those under which values are kept."""
        others = [prefix + name for prefix in ("", "val_") for name in self.aliases]
        return dict.fromkeys([*self, *(name for name in others if name in self)]).keys()


class EvaluationResult(tuple):
    """``(loss, accuracy)``, or the loss and all metrics that `Model.compile` was given.

    The accuracy is None if the loss does not classify and no metrics were requested.

    Attributes
    ----------
    loss : float
    accuracy : float or None
    results : dict
        Loss and metrics by name; `figures` is another name of it.
    """

    results: Results
    figures: Results

    def __new__(cls, results: Mapping[str, Any]) -> EvaluationResult:
        """Make the tuple from results by name, the loss first."""
        values = [*results.values()]
        self = super().__new__(cls, values if len(values) > 1 else [*values, None])
        self.results = self.figures = Results(results)
        return self

    def __getnewargs__(self) -> tuple[Results]:
        return (self.results,)

    def __repr__(self) -> str:
        return f"EvaluationResult({', '.join(f'{k}={v!r}' for k, v in self.results.items())})"

    @property
    def loss(self) -> float:
        """The loss."""
        return self.results["loss"]

    @property
    def accuracy(self) -> float | None:
        """The accuracy, if it was counted."""
        return self.results.get("acc")


class RunningMetrics:
    """Adds up loss and metrics of batches so that every sample counts once.

    Parameters
    ----------
    model : Model
        A compiled one. Its metrics are copied, so that several sets can be counted at once.
    """

    def __init__(self, model: Any) -> None:
        self._heads = [_OutputMetrics(head) for head in model.heads]
        self.batches = 0
        self._penalty = 0.0
        self._samples = 0

    def add(self, result: Result, batch: Batch) -> None:
        """Count one batch: the items that mask and loss do not leave out."""
        self.batches += 1
        self._samples += batch.samples
        if result.items is not None and self._heads[0].add_counted(result):
            return
        self._penalty += result.penalty * batch.samples
        for head, loss in zip(self._heads, result.losses):
            if len(self._heads) == 1:
                loss = result.loss
            i = head.index
            weight = batch.weight[i] if batch.weight else None
            head.add(loss, result.outputs[i], batch.y[i], weight, result.masks[i])

    def results(self, everything: bool = True) -> Results:
        """Loss and metrics of all batches so far, or only those in the logs of a batch."""
        losses = {head.name: head.loss() for head in self._heads}
        if len(losses) == 1:
            found = Results(loss=float(self._heads[0].loss()))
        else:
            total = sum(head.weight * losses[head.name] for head in self._heads)
            found = Results(loss=float(total + self._penalty / max(self._samples, 1)))
            found.update((f"{name}_loss", float(loss)) for name, loss in losses.items())
        for head in self._heads:
            head.put_results(found, everything)
        return found

    def get_state(self) -> dict[str, Any]:
        """Return the sums so far."""
        sums = {"batches": self.batches, "penalty": self._penalty, "samples": self._samples}
        return {**sums, "heads": [head.get_state() for head in self._heads]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what `get_state` returned."""
        self.batches, self._samples = int(state["batches"]), int(state["samples"])
        self._penalty = float(state["penalty"])
        for head, own in zip(self._heads, state["heads"], strict=True):
            head.set_state(own)

    def merge(self, states: Sequence[dict[str, Any]]) -> None:
        """Become the sum of others, whose states are given in the order to add them in.

        Parameters
        ----------
        states : sequence of dict
            What `get_state` of each returned.
        """
        self.batches = sum(int(state["batches"]) for state in states)
        self._samples = sum(int(state["samples"]) for state in states)
        self._penalty = sum(float(state["penalty"]) for state in states)
        for i, head in enumerate(self._heads):
            head.merge([state["heads"][i] for state in states])


class _OutputMetrics:
    """Loss and metrics of one output."""

    def __init__(self, head: Head) -> None:
        self.index, self.name, self.weight = head.index, head.name, head.weight
        self._objective = head.loss
        self._sums = getattr(head.loss, "reduction", "mean") == "sum"
        self._loss = 0.0
        self._count = 0.0
        self._metrics: list[tuple[str, Metric, bool]] = []
        for name, metric, weighted in head.metrics:
            own = copy.copy(metric)
            own.reset_state()
            self._metrics.append((name, own, weighted))
        #: The accuracy, if it is the only metric.
        self._accuracy: metrics.Accuracy | None = None
        if [type(m) for _, m, _ in self._metrics] == [metrics.Accuracy]:
            only: Any = self._metrics[0][1]
            self._accuracy = only if only._threshold is None else None

    def add_counted(self, result: Result) -> bool:
        """Count one batch whose items are counted already, if there is no other metric."""
        right, n = result.right, result.items
        if n is None:
            return False
        if self._metrics:
            if self._accuracy is None or right is None:
                return False
            self._accuracy.add_counts(right, n)
        self._count += n
        self._loss += result.loss if self._sums else result.loss * n
        return True

    def add(
        self,
        loss: float,
        outputs: NDArray,
        y: Any,
        weight: NDArray | None,
        mask: NDArray | None,
    ) -> None:
        """Count one batch."""
        n = count_of(self._objective, outputs, y, mask)
        self._count += n
        self._loss += loss if self._sums else loss * n
        if not self._metrics:
            return
        if isinstance(self._objective, Objective):
            outputs, y = self._objective.arrange(outputs, y)
        y, kept = self._kept(outputs, y, mask)
        if kept is not None and not kept.all():
            outputs, y = outputs[kept], y[kept]
            weight = None if weight is None else selected(kept, weight)
        if not len(outputs):
            return
        for _, metric, weighted in self._metrics:
            # NumPy's `errstate`, as the user set it, is for the user's own functions.
            with contextlib.nullcontext() if _is_own(metric) else np.errstate(all="ignore"):
                metric.update_state(y, outputs, weight if weighted else None)

    def _kept(
        self, outputs: NDArray, y: NDArray, mask: NDArray | None
    ) -> tuple[NDArray, NDArray | None]:
        """The targets, and which items are neither masked nor ignored; None for all."""
        loss = self._objective
        if getattr(loss, "masks_steps", False):
            return y, None
        kept = None if mask is None else mask != 0
        if not isinstance(loss, Objective) or loss.ignore_class is None:
            return y, kept
        y = aligned(loss, outputs, y)
        y = y.reshape(loss.match(outputs.shape, y.shape))
        ignored = loss.ignored(outputs, y)
        if ignored is None:
            return y, kept
        if kept is None:
            return y, ~ignored
        return y, ~ignored & kept.reshape(kept.shape + (1,) * (ignored.ndim - kept.ndim))

    def loss(self) -> float:
        """The loss of all batches so far."""
        return self._loss if self._sums else self._loss / max(self._count, 1)

    def put_results(self, found: Results, everything: bool) -> None:
        """Put the metrics into `found`."""
        for name, metric, _ in self._metrics:
            if everything or metric.in_batch_logs:
                value = metric.result()
                found[name] = value if np.ndim(value) else float(value)
                if metric.alias is not None:
                    prefix = name.removesuffix(metric.name)
                    found.aliases[prefix + metric.alias] = name

    def get_state(self) -> dict[str, Any]:
        """Return the sums so far."""
        states = [metric.get_state() for _, metric, _ in self._metrics]
        return {"loss": self._loss, "count": self._count, "metrics": states}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what `get_state` returned."""
        self._loss, self._count = float(state["loss"]), float(state["count"])
        for (_, metric, _), own in zip(self._metrics, state["metrics"], strict=True):
            metric.set_state(own)

    def merge(self, states: Sequence[dict[str, Any]]) -> None:
        """Become the sum of others; see `RunningMetrics.merge`."""
        self._loss = sum(float(state["loss"]) for state in states)
        self._count = sum(float(state["count"]) for state in states)
        for i, (_, metric, _) in enumerate(self._metrics):
            others = [copy.copy(metric) for _ in states]
            for other, state in zip(others, states):
                other.reset_state()
                other.set_state(state["metrics"][i])
            metric.reset_state()
            metric.merge_state(others)


def _is_own(metric: Metric) -> bool:
    """Whether a metric runs a user's code."""
    return isinstance(metric, FunctionMetric) or not type(metric).__module__.startswith("npdl.")


def accuracy(outputs: NDArray, targets: NDArray, loss: Any) -> float:
    """Fraction of right predictions; see `npdl.metrics.Accuracy`."""
    metric = metrics.Accuracy()
    metric.bind(loss)
    return metric(np.asarray(targets), np.asarray(outputs))
