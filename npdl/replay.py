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

import contextlib
import importlib
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl import layers, optimizers
from npdl._dtype import FLOATS
from npdl._ext import kernels, noted
from npdl.batch import Batch
from npdl.heads import Head, Result
from npdl.layers._affine import Affine
from npdl.layers.plan import Plan
from npdl.layers.shape import Reshaping
from npdl.objectives import SoftmaxCategoricalCrossEntropy as SCCE
from npdl.optimizers import Optimizer
from npdl.utils.random import get_rng

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
        if type(layer) not in PLAIN or any(method in own for method in METHODS):
            return None
        attributes += [(type(layer), name) for name in METHODS if hasattr(layer, name)]
        dicts.append((own, PASSING))
        activation = own.get("activation")
        if activation is not None:
            dicts.append((vars(activation), PASSING))
        for parameter in layer._parameters_by_name.values():
            attributes += [(parameter, "value"), (parameter, "grad")]
    return _compiled().Watch(attributes, dicts)


def _compiled() -> Any:
    return importlib.import_module("npdl._ext.tape")


class Passes:
    """The forward and the backward pass of a chain for batches of one shape.

    They are recorded in the first step, and tried in the second one.

    Attributes
    ----------
    holds : bool
        False once it is known that the passes can't be replayed.
    ready : bool
        Whether the tapes replace the layers.
    """

    def __init__(self, plan: Plan, x: NDArray, linear: bool) -> None:
        self._linear = linear
        self.dtype = _dtype_for(plan, x)
        self.holds, self.ready = self.dtype is not None, False
        #: The calls of kernels, forward and backward, each with its arrays.
        self.calls: list[list[tuple[Any, Any]]] = []
        #: Batch, output, and gradient in the output, as they were recorded.
        self.x: Any = None
        self.y: Any = None
        self.dy: Any = None
        self.seeds: list[NDArray] = []
        self._tapes: list[Any] = []
        #: The batch of the step that is under way.
        self._now: Any = None

    def forward(self, plan: Plan, x: NDArray) -> NDArray:
        """The output, as `Plan.forward` returns it in training."""
        x = self._now = np.asarray(x, self.dtype, "C")
        if self.ready:
            if self._tapes[0].takes([x]):
                self.draw()
                self._tapes[0].play([x])
                return self.y
            self.holds = self.ready = False
        heads = [0] if self._linear else []
        if len(self.calls) < 2:  # or the backward pass did not follow
            self.calls, self.seeds = [], []
            self.x = x.copy()  # that of the program may be a view of all its data
            with noted() as calls:
                self.y = plan.forward((self.x,), True, None, heads)[0][0]
            self._record(calls)
            return self.y
        state = get_rng().bit_generator.state if self.seeds else None
        self.draw()
        with _without_values(self._own_arrays(plan, 0)):
            self._tapes[0].play([x])
            found = self.y.tobytes()
        if state is not None:
            get_rng().bit_generator.state = state
        y = plan.forward((x,), True, None, heads)[0][0]
        # Once more, for the tape of the backward pass, which reads other arrays than the layers.
        self.holds = found == y.tobytes() and self._tapes[0].play([x]) >= 0
        return y

    def backward(self, plan: Plan, gradient: Any) -> None:
        """Fill the gradients of all parameters, as `Plan.backward` does."""
        linear = [0] if self._linear else []
        if not self.holds:
            plan.backward([gradient], linear)
            return
        dy = gradient
        if gradient is not None:
            dy = np.asarray(gradient, self.y.dtype, "C")
        if dy is None or dy.shape != self.y.shape:
            self.holds = self.ready = False
            plan.steps[-1].layer._checked_array(gradient, self.y.shape, "pre_grad")
        elif self.ready:
            if self._tapes[1].play([self._now, dy]) < 0:
                raise RuntimeError("A recorded step could not be replayed.")
        elif len(self.calls) == 1:
            self.dy = dy = dy.copy()  # shares no memory with what the loss returned
            with noted() as calls:
                plan.backward([dy], linear)
            self._record(calls)
            self.holds = self.holds and self._make_tapes()
        else:
            grads = [grad for layer in plan.layers for grad in layer.grads]
            with _without_values(self._own_arrays(plan, 1)):
                self._tapes[1].play([self._now, dy])
                found = [grad.tobytes() for grad in grads]
            plan.backward([dy], linear)
            self.holds = self.ready = found == [grad.tobytes() for grad in grads]
            for layer in plan.layers if self.ready else ():
                layer._cache = None  # of this step, and not of those that are replayed

    def rest(self) -> None:
        """Let go of the last batch, and of all arrays if they are of no use."""
        self._now = None
        if not self.holds:
            self.x = self.y = self.dy = None
            self.calls, self._tapes = [], []

    def draw(self) -> None:
        """Draw the random numbers that layers draw in a forward pass."""
        for seed in self.seeds:
            seed[0] = get_rng().integers(2**64, dtype=np.uint64)

    def _record(self, calls: Sequence[tuple[str, tuple[Any, ...]]]) -> None:
        """Store calls with their arrays; calls that can't be recorded, with all arguments."""
        made: list[tuple[Any, Any]] = []
        active = kernels()
        for name, args in calls:
            maker = active.recorded.get(name)
            call = None if maker is None else maker(*args)
            if name == "dropout_forward":
                self.seeds.append(np.zeros(1, np.uint64))
                args = (args[0], self.seeds[-1], *args[2:])
            if call is None:
                made.append((getattr(active, name), args))
            else:
                made.append((call, [a for a in args if a is None or isinstance(a, np.ndarray)]))
        self.calls.append(made)

    def _own_arrays(self, plan: Plan, which: int) -> list[NDArray]:
        """The arrays that a pass has to fill by itself, as far as they hold floats."""
        given = [p.value for layer in plan.layers for p in layer.parameters]
        given += [self.x, self._now, self.dy]
        if which:
            given += [a for _, args in self.calls[0] for a in args if isinstance(a, np.ndarray)]
        found = [a for _, args in self.calls[which] for a in args if isinstance(a, np.ndarray)]
        return [
            a
            for a in found
            if a.dtype in FLOATS
            and a.flags.writeable
            and not any(np.may_share_memory(a, other) for other in given)
        ]

    def _make_tapes(self) -> bool:
        forward, backward = self.calls
        arrays = [a for _, args in forward for a in args if isinstance(a, np.ndarray)]
        if not any(address(a) == address(self.y) for a in arrays):
            return False
        tape = _compiled().Tape
        self._tapes = [tape(forward, [self.x]), tape(backward, [self.x, self.dy])]
        return True


