"""Areas under curves, computed exactly from all scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl._checks import check_choice
from npdl.metrics.base import Metric, register, weights_like, what_counts
from npdl.metrics.classification import class_rows, loss_threshold


@register()
class AUC(Metric):
    """Area under the ROC curve, or under the precision-recall curve.

    Exact, from all scores, which are kept until `reset_state`; Keras approximates it by 200
    thresholds. Of two classes it is that of the second, of more the mean over the classes, each
    against the others; nan if a class has no sample, or has all.

    Parameters
    ----------
    curve : {'ROC', 'PR'}
        'PR' is the average precision, ``Σ (R_i - R_{i-1}) P_i``, without interpolation.
    multi_label : bool
        Treat each output as a yes-or-no decision; implied by binary cross-entropy as the loss.
    name : str, optional
    """

    direction = "max"
    in_batch_logs = False

    def __init__(
        self, curve: str = "ROC", multi_label: bool = False, name: str | None = None
    ) -> None:
        super().__init__(name)
        self.curve = check_choice("curve", curve, ("ROC", "PR"))
        self.multi_label = self._labels = bool(multi_label)

    def bind(self, loss: Any) -> None:
        """Take from the loss whether each output is a yes-or-no decision."""
        self._labels = self.multi_label or loss_threshold(loss) is not None

    def update_state(
        self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> None:
        """Keep the scores of one batch; see `Metric.update_state`."""
        y_true, y_pred, sample_weight = what_counts(y_true, y_pred, sample_weight)
        if not len(y_pred):
            return
        size = 1 if y_pred.ndim == 1 else y_pred.shape[-1]
        shape = y_pred.shape if y_pred.ndim == 1 else y_pred.shape[:-1]
        if size == 1 or self._labels:
            yes = (y_true > 0.5).reshape(-1, size)
        else:
            truth, _ = class_rows(y_true, y_pred)
            yes = truth.reshape(-1, 1) == np.arange(size)
        scores = y_pred.reshape(-1, size)
        if size == 2 and not self._labels:
            yes, scores = yes[:, 1:], scores[:, 1:]
        weights = np.ones(len(scores))
        if sample_weight is not None:
            weights = weights_like(np.empty(shape), sample_weight).ravel()
        self._sum_of.append((yes.copy(), scores.copy(), weights.copy()))

    def reset_state(self) -> None:
        """Discard all scores."""
        self._sum_of: list[tuple[NDArray, NDArray, NDArray]] = []

    def get_state(self) -> dict[str, Any]:
        """Return the scores kept so far."""
        return {"batches": [list(batch) for batch in self._sum_of]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what `get_state` returned."""
        self._sum_of = [tuple(map(np.asarray, batch)) for batch in state["batches"]]  # type: ignore[misc]

    def result(self) -> float:
        """The area, or nan if there were no samples."""
        if not self._sum_of:
            return float("nan")
        yes, scores, weights = (np.concatenate(parts) for parts in zip(*self._sum_of))
        columns = zip(yes.T, scores.T)
        return float(np.mean([self._area(t.astype(float), s, weights) for t, s in columns]))

    def _area(self, yes: NDArray, scores: NDArray, weights: NDArray) -> float:
        order = np.argsort(-scores, kind="stable")
        scores, hits, misses = scores[order], (yes * weights)[order], ((1 - yes) * weights)[order]
        ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # equal: one point
        tp, fp = hits.cumsum()[ends], misses.cumsum()[ends]
        if not (tp[-1] > 0 and (fp[-1] > 0 or self.curve == "PR")):
            return float("nan")
        if self.curve == "ROC":
            area = np.trapezoid(np.append(0, tp), np.append(0, fp))
            return float(area / tp[-1] / fp[-1])
        decided = tp + fp
        precision = np.divide(tp, decided, out=np.ones_like(tp), where=decided > 0)
        return float((np.diff(tp, prepend=0) * precision).sum() / tp[-1])
