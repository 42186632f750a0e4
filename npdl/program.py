"""Level 2: runs of layers as one call of compiled code.

At prediction, npdl's layers do little more than call kernels. `Program.of` runs some layers on an
array, records these calls, and prepares each of them: weights packed, tables set. Each call reads
the arrays that earlier calls fill, so the calls become a chain, whose arrays are placed in one
block of memory. Then the chain is tried on other numbers. Layers for which it does not return the
same bits, or that do more than call kernels, are run as usual.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl import layers
from npdl._dtype import FLOATS
from npdl._ext import kernels, noted
from npdl.layers.base import Layer
from npdl.layers.plan import Plan, Step
from npdl.layers.recurrent import is_stateful

#: Layers that only call kernels, in order, and make views at prediction.
PLAIN = frozenset(
    {
        *(layers.Linear, layers.Dense, layers.Softmax),
        *(layers.Convolution, layers.Convolution1D),
        *(layers.MaxPooling, layers.MaxPooling1D, layers.GlobalMaxPooling),
        *(layers.MeanPooling, layers.MeanPooling1D, layers.GlobalMeanPooling),
        *(layers.SimpleRNN, layers.GRU, layers.LSTM),
        *(layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.BatchNormal),
        *(layers.Flatten, layers.Reshape, layers.DimShuffle),
        *(layers.Dropout, layers.SpatialDropout, layers.GaussianNoise),
    }
)
#: The places of the input and of the output of a chain, see steps.pyx.
X, Y = -1, -2
LINE = 64


class Slot:
    """An array of a chain: its memory, and its lifetime."""

    def __init__(self, array: NDArray, born: int) -> None:
        self.array = array
        self.start = array.ctypes.data
        self.born = self.dies = born
        self.place = X

    def is_at(self, array: NDArray) -> bool:
        """Whether an array is the whole of this memory, in its order."""
        whole = array.flags.c_contiguous and array.nbytes == self.array.nbytes
        return whole and array.ctypes.data == self.start

    def rows_in(self, array: NDArray) -> tuple[int, int, int, int] | None:
        """Number, bytes, start and distance of the rows of an array that is a part of this one."""
        first, row = array.ctypes.data - self.start, array[0]
        step = array.strides[0] if len(array) > 1 else row.nbytes
        last = first + (len(array) - 1) * step + row.nbytes
        if first < 0 or step < 0 or last > self.array.nbytes or not row.flags.c_contiguous:
            return None
        return len(array), row.nbytes, first, step


class Program:
    """A chain of kernels for arrays of one shape: ``program(x)``.

    Attributes
    ----------
    n_layers : int
        Number of layers that it replaces.
    """

    def __init__(self, chain: Any, y: NDArray, n_layers: int) -> None:
        self._fill = chain.fill
        self._shape, self._dtype = y.shape, y.dtype
        self.n_layers = n_layers

    def __call__(self, x: NDArray) -> NDArray | None:
        """The output for an array; None if it was made for another shape or dtype."""
        y = np.empty(self._shape, self._dtype)
        return y if self._fill(x, y) else None

    @classmethod
    def of(cls, run: Sequence[Layer], x: NDArray) -> Program | None:
        """The program for as many of these layers as possible; None if it would not be faster."""
        if not kernels().ready or x.dtype not in FLOATS or not x.flags.c_contiguous:
            return None
        made = _Chain(x)
        y = x
        for layer in run:
            after = made.add(layer, y)
            if after is None:
                break
            y = after
        if not made.steps or not made.ends_in(y):
            return None
        program = cls(made.chain(y), y, made.n_layers)
        rng = np.random.default_rng(1)
        for _ in range(2):
            other = rng.standard_normal(x.shape).astype(x.dtype)
            wanted: Any = other
            for layer in run[: made.n_layers]:
                wanted = layer.forward(wanted, train=False)
            found = program(other)
            if found is None or found.tobytes() != np.asarray(wanted).tobytes():
                return None
        return program


class _Chain:
    """The steps that were made so far."""

    def __init__(self, x: NDArray) -> None:
        self.slots = [Slot(x, -1)]
        self.steps: list[tuple[Any, Slot, Slot]] = []
        self.n_layers = 0

    def add(self, layer: Layer, x: NDArray) -> NDArray | None:
        """Append the steps of a layer and return its output; None if that is not possible."""
        if type(layer) not in PLAIN or is_stateful(layer) or layer.n_outputs > 1:
            return None
        n_slots, n_steps = len(self.slots), len(self.steps)
        with noted() as calls:
            y = layer.forward(x, train=False)
        if isinstance(y, np.ndarray) and all(self._call(*call) for call in calls):
            if isinstance(layer, layers.Recurrent) and not layer.return_sequence:
                y = self.slots[-1].array[:, 0 if layer.go_backwards else -1]  # it returns a copy
            settled = self._settled(y)
            if settled is not None:
                self.n_layers += 1
                return settled
        del self.slots[n_slots:], self.steps[n_steps:]
        return None

    def _call(self, name: str, args: tuple[Any, ...]) -> bool:
        maker, at_x, at_y = kernels().ready.get(name, (None, 0, 0))
        source = self._slot(args[at_x])
        if maker is None or source is None:
            return False
        step = maker(*args)
        if step is None:
            return False
        target = self._slot(args[at_y])
        if target is self.slots[0]:  # the input must not be written
            return False
        if target is None:
            target = Slot(args[at_y], len(self.steps))
            self.slots.append(target)
        self._append(step, source, target)
        return True

    def _append(self, step: Any, source: Slot, target: Slot) -> None:
        source.dies = target.dies = len(self.steps)
        self.steps.append((step, source, target))

    def _slot(self, array: NDArray) -> Slot | None:
        return next((slot for slot in self.slots if slot.is_at(array)), None)

    def _settled(self, y: NDArray) -> NDArray | None:
        """The output of a layer as a separate array: rows of another array are copied."""
        if self._slot(y) is not None:
            return y
        for slot in self.slots:
            rows = slot.rows_in(y)
            if rows is not None:
                target = Slot(np.ascontiguousarray(y), len(self.steps))
                self.slots.append(target)
                step = importlib.import_module("npdl._ext.steps").rows_ready(*rows)
                self._append(step, slot, target)
                return target.array
        return None

    def ends_in(self, y: NDArray) -> bool:
        """Whether an array is the last one that was filled."""
        return self.steps[-1][2].is_at(y)

    def chain(self, y: NDArray) -> Any:
        """The steps with the places of their arrays: those needed at one time lie side by side."""
        last, size = self.steps[-1][2], 0
        placed: list[tuple[int, int, Slot]] = []
        for slot in self.slots[1:]:
            if slot is last:
                slot.place = Y
                continue
            at, nbytes = 0, -(-slot.array.nbytes // LINE) * LINE
            for start, end, other in sorted(placed, key=lambda item: item[0]):
                if other.dies >= slot.born and start < at + nbytes and at < end:
                    at = end
            slot.place = at
            placed.append((at, at + nbytes, slot))
            size = max(size, at + nbytes)
        steps = [(step, source.place, target.place) for step, source, target in self.steps]
        return importlib.import_module("npdl._ext.steps").Chain(steps, size, self.slots[0].array, y)


class _Part:
    """Some steps of a plan that a program runs, or one that it does not run."""

    __slots__ = ("dtype", "free", "program", "source", "step", "target")

    def __init__(self, steps: Sequence[Step], program: Program | None, dtype: Any) -> None:
        self.step, self.program, self.dtype = steps[0], program, dtype
        self.source, self.target = steps[0].sources[0], steps[-1].targets[0]
        self.free = [slot for step in steps for slot in step.free]


class Route:
    """A plan for inputs of certain shapes: programs, and the steps that they leave.

    Parameters
    ----------
    plan : Plan
        None of whose layers makes masks.
    inputs : sequence of ndarray
        On which it is tried.
    """

    def __init__(self, plan: Plan, inputs: Sequence[NDArray]) -> None:
        self._plan = plan
        self._parts: list[_Part] = []
        values = plan.values_of(inputs)
        first = 0
        while first < len(plan.steps):
            run = _run_from(plan, first)
            x = values[run[0].sources[0]]
            dtype = _dtype_of(run[0].owner)
            program = None
            one = len(run[0].sources) == 1 and isinstance(x, np.ndarray)
            if one and x.dtype.kind in "fiub":
                x = np.asarray(x, dtype, order="C")
                program = Program.of([step.owner for step in run], x)
            part = _Part(run[: 1 if program is None else program.n_layers], program, dtype)
            self._do(part, values)
            self._parts.append(part)
            first += 1 if program is None else program.n_layers
        #: The outputs for these inputs, until they are used.
        self.made: list[NDArray] | None = self._outputs(values)
        #: The program of a model that needs only one, and the dtype that it takes.
        self.whole: Program | None = None
        self.dtype: Any = None
        if len(self._parts) == len(inputs) == 1:
            (part,) = self._parts
            if part.dtype is not None and plan.out_slots == (part.target,):
                self.whole, self.dtype = part.program, part.dtype

    def _do(self, part: _Part, values: list[Any]) -> bool:
        if part.program is None:
            self._plan.run_step(part.step, values)
            return True
        x = np.asarray(values[part.source], part.dtype, order="C")
        y = values[part.target] = part.program(x)
        for slot in part.free:
            values[slot] = None
        return y is not None

    def __call__(self, inputs: Sequence[NDArray]) -> list[NDArray] | None:
        """The outputs; None if it was made for inputs of other shapes or dtypes."""
        values = self._plan.values_of(inputs)
        for part in self._parts:
            if not self._do(part, values):
                return None
        return self._outputs(values)

    def _outputs(self, values: list[Any]) -> list[NDArray]:
        return [np.asarray(values[slot]) for slot in self._plan.out_slots]


def _dtype_of(layer: Layer) -> Any:
    """The dtype to which a layer converts its input; None if it keeps that of the input."""
    if type(layer) not in PLAIN:
        return None
    return next((parameter.value.dtype for parameter in layer._parameters_by_name.values()), None)


def _run_from(plan: Plan, first: int) -> list[Step]:
    """The steps from one on, as long as each has one input and is the only reader of the last one.

    A first step with several inputs, such as a recurrent layer with a first state, is a separate
    part.
    """
    run = [plan.steps[first]]
    if len(run[0].sources) > 1:
        return run
    for step in plan.steps[first + 1 :]:
        (before, *others) = run[-1].targets
        if others or step.sources != (before,) or before not in step.free:
            break
        run.append(step)
    return run
