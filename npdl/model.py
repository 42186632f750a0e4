"""Level 2: a chain of layers that is built, trained and used as one."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TextIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl import _weights, scores, training
from npdl import feed as feeds
from npdl._checks import check_int, check_number, complaint, label_array, weights_like
from npdl.callbacks import Callback, CallbackList, History
from npdl.callbacks.progress import make_progress
from npdl.feed import ArrayFeed, Batch, Feed, StreamFeed
from npdl.network import Network
from npdl.objectives.base import Objective, aligned, is_plain
from npdl.scores import Score, Tally


class Model(Network):
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
    metrics, weighted_metrics : list of Metric, or None
        All are set by `compile`.

    Examples
    --------
    >>> import npdl
    >>> model = npdl.Model()
    >>> model.add(npdl.layers.Dense(n_out=32, n_in=64, activation="relu"))
    >>> model.add(npdl.layers.Softmax(n_out=10))
    >>> model.compile(loss="scce", optimizer=npdl.optimizers.Adam(lr=0.01))
    """

    #: Set to True, by a callback, to end a training.
    stop_training: bool = False
    #: The training that is on its way; None if there is none.
    loop: training.Loop | None = None

    def fit(
        self,
        X: Any,
        Y: ArrayLike | None = None,
        max_iter: int = 100,
        batch_size: int = 64,
        shuffle: bool = True,
        validation_split: float = 0.0,
        validation_data: Any = None,
        file: TextIO | None = None,
        *,
        epochs: int | None = None,
        verbose: int | str = "auto",
        callbacks: Any = None,
        class_weight: Any = None,
        sample_weight: ArrayLike | None = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int = 1,
    ) -> History:
        """Train, and print a line for each epoch. Ctrl-C ends the training, not the program.

        Parameters
        ----------
        X : array_like of shape (N, ...), or iterable of batches
            Samples. Sequences with a mask (N, T) of their steps, 0 for padding, come as a tuple
            ``(x, mask)`` or a dict ``{"input": x, "mask": mask}``. A memory-mapped array is read
            batch by batch. An iterable yields ``(x, y)`` or ``(x, y, sample_weight)``; a generator
            must yield the batches of all epochs. Nothing that is passed in is changed.
        Y : array_like
            Targets as the loss takes them: for a classification one-hot rows or class numbers.
            None where `X` yields them.
        max_iter, epochs : int
            The number of the epoch to end with: two names of one thing, `epochs` wins.
        batch_size : int
            Samples in a step. The last batch holds what is left, and counts.
        shuffle : bool
            Take the samples in a new order in each epoch, drawn from ``npdl.utils.get_rng()``.
        validation_split : float
            Fraction of the samples to hold out, in [0, 1): the last ones, before any shuffling.
        validation_data : tuple (X, Y) or (X, Y, sample_weight), or iterable of batches, optional
            Held-out samples; goes before `validation_split`.
        file : text file, optional
            Where to print; standard output by default.
        verbose : {0, 1, 2, 'auto'}
            0 prints nothing, 2 a line for each epoch. 1 and 'auto' show a bar too, by tqdm, where
            there is a terminal or a notebook for it.
        callbacks : list of npdl.callbacks.Callback, optional
        class_weight : dict of int to float, array_like or "balanced", optional
            A weight for the samples of each class; 1 for those not named. "balanced" lets all
            classes count alike, n / (classes * n of the class); it needs arrays.
        sample_weight : array_like of shape (N,), or (N, T) for sequences, optional
            What each sample, or step, counts in the loss. One of weight 0 may hold anything.
        initial_epoch : int
            How many epochs to take for done.
        steps_per_epoch : int, optional
            Batches in an epoch, if it shall not be all samples once.
        validation_steps, validation_batch_size : int, optional
            The same for the validation.
        validation_freq : int
            Validate in each epoch of so many.

        Returns
        -------
        History
            The figures of each epoch. Those of training are over the whole epoch, taken while the
            weights move; those of validation are of its end.

        Warns
        -----
        RuntimeWarning
            If the loss is nan or infinite: names the epoch and the first layer concerned. If an
            iterable ends too early.
        """
        self._require_compiled("fit")
        epochs = check_int("max_iter", max_iter) if epochs is None else check_int("epochs", epochs)
        check_int("initial_epoch", initial_epoch, 0)
        check_int("validation_freq", validation_freq)
        check_number("validation_split", validation_split, "[0, 1)")
        train, held_out = _Data(X, Y, sample_weight), None
        if validation_data is not None:
            held_out = _Data.of_validation(validation_data)
        elif validation_split:
            train, held_out = train.split(validation_split)
        feed = self._feed(train, batch_size, steps_per_epoch, shuffle, class_weight)
        validation = None
        if held_out is not None:
            size = batch_size if validation_batch_size is None else validation_batch_size
            validation = self._feed(held_out, size, validation_steps)
        history, progress = History(), make_progress(verbose, file or sys.stdout)
        hooks = self._callbacks(
            [*CallbackList(callbacks), *([progress] if progress else []), history],
            feed,
            file,
            verbose=verbose,
            epochs=epochs,
        )
        loop = training.Loop(
            self,
            feed,
            validation,
            hooks,
            epochs=epochs,
            initial_epoch=initial_epoch,
            validation_freq=validation_freq,
        )
        try:
            loop.run()
        finally:
            if progress is not None:
                progress.close()
        history.interrupted = loop.interrupted
        return history

    def evaluate(
        self,
        X: Any,
        Y: ArrayLike | None = None,
        batch_size: int = 256,
        *,
        verbose: int | str = 0,
        sample_weight: ArrayLike | None = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = False,
    ) -> Score | dict[str, Any]:
        """Return ``(loss, accuracy)``, or loss and metrics, over all samples, in inference mode.

        Parameters
        ----------
        X, Y, batch_size, sample_weight, callbacks, verbose
            As in `fit`.
        steps : int, optional
            How many batches to take, if not all.
        return_dict : bool
            Return the figures by name.

        Returns
        -------
        Score or dict
            A tuple, with `loss`, `accuracy` and `figures` as attributes. The accuracy is None where
            the loss is not one of classification; see `compile` for the metrics.
        """
        self._require_compiled("evaluate")
        feed = self._feed(_Data(X, Y, sample_weight), batch_size, steps)
        with _Shown(verbose) as progress:
            hooks = self._callbacks([*CallbackList(callbacks), *progress], feed, verbose=verbose)
            figures = training.evaluate(self, feed, hooks)
        return figures if return_dict else Score(figures)

    def predict(
        self,
        X: Any,
        batch_size: int = 256,
        *,
        verbose: int | str = 0,
        steps: int | None = None,
        callbacks: Any = None,
    ) -> NDArray:
        """Return the outputs for all samples, in inference mode.

        Nothing is written on the layers, so that several threads may predict at once.

        Parameters
        ----------
        X : array_like of shape (N, ...), or iterable of batches
            As in `fit`; targets that an iterable yields are left out.
        batch_size : int
            Samples at a time; bounds the memory needed.
        steps : int, optional
            How many batches to take, if not all.
        verbose, callbacks
            As in `fit`.
        """
        self._require_compiled("predict")
        check_int("batch_size", batch_size)
        plain = isinstance(X, np.ndarray) and not (callbacks or verbose or steps is not None)
        if plain and 0 < X.ndim and len(X) <= batch_size:  # one batch needs no loop
            return self.predict_on_batch(X)
        data = _Data(X, None, None)
        feed = data.feed(batch_size, _optional("steps", steps))
        self._build_for(feed.first().x)
        with _Shown(verbose) as progress:
            hooks = self._callbacks([*CallbackList(callbacks), *progress], feed, verbose=verbose)
            return training.predict(self, feed, hooks)

    def train_on_batch(
        self,
        X: Any,
        Y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        class_weight: Any = None,
        return_dict: bool = False,
    ) -> Score | dict[str, Any]:
        """Do one step of training, and return the figures of this batch before it.

        Parameters
        ----------
        X, Y, sample_weight, class_weight
            As in `fit`.
        return_dict : bool
            Return the figures by name.
        """
        self._require_compiled("train_on_batch")
        batch = self._one_batch(X, Y, sample_weight, class_weight)
        tally = Tally(self)
        with self.training():
            loss, outputs = training.train_step(self, *batch[:2], None, *batch[2:])  # type: ignore[arg-type]
            tally.add(loss, outputs, batch)
        return tally.figures() if return_dict else Score(tally.figures())

    def test_on_batch(
        self,
        X: Any,
        Y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        return_dict: bool = False,
    ) -> Score | dict[str, Any]:
        """Return the figures of one batch, in inference mode.

        Parameters
        ----------
        X, Y, sample_weight, return_dict
            As in `evaluate`.
        """
        self._require_compiled("test_on_batch")
        batch = self._one_batch(X, Y, sample_weight, None)
        tally = Tally(self)
        tally.add(*training.eval_step(self, batch), batch)
        return tally.figures() if return_dict else Score(tally.figures())

    def predict_on_batch(self, X: Any) -> NDArray:
        """Return the outputs for one batch, in inference mode.

        Parameters
        ----------
        X : array_like, shape (N, ...)
        """
        self._require_compiled("predict_on_batch")
        x, mask = feeds.as_inputs(X)
        self._build_for(x)
        return self.forward(x, train=False, mask=mask)

    def reset_states(self) -> None:
        """Call `reset_states` of all layers that have it; those of npdl keep no state."""
        for layer in self.layers:
            if hasattr(layer, "reset_states"):
                layer.reset_states()

    def accuracy(self, outputs: ArrayLike, targets: ArrayLike) -> float:
        """Return the fraction of `outputs` that are right.

        Parameters
        ----------
        outputs : array_like, shape (N, ..., K), (N, 1) or (N,)
            What `predict` returned. The greatest of K wins; a single one means yes above 0.5.
        targets : array_like
            One-hot like `outputs`, or class numbers of shape (N, ...).
        """
        loss = self.loss if self.compiled else None
        return scores.accuracy(np.asarray(outputs), np.asarray(targets), loss)

    # ------------------------------------------------------------------------------- the parts

    def _callbacks(
        self,
        callbacks: list[Callback],
        feed: Feed,
        file: TextIO | None = None,
        **params: Any,
    ) -> CallbackList:
        sizes = {"steps": feed.steps, "samples": feed.samples, "file": file}
        return CallbackList(callbacks, self, **sizes, **params)

    def _feed(
        self,
        data: _Data,
        batch_size: int,
        steps: int | None = None,
        shuffle: bool = False,
        class_weight: Any = None,
    ) -> Feed:
        """Batches of data that were tried on the model."""
        check_int("batch_size", batch_size)
        steps = _optional("steps", steps)
        if data.batch is not None:
            self._build_for(data.batch.x)
            table = self._class_table(class_weight, data.batch)
            return ArrayFeed(self._prepare(data.batch, table), batch_size, shuffle, steps)
        table = self._class_table(class_weight)
        feed = StreamFeed(data.stream, steps, lambda batch: self._weighed(batch, table))
        self._prepare(feed.first(), table)
        return feed

    def _one_batch(
        self,
        X: Any,
        Y: ArrayLike,
        sample_weight: ArrayLike | None,
        class_weight: Any,
    ) -> Batch:
        batch = feeds.as_batch(X, _targets(Y), sample_weight)
        self._build_for(batch.x)
        return self._weighed(batch, self._class_table(class_weight, batch))

    def _class_table(
        self, class_weight: Any, batch: Batch | None = None
    ) -> dict[int, float] | None:
        """The weights of the classes; "balanced" ones need all samples."""
        if class_weight is None:
            return None
        if not isinstance(class_weight, str):
            return _weights.class_table(class_weight)
        if class_weight != "balanced" or batch is None:
            rule = "`class_weight` must be a dict of weights, an array, or, for arrays, 'balanced'"
            raise ValueError(complaint(rule, class_weight=class_weight))
        labels = _weights.class_numbers(*self._classes_last(batch.y))
        kept = np.ones(labels.shape, bool)
        if batch.mask is not None and labels.shape[:2] == batch.mask.shape:
            kept &= batch.mask.reshape(batch.mask.shape + (1,) * (labels.ndim - 2)) != 0
        if getattr(self.loss, "ignore_class", None) is not None:
            kept &= labels != self.loss.ignore_class
        return _weights.balanced(labels[kept])

    def _classes_last(self, y: NDArray | None) -> tuple[NDArray, tuple[int, ...]]:
        """Targets, and the shape of the outputs, with the classes along the last axis."""
        targets = _targets(y)
        shape = [n or 1 for n in self.layers[-1].out_shape]  # type: ignore[union-attr]
        outputs = np.broadcast_to(np.float32(0), shape)
        if isinstance(self.loss, Objective):
            outputs, targets = self.loss.arrange(outputs, targets)
        return targets, outputs.shape

    def _weighed(self, batch: Batch, table: Mapping[int, float] | None) -> Batch:
        """The batch with the weights of the classes, if there are any."""
        if table is None:
            return batch
        weights = _weights.class_weights(table, *self._classes_last(batch.y))
        return batch._replace(weight=_weights.times(weights, batch.weight))

    @np.errstate(all="ignore")
    def _prepare(self, batch: Batch, table: Mapping[int, float] | None = None) -> Batch:
        """Build if need be; raise now what is wrong with the shapes, or with any class number."""
        self._build_for(batch.x)
        _targets(batch.y)
        one = batch.rows(slice(1))
        outputs = self.forward(one.x, train=False, mask=one.mask)
        self._check_targets(batch, (len(batch.x), *outputs.shape[1:]))
        batch = self._weighed(batch, table)
        one = batch.rows(slice(1))
        loss = self.loss_of(outputs, one.y, one.weight, one.mask)  # type: ignore[arg-type]
        if np.ndim(loss):
            raise ValueError("The loss of a model must be one number.")
        return batch

    def _check_targets(self, batch: Batch, shape: tuple[int, ...]) -> None:
        """Look at all targets and weights, for outputs of this shape."""
        loss = self.loss
        if not is_plain(loss):
            return
        outputs, y = loss.arrange(np.broadcast_to(np.float32(0), shape), batch.y)  # type: ignore[arg-type]
        y, items = aligned(loss, outputs, y), loss.item_shape(outputs)
        matched = loss.match(outputs.shape, y.shape)
        if batch.weight is not None:
            weights_like(items, batch.weight)
        if not loss.takes_labels or len(matched) == outputs.ndim:
            return
        labels, kept = y.reshape(matched), np.ones(matched, bool)
        mask = _weights.steps_mask(batch.mask, shape)
        for counting in (mask, batch.weight):
            if counting is not None:
                kept &= weights_like(items, counting) != 0
        if loss.ignore_class is not None:
            kept &= labels != loss.ignore_class
        label_array(labels if kept.all() else labels[kept], outputs.shape[-1], "Y")


