"""Level 2: the loops over epochs and batches.

::

    TrainingLoop.run  for each epoch: train on every batch, validate, call back  -> History
      Feed.epoch      the samples in order, or gathered by a permutation
      train_step      forward, loss, backward, update
    evaluate          loss and metrics, nothing written                          -> Results
    predict           outputs, nothing written
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl._busy import trained_here
from npdl._checks import warn
from npdl.batch import Batch
from npdl.callbacks import CallbackList, History
from npdl.feed import Feed
from npdl.heads import Result
from npdl.layers.plan import Plan
from npdl.results import EvaluationResult, Results, RunningMetrics
from npdl.trainer import Trainer
from npdl.training_checks import GradientCheck, LossCheck
from npdl.utils.random import get_rng_state, set_rng_state

__all__ = ["EvaluationResult", "History", "TrainingLoop", "evaluate", "predict", "train_step"]


def train_step(
    model: Trainer, X: Any, Y: Any, sample_weight: Any = None, mask: Any = None
) -> tuple[float, Any]:
    """Train on one batch of arrays, and return its loss and the outputs before the update.

    The next step may overwrite the outputs.
    """
    result = train_on(model, model.batch_of(X, Y, sample_weight, mask))
    return result.loss, model.packed(result.outputs)


def train_on(model: Trainer, batch: Batch, watch: LossCheck | None = None) -> Result:
    """Train on one batch, and return its losses and the outputs before the update."""
    step = model.whole_step(batch)
    if step is None:
        return _walk(model, batch, watch)
    done = step(batch, model, watch)
    if done is None:
        return _walk(model, batch, watch)
    result, updated = done
    if not updated:
        with np.errstate(all="ignore"):
            model.update_after(batch, result)
    return result


# Instead of NumPy's warnings, `LossCheck` warns with the cause.
@np.errstate(all="ignore")
def _walk(model: Trainer, batch: Batch, watch: LossCheck | None) -> Result:
    """`train_on`, where it is more than one call."""
    result, caches = model.forward_batch(batch)
    if watch is not None:
        watch.check(model, batch, result.loss)
        watch.look_at(model, result.outputs)
    model.loss_backward(caches)
    model.update_after(batch, result)
    model.record_step(batch)
    return result


class Interrupt:
    """Defers Ctrl-C to the next step boundary; a second Ctrl-C takes effect at once.

    A step boundary is between two batches, while the next one is fetched.
    """

    def __init__(self) -> None:
        self.busy = True
        self._waiting = False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Handle Ctrl-C within the block, unless the program handles it itself."""
        import signal
        import threading

        main = threading.current_thread() is threading.main_thread()
        if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._waiting or not self.busy:
            raise KeyboardInterrupt
        self._waiting = True

    def boundary(self) -> None:
        """Mark a step boundary, and raise a pending KeyboardInterrupt."""
        self.busy = False
        if self._waiting:
            self._waiting = False
            raise KeyboardInterrupt

    def allow(self) -> None:
        """Allow one pending Ctrl-C here."""
        self.boundary()
        self.busy = True


