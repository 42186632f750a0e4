"""Level 2: training steps that are recorded once and replayed by compiled code.

In training, npdl's layers call the same kernels with the same arrays in every step; only the batch
differs. `Replays` records these calls in one step and makes a tape of them. In the next step it
runs both the tape and the layers, and compares them bit by bit. From then on the tape replaces the
layers: `Passes` is their forward and backward pass; `WholeStep` is a step with softmax
cross-entropy and one of npdl's optimizers, as one call of compiled code.

A tape is used only while nothing changes except values in arrays, the learning rate and similar
numbers; a watch compares all attributes at every step. A user's layers, losses and optimizers,
batches with masks, and networks that are not chains run as usual.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl import layers, optimizers
from npdl._ext import kernels
from npdl.batch import Batch
from npdl.heads import Head, Result
from npdl.layers._affine import Affine
from npdl.layers._fusing import are_replaced
from npdl.layers.plan import Plan
from npdl.objectives import SoftmaxCategoricalCrossEntropy as SCCE
from npdl.optimizers import Optimizer
from npdl.passes import Passes, address, compiled

#: Layers that only call kernels and make views in training.
PLAIN = frozenset(
    {
        *(layers.Linear, layers.Dense, layers.Softmax),
        *(layers.Convolution, layers.Convolution1D),
        *(layers.MaxPooling, layers.MaxPooling1D, layers.GlobalMaxPooling),
        *(layers.MeanPooling, layers.MeanPooling1D, layers.GlobalMeanPooling),
        *(layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU),
        *(layers.Flatten, layers.Reshape, layers.Dropout),
    }
)
#: Optimizers whose update is one kernel, unless an option adds something.
STEPS = frozenset(
    {
        *(optimizers.SGD, optimizers.Momentum, optimizers.NesterovMomentum, optimizers.Adagrad),
        *(optimizers.RMSprop, optimizers.Adadelta, optimizers.Adam, optimizers.Adamax),
    }
)
METHODS = ("forward", "backward", "forward_linear", "backward_linear")
#: Attributes of layers and optimizers that may change between steps.
PASSING = frozenset({"_cache", "_buffers", "keep_buffers", "prepared_for", "_last_input"})
COUNTING = frozenset({"lr", "iterations", "_pending", "_weight"})
#: Number of batch shapes that are recorded at one time.
SHAPES = 4
#: The most losses that a tape adds in the order of NumPy.
SUMMED = 8192
#: The longest wait, in steps, between a recording that a change made useless and the next one.
LONGEST_WAIT = 1024


class Replays:
    """The recorded steps of one model."""

    def __init__(self) -> None:
        self._plan: Plan | None = None
        self._kernels: Any = None
        #: Over the layers; None where they have to run by themselves.
        self._watch: Any = None
        self._passes: dict[Any, Passes] = {}
        self._whole: dict[Any, WholeStep | None] = {}
        self._last: Any = None
        self._wait = 0
        self._next_wait = 1

    def passes(self, plan: Plan, x: Any, linear: bool) -> Passes | None:
        """The passes for this batch; None if the layers have to run."""
        active = kernels()
        if not active.recorded or type(x) is not np.ndarray:
            return None
        key = x.shape, x.dtype.char, linear
        known = plan is self._plan and active is self._kernels
        if not known or (self._watch is not None and not self._watch.same()):
            self._start_anew(plan, active)
        if self._watch is None:
            return None
        found = self._passes.get(key)
        before, self._last = self._last, key
        if found is None and before == key:
            self._wait -= 1
            if self._wait < 0 and len(self._passes) < SHAPES:
                found = self._passes[key] = Passes(plan, x, linear)
        return found if found is not None and found.holds else None

    def rest(self) -> None:
        """Let go of what only a training run needs."""
        for passes in self._passes.values():
            passes.rest()

    def _start_anew(self, plan: Plan, active: Any) -> None:
        if plan is self._plan and self._passes:
            self._wait, self._next_wait = self._next_wait, min(2 * self._next_wait, LONGEST_WAIT)
        self._plan, self._kernels = plan, active
        self._passes, self._whole, self._last = {}, {}, None
        self._watch = _watch_layers(plan)

    def whole(self, model: Any, batch: Batch) -> WholeStep | None:
        """The whole step for this batch, if there is one."""
        if batch.weight or batch.mask or model._adding or not self._whole:
            return None
        found = self._whole.get(_key(batch))
        if found is None or kernels() is not self._kernels or self._plan is not model._running:
            return None
        return found if self._watch.same() and found.watch.same() else None

    def add_whole(self, model: Any, batch: Batch, passes: Passes) -> None:
        """Make a whole step for batches like this one, after a replayed step."""
        if batch.weight or batch.mask or not passes.ready:
            return
        key = _key(batch)
        found = self._whole.get(key)
        if key in self._whole and (found is None or found.watch.same()):
            return
        if len(self._whole) >= SHAPES:
            self._whole.clear()
        self._whole[key] = WholeStep.of(model, batch, passes)


def _key(batch: Batch) -> Any:
    x, t = batch.x[0], batch.y[0]
    if type(x) is not np.ndarray or type(t) is not np.ndarray:
        return None
    return x.shape, x.dtype.char, t.shape, t.dtype.char


def _watch_layers(plan: Plan) -> Any:
    """A watch over the layers of a plan; None if one of them can't be replayed."""
    attributes: list[tuple[Any, str]] = [(plan, "_lowest"), (plan, "is_chain")]
    dicts: list[tuple[dict[str, Any], frozenset[str]]] = []
    for step in plan.steps:
        layer = step.layer
        own = vars(layer)
        replaced = any(method in own for method in METHODS) or are_replaced(layer)
        if type(layer) not in PLAIN or replaced:
            return None
        attributes += [(type(layer), name) for name in METHODS if hasattr(layer, name)]
        dicts.append((own, PASSING))
        activation = own.get("activation")
        if activation is not None:
            dicts.append((vars(activation), PASSING))
        for parameter in layer._parameters_by_name.values():
            attributes += [(parameter, "value"), (parameter, "grad")]
    return compiled().Watch(attributes, dicts)


