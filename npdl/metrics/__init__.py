"""Metrics: measures of how good a model is, over a whole set of samples."""

from npdl.metrics.base import FunctionMetric, MeanMetric, Metric, get, register
from npdl.metrics.classification import (
    Accuracy,
    BinaryAccuracy,
    ConfusionMatrix,
    F1Score,
    Perplexity,
    Precision,
    Recall,
    TopKAccuracy,
)
from npdl.metrics.ranking import AUC
from npdl.metrics.regression import (
    LogCoshError,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MeanSquaredLogarithmicError,
    R2Score,
    RootMeanSquaredError,
)

CategoricalAccuracy = SparseCategoricalAccuracy = Accuracy
TopKCategoricalAccuracy = SparseTopKCategoricalAccuracy = TopKAccuracy

__all__ = [
    "AUC",
    "Accuracy",
    "BinaryAccuracy",
    "CategoricalAccuracy",
    "ConfusionMatrix",
    "F1Score",
    "FunctionMetric",
    "LogCoshError",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanMetric",
    "MeanSquaredError",
    "MeanSquaredLogarithmicError",
    "Metric",
    "Perplexity",
    "Precision",
    "R2Score",
    "Recall",
    "RootMeanSquaredError",
    "SparseCategoricalAccuracy",
    "SparseTopKCategoricalAccuracy",
    "TopKAccuracy",
    "TopKCategoricalAccuracy",
    "get",
    "register",
]
