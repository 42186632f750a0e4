"""Level 2: steps of a plan as one call of compiled code.

At prediction, npdl's layers do little more than call kernels. `Program.of` runs some steps of a
plan, records these calls (`noted`), and prepares each of them: weights packed, tables set. The
arrays of a call are the program's inputs, or hold what earlier calls filled, or are constant, such
as weights. Those in between are placed in one block of memory. Then the program is tried on other
numbers. Steps for which it does not return the same bits, or that do more than call kernels, are
run as usual.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npdl import layers
from npdl._dtype import FLOATS, get_dtype
from npdl._ext import STEPS, kernels, noted
from npdl._ext.activation_np import GELU, LINEAR, RELU
from npdl.layers._folding import Folded
from npdl.layers._fusing import IDENTITY, are_replaced
from npdl.layers.base import Layer
from npdl.layers.block import Block
from npdl.layers.plan import Plan
from npdl.layers.recurrent import is_stateful
from npdl.layers.step import Step
from npdl.layers.tree import every_layer
from npdl.passes import address
from npdl.replay import METHODS, PLAIN

#: Layers that only call kernels, and make views, at prediction. One that does more for some of its
#: options is found out when its calls are recorded.
COMPILED = PLAIN | {
    *(layers.DepthwiseConvolution, layers.DepthwiseConvolution1D),
    *(layers.SeparableConvolution, layers.SeparableConvolution1D),
    *(layers.TransposedConvolution, layers.TransposedConvolution1D),
    *(layers.SimpleRNN, layers.GRU, layers.LSTM, layers.Bidirectional),
    *(layers.Embedding, layers.PositionEmbedding),
    *(layers.Attention, layers.MultiHeadAttention),
    *(layers.BatchNormal, layers.BatchNormalization),
    *(layers.LayerNormalization, layers.RMSNormalization, layers.GroupNormalization),
    *(layers.Add, layers.Concatenate),
    *(Block, layers.Sequence, layers.Residual, layers.Parallel, layers.TimeDistributed),
    *(layers.DimShuffle, layers.Permute, layers.SpatialDropout, layers.GaussianNoise, Folded),
}
#: Kernels that may run the activation behind them.
FUSING = ("add_forward", "conv2d_forward", "conv2d_transposed_forward", "dense_forward")
#: Memories of a program, see `Chain` in steps.pyx: addresses, the block, and then its inputs and
#: outputs.
FIXED, BLOCK, ENDS = 0, 1, 2
MOST_ENDS = 32
#: Of an input that a shortcut takes.
MOST_AXES = 8
LINE = 64


class Slot:
    """The memory of an array, and its lifetime."""

    def __init__(self, array: NDArray, memory: int, born: int = -1) -> None:
        while isinstance(array.base, np.ndarray):
            array = array.base
        self.array, self.memory = array, memory
        self.start, self.stop = _span(array)
        self.born = self.dies = born
        #: Its position in the memory.
        self.place = 0
        #: Whether it may be written: not what the caller passes.
        self.is_written = memory == BLOCK

    def holds(self, array: NDArray) -> bool:
        """Whether an array is a part of this memory."""
        start, stop = _span(array)
        return self.start <= start and stop <= self.stop

    def is_at(self, array: NDArray) -> bool:
        """Whether an array is the whole of this memory, in its order."""
        return array.flags.c_contiguous and _span(array) == (self.start, self.stop)


def _span(array: NDArray) -> tuple[int, int]:
    """The addresses of the first byte of an array, and of that behind the last one."""
    start = stop = address(array)
    for size, stride in zip(array.shape, array.strides):
        start += min(0, (size - 1) * stride)
        stop += max(0, (size - 1) * stride)
    return start, stop + array.itemsize


class Program:
    """Some steps of a plan, for inputs of certain shapes: ``program([x])``.

    Attributes
    ----------
    steps : list of Step
        Those that it replaces.
    sources, targets : tuple of int
        The slots of the plan that it reads and fills; those of masks follow those of values.
    dtypes : tuple of dtype or None
        Those that the inputs are converted to.
    """

    def __init__(
        self,
        steps: list[Step],
        taken: dict[int, Any],
        chain: Any,
        filled: dict[int, NDArray],
        alive: list[NDArray],
    ) -> None:
        self.steps = steps
        self.sources, self.targets = tuple(taken), tuple(filled)
        self.dtypes = tuple(taken.values())
        self._chain, self._alive = chain, alive
        self._likes = [(y.shape, y.dtype) for y in filled.values()]

    def shortcut(self, x: NDArray, watched: dict[Any, Any]) -> Any:
        """`Chain.shortcut` for one array like x; None if there are several ends.

        `watched`: functions, with what they return as long as the program may be used.
        """
        if len(self.sources) != 1 or len(self._likes) != 1 or x.ndim > MOST_AXES:
            return None
        functions, values = tuple(watched), tuple(watched.values())
        self._chain.watch(x, self._alive, np.empty, self._likes[0], functions, values)
        return self._chain.shortcut

    def __call__(
        self, inputs: Sequence[NDArray], spoiled: bool = False, parts: int = 1
    ) -> list[NDArray] | None:
        """The outputs; None if it was made for other inputs.

        With `spoiled`, no memory holds zeros by chance. With several `parts`, the inputs are that
        many of its inputs in a row; threads share the parts.
        """
        likes = self._likes
        if parts > 1:
            likes = [((parts * shape[0], *shape[1:]), dtype) for shape, dtype in likes]
        outputs = [np.empty(shape, dtype) for shape, dtype in likes]
        if spoiled:
            for y in outputs:
                y[...] = np.nan if y.dtype.kind == "f" else 255
        return outputs if self._chain.fill([*inputs, *outputs], spoiled, parts) else None

    @classmethod
    def of(cls, plan: Plan, first: int, values: Sequence[Any]) -> Program | None:
        """The program for as many steps as possible, from number `first` on; None if for none.

        Parameters
        ----------
        plan : Plan
        first : int
        values : list
            Those of the slots before that step.
        """
        most = len(plan.predicting) if kernels().ready else 0
        while most:
            recording = _Recording(plan, first, values, most)
            program = recording.program()
            if program is not None and recording.is_right(program):
                return program
            most = len(recording.steps) // 2
        return None


class _Call(NamedTuple):
    """A call of a kernel, as a step with the places of its arrays."""

    name: str
    args: tuple[Any, ...]
    step: Any
    refs: list[tuple[Any, int]]

    def with_activation(self, y: NDArray, act: Any, ref: tuple[Any, int]) -> _Call | None:
        """The call with an activation, whose output is y; None if the kernel can't."""
        args, at = list(self.args), STEPS[self.name][1][0]
        if self.name == "norm_fixed_forward":
            args = [*args[:7], *(args[7:] or [IDENTITY])]
        elif self.name not in FUSING:
            return None
        possible = (LINEAR, RELU) if self.name == "norm_fixed_forward" else range(GELU)
        if args[-1][0] != LINEAR or act[0] not in possible or args[at].size != y.size:
            return None
        args[-1], args[at] = act, y.reshape(args[at].shape)
        step = kernels().ready[self.name](*args)
        return _Call(self.name, tuple(args), step, [*self.refs[:-1], ref])


