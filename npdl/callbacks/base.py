"""The base class of callbacks, and the list through which the loops call them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npdl.results import RunningMetrics
    from npdl.trainer import Trainer

#: Loss and metric values by name: ``{"loss": 0.3, "val_acc": 0.9}``.
Logs = dict[str, float]


class Callback:
    """Base class of objects that `Model.fit`, `evaluate` and `predict` call as they run.

    A subclass defines the hooks that it needs; the others cost nothing. Epochs and
    batches are counted from 0, as in Keras. `logs` may be changed: the callbacks after this one,
    and the history, which comes last, see it.

    Attributes
    ----------
    model : Model
        Setting ``model.stop_training = True`` ends training after this batch or epoch.
        ``model.loop`` is the running `npdl.training.TrainingLoop`, with the position in the run.
    params : dict
        "verbose", "epochs", "steps" (batches in an epoch, None where unknown) and "samples".
    """

    model: Trainer
    params: dict[str, Any]

    #: Whether the hooks of batches read their `logs`. Where no callback does, none are computed.
    reads_batch_logs = True
    #: Whether it prints, or writes files. Where several processes train one model, only the first
    #: one calls such callbacks, see `npdl.distributed`.
    writes = False

    def set_model(self, model: Trainer) -> None:
        """Called first, with the model."""
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        """Called before training begins, with the settings of the run."""
        self.params = params

    def arrange(self, callbacks: list[Callback]) -> list[Callback]:
        """Return the callbacks to call, in order, in place of those that the user passed.

        Parameters
        ----------
        callbacks : list of Callback
            This one among them.
        """
        return callbacks

    def get_state(self) -> dict[str, Any]:
        """Return the state needed to resume a training run: JSON types and arrays."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from what `get_state` returned; called after `on_train_begin`.

        Parameters
        ----------
        state : dict
        """

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Called at the start of `fit`."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Called at the end of `fit`, with the results of the last epoch; after Ctrl-C too."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Called at the start of each epoch."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Called at the end of each epoch, with its results, including those of validation."""

    def on_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Another name of `on_train_batch_begin`."""

    def on_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Another name of `on_train_batch_end`."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Called before each step."""
        self.on_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Called after each step, with the results of the epoch so far."""
        self.on_batch_end(batch, logs)

    def on_step_boundary(self, epoch: int, batch: int) -> None:
        """Called between two steps, and between two epochs, after all other hooks.

        At this moment ``model.loop.get_state()``, the model and its optimizer are enough to resume
        training. `batch` batches of `epoch` are done; 0 between two epochs. Keras has no such hook.
        """

    def on_metrics_ready(self, metrics: RunningMetrics) -> None:
        """Called with the loss and metrics of an epoch, a validation or an evaluation.

        Results are computed from them afterwards, so changes made here show. Keras has no such
        hook.
        """

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Called at the start of `evaluate`, and of the validation in `fit`."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Called at the end of `evaluate`, and of the validation in `fit`, with the results."""

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Called before each batch of `evaluate` or validation."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Called after each batch of `evaluate` or validation, with the results so far."""

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Called at the start of `predict`."""

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """Called at the end of `predict`."""

    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Called before each batch of `predict`."""

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        """Called after each batch of `predict`, with ``{"outputs": array}``."""


HOOKS = tuple(name for name in vars(Callback) if name.startswith("on_"))

#: Hooks that call another hook by default: they are needed where that one is defined.
_ALIASES = {"on_train_batch_begin": "on_batch_begin", "on_train_batch_end": "on_batch_end"}


class CallbackList:
    """Calls the hooks of several callbacks, in order, and only those that are defined.

    Parameters
    ----------
    callbacks : Callback, iterable of Callback, or None
    model : Model, optional
    **params
        Passed to `Callback.set_params`.
    """

    def __init__(self, callbacks: Any = None, model: Trainer | None = None, **params: Any) -> None:
        self.callbacks = _checked(callbacks)
        for callback in [*self.callbacks]:
            self.callbacks = callback.arrange(self.callbacks)
        self._hooks: dict[str, list[tuple[Callback, Callable[..., None]]]] = {
            hook: [(c, getattr(c, hook)) for c in self.callbacks if _defines(c, hook)]
            for hook in HOOKS
        }
        for callback in self.callbacks:
            callback.set_params(params)
            if model is not None:
                callback.set_model(model)

    def __iter__(self) -> Iterator[Callback]:
        return iter(self.callbacks)

    def wants(self, hook: str) -> bool:
        """Whether any callback defines this hook."""
        return bool(self._hooks[hook])

    def reads(self, hook: str) -> bool:
        """Whether any callback reads the logs of this hook of batches."""
        return any(callback.reads_batch_logs for callback, _ in self._hooks[hook])

    def call(self, hook: str, *args: Any) -> None:
        """Call a hook, such as ``"on_epoch_end"``, of all callbacks that define it."""
        for _, function in self._hooks[hook]:
            function(*args)

    def get_state(self) -> list[dict[str, Any]]:
        """The state needed to resume a training run: the class and the state of each callback."""
        return [{"class": type(c).__name__, "state": c.get_state()} for c in self.callbacks]

    def set_state(self, states: list[dict[str, Any]]) -> None:
        """Restore each callback from the state of one of its class, in order.

        New callbacks get no state, and states of removed callbacks are ignored.

        Parameters
        ----------
        states : list of dict
        """
        left = list(states)
        for callback in self.callbacks:
            found = next((s for s in left if s["class"] == type(callback).__name__), None)
            if found is not None:
                left.remove(found)
                callback.set_state(found["state"])


def _checked(callbacks: Any) -> list[Callback]:
    if isinstance(callbacks, Callback):
        return [callbacks]
    found = list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]
    for callback in found if callbacks is not None else ():
        if not isinstance(callback, Callback):
            raise TypeError(f"`callbacks` must be instances of Callback. Received: {callback!r}")
    return found if callbacks is not None else []


def _defines(callback: Callback, hook: str) -> bool:
    """Whether a callback defines a hook, in its class or on the instance."""
    if hook in vars(callback) or getattr(type(callback), hook) is not getattr(Callback, hook):
        return True
    return hook in _ALIASES and _defines(callback, _ALIASES[hook])