def _dtype_for(plan: Plan, x: NDArray) -> Any:
    """The dtype in which the first computing layer gets the batch; None if it can't be replayed."""
    first = next((s.layer for s in plan.steps if not isinstance(s.layer, Reshaping)), None)
    dtype = x.dtype
    for parameter in first._parameters_by_name.values() if first is not None else ():
        dtype = parameter.value.dtype
    return dtype if x.dtype.kind in "fiub" and dtype in FLOATS and dtype.isnative else None


@contextlib.contextmanager
def _without_values(arrays: list[NDArray]) -> Iterator[None]:
    """Fill arrays with nan within the block.

    What a tape does not compute, but NumPy did in the recorded step, can't pass for right then.
    """
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.fill(np.nan)
    try:
        yield
    finally:
        for array, values in zip(arrays, before):
            array[...] = values


def address(array: NDArray) -> int:
    """The address of the first element of an array."""
    found: int = array.__array_interface__["data"][0]
    return found


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
        tape = _compiled().Tape(calls, varying, losses, stop, k if classes else 0)
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
        watch = _compiled().Watch(attributes, dicts)
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
        loss = float(np.add.reduce(self._losses, axis=None, dtype=np.float64)) * self._share
        result = Result(loss, [loss], 0.0, [self._p], [None], len(t), self._right)  # type: ignore[arg-type]
        if at == self._stopped:
            if watch is not None:
                watch.check(model, batch, loss)
            self._tape.play([x, t], at)
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