class TrainingLoop:
    """A training run; callbacks find it as ``model.loop``.

    Parameters
    ----------
    model : Model
    feed : Feed
        What to train on.
    validation : Feed, optional
    callbacks : CallbackList
    epochs : int
        The number of epochs; training ends before this one, counted from 0.
    initial_epoch : int
        The first epoch.
    validation_freq : int
        Run validation only every `validation_freq` epochs.

    Attributes
    ----------
    epoch : int
        The current epoch, from 0; between two epochs, the next one.
    batch : int
        Number of its batches that are done.
    samples : int
        Number of its samples that are done.
    speed : float
        Samples per second in this epoch, without validation.
    metrics : RunningMetrics
        Its loss and metrics so far.
    interrupted : bool
        Whether Ctrl-C has ended training.
    """

    def __init__(
        self,
        model: Trainer,
        feed: Feed,
        validation: Feed | None,
        callbacks: CallbackList,
        *,
        epochs: int,
        initial_epoch: int = 0,
        validation_freq: int = 1,
    ) -> None:
        self.model = model
        self.feed = feed
        self.validation = validation
        self.callbacks = callbacks
        self.epochs = epochs
        self.validation_freq = validation_freq
        self.epoch = initial_epoch
        self.batch = 0
        self.samples = 0
        self.speed = 0.0
        self.metrics = RunningMetrics(model)
        self.interrupted = False
        self._watch = LossCheck()
        self._gradients: GradientCheck | None = None
        self._interrupt = Interrupt()
        self._resume: dict[str, Any] | None = None
        self._logs: Results | None = None

    def get_state(self) -> dict[str, Any]:
        """Return the state needed to resume training, besides model and optimizer.

        It is consistent in the hook `on_step_boundary` of callbacks.

        Returns
        -------
        dict
            Of JSON types and arrays.
        """
        lr = getattr(self.model.optimizer, "lr", None)
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "samples": self.samples,
            "stop": self.model.stop_training,
            "feed": self.feed.get_state(),
            "metrics": self.metrics.get_state(),
            "callbacks": self.callbacks.get_state(),
            "lr": float(lr) if isinstance(lr, int | float | np.floating) else None,
            "rng": get_rng_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what `get_state` returned; call it in the hook `on_train_begin`.

        It takes effect after this hook of all callbacks.

        Parameters
        ----------
        state : dict
        """
        self._resume = state

    def _apply_resume_state(self) -> None:
        """Move to the epoch and batch of the saved state."""
        state = self._resume
        if state is None:
            return
        self.epoch, self.batch = int(state["epoch"]), int(state["batch"])
        self.samples, self.model.stop_training = int(state["samples"]), bool(state["stop"])
        self.feed.set_state(state["feed"])
        self.metrics.set_state(state["metrics"])
        if self.batch == 0:
            self._restore_callbacks()

    def _restore_callbacks(self) -> None:
        """Restore the state that callbacks may have changed since the run was resumed."""
        state, self._resume = self._resume, None
        if state is None:
            return
        self.callbacks.set_state(state["callbacks"])
        if state["lr"] is not None:
            self.model.optimizer.lr = state["lr"]
        set_rng_state(state["rng"])

    def run(self) -> None:
        """Train, from the first callback to the last."""
        with trained_here(self.model):
            self._run()

    def _run(self) -> None:
        model, callbacks = self.model, self.callbacks
        model.loop, model.stop_training = self, False
        try:
            with self._interrupt.watching():
                try:
                    callbacks.call("on_train_begin", None)
                    self._apply_resume_state()
                    if getattr(model.optimizer, "swapped", False):
                        model.swap_averages()
                    self._gradients = GradientCheck(model)
                    while self.epoch < self.epochs and not model.stop_training:
                        self._run_epoch()
                except KeyboardInterrupt:
                    self.interrupted = True
            model.finish_training()
            callbacks.call("on_train_end", self._logs)
        finally:
            model.loop = None
            self.feed.close()

    def _run_epoch(self) -> None:
        callbacks, epoch = self.callbacks, self.epoch
        callbacks.call("on_epoch_begin", epoch, None)
        self._restore_callbacks()
        self._train()
        if self.feed.exhausted:
            warn(
                f"X ran out of batches in epoch {epoch + 1} of {self.epochs}: the training ends. "
                "A generator must yield those of all epochs."
            )
            self.model.stop_training = True
            if self.batch == 0:
                return
        if self._gradients is not None:
            self._gradients.check()
            self._gradients = None
        callbacks.call("on_metrics_ready", self.metrics)
        self._logs = logs = self.metrics.results()
        if self.validation is not None and (epoch + 1) % self.validation_freq == 0:
            self._validate(self.validation, logs)
        callbacks.call("on_epoch_end", epoch, logs)
        self.epoch, self.batch, self.samples = epoch + 1, 0, 0
        self.metrics = RunningMetrics(self.model)
        if callbacks.wants("on_step_boundary"):
            callbacks.call("on_step_boundary", self.epoch, 0)
        self._interrupt.allow()

    def _validate(self, feed: Feed, logs: Results) -> None:
        """Add the results of the validation to those of the epoch."""
        held_out = evaluate(self.model, feed, self.callbacks, self._interrupt.allow, False)
        if feed.exhausted:
            self.validation = None
            warn(
                f"`validation_data` ran out of batches in epoch {self.epoch + 1} of {self.epochs}: "
                "training continues without validation. A generator must yield the batches of "
                "all validations."
            )
        logs.update((f"val_{name}", value) for name, value in held_out.items())

    def _train(self) -> None:
        """Train on the batches of this epoch that are not done yet."""
        model, callbacks, watch, interrupt = (
            self.model,
            self.callbacks,
            self._watch,
            self._interrupt,
        )
        watch.epoch = self.epoch + 1
        begins, ends = (callbacks.wants(f"on_train_batch_{when}") for when in ("begin", "end"))
        reads = callbacks.reads("on_train_batch_end")
        has_boundary_hook = callbacks.wants("on_step_boundary")
        start, before = time.perf_counter(), self.samples
        with model.training():
            interrupt.boundary()
            for batch in self.feed.epoch(self.batch):
                interrupt.busy = True
                if begins:
                    callbacks.call("on_train_batch_begin", self.batch, {})
                self.metrics.add(train_on(model, batch, watch), batch)
                self.batch += 1
                self.samples += batch.samples
                if ends:
                    logs = self.metrics.results(everything=False) if reads else None
                    callbacks.call("on_train_batch_end", self.batch - 1, logs)
                if has_boundary_hook:
                    callbacks.call("on_step_boundary", self.epoch, self.batch)
                if model.stop_training:
                    break
                interrupt.boundary()
        interrupt.busy = True
        self.speed = (self.samples - before) / (time.perf_counter() - start)


def evaluate(
    model: Trainer,
    feed: Feed,
    callbacks: CallbackList | None = None,
    after_batch: Callable[[], None] = lambda: None,
    required: bool = True,
) -> Results:
    """Loss and metrics over all samples, in inference mode; `after_batch` is called after each.

    Without any batch there are no results, or an error if they are required.
    """
    callbacks = callbacks or CallbackList()
    begins, ends = (callbacks.wants(f"on_test_batch_{when}") for when in ("begin", "end"))
    reads = callbacks.reads("on_test_batch_end")
    callbacks.call("on_test_begin", None)
    metrics = RunningMetrics(model)
    for i, batch in enumerate(feed.epoch()):
        if begins:
            callbacks.call("on_test_batch_begin", i, {})
        metrics.add(eval_step(model, batch), batch)
        if ends:
            logs = metrics.results(everything=False) if reads else None
            callbacks.call("on_test_batch_end", i, logs)
        after_batch()
    feed.close()
    if not metrics.batches and required:
        raise ValueError("The data to evaluate on must yield at least one batch. Received: none")
    callbacks.call("on_metrics_ready", metrics)
    results = metrics.results() if metrics.batches else Results()
    callbacks.call("on_test_end", results)
    return results


@np.errstate(all="ignore")
def eval_step(model: Trainer, batch: Batch) -> Result:
    """Loss and outputs of one batch, in inference mode."""
    return model.forward_batch(batch, train=False)[0]


def predict_step(plan: Plan, batch: Batch) -> list[NDArray]:
    """The outputs of one batch, in inference mode: never the input's own memory."""
    outputs, _ = plan.forward(batch.x, False, batch.mask or None)
    return own_arrays(outputs, batch)


