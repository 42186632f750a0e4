"""Level 2: a chain of layers that is built, trained and used as one."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl import activations, graph, objectives, optimizers, saving, training
from npdl._checks import check_int, check_number, complaint, label_array
from npdl.layers.base import Layer, Shape
from npdl.layers.core import Dense
from npdl.objectives import Objective
from npdl.objectives import SoftmaxCategoricalCrossEntropy as SCCE
from npdl.optimizers import SGD, Optimizer
from npdl.training import History, Score


class Model(saving.Storable):
    """A chain of layers.

    Parameters
    ----------
    layers : list of Layer, or Layer, optional
        The layers from input to output; or the output layer of a network whose layers were
        connected by hand, which leads to all of them.

    Attributes
    ----------
    layers : list of Layer
    loss : Objective
    optimizer : Optimizer
        Both are set by `compile`.

    Examples
    --------
    >>> import npdl
    >>> model = npdl.Model()
    >>> model.add(npdl.layers.Dense(n_out=32, n_in=64, activation="relu"))
    >>> model.add(npdl.layers.Softmax(n_out=10))
    >>> model.compile(loss="scce", optimizer=npdl.optimizers.Adam(lr=0.01))
    """

    loss: Objective
    optimizer: Optimizer

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

    def compile(self, loss: Any = SCCE, optimizer: Any = SGD) -> None:
        """Choose loss and optimizer, name the layers and connect them.

        Weights that exist already are kept. If the first layer does not tell the shape of its
        input, the layers are connected at the first `fit` or `predict`, from the data's shape.

        Parameters
        ----------
        loss : Objective, class, name or dict
        optimizer : Optimizer, class, name or dict
        """
        if not self.layers:
            raise ValueError("A model needs at least one layer. Received: layers=[]")
        loss = objectives.get(loss)
        if getattr(loss, "reduction", "mean") == "none":
            rule = "The loss of a model must have the reduction 'mean' or 'sum'"
            raise ValueError(complaint(rule, reduction="none"))
        self.loss, self.optimizer = loss, optimizers.get(optimizer)
        graph.give_names(self.layers)
        if self.layers[0].out_shape is not None or self.layers[0].in_shape is not None:
            self.build()
        self.compiled = True

    @property
    def built(self) -> bool:
        """Whether all layers are connected."""
        pairs = zip(self.layers, [None, *self.layers])
        return all(graph.is_connected(layer, before) for layer, before in pairs)

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
        """Let the layers keep their arrays from step to step, and leave out needless gradients."""
        lowest = self.layers[self._lowest]
        try:
            for layer in self.layers:
                layer.keep_buffers = True
            lowest.need_input_grad = False
            yield
        finally:
            lowest.need_input_grad = True
            for layer in self.layers:
                layer.keep_buffers = False

    @property
    def _lowest(self) -> int:
        """Index of the lowest layer that learns: no gradient is needed below it."""
        learning = (i for i, layer in enumerate(self.layers) if layer.params)
        return next(learning, len(self.layers) - 1)

    # ------------------------------------------------------------------- forward and backward

    def forward(self, X: ArrayLike, train: bool = True) -> NDArray:
        """Return the output of the last layer for one batch; see `Layer.forward`."""
        return graph.run(self.layers, X, train)

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
        """Whether softmax and cross-entropy run as one stable kernel."""
        head = self.layers[-1]
        return (
            type(self.loss) is SCCE
            and not self.loss.from_logits
            and isinstance(head, Dense)
            and type(head.activation) is activations.Softmax
            # A subclass that computes something else must be asked.
            and type(head).forward is Dense.forward
            and type(head).backward is Dense.backward
        )

    def loss_forward(self, X: NDArray, Y: NDArray) -> tuple[float, NDArray, Any]:
        """Loss and outputs of one training batch, and what `loss_backward` needs."""
        if self._fused:
            *body, head = self.layers
            logits = head.forward_linear(graph.run(body, X, True), train=True)  # type: ignore[attr-defined]
            value, outputs, cache = self.loss.forward_logits(logits, Y)  # type: ignore[attr-defined]
            return value + self.penalty(), outputs, cache
        outputs = graph.run(self.layers, X, True)
        return float(self.loss.forward(outputs, Y)) + self.penalty(), outputs, (outputs, Y)

    def loss_backward(self, cache: Any) -> None:
        """Fill the gradients of all parameters, from what `loss_forward` left."""
        layers = self.layers[self._lowest :]
        if self._fused:
            *layers, head = layers
            grad = head.backward_linear(self.loss.backward_logits(cache))  # type: ignore[attr-defined]
        else:
            grad = self.loss.backward(*cache)
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

    def update(self) -> None:
        """Let the optimizer change the parameters, by the gradients of the last `loss_backward`."""
        if graph.accepts(type(self.optimizer).update, "names"):
            every = (item for layer in self.layers for item in graph.arrays(layer))
            names = [name for name, _, trainable in every if trainable]
            self.optimizer.update(self.params, self.grads, names=names)
        else:
            self.optimizer.update(self.params, self.grads)

    # ------------------------------------------------------------------------- train and use

    def fit(
        self,
        X: ArrayLike,
        Y: ArrayLike,
        max_iter: int = 100,
        batch_size: int = 64,
        shuffle: bool = True,
        validation_split: float = 0.0,
        validation_data: tuple[ArrayLike, ArrayLike] | None = None,
        file: TextIO | None = None,
        *,
        epochs: int | None = None,
        verbose: bool = True,
    ) -> History:
        """Train, and print a line for each epoch.

        Parameters
        ----------
        X : array_like, shape (N, ...)
            Samples. Neither `X` nor `Y` is changed.
        Y : array_like
            Targets as the loss takes them: for a classification one-hot rows or class numbers.
        max_iter, epochs : int
            How often to go through all samples: two names of one thing, `epochs` wins.
        batch_size : int
            Samples in a step. The last batch holds what is left, and counts.
        shuffle : bool
            Take the samples in a new order in each epoch, drawn from ``npdl.utils.get_rng()``.
        validation_split : float
            Fraction of the samples to hold out, in [0, 1): the last ones, before any shuffling.
        validation_data : tuple (X, Y), optional
            Held-out samples; goes before `validation_split`.
        file : text file, optional
            Where the lines go; standard output by default.
        verbose : bool
            False prints nothing.

        Returns
        -------
        History
            The figures of each epoch. Those of training are means over the epoch, taken while the
            weights move; those of validation are of its end.

        Warns
        -----
        RuntimeWarning
            If the loss is nan or infinite: names the epoch and the first layer concerned.
        """
        self._require_compiled("fit")
        if epochs is None:
            epochs = check_int("max_iter", max_iter)
        check_int("epochs", epochs)
        check_int("batch_size", batch_size)
        check_number("validation_split", validation_split, "[0, 1)")
        train = training.as_pair(X, Y)
        validation = None
        if validation_data is not None:
            validation = training.as_validation_pair(validation_data)
        elif validation_split:
            train, validation = training.split(train, validation_split)
        self._prepare(train)
        if validation is not None:
            self._prepare(validation)
        return training.fit(
            self,
            train,
            validation,
            epochs=epochs,
            batch_size=batch_size,
            shuffle=shuffle,
            report=(file or sys.stdout) if verbose else None,
        )

    def predict(self, X: ArrayLike, batch_size: int = 256) -> NDArray:
        """Return the outputs for all samples, in inference mode.

        Nothing is written on the layers, so that several threads may predict at once.

        Parameters
        ----------
        X : array_like, shape (N, ...)
        batch_size : int
            Samples at a time; bounds the memory needed.
        """
        self._require_compiled("predict")
        check_int("batch_size", batch_size)
        X = training.as_samples("X", X)
        self._build_for(X)
        first = self.forward(X[:batch_size], train=False)
        if len(X) <= batch_size:
            return first
        outputs = np.empty((len(X), *first.shape[1:]), first.dtype)
        outputs[:batch_size] = first
        for start in range(batch_size, len(X), batch_size):
            part = slice(start, start + batch_size)
            outputs[part] = self.forward(X[part], train=False)
        return outputs

    def evaluate(self, X: ArrayLike, Y: ArrayLike, batch_size: int = 256) -> Score:
        """Return ``(loss, accuracy)`` over all samples, in inference mode.

        Parameters
        ----------
        X, Y, batch_size
            As in `fit`.

        Returns
        -------
        Score
            A named tuple. The accuracy is None where the loss is not one of classification.
        """
        self._require_compiled("evaluate")
        check_int("batch_size", batch_size)
        pair = training.as_pair(X, Y)
        self._prepare(pair)
        return training.evaluate(self, *pair, batch_size)

    def accuracy(self, outputs: ArrayLike, targets: ArrayLike) -> float:
        """Return the fraction of `outputs` that are right.

        Parameters
        ----------
        outputs : array_like, shape (N, ..., K), (N, 1) or (N,)
            What `predict` returned. The greatest of K wins; a single one means yes above 0.5.
        targets : array_like
            One-hot like `outputs`, or class numbers of shape (N, ...).
        """
        binary = self.compiled and isinstance(self.loss, objectives.BinaryCrossEntropy)
        return training.accuracy(np.asarray(outputs), np.asarray(targets), binary)

    @np.errstate(all="ignore")
    def _prepare(self, pair: tuple[NDArray, NDArray]) -> None:
        """Build if need be; raise now what is wrong with the shapes, or with any class number."""
        X, Y = pair
        self._build_for(X)
        outputs = self.forward(X[:1], train=False)
        if isinstance(self.loss, training.BY_CLASS) and Y.ndim < outputs.ndim:
            label_array(Y, outputs.shape[-1], "Y")
        self.loss.forward(outputs, Y[:1])

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
        """Print a table of the layers: name, class, output shape, number of parameters.

        Parameters
        ----------
        file : text file, optional
            Standard output by default.
        """
        graph.print_summary(self.layers, file)
