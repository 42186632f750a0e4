"""Level 2: the one epoch loop, the one batch loop, and what they count.

::

    fit          for each epoch: train on every batch, validate, report       -> History
      batches    the samples in order, or gathered by a permutation
      train_step forward, loss, backward, update
    evaluate     loss and accuracy, nothing written                           -> Score
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl._checks import complaint
from npdl.objectives import (
    BinaryCrossEntropy,
    HellingerDistance,
    Objective,
    SoftmaxCategoricalCrossEntropy,
)
from npdl.utils.random import get_rng

if TYPE_CHECKING:
    from npdl.model import Model

#: The losses that take class numbers; and all those for which an accuracy makes sense.
BY_CLASS = (SoftmaxCategoricalCrossEntropy, HellingerDistance)
CLASSIFYING = (*BY_CLASS, BinaryCrossEntropy)

Pair = tuple[NDArray, NDArray]


def as_samples(name: str, values: ArrayLike) -> NDArray:
    """Return `values` as an array of numbers with a sample axis that is not empty."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise TypeError(complaint(f"`{name}` must be an array of numbers", dtype=array.dtype.name))
    if array.ndim == 0 or array.size == 0:
        raise ValueError(complaint(f"`{name}` must hold at least one sample", shape=array.shape))
    return array


def as_pair(X: ArrayLike, Y: ArrayLike) -> Pair:
    """Return samples and targets as arrays of one length."""
    x, y = as_samples("X", X), as_samples("Y", Y)
    if len(x) != len(y):
        rule = "`X` and `Y` must have the same number of samples"
        raise ValueError(f"{rule}. Received: {len(x)} and {len(y)}")
    return x, y