def own_arrays(outputs: list[NDArray], batch: Batch) -> list[NDArray]:
    """The outputs, copied where they share the memory of an input."""
    return [y.copy() if any(np.may_share_memory(y, x) for x in batch.x) else y for y in outputs]


def predict_array(plan: Plan, x: NDArray) -> NDArray:
    """Like `predict_step`, for a plan of one input and one output, with less overhead."""
    y = plan.forward((x,), False)[0][0]
    return y.copy() if (y.base is not None and np.may_share_memory(y, x)) or y is x else y


def predict(model: Trainer, feed: Feed, callbacks: CallbackList) -> Any:
    """The outputs for all samples, in inference mode."""
    begins, ends = (callbacks.wants(f"on_predict_batch_{when}") for when in ("begin", "end"))
    callbacks.call("on_predict_begin", None)
    plan = model.require_plan("predict")
    parts: list[list[NDArray]] = []
    whole: list[NDArray] | None = None
    filled = 0
    for i, batch in enumerate(feed.epoch()):
        if begins:
            callbacks.call("on_predict_batch_begin", i, {})
        outputs = predict_step(plan, batch)
        if feed.samples is not None and feed.steps != 1:
            if whole is None:
                whole = [np.empty((feed.samples, *y.shape[1:]), y.dtype) for y in outputs]
            for array, y in zip(whole, outputs):
                array[filled : filled + len(y)] = y
            filled += batch.samples
        else:
            parts.append(outputs)
        if ends:
            callbacks.call("on_predict_batch_end", i, {"outputs": model.packed(outputs)})
    callbacks.call("on_predict_end", None)
    if whole is not None:
        return model.packed(whole)
    if not parts:
        raise ValueError("`X` must yield at least one batch. Received: none")
    if len(parts) == 1:
        return model.packed(parts[0])
    return model.packed([np.concatenate(arrays) for arrays in zip(*parts)])
