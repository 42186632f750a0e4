"""Metrics of classifiers, all from the same predicted classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl._checks import check_choice, check_int, check_number, error_message, label_array
from npdl._dtype import FLOATS
from npdl._elementary import exp, log
from npdl._ext import kernels
from npdl.metrics.base import MeanMetric, Metric, register, weights_like, what_counts
from npdl.objectives.crossentropy import by_rows

_INT64 = np.dtype(np.int64)


def true_and_predicted(
    y_true: NDArray, y_pred: NDArray, threshold: float | None = None
) -> tuple[NDArray, NDArray]:
    """True and predicted classes, as two arrays of one shape.

    Parameters
    ----------
    y_true : ndarray
        One-hot like `y_pred`, or class numbers of shape (N, ...).
    y_pred : ndarray, shape (N, ..., K), or (N, 1) or (N,)
        Scores of K classes, of which the largest is predicted; or of a single one.
    threshold : float, optional
        Treat each output as its own yes-or-no decision: yes above this threshold, for any K. A
        single output always is one; its threshold is 0.5 by default.

    Returns
    -------
    truth, guess : ndarray
        Booleans, without a last axis of length 1; or class numbers of shape (N, ...).
    """
    single = y_pred.ndim == 1 or y_pred.shape[-1] == 1
    if single or threshold is not None:
        if y_pred.size == y_true.size and len(y_pred) == len(y_true):
            shape = y_pred.shape[:-1] if y_pred.ndim > 1 and single else y_pred.shape
            cut = 0.5 if threshold is None else threshold
            return (y_true > 0.5).reshape(shape), (y_pred > cut).reshape(shape)
    elif y_true.shape == y_pred.shape:
        return y_true.argmax(-1), y_pred.argmax(-1)
    elif y_true.shape == y_pred.shape[:-1]:
        return y_true, y_pred.argmax(-1)
    elif y_true.shape == (*y_pred.shape[:-1], 1):
        return y_true[..., 0], y_pred.argmax(-1)
    raise ValueError(
        f"targets must have the shape of the outputs, {y_pred.shape}, or hold a class number for "
        f"each row. Received: shape {y_true.shape}"
    )


def correct_predictions(y_true: NDArray, y_pred: NDArray) -> NDArray | None:
    """Whether each row's prediction is right (see `true_and_predicted`), by one kernel call.

    Returns
    -------
    ndarray of bool, shape (N, ...), or None
        Whether each prediction is right. None if the kernel does not take such arrays: it takes
        class numbers of int64, or rows of the dtype of the scores.
    """
    shape, dtype = y_pred.shape, y_pred.dtype
    if len(shape) < 2 or shape[-1] < 2 or dtype not in FLOATS:
        return None
    if y_true.shape != shape[:-1] and y_true.shape != shape:
        return None
    if y_true.dtype != (_INT64 if y_true.ndim < len(shape) else dtype):
        return None
    right = np.empty(shape[:-1], bool)
    p, t = np.asarray(y_pred, order="C"), np.asarray(y_true, order="C")
    kernels().right_answers(*by_rows(p, t, right))
    return right


def loss_threshold(loss: Any) -> float | None:
    """The threshold of a loss that treats each output as a yes-or-no decision; else None."""
    return getattr(loss, "threshold", None)


class ThresholdedMetric(Metric):
    """Base of the metrics that count predictions.

    Parameters
    ----------
    threshold : float, optional
        See `true_and_predicted`; by default that of the loss.
    name : str, optional
    """

    def __init__(self, threshold: float | None = None, name: str | None = None) -> None:
        super().__init__(name)
        if threshold is not None:
            threshold = check_number("threshold", threshold, "(-inf, inf)")
        self.threshold = threshold
        self._threshold = threshold

    def bind(self, loss: Any) -> None:
        """Take the threshold of the loss, if none was given."""
        if self.threshold is None:
            self._threshold = loss_threshold(loss)


@register("acc", "categorical_accuracy", "sparse_categorical_accuracy")
class Accuracy(ThresholdedMetric, MeanMetric):
    """Fraction of right predictions, for one-hot targets, class numbers, and yes or no.

    Parameters
    ----------
    threshold : float, optional
        Count each output separately: yes above this threshold.
    name : str, optional
    """

    direction = "max"

    def __init__(self, threshold: float | None = None, name: str | None = None) -> None:
        super().__init__(threshold, name or "acc")

    def values(self, y_true: NDArray, y_pred: NDArray) -> NDArray:
        """Return the value of each item; see `MeanMetric.values`."""
        right = correct_predictions(y_true, y_pred) if self._threshold is None else None
        if right is None:
            truth, guess = true_and_predicted(y_true, y_pred, self._threshold)
            right = truth == guess
        return right

    def add_counts(self, right: int, items: int) -> None:
        """Count a batch of so many items, of which so many are right.

        Parameters
        ----------
        right, items : int
        """
        self._sum += float(right)
        self._sum_weights += items


@register()
class BinaryAccuracy(Accuracy):
    """Fraction of right predictions, with each output a yes-or-no decision.

    Parameters
    ----------
    threshold : float
    name : str, optional
    """

    def __init__(self, threshold: float = 0.5, name: str | None = None) -> None:
        super().__init__(threshold, name or "binary_accuracy")


@register(
    *("top_k", "top_k_categorical_accuracy", "sparse_top_k_categorical_accuracy"),
)
class TopKAccuracy(MeanMetric):
    """Fraction of samples whose class is among the `k` largest outputs.

    Parameters
    ----------
    k : int
    name : str, optional
        By default ``"top_k_accuracy"``.
    """

    direction = "max"

    def __init__(self, k: int = 5, name: str | None = None) -> None:
        super().__init__(name)
        self.k = check_int("k", k)

    def values(self, y_true: NDArray, y_pred: NDArray) -> NDArray:
        """Return the value of each item; see `MeanMetric.values`."""
        truth, _ = class_rows(y_true, y_pred)
        own = np.take_along_axis(y_pred, truth[..., None], -1)
        # No number is larger than nan, so count what is not below.
        return (~(y_pred <= own)).sum(axis=-1) < self.k


@register()
class Perplexity(MeanMetric):
    """exp of the mean cross-entropy, -log of the probability of the true class.

    Parameters
    ----------
    from_logits : bool
        Whether the outputs are logits instead of probabilities; by default as the loss has it.
    name : str, optional
    """

    direction = "min"

    def __init__(self, from_logits: bool = False, name: str | None = None) -> None:
        super().__init__(name)
        self.from_logits = self._logits = bool(from_logits)

    def bind(self, loss: Any) -> None:
        """Take from the loss whether the outputs are logits."""
        self._logits = self.from_logits or bool(getattr(loss, "from_logits", False))

    def values(self, y_true: NDArray, y_pred: NDArray) -> NDArray:
        """Return the value of each item; see `MeanMetric.values`."""
        truth, z = class_rows(y_true, y_pred)
        own = np.take_along_axis(z, truth[..., None], -1)[..., 0]
        if not self._logits:
            return -log(np.maximum(own, np.finfo(z.dtype).tiny))
        top = z.max(axis=-1)
        return top + log(exp(z - top[..., None]).sum(axis=-1)) - own

    def result(self) -> float:
        """The perplexity, or nan if there were no items."""
        return float(exp(super().result()))


def class_rows(y_true: NDArray, y_pred: NDArray) -> tuple[NDArray, NDArray]:
    """The true classes as int64, and the outputs, which must be rows of scores."""
    truth, _ = true_and_predicted(y_true, y_pred)
    if truth.dtype == bool:
        raise ValueError(
            error_message("Outputs must have shape (N, ..., K), K > 1", shape=y_pred.shape)
        )
    return label_array(truth, y_pred.shape[-1], "y_true"), y_pred


class _Counting(ThresholdedMetric):
    """Counts, for each class or label: how often it is right, predicted, and true."""

    direction = "max"

    def __init__(
        self,
        average: str | None = "macro",
        class_id: int | None = None,
        threshold: float | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(threshold, name)
        self.average = average
        if average is not None:
            check_choice("average", average, ("macro", "micro", "weighted"))
        self.class_id = None if class_id is None else check_int("class_id", class_id, 0)

    def update_state(
        self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> None:
        """Count one batch; see `Metric.update_state`."""
        y_true, y_pred, sample_weight = what_counts(y_true, y_pred, sample_weight)
        if not len(y_pred):
            return
        truth, guess = true_and_predicted(y_true, y_pred, self._threshold)
        weights: NDArray = np.ones(truth.shape)
        if sample_weight is not None:
            weights = weights_like(truth, sample_weight)
        if truth.dtype == bool:
            labels = y_pred.shape[-1] if y_pred.ndim > 1 else 1
            truth, guess, weights = (a.reshape(-1, labels) for a in (truth, guess, weights))
            counts = [(a * weights).sum(axis=0) for a in (truth & guess, guess, truth)]
        else:
            size = y_pred.shape[-1]
            truth, guess = label_array(truth, size, "y_true").ravel(), guess.ravel()
            w = weights.ravel()
            right = truth == guess
            counts = [
                np.bincount(labels, w, size)
                for labels, w in ((guess, w * right), (guess, w), (truth, w))
            ]
        self._sums = self._sums + np.array(counts, np.float64)

    def reset_state(self) -> None:
        """Reset the sums."""
        self._sums = 0.0  # right, predicted, true: shape (3, K) after the first batch

    def _ratio(self, right: NDArray, decided: NDArray, true: NDArray) -> NDArray:
        """Numerator and denominator of the value."""
        raise NotImplementedError

    def result(self) -> Any:
        """The value: an array for `average` None, else a float; 0 where nothing was predicted."""
        if np.ndim(self._sums) == 0:
            return float("nan")
        sums = self._sums
        if self.class_id is not None:
            sums = sums[:, [self.class_id]]
        elif self.average == "micro":
            sums = sums.sum(axis=1, keepdims=True)
        top, bottom = self._ratio(*sums)
        ratio = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
        if self.average is None and self.class_id is None:
            return ratio
        _, decided, true = sums
        # As in scikit-learn: a class that is neither true nor predicted does not count.
        weights = true if self.average == "weighted" else (decided + true > 0).astype(float)
        return float((ratio * weights).sum() / weights.sum()) if weights.any() else 0.0


@register()
class Precision(_Counting):
    """The fraction of the predictions of a class that are right.

    Parameters
    ----------
    average : {'macro', 'micro', 'weighted', None}
        Over classes: the plain mean, from all predictions together, the mean weighted by how often
        each class is true, or an array. A single output has one value in any case.
    class_id : int, optional
        Only this class.
    threshold : float, optional
        Count each output separately: yes above this threshold.
    name : str, optional
    """

    def _ratio(self, right, decided, true):
        return right, decided


@register()
class Recall(_Counting):
    """The fraction of the samples of a class that were predicted.

    Parameters
    ----------
    average, class_id, threshold, name
        As in `Precision`.
    """

    def _ratio(self, right, decided, true):
        return right, true


@register("f1")
class F1Score(_Counting):
    """The harmonic mean of precision and recall, of each class, then averaged.

    Parameters
    ----------
    average, class_id, threshold, name
        As in `Precision`.
    """

    def _ratio(self, right, decided, true):
        return 2 * right, decided + true


@register()
class ConfusionMatrix(ThresholdedMetric):
    """Number of samples of class i that were predicted as class j, at row i, column j.

    Parameters
    ----------
    threshold : float, optional
        The threshold of a single output, whose classes are no and yes.
    name : str, optional
    """

    in_batch_logs = False

    def update_state(
        self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> None:
        """Count one batch; see `Metric.update_state`."""
        y_true, y_pred, sample_weight = what_counts(y_true, y_pred, sample_weight)
        if not len(y_pred):
            return
        single = y_pred.ndim == 1 or y_pred.shape[-1] == 1
        truth, guess = true_and_predicted(y_true, y_pred, self._threshold if single else None)
        size = 2 if single else y_pred.shape[-1]
        weights = None
        if sample_weight is not None:
            weights = weights_like(truth, sample_weight).ravel()
        truth = label_array(truth, size, "y_true")
        counts = np.bincount((truth * size + guess).ravel(), weights, size * size)
        self._sums = self._sums + counts.reshape(size, size)

    def reset_state(self) -> None:
        """Reset the sums."""
        self._sums = 0

    def result(self) -> NDArray:
        """The matrix, shape (K, K); integers unless there were weights."""
        return self._sums