class WholeStep:
    """A step of training with softmax cross-entropy as one call of compiled code.

    Parameters
    ----------
    passes : Passes
    watch : Watch
        Of loss and optimizer.
    classes : bool
        Whether the targets are class numbers.
    share : float
        The factor of an item in the loss.
    optimizer : Optimizer, optional
        Its update is part of the step.
    """

    def __init__(
        self,
        passes: Passes,
        watch: Any,
        classes: bool,
        share: float,
        optimizer: Optimizer | None,
    ) -> None:
        self.watch, self._share = watch, share
        self._passes, self._optimizer = passes, optimizer
        z = passes.y
        k = z.shape[-1]
        rows = z.reshape(-1, k)
        self._p, dz = np.empty_like(z), np.empty_like(rows)
        p, losses = self._p.reshape(-1, k), np.empty(len(rows), z.dtype)
        self._losses = losses.reshape(z.shape[:-1])
        factors = np.full(len(rows), share, z.dtype)
        targets = np.zeros(len(rows), np.int64) if classes else np.zeros_like(rows)
        make = kernels().recorded
        forward, backward = passes.calls
        calls: list[tuple[Any, Any]] = [*forward]
        stop = len(calls)
        self._stopped = stop + 1
        for name, arrays in (
            ("softmax_xent_forward", [rows, targets, p, losses]),
            ("softmax_xent_backward", [p, targets, factors, dz]),
        ):
            calls.append((make[name](*arrays), arrays))
        at = address(passes.dy)
        for call, args in backward:
            replaced = [
                dz.reshape(a.shape) if isinstance(a, np.ndarray) and address(a) == at else a
                for a in args
            ]
            calls.append((call, replaced))
        self._right: NDArray | None = None
        if k > 1:
            self._right = np.empty(len(rows), bool)
            answers = [p, targets, self._right]
            calls.append((make["right_answers"](*answers), answers))
        self._numbers = np.zeros(6)
        if optimizer is not None:
            name, *slots = optimizer._kernel  # type: ignore[attr-defined]
            numbers = optimizer._scalars(optimizer.current_lr)  # type: ignore[attr-defined]
            self._put = struct.Struct(f"{len(numbers)}d").pack_into
            for unit in optimizer._plan.units:  # type: ignore[union-attr]
                own = [unit.slots[slot] for slot in slots]
                call = make["step"](name, unit.p, unit.gradient, own, numbers)
                filled = [unit.p, unit.gradient, *own, unit.p, unit.p][:4]
                calls.append((call, [*filled, self._numbers]))
        varying = [passes.x, targets]
        tape = compiled().Tape(calls, varying, losses, stop, k if classes else 0, self._right)
        self._tape, self._targets = tape, targets

    @classmethod
    def of(cls, model: Any, batch: Batch, passes: Passes) -> WholeStep | None:
        """The whole step of a model for batches like this one; None if its step does more."""
        (head, *others), z, t = model.heads, passes.y, batch.y[0]
        loss, optimizer = head.loss, model.optimizer
        if (
            others
            or type(head) is not Head
            or type(loss) is not SCCE
            or head.weight != 1
            or loss.label_smoothing
            or loss.ignore_class is not None
            or loss.reduction not in ("mean", "sum")
            or model.terms
            or model._adding
            or not head.fuses_with(model._running.steps[-1].layer)
            or type(t) is not np.ndarray
        ):
            return None
        items = z.shape[:-1]
        classes = t.dtype.kind in "iub" and (
            t.shape == items or (t.shape == (*items, 1) and z.shape[-1] > 1)
        )
        if not classes and (t.shape != z.shape or t.dtype.kind not in "fiub"):
            return None
        attributes = [(model, name) for name in ("heads", "terms", "optimizer")]
        attributes += [(Affine, name) for name in METHODS]
        dicts: list[tuple[dict[str, Any], frozenset[str]]]
        dicts = [(vars(head), frozenset()), (vars(loss), frozenset())]
        alone = _is_one_kernel(optimizer)
        if alone:
            dicts.append((vars(optimizer), COUNTING))
        n = z.size // z.shape[-1]
        share = 1 / max(n, 1) if loss.reduction == "mean" else 1.0
        watch = compiled().Watch(attributes, dicts)
        return cls(passes, watch, classes, share, optimizer if alone else None)

    def __call__(
        self, batch: Batch, model: Any = None, watch: Any = None
    ) -> tuple[Result, bool] | None:
        """Run the step; return its result and whether the parameters were updated.

        Parameters
        ----------
        batch : Batch
        model : Model, optional
        watch : LossCheck, optional
            It checks a loss that is not finite, before the update.

        Returns
        -------
        tuple of Result and bool; None if nothing was done
        """
        x, t, optimizer = batch.x[0], batch.y[0], self._optimizer
        if x.dtype is not self._passes.dtype or not x.flags.c_contiguous:
            with np.errstate(all="ignore"):
                x = np.asarray(x, self._passes.dtype, "C")
        if t.dtype is not self._targets.dtype or not t.flags.c_contiguous:  # type: ignore[union-attr]
            with np.errstate(all="ignore"):
                t = np.asarray(t, self._targets.dtype, "C")
        if t.shape != self._targets.shape:  # type: ignore[union-attr]
            t = t.reshape(self._targets.shape)  # type: ignore[union-attr]
        if self._passes.seeds:
            if not self._tape.takes([x, t]):
                return None
            self._passes.draw()
        if optimizer is not None:
            numbers = optimizer._scalars(optimizer.current_lr)  # type: ignore[attr-defined]
            self._put(self._numbers.data, 0, *numbers)
        at = self._tape.play([x, t])
        if at < 0:
            return None
        total = self._tape.total  # NumPy's sum, which would wait for its code after a large step
        if self._losses.size > SUMMED:
            total = float(np.add.reduce(self._losses, axis=None, dtype=np.float64))
        loss = total * self._share
        if at == self._stopped:
            if watch is not None:
                watch.check(model, batch, loss)
            self._tape.play([x, t], at)
        right = None if self._right is None else self._tape.right
        result = Result(loss, [loss], 0.0, [self._p], [None], len(t), right)  # type: ignore[arg-type]
        if optimizer is not None:
            optimizer.iterations += 1
        return result, optimizer is not None


def _is_one_kernel(optimizer: Any) -> bool:
    """Whether the update is one kernel for each unit."""
    return (
        type(optimizer) in STEPS
        and type(optimizer).update is Optimizer.update
        and optimizer._plan is not None
        and not optimizer.takes_count
        and not optimizer.clip > 0
        and optimizer.clipnorm is None
        and optimizer.global_clipnorm is None
        and not optimizer.weight_decay
        and not optimizer.use_ema
        and not optimizer.swapped
        and not any(name in vars(optimizer) for name in ("update", "step", "_steps", "_scalars"))
        and all(
            unit.is_flat and unit.gradient.dtype == unit.p.dtype for unit in optimizer._plan.units
        )
    )
