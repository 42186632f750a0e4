"""Level 2: a network with losses and an optimizer: one step of training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from numpy.typing import NDArray

from npdl._busy import trained_here
from npdl._calls import takes
from npdl.batch import Batch
from npdl.functional import Functional
from npdl.heads import Head, Result, make_heads
from npdl.layers._shapes import UnknownSize
from npdl.layers.base import Layer
from npdl.layers.flat import flatten
from npdl.layers.owning import keeps_its_arrays, named_arrays
from npdl.layers.parameter import Parameter
from npdl.layers.plan import Plan
from npdl.layers.tree import every_layer
from npdl.metrics import Metric
from npdl.objectives import SoftmaxCategoricalCrossEntropy as SCCE
from npdl.objectives.base import count_of
from npdl.optimizers import SGD, Optimizer
from npdl.optimizers import get as get_optimizer
from npdl.passes import Passes
from npdl.replay import Replays, WholeStep
from npdl.terms import Term


class Trainer(Functional):
    """Losses, optimizer and one training step: the part of `npdl.model.Model` below `fit`."""

    #: The loss; a dict by output where there are several. So are the metrics.
    loss: Any
    optimizer: Optimizer
    metrics: Any = None
    weighted_metrics: Any = None
    loss_weights: Any = None
    heads: list[Head]
    #: The terms of the loss that `add_loss` was given.
    terms: Sequence[Term] = ()

    #: Set to True, by a callback, to end a training run.
    stop_training: bool = False
    #: The running `npdl.training.TrainingLoop`; None if there is none.
    loop: Any = None

    #: Within `training`: parameters, gradients and their names; the layers that add to the loss.
    _trained: tuple[list[NDArray], list[NDArray], list[str]] | None = None
    _adding: list[Layer] | None = None
    #: Within `training`: the plan, whose layers are not built anew before its end.
    _running: Plan | None = None
    #: Within `training`: the ids of the layers that a loss depends on.
    _reached: set[int] | None = None
    #: `Parameter.switches` when the layers were prepared.
    _switches: int = 0
    #: What was recorded of training steps; the part of it that the step under way uses.
    _replays: Replays | None = None
    _passes: Passes | None = None

    def compile(
        self,
        loss: Any = SCCE,
        optimizer: Any = SGD,
        *,
        metrics: Any = None,
        weighted_metrics: Any = None,
        loss_weights: Any = None,
    ) -> None:
        """Choose loss and optimizer, name the layers and connect them.

        Weights that exist already are kept. If the first layer does not declare the shape of its
        input, the layers are connected at the first `fit` or `predict`, from the data's shape.

        Parameters
        ----------
        loss : Objective, class, name or dict; or any object with `forward` and `backward`
            For several outputs a dict by output, or a list; an output without a loss is not
            trained.
        optimizer : Optimizer, class, name or dict
        metrics : list, optional
            The metrics beside the loss, see `npdl.metrics.get`: ``["accuracy", "top_k"]``. By
            default the accuracy, where the loss is one of classification. For several outputs a
            dict by output, or a list of lists; they are named ``<output>_<metric>``.
        weighted_metrics : list, optional
            The same, counted by the sample weights.
        loss_weights : dict or list of float, optional
            Factors of the losses of several outputs; 1 by default.
        """
        if not self.layers:
            raise ValueError("A model needs at least one layer. Received: layers=[]")
        for name in ("forward", "backward"):
            if getattr(type(self), name) is not getattr(Functional, name):
                raise TypeError(
                    f"{type(self).__name__}.{name} would not be used: training runs the layers by "
                    f"itself. Override {name}() in a layer instead, see npdl.layers.Layer."
                )
        optimizer = get_optimizer(optimizer)
        self.give_names()
        self.heads = make_heads(self.output_names, loss, loss_weights, metrics, weighted_metrics)
        self.loss = self._by_output("loss")
        self.optimizer, self.loss_weights = optimizer, loss_weights
        if isinstance(optimizer, Optimizer):
            optimizer.claim(self)
        self.metrics = self._by_output("plain")
        self.weighted_metrics = self._by_output("weighted")
        if self.inputs is None and self._may_build():
            with contextlib.suppress(UnknownSize):  # known from the data later
                self.build()
        self.compiled = True

    def _may_build(self) -> bool:
        """Whether the shape of the data is known in advance.

        Below new layers, a layer of another model may get data of another size.
        """
        if self.layers[0].declared_shape is not None:
            return True
        return all(layer.out_shape is not None for layer in self.layers)

    @property
    def named_metrics(self) -> list[tuple[str, Metric, bool]]:
        """Name, metric, and whether sample weights count, of the results beside the loss."""
        return [item for head in self.heads for item in head.metrics]

    def _by_output(self, attribute: str) -> Any:
        """An attribute of each head; a dict by name if there are several outputs."""
        if self.heads[0].name is None:
            return getattr(self.heads[0], attribute)
        found = {head.name: getattr(head, attribute) for head in self.heads}
        return None if all(value is None for value in found.values()) else found

    # ------------------------------------------------------------------------------- one step

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Train only in this thread, see `trained_here`, prepared by `_trained_fast`."""
        with trained_here(self), self._trained_fast():
            yield

    @contextlib.contextmanager
    def _trained_fast(self) -> Iterator[None]:
        """Let the layers keep their arrays from step to step, and skip unused gradients."""
        plan = self.require_plan("training")
        try:
            flatten(plan.layers)  # layers copied, or built again, since `build`
            for term in self.terms:
                plan.watch(term.slots(plan))
            self._switches = Parameter.switches
            plan.begin_training()
            reached = plan.reached(head.index for head in self.heads) if self.compiled else None
            for layer in plan.layers:
                layer.was_trained = True
            self._adding = self._adding_layers()
            self._running = plan
            self._replays = self._replays or Replays()
            self._reached = reached
            if all(map(keeps_its_arrays, every_layer(plan.layers))):
                self._trained = self._find_trained(reached)
            yield
        finally:
            self._trained = self._adding = self._reached = self._running = self._passes = None
            plan.end_training()
            if self._replays is not None:
                self._replays.rest()

    def _follow_switches(self, plan: Plan) -> None:
        """Prepare the layers anew if some were frozen or unfrozen in between."""
        if self._switches != Parameter.switches:
            self._switches = Parameter.switches
            plan.begin_training()
            if self._trained is not None:
                self._trained = self._find_trained(self._reached)

    def add_loss(self, function: Callable[..., Any], *values: Any) -> None:
        """Add a term to the loss, in training and in `evaluate`.

        Parameters
        ----------
        function : callable
            Of the arrays of `values` for one batch. It returns one number and is written in
            `autograd.numpy` (``pip install 'npdl[autodiff]'``); or it returns the number and the
            gradient in each array, as ``(number, (gradient, ...))``.
        *values : Value or Layer
            What the function gets: values of the graph, or layers, whose outputs are taken. By
            default the outputs of the model.

        Raises
        ------
        TypeError, ValueError
            If an argument is of another type, or no output of the model depends on a value.

        Notes
        -----
        A file does not hold the function: call `add_loss` again after `npdl.load_model`, which
        warns of it.

        Examples
        --------
        The divergence of a variational autoencoder's codes from the normal distribution::

            def divergence(mean, log_var):
                return -0.5 * np.mean(1 + log_var - mean**2 - np.exp(log_var))

            model.add_loss(divergence, mean, log_var)
        """
        term = Term(function, values)
        if self.plan is not None:
            self.plan.watch(term.slots(self.plan))
        self.terms = [*self.terms, term]

    def _watch_terms(self) -> None:
        for term in self.terms:
            plan = self.require_plan("build")
            with contextlib.suppress(ValueError):  # training will raise it
                plan.watch(term.slots(plan))

    def penalty(self) -> float:
        """Return what the layers add to the loss: regularizers, and terms of their own."""
        adding = self._adding if self._adding is not None else self._adding_layers()
        return sum(layer.penalty() for layer in adding)

    def _adding_layers(self) -> list[Layer]:
        every = {id(layer): layer for layer in every_layer(self.layers)}.values()
        own = Layer.penalty
        return [one for one in every if one.regularizer is not None or type(one).penalty is not own]

    def loss_forward(
        self, X: Any, Y: Any, sample_weight: Any = None, mask: Any = None
    ) -> tuple[float, Any, list[Any]]:
        """Loss and outputs of one training batch, and what `loss_backward` needs.

        Parameters
        ----------
        X, Y : array_like
            Inputs and targets; tuples of them where there are several.
        sample_weight, mask : ndarray, optional
            Tuples of them where there are several targets, or inputs.
        """
        result, caches = self.forward_batch(self.batch_of(X, Y, sample_weight, mask))
        return result.loss, self.packed(result.outputs), caches

    @staticmethod
    def batch_of(X: Any, Y: Any, sample_weight: Any = None, mask: Any = None) -> Batch:
        """Arrays, or tuples of them, as a batch; nothing is checked."""
        return Batch(*map(_parts, (X, Y, sample_weight, mask)))

    def forward_batch(self, batch: Batch, train: bool = True) -> tuple[Result, list[Any]]:
        """Loss and outputs of a batch, and what `loss_backward` needs.

        Parameters
        ----------
        batch : Batch
        train : bool
            Whether `loss_backward` will follow.
        """
        x, y, weight, mask = batch
        plan = self._running or self.require_plan("loss_forward")
        kept: dict[int, NDArray] | None = None
        if self.terms:
            kept = {}
            for term in self.terms:
                plan.watch(term.slots(plan))
        linear = self._fused_heads(plan) if train else []
        self._passes = None
        if train and plan is self._running:
            self._follow_switches(plan)
        if train and plan is self._running and plan.is_chain and not (mask or plan.makes_masks):
            self._passes = self._replays.passes(plan, x[0], bool(linear))  # type: ignore[union-attr]
        if self._passes is None:
            outputs, masks = plan.forward(x, train, mask or None, linear, kept)
        else:
            outputs, masks = [self._passes.forward(plan, x[0])], [None]
        total, losses = 0.0, []
        caches: list[Any] = []
        penalty = self.penalty()
        for term in self.terms:
            slots = term.slots(plan)
            value, grads = term.forward(tuple(kept[slot] for slot in slots), train)  # type: ignore[index]
            penalty += value
            caches += [(None, found, False) for found in zip(slots, grads or ())]
        for head in self.heads:
            i = head.index
            rest = y[i], weight[i] if weight else None, masks[i]
            if i in linear:
                layer = plan.makers[plan.out_slots[i]].layer
                value, outputs[i], cache = head.forward_fused(layer, outputs[i], *rest)
            else:
                value, cache = head.forward(outputs[i], *rest)
            losses.append(value)
            total += value if head.weight == 1 else head.weight * value
            caches.append((head, cache, i in linear))
        return Result(total + penalty, losses, penalty, outputs, masks), caches

    def _fused_heads(self, plan: Plan) -> list[int]:
        """The outputs whose activation runs together with their loss."""
        found = []
        for head in self.heads:
            slot = plan.out_slots[head.index]
            step = plan.makers.get(slot)
            if step is None or slot in plan.read or slot in plan.watched:
                continue
            if head.fuses_with(step.layer):
                found.append(head.index)
        return found

    def loss_backward(self, caches: list[Any]) -> None:
        """Fill the gradients of all parameters, from what `loss_forward` left."""
        plan = self._running or self.require_plan("loss_backward")
        gradients: list[NDArray | None] = [None] * len(plan.out_slots)
        linear, further = [], []
        for head, cache, fused in caches:
            if head is None:  # of a term: a slot, and the gradient in it
                further.append(cache)
                continue
            gradients[head.index] = head.backward(cache, fused)
            if fused:
                linear.append(head.index)
        if self._passes is None:
            plan.backward(gradients, linear, further)
        else:
            self._passes.backward(plan, gradients[0])
        for layer in self._adding if self._adding is not None else self._adding_layers():
            layer.add_penalty_gradient()

    def whole_step(self, batch: Batch) -> WholeStep | None:
        """A whole training step for such a batch as one call, if one was recorded."""
        replays = self._replays
        return None if replays is None or self._running is None else replays.whole(self, batch)

    def record_step(self, batch: Batch) -> None:
        """Make a `whole_step` of the step that this batch had, if that is possible."""
        if self._passes is not None and self._passes.ready and self._replays is not None:
            self._replays.add_whole(self, batch, self._passes)

    def _find_trained(
        self, reached: set[int] | None
    ) -> tuple[list[NDArray], list[NDArray], list[str]]:
        """The parameters that a loss depends on, their gradients, and their names."""
        params: list[NDArray] = []
        grads: list[NDArray] = []
        names: list[str] = []
        seen: set[int] = set()
        for name, layer in zip(self.layer_names, self.layers):
            if reached is not None and id(layer) not in reached:
                continue
            paths = [f"{name}/{path}" for path, _, trained in named_arrays(layer) if trained]
            for path, param, grad in zip(paths, layer.params, layer.grads, strict=True):
                if id(param) not in seen:  # parts of two layers may be the same
                    seen.add(id(param))
                    params.append(param)
                    grads.append(grad)
                    names.append(path)
        return params, grads, names

    def update(self, count: float | None = None) -> None:
        """Let the optimizer change the parameters, by the gradients of the last `loss_backward`.

        Parameters
        ----------
        count : float, optional
            Over how many items the loss is a mean, for an optimizer that accumulates gradients.
        """
        if self._running is not None:
            self._follow_switches(self._running)
        params, grads, names = self._trained or self._find_trained(self._reached)
        optimizer = self.optimizer
        if isinstance(optimizer, Optimizer):
            optimizer.claim(self)
        more: dict[str, Any] = {}
        if takes(type(optimizer).update, "names"):
            more["names"] = names
        if count is not None and takes(type(optimizer).update, "count"):
            more["count"] = count
        optimizer.update(params, grads, **more)

    def update_after(self, batch: Batch, result: Result) -> None:
        """`update` after a step with this batch, which had this result."""
        count = None
        if getattr(self.optimizer, "takes_count", False):
            count = self._count(batch, result)
        self.update(count)

    def _count(self, batch: Batch, result: Result) -> float | None:
        """Number of items that the loss is a mean over; samples if there are several losses."""
        head = self.heads[0]
        if getattr(head.loss, "reduction", "mean") == "sum":
            return None
        if len(self.heads) > 1:
            return batch.samples
        i = head.index
        return count_of(head.loss, result.outputs[i], batch.y[i], result.masks[i])  # type: ignore[arg-type]

    def finish_training(self) -> None:
        """Replace the parameters with their moving averages, if the optimizer keeps them."""
        if getattr(self.optimizer, "use_ema", False):
            params, _, names = self._find_trained(None)
            self.optimizer.finalize_variable_values(params, names)

    def swap_averages(self) -> None:
        """Exchange the parameters and their moving averages, which an optimizer may keep.

        See `npdl.optimizers.Optimizer.swap_averages`, and the callback `SwapEMAWeights`.
        """
        params, _, names = self._find_trained(None)
        self.optimizer.swap_averages(params, names)

    def _require_predictable(self, what: str) -> None:
        """Outputs need connected layers, but no loss."""
        if self.plan is None and any(layer.out_shape is None for layer in self.layers):
            self._require_compiled(what)

    def _require_compiled(self, what: str) -> None:
        if not self.compiled:
            raise RuntimeError(f"The model must be compiled before {what}. Call compile() first.")


def _parts(arrays: Any) -> tuple[Any, ...]:
    """An array, or a tuple of them, as part of a `Batch`: () if there is none."""
    if arrays is None:
        return ()
    if not isinstance(arrays, tuple):
        return (arrays,)
    return arrays if any(array is not None for array in arrays) else ()
