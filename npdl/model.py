"""Level 2: a network that is built, trained and used as one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl import results, training
from npdl._calls import also_called
from npdl._checks import check_int, check_number
from npdl.adapter import Data, about_validation, make_feed, one_batch
from npdl.batch import as_batch, as_samples
from npdl.callbacks import Callback, CallbackList, History
from npdl.callbacks.progress import make_progress
from npdl.feed import Feed
from npdl.layers.plan import Plan
from npdl.layers.tree import every_layer
from npdl.repeated import Repeats
from npdl.results import EvaluationResult, RunningMetrics
from npdl.trainer import Trainer

if TYPE_CHECKING:
    from npdl.predictor import Predictor


class Model(Trainer):
    """A network of layers: a chain, ``Model([...])``, or any shape, ``Model(inputs, outputs)``.

    Parameters
    ----------
    layers : list of Layer, or Layer, optional
        The layers from input to output; or the output layer of a network whose layers were
        connected by hand, which leads to all of them. With `outputs`: the inputs, see there.
    outputs : Value, or list or dict of Value, optional
        Symbolic outputs of layers that were called on the inputs, see `npdl.Input`. The keys of a
        dict are the names of the outputs.
    inputs : Value, or list or dict of Value, optional, keyword-only
        Another name for the first argument, where `outputs` is given.
    name : str, optional, keyword-only
        The name of the model as a layer of another one.

    Attributes
    ----------
    layers : list of Layer
        In the order in which they are computed.
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

    #: What it takes to repeat predictions fast; None before the first one.
    _repeats: Repeats | None = None

    @also_called(x="X", y="Y")
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
        """Train, and print a line for each epoch. Ctrl-C ends training, not the program.

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
            The number of the last epoch: two names of one argument; `epochs` takes precedence.
        batch_size : int
            Samples in a step. The last batch of an epoch may be smaller.
        shuffle : bool
            Take the samples in a new order in each epoch, drawn from ``npdl.utils.get_rng()``.
        validation_split : float
            Fraction of the samples to hold out, in [0, 1): the last ones, before any shuffling.
        validation_data : tuple (X, Y) or (X, Y, sample_weight), or iterable of batches, optional
            Held-out samples; takes precedence over `validation_split`.
        file : text file, optional
            Where to print; standard output by default.
        verbose : {0, 1, 2, 'auto'}
            0 prints nothing, 2 a line for each epoch. 1 and 'auto' show a bar too, by tqdm, where
            there is a terminal or a notebook for it.
        callbacks : list of npdl.callbacks.Callback, optional
        class_weight : dict of int to float, array_like or "balanced", optional
            A weight for the samples of each class; 1 for those not named. "balanced" gives all
            classes the same total weight, n / (classes * n of the class); it needs arrays.
        sample_weight : array_like of shape (N,), or (N, T) for sequences, optional
            Weight of each sample, or time step, in the loss. Samples of weight 0 may hold anything.
        initial_epoch : int
            Number of epochs already done; training starts with the next one.
        steps_per_epoch : int, optional
            Batches per epoch. By default an epoch covers every sample once.
        validation_steps, validation_batch_size : int, optional
            The same for the validation.
        validation_freq : int
            Run validation only every `validation_freq` epochs.

        Returns
        -------
        History
            The results of each epoch. Those of training are over the whole epoch, while the weights
            change; those of validation are from its end.

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
        train, held_out = Data(self.data_names, X, Y, sample_weight), None
        if validation_data is not None:
            with about_validation():
                held_out = Data.of_validation(self.data_names, validation_data)
        elif validation_split:
            train, held_out = train.split(validation_split)
        feed = make_feed(self, train, batch_size, steps_per_epoch, shuffle, class_weight)
        validation = None
        if held_out is not None:
            size = batch_size if validation_batch_size is None else validation_batch_size
            with about_validation():
                validation = make_feed(self, held_out, size, validation_steps)
        history, progress = History(), make_progress(verbose, file or sys.stdout)
        hooks = self._callbacks(
            [*CallbackList(callbacks), *([progress] if progress else []), history],
            feed,
            file,
            verbose=verbose,
            epochs=epochs,
        )
        loop = training.TrainingLoop(
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

    @also_called(x="X", y="Y")
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
    ) -> EvaluationResult | dict[str, Any]:
        """Return ``(loss, accuracy)``, or loss and metrics, over all samples, in inference mode.

        Parameters
        ----------
        X, Y, batch_size, sample_weight, callbacks, verbose
            As in `fit`.
        steps : int, optional
            How many batches to take, if not all.
        return_dict : bool
            Return the results by name.

        Returns
        -------
        EvaluationResult or dict
            A tuple, with `loss`, `accuracy` and `results` as attributes. The accuracy is None where
            the loss is not one of classification; see `compile` for the metrics.
        """
        self._require_compiled("evaluate")
        data = Data(self.data_names, X, Y, sample_weight)
        feed = make_feed(self, data, batch_size, steps)
        with _Shown(verbose) as progress:
            hooks = self._callbacks([*CallbackList(callbacks), *progress], feed, verbose=verbose)
            found = training.evaluate(self, feed, hooks)
        return found if return_dict else EvaluationResult(found)

    @also_called(x="X")
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

        Nothing is written on the layers, so several threads may predict at once.

        Parameters
        ----------
        X : array_like of shape (N, ...), or iterable of batches
            As in `fit`; targets that an iterable yields are ignored.
        batch_size : int
            Samples at a time; bounds the memory needed.
        steps : int, optional
            How many batches to take, if not all.
        verbose, callbacks
            As in `fit`.
        """
        plan = self.plan
        if plan is None:
            self._require_predictable("predict")
        check_int("batch_size", batch_size)
        plain = isinstance(X, np.ndarray) and not (callbacks or verbose or steps is not None)
        if plain and 0 < X.ndim and len(X) <= batch_size:  # one batch needs no loop
            return self._predict_at_once(X, plan)
        feed = Data(self.data_names, X).feed(batch_size, _optional("steps", steps))
        self.build_for(feed.first().x)
        with _Shown(verbose) as progress:
            hooks = self._callbacks([*CallbackList(callbacks), *progress], feed, verbose=verbose)
            return training.predict(self, feed, hooks)

    @also_called(x="X", y="Y")
    def train_on_batch(
        self,
        X: Any,
        Y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        class_weight: Any = None,
        return_dict: bool = False,
    ) -> EvaluationResult | dict[str, Any]:
        """Do one step of training, and return the results of this batch before it.

        Parameters
        ----------
        X, Y, sample_weight, class_weight
            As in `fit`.
        return_dict : bool
            Return the results by name.
        """
        self._require_compiled("train_on_batch")
        batch = one_batch(self, X, Y, sample_weight, class_weight)
        metrics = RunningMetrics(self)
        with self.training():
            metrics.add(training.train_on(self, batch), batch)
        return metrics.results() if return_dict else EvaluationResult(metrics.results())

    @also_called(x="X", y="Y")
    def test_on_batch(
        self,
        X: Any,
        Y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        return_dict: bool = False,
    ) -> EvaluationResult | dict[str, Any]:
        """Return loss and metrics of one batch, in inference mode.

        Parameters
        ----------
        X, Y, sample_weight, return_dict
            As in `evaluate`.
        """
        self._require_compiled("test_on_batch")
        batch = one_batch(self, X, Y, sample_weight, None)
        metrics = RunningMetrics(self)
        metrics.add(training.eval_step(self, batch), batch)
        return metrics.results() if return_dict else EvaluationResult(metrics.results())

    @also_called(x="X")
    def predict_on_batch(self, X: Any) -> NDArray:
        """Return the outputs for one batch, in inference mode.

        Parameters
        ----------
        X : array_like, shape (N, ...)
        """
        self._require_predictable("predict_on_batch")
        return self._predict_at_once(X, self.plan)

    def _predict_at_once(self, X: Any, plan: Plan | None) -> Any:
        if plan is not None and self.inputs is None and type(X) is np.ndarray:
            x = as_samples("X", X)
            y = self._repeated(plan, x)
            return training.predict_array(plan, x) if y is None else y
        batch = as_batch(X, names=self.data_names)
        plan = self.build_for(batch.x)
        if type(X) is np.ndarray:
            y = self._repeated(plan, X)
            if y is not None:
                return y
        return self.packed(training.predict_step(plan, batch))

    def _repeated(self, plan: Plan, x: NDArray) -> Any:
        repeats = self._repeats
        if repeats is None or repeats.plan is not plan:
            repeats = self._repeats = Repeats(plan)
        return repeats.predict(self, x)

    def predictor(self, batch_size: int = 256) -> Predictor:
        """Return a snapshot of the model for inference, see `npdl.predictor.Predictor`.

        Parameters
        ----------
        batch_size : int
            Samples at a time; bounds the memory needed.
        """
        from npdl.predictor import Predictor

        self._require_predictable("predictor")
        return Predictor(self, batch_size)

    def reset_states(self) -> None:
        """Call `reset_states` of all layers that have it, such as stateful recurrent layers."""
        for layer in every_layer(self.layers):
            if hasattr(layer, "reset_states"):
                layer.reset_states()

    def accuracy(self, outputs: ArrayLike, targets: ArrayLike) -> float:
        """Return the fraction of `outputs` that are right.

        Parameters
        ----------
        outputs : array_like, shape (N, ..., K), (N, 1) or (N,)
            What `predict` returned. The largest of K is predicted; a single one means yes above
            0.5.
        targets : array_like
            One-hot like `outputs`, or class numbers of shape (N, ...).
        """
        loss = self.heads[0].loss if self.compiled else None
        return results.accuracy(np.asarray(outputs), np.asarray(targets), loss)

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


class _Shown:
    """Show a progress bar while the block runs, if `verbose` asks for one."""

    def __init__(self, verbose: int | str) -> None:
        self._progress = make_progress(verbose, sys.stdout)

    def __enter__(self) -> list[Callback]:
        return [] if self._progress is None else [self._progress]

    def __exit__(self, *error: object) -> None:
        if self._progress is not None:
            self._progress.close()


def _optional(name: str, value: int | None) -> int | None:
    return None if value is None else check_int(name, value)
