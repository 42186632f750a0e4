"""Losses: the value, and its exact gradient in the outputs of the network.

Letters: N samples, K classes. An *item* is what a loss gives one value for: a row of the outputs (a
sample, or one step of a sample) where it compares rows, such as
`SoftmaxCategoricalCrossEntropy`, and an element where it compares numbers, such as
`MeanSquaredError`. The mean over all items is taken here, and nowhere else.
"""

from npdl.objectives.base import Objective, get, register
from npdl.objectives.base import _registry as _registry
from npdl.objectives.crossentropy import BinaryCrossEntropy, SoftmaxCategoricalCrossEntropy
from npdl.objectives.distributions import HellingerDistance
from npdl.objectives.regression import MeanSquaredError

MSE = MeanSquaredError
BCE = BinaryCrossEntropy
SCCE = SoftmaxCategoricalCrossEntropy
HeD = HellingerDistance

__all__ = [
    "BCE",
    "MSE",
    "SCCE",
    "BinaryCrossEntropy",
    "HeD",
    "HellingerDistance",
    "MeanSquaredError",
    "Objective",
    "SoftmaxCategoricalCrossEntropy",
    "get",
    "register",
]
