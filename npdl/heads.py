"""Level 2: the outputs of a model, each with its loss and its metrics."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from npdl import metrics as npdl_metrics
from npdl import objectives
from npdl._checks import check_number, error_message
from npdl.layers._affine import Affine
from npdl.layers._fusing import are_replaced
from npdl.layers.base import Layer
from npdl.metrics import Metric
from npdl.objectives.base import aligned, gradient_of, value_of


class Result(NamedTuple):
    """The result of a forward pass with targets.

    Attributes
    ----------
    loss : float
        With the weights of the outputs' losses, and with what layers add (`Layer.penalty`).
    losses : list of float
        Loss of each head.
    penalty : float
        What the layers add.
    outputs : list of ndarray
    masks : list of ndarray or None
        Mask of each output.
    items : int or None
        The number of items that the loss is a mean over, if it is known: all, and of weight 1.
    right : int or None
        The number of items whose largest output is that of the target, if it is known.
    """

    loss: float
    losses: list[float]
    penalty: float
    outputs: list[NDArray]
    masks: list[NDArray | None]
    items: int | None = None
    right: int | None = None


class Head:
    """An output of a model that has a loss.

    Attributes
    ----------
    index : int
        Which output of the model it is.
    name : str or None
        The name of the output, which begins the names of its metrics; None where there is one.
    loss : Objective
    weight : float
        Weight of its loss in that of the model.
    plain, weighted : list of Metric or None
        The metrics that `compile` was given, without and with sample weights.
    metrics : list of tuple (str, Metric, bool)
        Name, metric, and whether sample weights count.
    """

    def __init__(
        self,
        index: int,
        name: str | None,
        loss: Any,
        weight: float,
        plain: list[Metric] | None,
        weighted: list[Metric] | None,
    ) -> None:
        self.index = index
        self.name = name
        self.loss = loss
        self.weight = weight
        self.plain = plain
        self.weighted = weighted
        self.metrics = named_metrics(loss, plain, weighted)
        if name is not None:
            self.metrics = [(f"{name}_{metric}", m, w) for metric, m, w in self.metrics]

    def fuses_with(self, layer: Layer) -> bool:
        """Whether the loss and the activation of the layer before it run as one stable kernel."""
        activation = getattr(self.loss, "fuses_with", None)
        return (
            activation is not None
            and isinstance(layer, Affine)
            and type(layer.activation) is activation
            and getattr(layer.activation, "axis", -1) == -1
            # A subclass may compute something else.
            and type(layer).forward is Affine.forward
            and type(layer).backward is Affine.backward
            and not are_replaced(layer)
        )

    def forward(self, outputs: NDArray, *rest: Any) -> tuple[float, Any]:
        """The loss of some outputs, and the data that `backward` needs."""
        return float(value_of(self.loss, outputs, *rest)), (outputs, *rest)

    def forward_fused(
        self, layer: Layer, logits: NDArray, targets: Any, *rest: Any
    ) -> tuple[float, NDArray, Any]:
        """The loss, the outputs and a cache, from `layer` without its activation."""
        buffer = layer._buffer("probabilities", logits.shape, logits.dtype)
        value, outputs, cache = self.loss.forward_logits(
            logits, aligned(self.loss, logits, targets), *rest, out=buffer
        )
        return float(value), outputs, (layer, cache)

    def backward(self, cache: Any, fused: bool) -> NDArray:
        """The gradient in the outputs, or in the logits."""
        if fused:
            layer, cache = cache
            p = cache.probabilities
            grad = self.loss.backward_logits(cache, out=layer._buffer("dz", p.shape, p.dtype))
        else:
            grad = gradient_of(self.loss, *cache)
        if self.weight != 1:
            grad = grad * grad.dtype.type(self.weight)
        return grad


def make_heads(
    names: Sequence[str],
    loss: Any,
    loss_weights: Any,
    metrics: Any,
    weighted_metrics: Any,
) -> list[Head]:
    """The heads of a model whose outputs have these names, from the arguments of `compile`."""
    several = len(names) > 1
    losses = by_output("loss", loss, names, same_for_all=True)
    weights = by_output("loss_weights", loss_weights, names)
    plain = by_output("metrics", metrics, names)
    weighted = by_output("weighted_metrics", weighted_metrics, names)
    heads = []
    for i, name in enumerate(names):
        if losses[i] is None:
            if several:
                continue
            raise ValueError(error_message("A model needs a loss", loss=None))
        objective = objectives.get(losses[i])
        if getattr(objective, "reduction", "mean") == "none":
            rule = "The loss of a model must have the reduction 'mean' or 'sum'"
            raise ValueError(error_message(rule, reduction="none"))
        weight = weights[i]
        weight = 1.0 if weight is None else check_number("loss_weights", weight, "(-inf, inf)")
        counted = as_metrics(plain[i]), as_metrics(weighted[i])
        heads.append(Head(i, name if several else None, objective, weight, *counted))
    if not heads:
        raise ValueError(error_message("A model needs a loss for at least one output", loss=loss))
    return heads


def by_output(what: str, given: Any, names: Sequence[str], same_for_all: bool = False) -> list[Any]:
    """An argument of `compile` for each output: from a dict by name, a list, or one for all.

    Raises
    ------
    ValueError
        If a name is unknown, or their number is another one.
    """
    if isinstance(given, Mapping) and given and given.keys() <= {*names}:
        return [given.get(name) for name in names]
    if len(names) == 1:
        one = isinstance(given, list | tuple) and what in ("loss", "loss_weights")
        return [given[0] if one and len(given) == 1 else given]
    if given is None:
        return [None] * len(names)
    if isinstance(given, list | tuple):
        if len(given) != len(names):
            rule = f"`{what}` must have an entry for each of {len(names)} outputs"
            raise ValueError(error_message(rule, received=given))
        return list(given)
    if isinstance(given, Mapping) and "name" not in given:
        rule = f"`{what}` must have names of outputs as keys: {', '.join(names)}"
        raise ValueError(error_message(rule, keys=[*given]))
    if same_for_all:
        return [given] * len(names)
    raise ValueError(error_message(f"`{what}` must be a dict by output, or a list", received=given))


def as_metrics(wanted: Any) -> list[Metric] | None:
    """The requested metrics."""
    if wanted is None:
        return None
    return [npdl_metrics.get(m) for m in (wanted if isinstance(wanted, list | tuple) else [wanted])]


def named_metrics(
    loss: Any, plain: list[Metric] | None, weighted: list[Metric] | None
) -> list[tuple[str, Metric, bool]]:
    """The metrics of an output: name, metric, and whether sample weights count.

    If no metrics were requested, a classification loss gets the accuracy.
    """
    if plain is None and weighted is None and getattr(loss, "classifies", False):
        plain = [npdl_metrics.Accuracy()]
    found: dict[str, tuple[Metric, bool]] = {}
    for metric, by_weight in [
        *((m, False) for m in plain or ()),
        *((m, True) for m in weighted or ()),
    ]:
        metric = copy.copy(metric)  # it may be in another model too, with another loss
        metric.bind(loss)
        name = metric.name
        if name in found and by_weight:
            name = f"weighted_{name}"
        if name in found or name == "loss":
            raise ValueError(error_message("Each metric must have a name of its own", name=name))
        found[name] = metric, by_weight
    return [(name, *rest) for name, rest in found.items()]
