"""Losses: the value, and its exact gradient in the outputs of the network.

Letters: N samples, K classes. An *item* is the part of the outputs that has one loss value: a row
(a sample, or one step of a sample) where it compares rows, such as
`SoftmaxCategoricalCrossEntropy`, and an element where it compares numbers, such as
`MeanSquaredError`. The mean over all items is taken here, and nowhere else.
"""

from npdl.objectives.base import Objective, get, register
from npdl.objectives.base import _registry as _registry
from npdl.objectives.crossentropy import BinaryCrossEntropy, SoftmaxCategoricalCrossEntropy
from npdl.objectives.ctc import CTC
from npdl.objectives.distributions import CosineSimilarity, HellingerDistance, KLDivergence
from npdl.objectives.focal import BinaryFocalCrossEntropy, FocalCrossEntropy
from npdl.objectives.function import FunctionLoss as FunctionLoss
from npdl.objectives.hinge import CategoricalHinge, Hinge, SquaredHinge
from npdl.objectives.kinds import Elementwise as Elementwise
from npdl.objectives.kinds import Rowwise as Rowwise
from npdl.objectives.regression import (
    Huber,
    LogCosh,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MeanSquaredLogarithmicError,
    Poisson,
)

MSE = MeanSquaredError
MAE = MeanAbsoluteError
MAPE = MeanAbsolutePercentageError
MSLE = MeanSquaredLogarithmicError
BCE = BinaryCrossEntropy
SCCE = SoftmaxCategoricalCrossEntropy
CategoricalCrossEntropy = SoftmaxCategoricalCrossEntropy
SparseCategoricalCrossEntropy = SoftmaxCategoricalCrossEntropy
HeD = HellingerDistance
KLD = KLDivergence

__all__ = [
    "BCE",
    "CTC",
    "KLD",
    "MAE",
    "MAPE",
    "MSE",
    "MSLE",
    "SCCE",
    "BinaryCrossEntropy",
    "BinaryFocalCrossEntropy",
    "CategoricalCrossEntropy",
    "CategoricalHinge",
    "CosineSimilarity",
    "FocalCrossEntropy",
    "HeD",
    "HellingerDistance",
    "Hinge",
    "Huber",
    "KLDivergence",
    "LogCosh",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredError",
    "MeanSquaredLogarithmicError",
    "Objective",
    "Poisson",
    "SoftmaxCategoricalCrossEntropy",
    "SparseCategoricalCrossEntropy",
    "SquaredHinge",
    "get",
    "register",
]
