"""The base class of the losses, the checks that they share, and the look-up by name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from npdl._checks import check_choice, error_message, float_array, weights_like
from npdl._registry import Configurable, Registry
from npdl._weights import times


class Counted(NamedTuple):
    """Which items of a batch count, and how much."""

    #: True for each item that counts; None where all do.
    kept: np.ndarray | None
    #: The weight of each item; None where all weigh 1.
    weights: np.ndarray | None
    #: The divisor of the sum over the items for the mean.
    number: int


class Objective(Configurable):
    """Base class of the losses.

    A subclass defines `match`, `values` and `gradient`; most are subclasses of `Elementwise` or
    `Rowwise`, which define `match`. Or it defines `forward` and `backward` themselves.

    Items that do not count are removed first: those that a mask or `ignore_class` excludes, and
    those of weight 0. They may hold anything, such as nan or a class number out of range; they add
    nothing to the loss, and their gradient is 0. The mean is taken over the items that mask and
    `ignore_class` leave, as in Keras; one of weight 0 is a zero among them.

    Parameters
    ----------
    reduction : {'mean', 'sum', 'none'}
        What `forward` returns: the mean or the sum over all items, or their values one by one.
    """

    _former = MappingProxyType({"_values": "values", "_slopes": "gradient"})

    reduction: str = "mean"
    #: Whether the outputs are logits, not yet probabilities.
    from_logits: bool = False
    #: The class number of the items that do not count.
    ignore_class: int | None = None
    #: Whether this is a loss of classification, for which a model counts the accuracy by default.
    classifies: bool = False
    #: Whether targets may be class numbers.
    takes_labels: bool = False
    #: Whether outputs outside of [0, 1] are a mistake: training warns of them, and clips them.
    takes_probabilities: bool = False
    #: Whether a mask (N, T) removes steps within an item, rather than items: `values` and
    #: `gradient` then take it, or None, as their third argument.
    masks_steps: bool = False

    def __init__(self, *, reduction: str = "mean") -> None:
        self.reduction = check_choice("reduction", reduction, ("mean", "sum", "none"))

    @property
    def threshold(self) -> float | None:
        """The threshold of a yes-or-no decision on each output; None if they are none."""
        return None

    @property
    def fuses_with(self) -> type | None:
        """The activation that this loss is fused with in training; None if there is none.

        A loss that names one has `forward_logits` and `backward_logits`.
        """
        return None

    # ------------------------------------------------------------- hooks for subclasses

    def arrange(self, outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return outputs and targets with their axes as all other methods here take them.

        Parameters
        ----------
        outputs, targets : ndarray
            As `forward` takes them. They are returned as they are, or as views.
        """
        return outputs, targets

    def arrange_back(self, grad: np.ndarray) -> np.ndarray:
        """Return an array like arranged outputs with the axes of the outputs.

        Parameters
        ----------
        grad : ndarray
        """
        return grad

    def match(self, outputs: tuple[int, ...], targets: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape in which targets of a shape fit outputs of a shape.

        Parameters
        ----------
        outputs, targets : tuple of int
            Shapes of arranged arrays.

        Raises
        ------
        ValueError
            If they don't fit.
        """
        raise NotImplementedError(f"{type(self).__name__} must define match(outputs, targets).")

    def check(self, p: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return outputs and targets as `values` takes them, or raise ValueError.

        Parameters
        ----------
        p, t : ndarray
            Outputs and targets of the items that count.
        """
        return p, np.asarray(t, p.dtype, order="C")

    def values(self, p: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Return the value of each item.

        Parameters
        ----------
        p, t : ndarray
            From `check`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define values(p, t).")

    def gradient(self, p: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Return the gradient of each item's value, a new array like `p`.

        Parameters
        ----------
        p, t : ndarray
            From `check`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define gradient(p, t).")

    def item_shape(self, p: np.ndarray) -> tuple[int, ...]:
        """Return the shape of the items, the leading axes of the outputs.

        Parameters
        ----------
        p : ndarray
            The outputs.
        """
        return p.shape

    def ignored(self, p: np.ndarray, t: np.ndarray) -> np.ndarray | None:
        """Return which items do not count, as booleans of their shape; None where all do.

        Parameters
        ----------
        p, t : ndarray
            Outputs, and targets in the shape that `match` returned.
        """
        return None

    # ------------------------------------------------------------------------------ the loss

    def forward(
        self,
        outputs: ArrayLike,
        targets: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> Any:
        """Return the loss.

        Parameters
        ----------
        outputs : array_like
            Outputs of the network.
        targets : array_like
            What they should be, see the class for the forms.
        sample_weight : array_like, optional
            The value of each item is multiplied by its weight. Of the shape of the items or of its
            leading axes: (N,) for a weight for each sample. The mean stays one over the number of
            items, as in Keras.
        mask : array_like, optional
            0 for each item that does not count, nor in the number that the mean divides by. Of the
            shape of the items or of its leading axes.

        Returns
        -------
        float, or ndarray with a value for each item where `reduction` is 'none'
        """
        p, t = self._matched(outputs, targets)
        counted = self.counted(p, t, sample_weight, mask)
        values = np.zeros(0, p.dtype)
        if counted.kept is None or counted.kept.any():
            values = self.values(*self._arguments(counted.kept, p, t, mask))
        return self._reduced(values, counted, self.item_shape(p))

    def backward(
        self,
        outputs: ArrayLike,
        targets: ArrayLike,
        sample_weight: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> np.ndarray:
        """Return the gradient of the loss in the outputs, an array like them.

        Parameters
        ----------
        outputs, targets, sample_weight, mask : array_like
            As in `forward`. Where `reduction` is 'none': the gradient of each item's own value.
        """
        p, t = self._matched(outputs, targets)
        counted = self.counted(p, t, sample_weight, mask)
        kept, weights, _ = counted
        if kept is not None and not kept.any():
            return self.arrange_back(np.zeros_like(p))
        grad = self.gradient(*self._arguments(kept, p, t, mask))
        if weights is not None:
            factors = weights if kept is None else weights[kept]
            grad *= factors.reshape(factors.shape + (1,) * (grad.ndim - factors.ndim))
        grad *= self._share(counted)
        if kept is None:
            return self.arrange_back(grad)
        whole = np.zeros_like(p)
        whole[kept] = grad
        return self.arrange_back(whole)

    def count(self, outputs: ArrayLike, targets: ArrayLike, mask: ArrayLike | None = None) -> int:
        """Return the number of items that the mean is taken over.

        Parameters
        ----------
        outputs, targets, mask : array_like
            As in `forward`.
        """
        p, t = self._matched(outputs, targets)
        return self.counted(p, t, None, mask).number

    def counted(
        self,
        p: np.ndarray,
        t: np.ndarray,
        sample_weight: ArrayLike | None,
        mask: ArrayLike | None,
    ) -> Counted:
        """Return which items count, and how much.

        Parameters
        ----------
        p, t : ndarray
            Outputs, and targets in the shape that `match` returned.
        sample_weight, mask : array_like or None
            As in `forward`.
        """
        items = self.item_shape(p)
        left_out = self.ignored(p, t)
        kept = None if left_out is None else ~left_out
        if mask is not None and not self.masks_steps:
            kept = _both(kept, np.broadcast_to(weights_like(items, mask, "mask") != 0, items))
        number = math.prod(items) if kept is None else int(np.count_nonzero(kept))
        weights = None
        if sample_weight is not None:
            weights = np.broadcast_to(weights_like(items, sample_weight), items)
            kept = _both(kept, weights != 0)
            weights = weights.astype(p.dtype)
        return Counted(None if kept is None or kept.all() else kept, weights, number)

    def _matched(self, outputs: ArrayLike, targets: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        p, t = self.arrange(float_array(outputs, "outputs"), np.asarray(targets))
        p = np.ascontiguousarray(p)
        if not p.size:
            raise ValueError(error_message("Outputs must hold at least one value", shape=p.shape))
        if t.dtype.kind not in "fiub":
            raise TypeError(error_message("Targets must be numbers", dtype=t.dtype.name))
        return p, t.reshape(self.match(p.shape, t.shape))

    def _arguments(
        self, kept: np.ndarray | None, p: np.ndarray, t: np.ndarray, mask: ArrayLike | None
    ) -> tuple[Any, ...]:
        """The arguments of `values` and `gradient`: the items that count."""
        steps: list[np.ndarray | None] = []
        if self.masks_steps:
            steps = [None if mask is None else _chosen(kept, step_mask(p.shape, mask))[0]]
        return (*self.check(*_chosen(kept, p, t)), *steps)

    def _share(self, counted: Counted) -> float:
        """The factor of an item of weight 1 in the loss."""
        return 1 / max(counted.number, 1) if self.reduction == "mean" else 1.0

    def _reduced(self, values: np.ndarray, counted: Counted, items: tuple[int, ...]) -> Any:
        """The loss, from the values of the items that count."""
        kept, weights, _ = counted
        if weights is not None:
            values = values * (weights if kept is None else weights[kept])
        if self.reduction == "none":
            if kept is None:
                return values
            whole = np.zeros(items, values.dtype)
            whole[kept] = values
            return whole
        # Summed in float64, so the mean of many float32 values stays exact.
        return float(np.add.reduce(values, axis=None, dtype=np.float64)) * self._share(counted)


def _both(one: np.ndarray | None, other: np.ndarray) -> np.ndarray:
    return other if one is None else one & other


def _chosen(kept: np.ndarray | None, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    return arrays if kept is None else tuple(a[kept] for a in arrays)


def step_mask(shape: tuple[int, ...], mask: ArrayLike) -> np.ndarray:
    """A mask of steps as the kernels take it, uint8, for outputs of a shape (N, T, ...)."""
    steps = np.asarray(mask)
    if steps.dtype.kind not in "fiub" or steps.shape != shape[:2]:
        rule = f"`mask` must be numbers of shape {shape[:2]}"
        raise ValueError(error_message(rule, dtype=steps.dtype.name, shape=steps.shape))
    return np.asarray(steps != 0, order="C").view(np.uint8)


_registry = Registry("objective", Objective)
register = _registry.register


def aligned(loss: Any, outputs: np.ndarray, targets: ArrayLike) -> np.ndarray:
    """Targets with or without a last axis of length 1, as the loss takes them for these outputs.

    Targets (N,) get it where the outputs are (N, 1); class numbers (N, 1) lose it.
    """
    t, shape = np.asarray(targets), outputs.shape
    if (*t.shape, 1) == shape and not is_plain(loss):  # those do it themselves
        return t[..., None]
    if shape[-1] > 1 and t.shape == (*shape[:-1], 1) and getattr(loss, "takes_labels", False):
        return t[..., 0]
    return t


def value_of(
    loss: Any,
    outputs: np.ndarray,
    targets: ArrayLike,
    sample_weight: np.ndarray | None = None,
    mask: np.ndarray | None = None,
) -> Any:
    """The value of a loss, npdl's or any object with `forward`."""
    targets = aligned(loss, outputs, targets)
    return loss.forward(outputs, targets, **_keywords(loss, sample_weight, mask))


def gradient_of(
    loss: Any,
    outputs: np.ndarray,
    targets: ArrayLike,
    sample_weight: np.ndarray | None = None,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """The gradient of a loss, npdl's or any object with `backward`."""
    targets = aligned(loss, outputs, targets)
    grad = loss.backward(outputs, targets, **_keywords(loss, sample_weight, mask))
    if np.shape(grad) != outputs.shape:
        kind, shape = type(loss).__name__, outputs.shape
        rule = f"{kind}.backward must return the gradient in the outputs, of shape {shape}"
        raise ValueError(error_message(rule, shape=None if grad is None else np.shape(grad)))
    return grad


def count_of(
    loss: Any, outputs: np.ndarray, targets: ArrayLike, mask: np.ndarray | None = None
) -> int:
    """Number of items in the mean of a loss; samples, or real steps, if the loss has no `count`."""
    if is_plain(loss):
        return Objective.count(loss, outputs, aligned(loss, outputs, targets), mask)
    if hasattr(loss, "takes"):
        return loss.count(outputs, targets, mask)
    return len(outputs) if mask is None else int(np.count_nonzero(mask))


def is_plain(loss: Any) -> bool:
    """Whether `forward` and `backward` are npdl's own, and so `match` and `values` are there."""
    cls = type(loss)
    return (
        isinstance(loss, Objective)
        and cls.forward is Objective.forward
        and cls.backward is Objective.backward
    )


def _keywords(
    loss: Any, sample_weight: np.ndarray | None, mask: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Weights and mask in the arguments that a loss takes."""
    pairs = {"sample_weight": sample_weight, "mask": mask}
    given = {name: value for name, value in pairs.items() if value is not None}
    if not given or is_plain(loss):
        return given
    taken = taken_by(getattr(loss, "takes", type(loss).forward))
    if given.keys() <= taken:
        return given
    if "sample_weight" in taken and mask is not None:
        # For a loss without masks: weights that turn its mean into one over the real items.
        real = np.asarray(mask) != 0
        summed = getattr(loss, "reduction", "mean") == "sum"
        scale = 1.0 if summed else real.size / max(np.count_nonzero(real), 1)
        weights = np.asarray(times(sample_weight, np.where(real, scale, 0.0)))
        real = real.reshape(real.shape + (1,) * (weights.ndim - real.ndim))
        return {"sample_weight": np.where(real, weights, 0.0)}
    what, name = ("a mask", "mask") if "mask" in given else ("sample weights", "sample_weight")
    rule = f"With {what}, `forward` and `backward` of a loss must take {name}"
    raise ValueError(error_message(rule, loss=type(loss).__name__))


@lru_cache
def taken_by(function: Callable[..., Any]) -> frozenset[str]:
    """The names of the arguments of a function."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return frozenset({"sample_weight", "mask"})
    return frozenset(p.name for p in parameters)


def get(objective: Any) -> Any:
    """Return a loss by name.

    Parameters
    ----------
    objective : str, Objective, class, dict or function
        'mse', 'MeanSquaredError', 'softmax_categorical_cross_entropy', ...; a dict holds the name
        and the arguments. An instance is returned as it is; so is any other object that has
        methods ``forward(outputs, targets)``, which returns a number, and
        ``backward(outputs, targets)``, which returns its gradient in the outputs. A function
        ``f(outputs, targets)`` returns both, or ``f(y_true, y_pred)`` the loss; see `FunctionLoss`.

    Raises
    ------
    ValueError
        If the name is unknown; the message lists the valid ones.
    """
    if all(callable(getattr(objective, name, None)) for name in ("forward", "backward")):
        return objective() if isinstance(objective, type) else objective
    if inspect.isfunction(objective) or inspect.ismethod(objective):
        objective = {"name": "FunctionLoss", "function": objective}
    if isinstance(objective, dict) and objective.get("name") == "FunctionLoss":
        from npdl.objectives.function import FunctionLoss  # a subclass of Objective

        return FunctionLoss(objective["function"])
    return _registry.get(objective)
