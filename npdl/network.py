"""Level 2: a chain of layers that is connected and run as one, forward and backward."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from numpy.typing import ArrayLike, NDArray

from npdl import graph, metrics, objectives, optimizers, scores
from npdl._busy import trained_here
from npdl._checks import complaint
from npdl._weights import steps_mask
from npdl.layers.base import Layer, Shape
from npdl.layers.core import Dense
from npdl.metrics import Metric
from npdl.objectives import Objective
from npdl.objectives import SoftmaxCategoricalCrossEntropy as SCCE
from npdl.objectives.base import aligned, gradient_of, value_of
from npdl.objectives.crossentropy import LogitsCache
from npdl.optimizers import SGD, Optimizer
from npdl.storable import Storable
from npdl.summary import print_summary


class Network(Storable):
    """What `npdl.model.Model` is without data: see there."""

    loss: Objective
    optimizer: Optimizer
    metrics: list[Metric] | None = None
    weighted_metrics: list[Metric] | None = None
    #: Name, metric, and whether sample weights count, of the figures beside the loss.
    figures: list[tuple[str, Metric, bool]]

    #: The names of the trained parameters, and the index of the lowest layer that learns, found
    #: once for many steps; None out of `training`.
    _names: list[str] | None = None
    _lowest: int | None = None

    def __init__(self, layers: Iterable[Layer] | Layer | None = None) -> None:
        self.layers: list[Layer] = []
        self.compiled = False
        for layer in graph.chain(layers):
            self.add(layer)

    # ------------------------------------------------------------------------------ the graph

    def add(self, layer: Layer) -> None:
        """Append a layer; the model is then to be compiled again."""
        if not isinstance(layer, Layer):
            raise TypeError(f"A model is made of instances of Layer. Received: {layer!r}")
        if any(layer is other for other in self.layers):
            raise ValueError(f"A layer can stand in a model only once. Received: {layer.name!r}")
        self.layers.append(layer)
        self.compiled = False

    def compile(
        self,
        loss: Any = SCCE,
        optimizer: Any = SGD,
        *,
        metrics: Any = None,
        weighted_metrics: Any = None,
    ) -> None:
        """Choose loss and optimizer, name the layers and connect them.

        Weights that exist already are kept. If the first layer does not tell the shape of its
        input, the layers are connected at the first `fit` or `predict`, from the data's shape.

        Parameters
        ----------
        loss : Objective, class, name or dict; or any object with `forward` and `backward`
        optimizer : Optimizer, class, name or dict
        metrics : list, optional
            What to count beside the loss, see `npdl.metrics.get`: ``["accuracy", "top_k"]``. By
            default the accuracy, where the loss is one of classification.
        weighted_metrics : list, optional
            The same, counted by the sample weights.
        """
        if not self.layers:
            raise ValueError("A model needs at least one layer. Received: layers=[]")
        loss = objectives.get(loss)
        if getattr(loss, "reduction", "mean") == "none":
            rule = "The loss of a model must have the reduction 'mean' or 'sum'"
            raise ValueError(complaint(rule, reduction="none"))
        plain, weighted = _metrics(metrics), _metrics(weighted_metrics)
        self.figures = scores.named_metrics(loss, plain, weighted)
        self.metrics, self.weighted_metrics = plain, weighted
        self.loss, self.optimizer = loss, optimizers.get(optimizer)
        if isinstance(self.optimizer, Optimizer):
            self.optimizer.claim(self)
        graph.give_names(self.layers)
        if self.layers[0].out_shape is not None or self.layers[0].in_shape is not None:
            self.build()
        self.compiled = True

    @property
    def built(self) -> bool:
        """Whether all layers are connected."""
        before = None
        for layer in self.layers:
            # Asked at each prediction, so the usual answer is found without a call.
            usual = layer.prev_layer is before and layer.out_shape is not None
            if not (usual or graph.is_connected(layer, before)):
                return False
            before = layer
        return True

    def build(self, input_shape: Shape | None = None) -> None:
        """Connect the layers, each to the one before it.

        Parameters
        ----------
        input_shape : tuple, optional
            Shape of the input with its sample axis, such as ``(None, 1, 28, 28)``; not needed if
            the first layer tells it. A layer that is connected keeps its weights if they fit.
        """
        graph.connect(self.layers, None if input_shape is None else graph.Input(input_shape))

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Train in this thread alone, see `trained_here`, with what `_trained_fast` prepares."""
        with trained_here(self), self._trained_fast():
            yield

    @contextlib.contextmanager
    def _trained_fast(self) -> Iterator[None]:
        """Let the layers keep their arrays from step to step, and leave out needless gradients."""
        index = self._lowest_learning()
        lowest = self.layers[index]
        try:
            for layer in self.layers:
                layer.keep_buffers = True
            lowest.need_input_grad = False
            self._names, self._lowest = self._trained_names(), index
            yield
        finally:
            self._names = self._lowest = None
            lowest.need_input_grad = True
            for layer in self.layers:
                layer.keep_buffers = False

    def _lowest_learning(self) -> int:
        """Index of the lowest layer that learns: no gradient is needed below it."""
        learning = (i for i, layer in enumerate(self.layers) if layer.params)
        return next(learning, len(self.layers) - 1)

    # ------------------------------------------------------------------- forward and backward

    def forward(self, X: ArrayLike, train: bool = True, mask: NDArray | None = None) -> NDArray:
        """Return the output of the last layer for one batch; see `Layer.forward`.

        A mask of steps, (N, T), goes to all layers that take one, as long as there are steps.
        """
        return graph.run(self.layers, X, train, mask)

    def backward(self, pre_grad: ArrayLike) -> NDArray | None:
        """Return the gradient in the last training input, and fill the parameters' gradients."""
        return graph.run_back(self.layers, pre_grad)

    def trace(self, X: NDArray) -> Iterator[tuple[Layer, NDArray]]:
        """Yield each layer with its output for one batch, in inference mode."""
        for layer in self.layers:
            X = graph.run([layer], X, train=False)
            yield layer, X

    def penalty(self) -> float:
        """Return what the regularizers of all layers add to the loss."""
        return sum(layer.penalty() for layer in self.layers if layer.regularizer is not None)

    @property
    def _fused(self) -> bool:
        """Whether loss and last activation run as one stable kernel."""
        head, activation = self.layers[-1], getattr(self.loss, "fuses_with", None)
        return (
            activation is not None
            and isinstance(head, Dense)
            and type(head.activation) is activation
            and getattr(head.activation, "axis", -1) == -1
            # A subclass that computes something else must be asked.
            and type(head).forward is Dense.forward
            and type(head).backward is Dense.backward
        )

    def loss_forward(
        self,
        X: NDArray,
        Y: ArrayLike,
        sample_weight: NDArray | None = None,
        mask: NDArray | None = None,
    ) -> tuple[float, NDArray, Any]:
        """Loss and outputs of one training batch, and what `loss_backward` needs."""
        if self._fused:
            *body, head = self.layers
            below = graph.run(body, X, True, mask)
            logits = head.forward_linear(below, train=True)  # type: ignore[attr-defined]
            mask = steps_mask(mask, logits.shape)
            room = head._buffer("probabilities", logits.shape, logits.dtype)
            loss: Any = self.loss
            targets = aligned(loss, logits, Y)
            value, outputs, cache = loss.forward_logits(
                logits, targets, sample_weight, mask, out=room
            )
            return value + self.penalty(), outputs, cache
        outputs = graph.run(self.layers, X, True, mask)
        weights = sample_weight, steps_mask(mask, outputs.shape)
        return self._loss(outputs, Y, *weights), outputs, (outputs, Y, *weights)

    def loss_of(
        self,
        outputs: NDArray,
        Y: ArrayLike,
        sample_weight: NDArray | None = None,
        mask: NDArray | None = None,
    ) -> float:
        """The loss of outputs, with what the regularizers add."""
        return self._loss(outputs, Y, sample_weight, steps_mask(mask, outputs.shape))

    def _loss(self, outputs: NDArray, *rest: Any) -> float:
        return float(value_of(self.loss, outputs, *rest)) + self.penalty()

    def loss_backward(self, cache: Any) -> None:
        """Fill the gradients of all parameters, from what `loss_forward` left."""
        lowest = self._lowest_learning() if self._lowest is None else self._lowest
        layers = self.layers[lowest:]
        if isinstance(cache, LogitsCache):
            head, p = layers.pop(), cache.probabilities
            room = head._buffer("dz", p.shape, p.dtype)
            grad = head.backward_linear(self.loss.backward_logits(cache, out=room))  # type: ignore[attr-defined]
        else:
            grad = gradient_of(self.loss, *cache)
        graph.run_back(layers, grad)
        for layer in self.layers:
            layer.add_penalty_gradient()

    # ----------------------------------------------------------------------------- parameters

    @property
    def params(self) -> list[NDArray]:
        """The arrays that are trained, of all layers."""
        return [p for layer in self.layers for p in layer.params]

    @property
    def grads(self) -> list[NDArray]:
        """The gradients of `params`, in the same order."""
        return [g for layer in self.layers for g in layer.grads]

    @property
    def param_grads(self) -> list[tuple[NDArray, NDArray]]:
        """Pairs of `params` and `grads`."""
        return list(zip(self.params, self.grads, strict=True))

    @property
    def weights(self) -> dict[str, NDArray]:
        """All arrays of all layers by name, ``"dense_1/W"``: trained, frozen and running ones."""
        return {name: a for layer in self.layers for name, a, _ in graph.arrays(layer)}

    def update(self, count: float | None = None) -> None:
        """Let the optimizer change the parameters, by the gradients of the last `loss_backward`.

        Parameters
        ----------
        count : float, optional
            Over how many items the loss is a mean, for an optimizer that accumulates gradients.
        """
        params, grads, optimizer = self.params, self.grads, self.optimizer
        if isinstance(optimizer, Optimizer):
            optimizer.claim(self)
        more: dict[str, Any] = {}
        if graph.accepts(type(optimizer).update, "names"):
            more["names"] = self._names or self._trained_names()
        if count is not None and graph.accepts(type(optimizer).update, "count"):
            more["count"] = count
        optimizer.update(params, grads, **more)

    def finish_training(self) -> None:
        """Let the moving averages, if the optimizer keeps them, take the parameters' places."""
        if getattr(self.optimizer, "use_ema", False):
            self.optimizer.finalize_variable_values(self.params, self._trained_names())

    def swap_averages(self) -> None:
        """Exchange the parameters and their moving averages, which an optimizer may keep.

        See `npdl.optimizers.Optimizer.swap_averages`, and the callback `SwapEMAWeights`.
        """
        self.optimizer.swap_averages(self.params, self._trained_names())

    def _trained_names(self) -> list[str]:
        every = (item for layer in self.layers for item in graph.arrays(layer))
        return [name for name, _, trainable in every if trainable]

    def _require_compiled(self, what: str) -> None:
        if not self.compiled:
            raise RuntimeError(f"The model must be compiled before {what}. Call compile() first.")

    def _require_built_for(self, what: str) -> None:
        if not (self.layers and self.built):
            raise RuntimeError(f"The model must be built before {what}. Call compile() or build().")

    def _build_for(self, X: NDArray) -> None:
        if not self.built:
            self.build((None, *X.shape[1:]))

    # ---------------------------------------------------------------------------------- show

    def summary(self, file: TextIO | None = None) -> None:
        """Print a table of the layers, and what the model takes of the memory.

        Parameters
        ----------
        file : text file, optional
            Standard output by default.
        """
        print_summary(self, file)


def _metrics(wanted: Any) -> list[Metric] | None:
    if wanted is None:
        return None
    return [metrics.get(m) for m in (wanted if isinstance(wanted, list | tuple) else [wanted])]
