"""Level 2: the forward and the backward pass of a chain, recorded once and replayed by tapes."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl._dtype import FLOATS
from npdl._ext import kernels, noted
from npdl.layers.plan import Plan
from npdl.layers.shape import Reshaping
from npdl.utils.random import get_rng


def compiled() -> Any:
    """The module of the tapes, and of what watches over them."""
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
        tape = compiled().Tape
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