def as_validation_pair(data: Any) -> Pair:
    """Return validation data, which must be a pair (X, Y), as arrays of one length."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        got = f"{len(data)} items" if isinstance(data, tuple | list) else type(data).__name__
        raise ValueError(f"`validation_data` must be a pair (X, Y). Received: {got}")
    return as_pair(*data)


def split(pair: Pair, fraction: float) -> tuple[Pair, Pair]:
    """Hold out the last samples; both parts are views."""
    x, y = pair
    n = len(x) - round(len(x) * fraction)
    if n in (0, len(x)):
        rule = f"`validation_split` must divide {len(x)} samples into two parts"
        raise ValueError(complaint(rule, validation_split=fraction))
    return (x[:n], y[:n]), (x[n:], y[n:])


@dataclass
class History:
    """What `Model.fit` recorded.

    Attributes
    ----------
    epochs : list of int
        The numbers of the epochs, from 1.
    history : dict of str to list of float
        A value for each epoch: ``loss``, and where they apply ``acc``, ``val_loss``, ``val_acc``.
    """

    epochs: list[int] = field(default_factory=list)
    history: dict[str, list[float]] = field(default_factory=dict)

    def record(self, epoch: int, values: dict[str, float]) -> None:
        """Append the values of one epoch."""
        self.epochs.append(epoch)
        for key, value in values.items():
            self.history.setdefault(key, []).append(value)


class Score(NamedTuple):
    """Loss and accuracy over all samples; the accuracy is None where the loss does not classify."""

    loss: float
    accuracy: float | None

    def values(self, prefix: str = "") -> dict[str, float]:
        """The figures that apply, by the names that they have in `History`."""
        pairs = {prefix + "loss": self.loss, prefix + "acc": self.accuracy}
        return {key: value for key, value in pairs.items() if value is not None}


class Tally:
    """Adds up loss and accuracy of batches so that every sample counts once."""

    def __init__(self, loss: Objective) -> None:
        self._classifies = isinstance(loss, CLASSIFYING)
        self._binary = isinstance(loss, BinaryCrossEntropy)
        self._sums = getattr(loss, "reduction", "mean") == "sum"
        self._loss = self._right = 0.0
        self._samples = 0

    def add(self, loss: float, outputs: NDArray, targets: NDArray) -> None:
        """Count one batch."""
        n = len(targets)
        self._samples += n
        self._loss += loss if self._sums else loss * n
        if self._classifies:
            self._right += n * accuracy(outputs, targets, self._binary)

    def score(self) -> Score:
        """Loss and accuracy of all batches so far."""
        loss = self._loss if self._sums else self._loss / self._samples
        return Score(loss, self._right / self._samples if self._classifies else None)


def accuracy(outputs: NDArray, targets: NDArray, binary: bool = False) -> float:
    """Fraction of right answers.

    Parameters
    ----------
    outputs : ndarray, shape (N, ..., K), or (N, 1) or (N,)
        Scores of K classes, of which the greatest wins; or probabilities of a single class.
    targets : ndarray
        One-hot like `outputs`, or class numbers of shape (N, ...).
    binary : bool
        Take each output for a probability of its own, a yes above 0.5, whatever K is.
    """
    if binary or outputs.ndim == 1 or outputs.shape[-1] == 1:
        if outputs.size == targets.size:
            return float(np.mean((outputs > 0.5).ravel() == (targets > 0.5).ravel()))
    elif targets.shape == outputs.shape:
        return float(np.mean(outputs.argmax(-1) == targets.argmax(-1)))
    elif targets.shape == outputs.shape[:-1]:
        return float(np.mean(outputs.argmax(-1) == targets))
    raise ValueError(
        f"targets must have the shape of the outputs, {outputs.shape}, or hold a class number for "
        f"each row. Received: shape {targets.shape}"
    )


def batches(
    x: NDArray, y: NDArray, batch_size: int, order: NDArray | None = None
) -> Iterator[Pair]:
    """Yield all samples in batches, the last of which may be smaller.

    Parameters
    ----------
    x, y : ndarray
        Samples and targets, never copied as a whole.
    batch_size : int
    order : ndarray of int, optional
        A permutation of the samples. Its batches are gathered into arrays that are used again for
        the next one; without it they are slices of `x` and `y`.
    """
    rooms = () if order is None else [np.empty((batch_size, *a.shape[1:]), a.dtype) for a in (x, y)]
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        if order is None:
            yield x[part], y[part]
        else:
            xb, yb = (_gather(a, order[part], room) for a, room in zip((x, y), rooms, strict=True))
            yield xb, yb


def _gather(array: NDArray, index: NDArray, room: NDArray) -> NDArray:
    if not array.flags.c_contiguous:  # np.take would copy all of it
        return array[index]
    return np.take(array, index, axis=0, out=room[: len(index)], mode="clip")


class Watch:
    """Warns, once, when a loss is not finite."""

    def __init__(self) -> None:
        self.epoch = 0
        self._warned = False

    def check(self, model: Model, x: NDArray, loss: float) -> None:
        """Warn if `loss`, that of the batch `x` before the update, is nan or inf."""
        if self._warned or math.isfinite(loss):
            return
        self._warned = True
        warnings.warn(
            f"The loss is {loss} in epoch {self.epoch}: {_first_not_finite(model, x)}. A lower "
            "learning rate, clipped gradients (clip=1.0) or scaled inputs may help.",
            RuntimeWarning,
            stacklevel=6,  # the caller of Model.fit
        )


def _first_not_finite(model: Model, x: NDArray) -> str:
    """Where the values of a batch cease to be finite, in words."""
    if not np.isfinite(x).all():
        return "X itself holds values that are not finite"
    for layer, output in model.trace(x):
        if not np.isfinite(output).all():
            return f"layer {layer.name!r} is the first whose output is not finite"
    return f"the outputs of all layers are finite, the loss {type(model.loss).__name__} is not"


def train_step(
    model: Model, x: NDArray, y: NDArray, watch: Watch | None = None
) -> tuple[float, NDArray]:
    """Train on one batch, and return its loss and the outputs before the update."""
    loss, outputs, cache = model.loss_forward(x, y)
    if watch is not None:
        watch.check(model, x, loss)
    model.loss_backward(cache)
    model.update()
    return loss, outputs


@np.errstate(all="ignore")  # what NumPy warns of, `Watch` says better
def fit(
    model: Model,
    train: Pair,
    validation: Pair | None,
    *,
    epochs: int,
    batch_size: int,
    shuffle: bool,
    report: TextIO | None,
) -> History:
    """Train for some epochs; see `Model.fit`, which checks the arguments."""
    history = History()
    watch = Watch()
    for epoch in range(1, epochs + 1):
        watch.epoch = epoch
        tally = Tally(model.loss)
        start = time.perf_counter()
        order = get_rng().permutation(len(train[0])) if shuffle else None
        with model.training():
            for x, y in batches(*train, batch_size, order):
                tally.add(*train_step(model, x, y, watch), y)
        speed = len(train[0]) / (time.perf_counter() - start)
        values = tally.score().values()
        if validation is not None:
            values |= evaluate(model, *validation, batch_size).values("val_")
        history.record(epoch, values)
        if report is not None:
            print(_epoch_line(epoch, epochs, values, speed), file=report, flush=True)
    return history


def evaluate(model: Model, x: NDArray, y: NDArray, batch_size: int) -> Score:
    """Loss and accuracy over all samples, in inference mode."""
    tally = Tally(model.loss)
    for xb, yb in batches(x, y, batch_size):
        outputs = model.forward(xb, train=False)
        tally.add(float(model.loss.forward(outputs, yb)), outputs, yb)
    return tally.score()


def _epoch_line(epoch: int, epochs: int, values: dict[str, float], speed: float) -> str:
    """``epoch  3/20  loss 0.1234    acc 0.9712       45,678 samples/s``."""
    count = f"epoch {epoch:>{len(str(epochs))}}/{epochs}"
    figures = [f"{key} {_figure(value):<8}" for key, value in values.items()]
    return "  ".join([count, *figures, f"{speed:>9,.0f} samples/s"])


def _figure(value: float) -> str:
    """Six to eight characters, whatever the size of the value."""
    plain = value == 0 or 1e-3 <= abs(value) < 1e3
    return f"{value:.4f}" if plain else f"{value:.2e}"