class _Data:
    """What a user passes as data: all of it as a `Batch`, or an iterable of batches."""

    def __init__(self, X: Any, Y: Any, sample_weight: Any) -> None:
        self.batch: Batch | None = None
        self.stream: Any = None
        if feeds.is_stream(X):
            for name, value in (("Y", Y), ("sample_weight", sample_weight)):
                if value is not None:
                    rule = f"`{name}` must be None where `X` is an iterable, which yields it"
                    raise ValueError(complaint(rule, **{name: type(value).__name__}))
            self.stream = X
        else:
            self.batch = feeds.as_batch(X, Y, sample_weight)

    @classmethod
    def of_validation(cls, data: Any) -> _Data:
        """Validation data: a pair (X, Y), or an iterable."""
        if feeds.is_stream(data) and not isinstance(data, np.ndarray):
            return cls(data, None, None)
        if not isinstance(data, tuple | list) or len(data) not in (2, 3):
            got = f"{len(data)} items" if isinstance(data, tuple | list) else type(data).__name__
            raise ValueError(f"`validation_data` must be a pair (X, Y). Received: {got}")
        return cls(*data, *[None] * (3 - len(data)))

    def split(self, fraction: float) -> tuple[_Data, _Data]:
        """Hold out the last samples; both parts are views."""
        if self.batch is None:
            rule = "`validation_split` needs arrays; pass validation_data beside an iterable"
            raise ValueError(complaint(rule, validation_split=fraction))
        total = len(self.batch.x)
        n = total - round(total * fraction)
        if n in (0, total):
            rule = f"`validation_split` must divide {total} samples into two parts"
            raise ValueError(complaint(rule, validation_split=fraction))
        parts = self.batch.rows(slice(n)), self.batch.rows(slice(n, None))
        return _Data._of(parts[0]), _Data._of(parts[1])

    @classmethod
    def _of(cls, batch: Batch) -> _Data:
        data = cls.__new__(cls)
        data.batch, data.stream = batch, None
        return data

    def feed(self, batch_size: int, steps: int | None) -> Feed:
        """Batches, as they are."""
        if self.batch is None:
            return StreamFeed(self.stream, steps)
        return ArrayFeed(self.batch, batch_size, False, steps)


class _Shown:
    """A bar, perhaps, for the time of a block."""

    def __init__(self, verbose: int | str) -> None:
        self._progress = make_progress(verbose, sys.stdout)

    def __enter__(self) -> list[Callback]:
        return [] if self._progress is None else [self._progress]

    def __exit__(self, *error: object) -> None:
        if self._progress is not None:
            self._progress.close()


def _targets(y: Any) -> Any:
    if y is None:
        raise ValueError("`Y` must be given, or come with the batches of `X`. Received: Y=None")
    return y


def _optional(name: str, value: int | None) -> int | None:
    return None if value is None else check_int(name, value)
