"""A network as a list of steps: nodes are sorted once, and then one loop walks the list.

Each value of the graph has a number, its slot. A step reads some slots and fills others::

    x = Input((8,)); h = Dense(4)(x); y = h + Dense(4)(h)

    step       reads   fills
    dense_1    0       1
    dense_2    1       2
    add_1      1, 2    3

Forward walks down the list, backward walks up. A slot that is read twice gets the sum of two
gradients. If a layer is called more than once, training runs a *twin* for each further call: a copy
with the same weights, but its own gradients and cache. The gradients are added up at the end. Two
layers may run as one step: in training one with the activation behind it (``_fusing.py``), at
prediction one with the normalization behind it (``_folding.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npdl._checks import error_message
from npdl.layers._folding import folded_steps
from npdl.layers._fusing import add_arrays, are_replaced, joined, pairs
from npdl.layers._padding import without_padding
from npdl.layers.base import Layer
from npdl.layers.node import Node, Value, nodes_of
from npdl.layers.owning import twin
from npdl.layers.step import Step
from npdl.layers.tree import every_layer

Masks = Sequence[NDArray | None]


def _may_fuse(step: Step, behind: Step) -> bool:
    """Whether the layer of a step can run that of the step behind it in training."""
    one, other = step.layer, behind.layer
    return one.takes_over(other) and not (are_replaced(one) or are_replaced(other))


def _call(steps: Sequence[Step], values: list[Value]) -> None:
    """Call the layers of some steps again, and append the values that they fill."""
    for step in steps:
        values += Node(step.owner, [values[slot] for slot in step.sources]).outputs


class Plan:
    """The steps from some values to others.

    Parameters
    ----------
    inputs, outputs : sequence of Value

    Attributes
    ----------
    layers : list of Layer
        Each once, in the order of the first calls.
    is_chain : bool
        Whether each step reads only the output of the step before it.

    Raises
    ------
    ValueError
        If an output depends on an input that is not among `inputs`.
    """

    def __init__(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> None:
        slots = {id(value): i for i, value in enumerate(inputs)}
        steps = []
        for node in nodes_of(outputs, inputs):
            for value in node.inputs:
                if id(value) not in slots:
                    rule = f"`inputs` must hold all inputs of layer {node.layer.name!r}"
                    raise ValueError(error_message(rule, missing=value))
            sources = tuple(slots[id(value)] for value in node.inputs)
            targets = tuple(range(len(slots), len(slots) + len(node.outputs)))
            slots.update((id(value), slot) for value, slot in zip(node.outputs, targets))
            shapes = tuple(value.shape for value in node.outputs)
            steps.append(Step(node.layer, sources, targets, shapes))
        for value in outputs:
            if id(value) not in slots:
                rule = "`inputs` must hold what the outputs are computed from"
                raise ValueError(error_message(rule, missing=value))
        self.steps = steps
        #: The value of each slot, by which `slot_of` finds it; a copy of the plan has none.
        self._values = [*inputs]
        self._values += (value for node in nodes_of(outputs, inputs) for value in node.outputs)
        self.in_shapes = tuple(value.shape for value in inputs)
        self.out_shapes = tuple(value.shape for value in outputs)
        self.n_slots = len(slots)
        self.out_slots = tuple(slots[id(value)] for value in outputs)
        #: The step that fills each slot, except those of the inputs.
        self.makers = {slot: step for step in steps for slot in step.targets}
        #: The slots that some step reads.
        self.read = {slot for step in steps for slot in step.sources}
        #: Slots that are kept for terms of the loss.
        self.watched: frozenset[int] = frozenset()
        self._find_free()
        self.layers: list[Layer] = list({id(step.owner): step.owner for step in steps}.values())
        #: The steps of layers that are called, or parts of which are called, by earlier steps too.
        self._repeated = self._find_repeated()
        self.is_chain = (
            not self._repeated
            and self.out_slots == (len(steps),)
            and all(
                step.sources == (i,) and step.targets == (i + 1,) for i, step in enumerate(steps)
            )
        )
        self._makes_masks = any(layer.makes_mask for layer in every_layer(self.layers))
        #: The steps of training, where some layers do the work of two; None outside of it.
        self._fused: list[Step] | None = None
        #: The steps of prediction; None until they are needed.
        self._folded: list[Step] | None = None
        self._blank: list[Any] = [None] * (self.n_slots - len(self.in_shapes))
        self._sums: dict[int, NDArray] = {}
        #: The first step that has to be walked back; the slots whose gradient is needed.
        self._lowest = 0
        self._needed: list[bool] | None = None

    def _find_free(self) -> None:
        for step in self.steps:
            step.free = ()
        last = {slot: step for step in self.steps for slot in step.sources}
        for slot, step in last.items():
            if slot not in self.out_slots and slot not in self.watched:
                step.free = (*step.free, slot)

    def _find_repeated(self) -> list[Step]:
        seen: set[int] = set()
        repeated = []
        for step in self.steps:
            parts = {id(layer) for layer in every_layer([step.owner])}
            if parts & seen:
                repeated.append(step)
            seen |= parts
        return repeated

    def __getstate__(self) -> dict[str, Any]:
        passing: dict[str, Any] = {"_needed": None, "_lowest": 0, "_values": [], "_fused": None}
        return {**vars(self), **passing, "_sums": {}, "_folded": None}

    def slot_of(self, place: Value | Layer) -> int | None:
        """The slot of a value, or of the first output of a layer; None if there is none."""
        if isinstance(place, Layer):
            return next((step.targets[0] for step in self.steps if step.owner is place), None)
        return next((i for i, value in enumerate(self._values) if value is place), None)

    def watch(self, slots: Collection[int]) -> None:
        """Keep the values of these slots, for terms of the loss."""
        if not self.watched.issuperset(slots):
            self.watched = self.watched.union(slots)
            self.is_chain, self._folded = False, None
            self._find_free()
            if self._fused is not None:
                self._fuse()

    def rewired(self, entries: Sequence[Value]) -> Plan:
        """The plan of the same calls, for inputs of other sizes; no layer is built again.

        Raises
        ------
        ValueError
            If a layer can't take them.
        """
        values = list(entries)
        _call(self.steps, values)
        plan = Plan(entries, [values[slot] for slot in self.out_slots])
        plan._values = self._values  # the slots are the same
        return plan

    def cut(self, number: int) -> tuple[Plan, ...]:
        """The plans of the first steps and of the others; empty unless one value joins the two.

        Nor where other layers would be folded: with watched slots, or layers that are called again.
        """
        first = self.n_slots - sum(len(step.targets) for step in self.steps[number:])
        later = {slot for step in self.steps[number:] for slot in step.sources}
        joins = [slot for slot in {*later, *self.out_slots} if slot < first]
        if len(joins) != 1 or joins[0] < len(self.in_shapes) or self.watched or self._repeated:
            return ()
        values = [Value(shape) for shape in self.in_shapes]
        entries = [*values]
        _call(self.steps[:number], values)
        before = Plan(entries, [values[joins[0]]])
        entry = values[joins[0]] = Value(values[joins[0]].shape)
        _call(self.steps[number:], values)
        return before, Plan([entry], [values[slot] for slot in self.out_slots])

    def fits(self) -> bool:
        """Whether every layer is still built as it was when the plan was made."""
        for step in self.steps:  # checked at each prediction: a loop is faster than `all`
            if step.owner.out_shape is not step.built:
                return False
        return True

    # ------------------------------------------------------------------------------- training

    def begin_training(self, input_grads: bool = False) -> None:
        """Let layers keep their arrays from step to step, and skip unused gradients.

        Parameters
        ----------
        input_grads : bool
            Whether the gradients in the inputs are needed.
        """
        self._make_twins()
        needed = [input_grads] * self.n_slots
        for step in self.steps:
            below = any(needed[slot] for slot in step.sources)
            for slot in step.targets:
                needed[slot] = below or bool(step.layer.params)
            step.layer.begin_training(below)
            step.layer.prepared_for = self
        self._needed = needed
        self._fuse()
        self._lowest = len(self._walked) - 1
        for i, step in reversed([*enumerate(self._walked)]):
            if input_grads or step.layer.params:
                self._lowest = i

    def _prepare_again(self, needed: list[bool]) -> None:
        """Prepare layers that another model was trained with since, or whose methods are others."""
        for layer in [step.layer for step in self.steps]:
            if layer.prepared_for is not self or (layer.follower and are_replaced(layer)):
                return self.begin_training(needed[0])

    def _fuse(self) -> None:
        """Let layers do the work of the activations behind them."""
        self._part()
        kept = {*self.watched, *self.out_slots}
        behind = pairs(self.steps, self._repeated, kept, _may_fuse)
        for step in self.steps:
            if id(step) in behind:
                step.layer.follower = behind[id(step)].layer
        self._fused = joined(self.steps, behind, lambda step, _: step.layer)

    def _part(self) -> None:
        self._fused = None
        for step in self.steps:
            step.layer.follower = None

    @property
    def _walked(self) -> list[Step]:
        """The steps of a training pass."""
        return self.steps if self._fused is None else self._fused

    @property
    def predicting(self) -> list[Step]:
        """The steps of a pass in inference mode."""
        if self._folded is None:
            kept = {*self.watched, *self.out_slots}
            self._folded = folded_steps(self.steps, self._repeated, kept)
        return self._folded

    def end_training(self) -> None:
        """Undo `begin_training`."""
        self._needed, self._lowest, self._sums = None, 0, {}
        self._part()
        for step in self.steps:
            step.layer.end_training()
            step.layer.prepared_for = None

    def _make_twins(self) -> None:
        for step in self._repeated:
            step.layer = twin(step.owner)

    # ------------------------------------------------------------------- forward and backward

    def forward(
        self,
        inputs: Sequence[Any],
        train: bool,
        masks: Masks | None = None,
        linear: Collection[int] = (),
        kept: dict[int, NDArray] | None = None,
    ) -> tuple[list[Any], list[NDArray | None]]:
        """Return the outputs, and the mask of each.

        Parameters
        ----------
        inputs : sequence of array_like
        train : bool
        masks : sequence of ndarray or None, optional
            The mask of each input.
        linear : collection of int
            The outputs whose layer is to leave out its activation, see `forward_linear`.
        kept : dict, optional
            Filled with the values of the watched slots.
        """
        if masks is not None and not any(mask is not None for mask in masks):
            masks = None
        if train and self._needed is not None:
            self._prepare_again(self._needed)
        if self.is_chain and masks is None and not self._makes_masks:
            return [self._chain(inputs[0], train, bool(linear))], [None]
        if train and self._repeated and self._repeated[0].layer is self._repeated[0].owner:
            self._make_twins()
        if masks is not None:
            inputs = [without_padding(x, mask) for x, mask in zip(inputs, masks)]
        values = [*inputs, *self._blank]
        marks: list[Any] = [*(masks or [None] * len(inputs)), *self._blank]
        heads = {self.out_slots[i] for i in linear}
        for step in self._walked if train else self.predicting:
            self._run(step, values, marks, train, step.targets[0] in heads)
        if kept is not None:
            kept.update((slot, np.asarray(values[slot])) for slot in self.watched)
        outputs = [np.asarray(values[slot]) for slot in self.out_slots]
        return outputs, [marks[slot] for slot in self.out_slots]

    @property
    def makes_masks(self) -> bool:
        """Whether any layer makes a mask of steps from its input."""
        return self._makes_masks

    def values_of(self, inputs: Sequence[Any], masks: Masks | None = None) -> list[Any]:
        """The values of all slots before the first step, then their masks, for `run_step`."""
        return [*inputs, *self._blank, *(masks or [None] * len(inputs)), *self._blank]

    def run_step(self, step: Step, values: list[Any]) -> None:
        """Run one step in inference mode."""
        marks = values[self.n_slots :]
        self._run(step, values, marks, train=False, linear=False)
        values[self.n_slots :] = marks

    def trace(
        self, inputs: Sequence[Any], masks: Masks | None = None
    ) -> Iterator[tuple[Layer, Any]]:
        """Yield each layer with its output, in inference mode; no two run as one step."""
        values = [*inputs, *self._blank]
        marks: list[Any] = [*(masks or [None] * len(inputs)), *self._blank]
        for step in self.steps:
            yield step.owner, self._run(step, values, marks, train=False, linear=False)

    def _run(
        self, step: Step, values: list[Any], marks: list[Any], train: bool, linear: bool
    ) -> Any:
        """Run one step: fill the slots of its outputs and of their masks."""
        taken = tuple(values[slot] for slot in step.sources)
        masks = [marks[slot] for slot in step.sources]
        layer = step.layer if train else step.owner
        if linear:
            y = layer.forward_linear(*taken, train=train)  # type: ignore[attr-defined]
            mark = layer.mask_after(taken, masks, y)
        elif "forward" in vars(layer):  # a user's; that of a block is not called by its other one
            y, mark = Layer.forward_masked(layer, taken, masks, train)
        else:
            y, mark = layer.forward_masked(taken, masks, train)
        if len(step.targets) == 1:
            values[step.targets[0]], marks[step.targets[0]] = y, mark
        else:
            for i, slot in enumerate(step.targets):
                values[slot] = y[i]
                marks[slot] = mark[i] if isinstance(mark, tuple) else None
        for slot in step.free:
            values[slot] = None
        return y

    def _chain(self, x: Any, train: bool, linear: bool) -> NDArray:
        """The output of a chain without masks: the common case, and the fastest."""
        walked = self._walked if train else self.predicting
        for step in walked[:-1] if linear else walked:
            layer = step.layer
            if type(layer).forward is not step.forward:
                step.look_at(type(layer).forward)
            x = layer.forward(x, train=train) if step.takes_train else layer.forward(x)
        if linear:
            x = walked[-1].layer.forward_linear(x, train=train)  # type: ignore[attr-defined]
        return np.asarray(x)

    def backward(
        self,
        gradients: Sequence[NDArray | None],
        linear: Collection[int] = (),
        further: Iterable[tuple[int, NDArray]] = (),
    ) -> list[NDArray | None]:
        """Fill the gradients of all parameters, and return those in the inputs.

        Parameters
        ----------
        gradients : sequence of ndarray or None
            For each output; None where no loss depends on it.
        linear : collection of int
            As for the `forward` before.
        further : iterable of tuple (int, ndarray)
            Slots with gradients of other terms of the loss.
        """
        if self.is_chain:
            return [self._chain_back(gradients[0], bool(linear))]
        needed, heads = self._needed, {self.out_slots[i] for i in linear}
        grads: list[NDArray | None] = [None] * self.n_slots
        summed: set[int] = set()
        for slot, gradient in [*zip(self.out_slots, gradients), *further]:
            self._meet(grads, summed, slot, gradient)
        for step in reversed(self._walked[self._lowest :]):
            if needed is not None and not needed[step.targets[0]]:
                continue
            if len(step.targets) > 1:
                dy: Any = tuple(grads[slot] for slot in step.targets)
                reached = any(g is not None for g in dy)
            else:
                dy = grads[step.targets[0]]
                reached = dy is not None
            if not reached:
                for grad in step.layer.grads:
                    grad.fill(0)
                continue
            if step.targets[0] in heads:
                dx = step.layer.backward_linear(dy)  # type: ignore[attr-defined]
            else:
                dx = step.layer.backward(dy)
            if len(step.sources) == 1:
                dx = (dx,)
            elif dx is None:
                continue
            for slot, gradient in zip(step.sources, dx):
                self._meet(grads, summed, slot, gradient)
            for slot in step.targets:
                grads[slot] = None
        self._add_twins()
        return grads[: len(self.in_shapes)]

    def _chain_back(self, grad: Any, linear: bool) -> NDArray | None:
        steps = self._walked[self._lowest :]
        if linear:
            grad = steps[-1].layer.backward_linear(grad)  # type: ignore[attr-defined]
            steps = steps[:-1]
        for step in reversed(steps):
            if grad is None:
                raise self._no_gradient(step)
            grad = step.layer.backward(grad)
        return None if grad is None else np.asarray(grad)

    def _no_gradient(self, step: Step) -> TypeError:
        """The error if the layer above a step returned no gradient for it."""
        above = self._walked[self._walked.index(step) + 1].layer
        kind = type(above).__name__
        return TypeError(
            f"{kind}.backward must return the gradient in its input. Received: None "
            f"(layer {above.name!r})"
        )

    def _meet(
        self, grads: list[NDArray | None], summed: set[int], slot: int, gradient: Any
    ) -> None:
        """Add a gradient to that of a slot. The first one belongs to a layer: it is not changed."""
        if gradient is None:
            return
        first = grads[slot]
        if first is None:
            grads[slot] = gradient
            return
        if slot not in summed:
            total = self._sums.get(slot)
            if total is None or total.shape != first.shape or total.dtype != first.dtype:
                total = np.empty(first.shape, first.dtype)
                if self._needed is not None:
                    self._sums[slot] = total
            summed.add(slot)
            grads[slot] = total
            add_arrays(first, gradient, total)
        else:
            add_arrays(first, gradient, first)

    def _add_twins(self) -> None:
        if not self._repeated:
            return
        twins = {id(step) for step in self._repeated}
        filled = {id(g) for s in self.steps if id(s) not in twins for g in s.owner.grads}
        for step in self._repeated:
            for grad, more in zip(step.owner.grads, step.layer.grads):
                if id(grad) in filled:
                    grad += more
                else:
                    grad[...] = more
                    filled.add(id(grad))

    def reached(self, outputs: Iterable[int]) -> set[int]:
        """The ids of the layers that these outputs, and the watched slots, depend on."""
        slots = {self.out_slots[i] for i in outputs} | self.watched
        found = set()
        for step in reversed(self.steps):
            if slots & {*step.targets}:
                slots.update(step.sources)
                found.add(id(step.owner))
        return found