def _takes(layer: Layer, x: NDArray, dtype: Any) -> bool:
    """Whether a layer itself converts an input to this dtype, before it computes anything."""
    if isinstance(layer, Folded):
        layer = layer.affine
    if dtype is None or layer._parameters_by_name:
        return True
    if isinstance(layer, Block):
        steps = layer._steps.predicting
        ends = len(layer._steps.in_shapes)
        readers = [step.owner for step in steps if min(step.sources) < ends]
        return all(_takes(one, x, dtype) for one in readers)
    return dtype == (x.dtype if x.dtype in FLOATS else get_dtype())


class _Recording:
    """The calls of some steps of a plan."""

    def __init__(self, plan: Plan, first: int, values: Sequence[Any], most: int) -> None:
        self._plan, self._values, self._now = plan, values, list(values)
        every = [*layers_of(plan)]
        #: The arrays of all layers.
        self._own = [
            Slot(p.value, FIXED) for one in every for p in one._parameters_by_name.values()
        ]
        dtypes = {p.value.dtype for one in every for p in one._parameters_by_name.values()}
        self._dtype = dtypes.pop() if len(dtypes) == 1 else None
        self.steps: list[Step] = []
        #: The dtypes of the inputs, and the limits of their integers, by their slot in the plan.
        self._taken: dict[int, Any] = {}
        self._limits: dict[int, int] = {}
        #: What the steps have filled, by the slot in the plan.
        self._filled: dict[int, NDArray] = {}
        self._slots: list[Slot] = []
        self._calls: list[_Call] = []
        self._alive: list[NDArray] = []
        for step in plan.predicting[first : first + most]:
            kept = len(self._slots), len(self._calls), dict(self._taken)
            if not self._add(step, plan.n_slots):
                del self._slots[kept[0] :], self._calls[kept[1] :]
                self._taken = kept[2]
                break
            self.steps.append(step)

    def _add(self, step: Step, marks: int) -> bool:
        """Run a step, and record its calls; `marks` is the first slot of masks."""
        if not is_compiled(step.owner):
            return False
        masks = [marks + slot for slot in step.sources if self._now[marks + slot] is not None]
        for slot in (*step.sources, *masks):
            if slot not in self._taken and slot not in self._filled:
                x = self._values[slot]
                if not isinstance(x, np.ndarray) or x.dtype.kind not in "fiub":
                    return False
                dtype = self._dtype_for(step, x) if slot < marks else np.dtype(np.uint8)
                self._taken[slot] = dtype
                self._now[slot] = x = np.array(x, dtype, order="C")
                self._slots.append(Slot(x, ENDS + len(self._taken) - 1))
            if slot < marks and slot in self._taken:
                if not _takes(step.owner, self._values[slot], self._taken[slot]):
                    return False
        with noted() as calls:
            self._plan.run_step(step, self._now)
        targets = [*step.targets]
        targets += (marks + slot for slot in step.targets if self._now[marks + slot] is not None)
        made = [self._now[slot] for slot in targets]
        if not all(self._call(*call) for call in calls):
            return False
        if not all(isinstance(y, np.ndarray) and self._slot(y) is not None for y in made):
            return False
        self._filled.update(zip(targets, made))
        return True

    def _dtype_for(self, step: Step, x: NDArray) -> Any:
        """The dtype that an input is converted to; None if it keeps its own."""
        looks_up = any(type(one) is layers.Embedding for one in every_layer([step.owner]))
        return np.dtype(np.int64) if looks_up and x.dtype.kind in "iu" else self._dtype

    def _call(self, name: str, args: tuple[Any, ...]) -> bool:
        """Append the step for a call of a kernel."""
        maker, places = kernels().ready.get(name), STEPS.get(name)
        given = args
        if name == "recurrent_pair":  # two calls of one function
            places, given = _of_both(*args)
        if maker is None or places is None:
            return False
        refs = []
        for i, array in enumerate(given):
            if array is None or isinstance(array, np.ndarray):
                ref = self._ref(array, i in places[0], i in places[1])
                if ref is None:
                    return False
                refs.append(ref)
        if name == "take_rows":  # a program checks only integers of its inputs
            slot = refs[1][0]
            if slot is None or slot.memory < ENDS:
                return False
            taken = list(self._taken)[slot.memory - ENDS]
            self._limits[taken] = min(self._limits.get(taken, 2**62), len(args[0]))
        step = maker(*args)
        if step is not None:
            self._calls.append(_Call(name, args, step, refs))
        return step is not None

    def _ref(
        self, array: NDArray | None, is_source: bool, is_target: bool
    ) -> tuple[Slot | None, int] | None:
        """The memory of an argument and its position there; None if it is not known.

        It has no slot if it is constant.
        """
        if array is None:
            return None, 0
        now = len(self._calls)
        slot = self._slot(array)
        if slot is None and is_target:
            slot = Slot(array, BLOCK, now)
            self._slots.append(slot)
        if slot is None and is_source and not any(own.holds(array) for own in self._own):
            return None
        if slot is None:
            self._alive.append(array)
            return None, address(array)
        if is_target and not slot.is_written:
            return None
        slot.dies = now
        return slot, address(array) - slot.start

    def _slot(self, array: NDArray) -> Slot | None:
        return next((slot for slot in self._slots if slot.holds(array)), None)

    def program(self) -> Program | None:
        """The program of all steps; None if they call no kernel."""
        if not self._calls:
            return None
        ours = {id(step) for step in self.steps}
        read = {
            slot for step in self._plan.predicting if id(step) not in ours for slot in step.sources
        }
        read.update([self._plan.n_slots + slot for slot in read], self._plan.out_slots)
        filled = {slot: y for slot, y in self._filled.items() if slot in read}
        inputs = [slot.array for slot in self._slots if slot.memory >= ENDS]
        ends = [*inputs, *(np.empty(y.shape, y.dtype) for y in filled.values())]
        if len(ends) > MOST_ENDS:
            return None
        self._fuse([self._slot(y) for y in filled.values()])
        for i, y in enumerate(filled.values(), len(inputs)):
            if not self._end_in(y, ENDS + i):
                return None
        size = self._place()
        steps = [(call.step, [_place_of(*ref) for ref in call.refs]) for call in self._calls]
        limits = [self._limits.get(slot, 0) for slot in self._taken]
        chain = importlib.import_module("npdl._ext.steps").Chain(steps, size, ends, limits)
        return Program(self.steps, self._taken, chain, filled, self._alive)

    def _fuse(self, kept: list[Slot | None]) -> None:
        """Let kernels run the activation behind them, if nothing else reads what is between."""
        uses = Counter(id(slot) for call in self._calls for slot, _ in call.refs)
        uses.update(id(slot) for slot in kept)
        calls: list[_Call] = []
        for call in self._calls:
            before = calls[-1] if calls else None
            between = None if before is None else before.refs[-1]
            if (
                before is not None
                and call.name == "activation_forward"
                and between == call.refs[0]
                and uses[id(between[0])] == 2
                and between[0].memory == BLOCK
            ):
                fused = before.with_activation(call.args[1], call.args[2], call.refs[1])
                if fused is not None:
                    calls[-1] = fused
                    self._slots.remove(between[0])
                    call.refs[1][0].born = between[0].born
                    continue
            calls.append(call)
        self._calls = calls

    def _end_in(self, y: NDArray, memory: int) -> bool:
        """Let an array be an output: its own memory, or a copy."""
        slot = self._slot(y)
        if slot is not None and slot.memory == BLOCK and slot.is_at(y):
            slot.memory = memory
            return True
        copy = Slot(np.empty(y.shape, y.dtype), memory)
        copy.is_written = True
        self._slots.append(copy)
        return self._call("copy_array", (y, copy.array))

    def _place(self) -> int:
        """Place the arrays in the block: those needed at one time lie side by side."""
        size = 0
        placed: list[tuple[int, int, Slot]] = []
        for slot in self._slots:
            if slot.memory != BLOCK:
                continue
            at, n_bytes = 0, -(-(slot.stop - slot.start) // LINE) * LINE
            for start, end, other in sorted(placed, key=lambda item: item[0]):
                if other.dies >= slot.born and start < at + n_bytes and at < end:
                    at = end
            slot.place = at
            placed.append((at, at + n_bytes, slot))
            size = max(size, at + n_bytes)
        return size

    def is_right(self, program: Program) -> bool:
        """Whether a program gives the bits of its steps, on other numbers."""
        rng = np.random.default_rng(1)
        for _ in range(2):
            values = list(self._values)
            for slot in program.sources:
                values[slot] = self._other(rng, slot)
            found = program(taken(program, values), spoiled=True)
            for step in self.steps:
                self._plan.run_step(step, values)
            wanted = [np.asarray(values[slot]) for slot in program.targets]
            if found is None or any(a.tobytes() != b.tobytes() for a, b in zip(found, wanted)):
                return False
        return True

    def _other(self, rng: np.random.Generator, slot: int) -> NDArray:
        """Random numbers of the dtype of an input, or a random mask."""
        x = self._values[slot]
        some = rng.integers(0, 2, x.shape, np.uint8)
        if slot >= self._plan.n_slots:
            return some
        if slot in self._limits:  # many are 0, which may be padding
            most = min(self._limits[slot], np.iinfo(x.dtype).max)
            return some * rng.integers(0, most, x.shape, x.dtype)
        numbers = 3 * rng.standard_normal(x.shape)
        return (np.abs(numbers) if x.dtype.kind in "ub" else numbers).astype(x.dtype)


def taken(program: Program, values: Sequence[Any]) -> list[NDArray]:
    """The inputs of a program, among the values of a plan."""
    return [
        np.asarray(values[slot], dtype, order="C")
        for slot, dtype in zip(program.sources, program.dtypes)
    ]


def _place_of(slot: Slot | None, at: int) -> tuple[int, int]:
    return (FIXED, at) if slot is None else (slot.memory, slot.place + at)


def _of_both(function: str, one: tuple[Any, ...], other: tuple[Any, ...]) -> Any:
    """Places and arguments of two calls of a function."""
    places = STEPS.get(function)
    if places is not None:
        sources, targets = ((*both, *(len(one) + i for i in both)) for both in places)
        places = sources, targets
    return places, (*one, *other)


def is_compiled(layer: Layer) -> bool:
    """Whether a layer, with all layers in it, only calls kernels."""
    for one in every_layer([layer]):
        own = vars(one)
        replaced = any(name in own for name in METHODS) or are_replaced(one)
        if type(one) not in COMPILED or is_stateful(one) or replaced:
            return False
        if not all(_is_ours(own.get(name)) for name in ("activation", "gate_activation")):
            return False
    return True


def _is_ours(activation: Any) -> bool:
    return activation is None or type(activation).__module__ == "npdl.activations"


def layers_of(plan: Plan) -> Iterator[Layer]:
    """Yield the layers that run at prediction, and all their sublayers."""
    for layer in every_layer(step.owner for step in plan.predicting):
        yield layer
        if isinstance(layer, Block):
            yield from layers_of(layer._steps)
