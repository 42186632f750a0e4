"""Outputs and targets for every loss, and gradients by differences, for the tests of the losses."""

from __future__ import annotations

from functools import partial

import numpy as np

from npdl import _gradcheck
from npdl.objectives import (
    BCE,
    MAE,
    MAPE,
    MSE,
    MSLE,
    SCCE,
    BinaryFocalCrossEntropy,
    CategoricalHinge,
    CosineSimilarity,
    FocalCrossEntropy,
    HeD,
    Hinge,
    Huber,
    KLDivergence,
    LogCosh,
    Poisson,
    SquaredHinge,
)

LOG2 = np.log(2)
REDUCTIONS = ["mean", "sum", "none"]
P = np.array([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]])
ONE_HOT = np.array([[1.0, 0, 0], [0, 1, 0]])
LABELS = np.array([0, 1])


def probabilities(*shape, dtype=np.float64):
    p = np.random.default_rng(3).uniform(0.05, 1, shape)
    return (p / p.sum(axis=-1, keepdims=True)).astype(dtype)


def numeric_gradient(f, x, step=1e-4):
    """Gradient of a scalar function by central differences of order four."""
    x = x.copy()
    return _gradcheck.numeric_gradient(lambda: f(x), x, step)


TARGETS = {  # of outputs (4, 5): loss, targets
    "mse": (MSE, np.random.default_rng(1).normal(size=(4, 5))),
    "bce": (BCE, np.random.default_rng(1).uniform(size=(4, 5))),
    "bce-binary": (BCE, np.eye(4, 5)),
    "scce-rows": (SCCE, probabilities(4, 5)[::-1]),
    "scce-one-hot": (SCCE, np.eye(4, 5)),
    "scce-labels": (SCCE, np.array([4, 0, 0, 2])),
    "hed-rows": (HeD, probabilities(4, 5)[::-1]),
    "hed-one-hot": (HeD, np.eye(4, 5)),
    "hed-labels": (HeD, np.array([4, 0, 0, 2])),
    "mae": (MAE, np.random.default_rng(1).normal(size=(4, 5))),
    "huber": (partial(Huber, 0.5), np.random.default_rng(1).normal(size=(4, 5))),
    "poisson": (Poisson, np.arange(20.0).reshape(4, 5) % 4),
    "hinge": (Hinge, np.eye(4, 5)),
    "squared-hinge": (SquaredHinge, 1 - 2 * np.eye(4, 5)),
    "categorical-hinge-rows": (CategoricalHinge, np.eye(4, 5)[::-1]),
    "categorical-hinge-labels": (CategoricalHinge, np.array([4, 0, 0, 2])),
    "kl-rows": (KLDivergence, probabilities(4, 5)[::-1]),
    "kl-labels": (KLDivergence, np.array([4, 0, 0, 2])),
    "cosine-rows": (CosineSimilarity, np.random.default_rng(1).normal(size=(4, 5))),
    "cosine-labels": (CosineSimilarity, np.array([4, 0, 0, 2])),
    "bce-logits": (partial(BCE, from_logits=True), np.eye(4, 5)),
    "bce-smoothed": (partial(BCE, label_smoothing=0.1), np.eye(4, 5)),
    "scce-logits-rows": (partial(SCCE, from_logits=True), 2 * probabilities(4, 5)[::-1]),
    "scce-logits-labels": (partial(SCCE, from_logits=True), np.array([4, 0, 0, 2])),
    "scce-smoothed": (partial(SCCE, label_smoothing=0.1), np.array([4, 0, 0, 2])),
    "scce-ignored": (partial(SCCE, ignore_class=-1), np.array([4, -1, 0, 2])),
    "scce-ignored-class": (
        partial(SCCE, ignore_class=0, label_smoothing=0.1),
        np.array([4, 0, 0, 2]),
    ),
    "scce-ignored-logits": (
        partial(SCCE, from_logits=True, ignore_class=-100),
        np.array([4, -100, 0, 2]),
    ),
    "log-cosh": (LogCosh, np.random.default_rng(1).normal(size=(4, 5))),
    "mape": (MAPE, np.random.default_rng(1).normal(size=(4, 5))),
    "msle": (MSLE, np.random.default_rng(1).uniform(0, 3, size=(4, 5))),
    "focal-rows": (FocalCrossEntropy, probabilities(4, 5)[::-1]),
    "focal-labels": (partial(FocalCrossEntropy, 0.5, [1, 2, 0, 3, 4]), np.array([4, 0, 0, 2])),
    "focal-logits-rows": (
        partial(FocalCrossEntropy, 1.5, 0.25, from_logits=True),
        probabilities(4, 5)[::-1],
    ),
    "focal-logits-labels": (partial(FocalCrossEntropy, from_logits=True), np.array([4, 0, 0, 2])),
    "binary-focal": (partial(BinaryFocalCrossEntropy, 0.5, 0.25), np.eye(4, 5)),
    "binary-focal-logits": (
        partial(BinaryFocalCrossEntropy, from_logits=True),
        np.random.default_rng(1).uniform(size=(4, 5)),
    ),
}
