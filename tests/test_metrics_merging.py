"""Metrics that were counted apart give, merged, those of the whole set."""

import numpy as np
import pytest

from npdl import metrics

N, K = 23, 4
RNG = np.random.default_rng(2)
LABELS = RNG.integers(0, K, N)


def whole_set(y_true, y_pred):
    return float(np.median(y_pred[:, 0] - y_true[:, 0]))


def each_item(y_true, y_pred):
    return np.abs(y_pred - y_true).sum(axis=-1)


EVERY = ["acc", "top_k", "precision", "recall", "f1", "auc", "confusion_matrix", "perplexity"]


@pytest.mark.parametrize("name", [*EVERY, "mse", "rmse", "mae", "r2", whole_set, each_item])
def test_parts_that_are_counted_apart_can_be_merged(name):
    p = np.abs(RNG.normal(size=(N, K)))
    p /= p.sum(axis=1, keepdims=True)
    y = np.eye(K)[LABELS] if callable(name) or name in ("mse", "rmse", "mae", "r2") else LABELS
    parts = [metrics.get(name) for _ in range(4)]  # the last one counts nothing
    for part, rows in zip(parts, (slice(7), slice(7, 11), slice(11, None))):
        part.update_state(y[rows], p[rows])
    merged = metrics.get(name)
    merged.merge_state(parts[::-1])
    np.testing.assert_allclose(merged.result(), metrics.get(name)(y, p), rtol=1e-12)
