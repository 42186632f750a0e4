"""Wrappers: both directions of a recurrent layer, and a layer applied to every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl._checks import check_choice, error_message
from npdl._ext import copied, kernels
from npdl._registry import snake_case
from npdl.layers._recurrent import Recurrent
from npdl.layers._walk import run
from npdl.layers.base import Layer, Shape
from npdl.layers.config import layer_from
from npdl.layers.node import Value

_MERGES = ("concat", "sum", "mul", "ave")


class Bidirectional(Layer):
    """A recurrent layer in both directions at once (Schuster and Paliwal 1997).

    The second layer walks from the last step to the first; where there is a mask, from each
    sequence's own last step. Both outputs are merged step by step.

    Parameters
    ----------
    layer : Recurrent
        The forward direction. With ``return_sequence=True`` the output has all steps, else it is
        final output of each direction: that of the last step, and that of the first.
    merge_mode : {"concat", "sum", "mul", "ave"} or None
        How the two outputs are merged; None returns both.
    backward_layer : Recurrent, optional, keyword-only
        The backward direction; a layer with the options of `layer` if not given. Its `go_backwards`
        is ignored.

    Notes
    -----
    With ``return_state=True`` the output is a tuple: output, states of the forward direction,
    states of the backward direction. In a graph `initial_state` takes them in the same order.
    """

    def __init__(
        self,
        layer: Recurrent,
        merge_mode: str | None = "concat",
        *,
        backward_layer: Recurrent | None = None,
    ) -> None:
        first: Any = layer_from(layer)
        other: Any = _like(first) if backward_layer is None else layer_from(backward_layer)
        for name, one in (("layer", first), ("backward_layer", other)):
            if not isinstance(one, Recurrent):
                rule = f"`{name}` must be a recurrent layer"
                raise TypeError(error_message(rule, received=one) + f" {self._where}")
        if other is first:
            rule = "`backward_layer` must be another layer than `layer`"
            raise self._error(rule, backward_layer=other.name)
        if merge_mode is not None:
            check_choice("merge_mode", merge_mode, _MERGES)
        for option in ("return_sequence", "return_state", "stateful"):
            mine, theirs = getattr(first, option), getattr(other, option)
            if mine != theirs:
                rule = f"Both directions must have the same `{option}`"
                raise self._error(rule, forward=mine, backward=theirs)
        if first.go_backwards:
            raise self._error("The forward direction must not go backwards", go_backwards=True)
        if merge_mode in _MERGES[1:] and first.n_out != other.n_out:
            rule = f"Both directions must have as many units for merge_mode={merge_mode!r}"
            raise self._error(rule, n_out=(first.n_out, other.n_out))
        self.forward_layer: Recurrent = first
        self.backward_layer: Recurrent = other
        self.merge_mode = merge_mode
        for one, way in ((first, "forward"), (other, "backward")):
            one._auto_name = f"{way}_{snake_case(type(one).__name__)}"

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON types."""
        return {
            "layer": self.forward_layer.nested_config(),
            "merge_mode": self.merge_mode,
            "backward_layer": self.backward_layer.nested_config(),
        }

    @property
    def _both(self) -> tuple[Recurrent, Recurrent]:
        return self.forward_layer, self.backward_layer

    @property
    def n_outputs(self) -> int:  # type: ignore[override]
        """How many arrays `forward` returns."""
        states = sum(layer._n_states for layer in self._both)
        return 1 + (self.merge_mode is None) + self.forward_layer.return_state * states

    @property
    def in_shape(self) -> Shape | None:
        """That of the forward layer."""
        return self.forward_layer.declared_shape

    def build(self, in_shape: Shape, *states: Shape) -> Any:
        """Connect both layers."""
        ys: list[Shape] = []
        ends: list[Shape] = []
        for layer, half in zip(self._both, self._halves(states)):
            out = layer.shape_for(Value(in_shape), *map(Value, half))
            ys.append(out[0] if layer.return_state else out)
            ends += out[1:] if layer.return_state else ()
        if self.merge_mode == "concat":
            ys = [(*ys[0][:-1], self.forward_layer.n_out + self.backward_layer.n_out)]
        elif self.merge_mode is not None:
            ys = ys[:1]
        return (*ys, *ends) if self.n_outputs > 1 else ys[0]

    def _halves(self, states: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """The parts of a first state for each direction."""
        n, total = self.forward_layer._n_states, sum(layer._n_states for layer in self._both)
        if states and len(states) != total:
            raise self._error(f"A first state must have {total} parts", parts=len(states))
        return tuple(states[:n]), tuple(states[n:])

    def call_inputs(self, *values: Value, **options: Any) -> tuple[Value, ...]:
        """The sequence, then the parts of `initial_state`: those of each direction."""
        state = options.pop("initial_state", None)
        return super().call_inputs(*values, *(state or ()), **options)

    def forward(
        self, input: ArrayLike, mask: ArrayLike | None = None, *, train: bool = True
    ) -> Any:
        """Return the output of every step, or what both directions end with.

        Parameters
        ----------
        input : array_like, shape (N, T, n_in)
        mask : array_like, shape (N, T), optional
            A step where it is 0 keeps the state as it was, in both directions.
        train : bool
            Whether to keep what `backward` needs.

        Returns
        -------
        ndarray, or tuple of ndarray where there are several outputs
        """
        return self._run(input, mask, (), train)

    def forward_masked(
        self, inputs: Sequence[Any], masks: Sequence[NDArray | None], train: bool
    ) -> tuple[Any, Any]:
        """Return the output and its mask; the inputs are the sequence, and first states if any."""
        if len(inputs) == 1:
            return super().forward_masked(inputs, masks, train)
        y = self._run(inputs[0], masks[0], inputs[1:], train)
        return y, self.mask_after(inputs, masks, y)

    def _run(self, input: Any, mask: Any, states: Sequence[Any], train: bool) -> Any:
        if self.out_shape is None:
            raise self._not_built()
        walks = []
        for layer, half, reverse in zip(self._both, self._halves(states), (False, True)):
            first = half or (None,) * layer._n_states
            keep = layer.return_state or layer.stateful
            walks.append(layer._begin(input, mask, first, train, reverse=reverse, keep_states=keep))
        run([layer._call("forward", walk) for layer, walk in zip(self._both, walks)])
        lasts = [layer._end(walk, train) for layer, walk in zip(self._both, walks)]
        if self.forward_layer.return_sequence:
            ys = [walk.sequence() for walk in walks]
        else:
            ys = [last[0] for last in lasts]
        if train:
            self._cache = walks, ys, bool(states)
        outputs = self._merge(ys, train)
        if self.forward_layer.return_state:
            outputs += [copied(state) for last in lasts for state in last]
        return tuple(outputs) if len(outputs) > 1 else outputs[0]

    def _merge(self, ys: list[NDArray], train: bool) -> list[NDArray]:
        one, other = ys
        mode, width = self.merge_mode, one.shape[-1]
        if mode is None:
            return [one.copy(), other.copy()] if train else [one, other]
        if mode == "concat":
            width += other.shape[-1]
        shape = (*one.shape[:-1], width)
        y = self._buffer("y", shape, one.dtype) if train else np.empty(shape, one.dtype)
        if mode == "concat":
            kernels().copy_array(one, y[..., : one.shape[-1]])
            kernels().copy_array(other, y[..., one.shape[-1] :])
            return [y]
        (np.multiply if mode == "mul" else np.add)(one, other, out=y)
        if mode == "ave":
            y *= 0.5
        return [y]

    def backward(self, pre_grad: Any) -> Any:
        """Return the gradient in the input, and fill those of both layers.

        Parameters
        ----------
        pre_grad : array_like
            Gradient in the output; a tuple where there are several, None for no gradient.

        Returns
        -------
        ndarray or None
            A tuple with the gradients in the first states, where these were inputs of the network.
        """
        walks, ys, given = self._saved_for_backward()
        grads = list(pre_grad) if self.n_outputs > 1 else [pre_grad]
        n = self.forward_layer._n_states
        states = grads[2 if self.merge_mode is None else 1 :]
        parts = (states[:n], states[n:]) if states else ([], [])
        calls, starts, dxs = [], [], []
        for layer, walk, dh, ends in zip(self._both, walks, self._parted(grads, ys), parts):
            every = [[end] for end in ends] or [[None] for _ in range(layer._n_states)]
            if not layer.return_sequence:
                every[0].append(dh)
                dh = None
            x = walk.x
            dxs.append(layer._buffer("dx", x.shape, x.dtype) if self.need_input_grad else None)
            call, dstart = layer._back(walk, dh, layer._summed(walk, every), dxs[-1])
            calls.append(call)
            starts.append(dstart)
        run(calls)
        for layer, dstart in zip(self._both, starts):
            layer._end_back(dstart)
        dx = dxs[0]
        if dx is not None:
            dx += dxs[1]
        return (dx, *starts[0], *starts[1]) if given else dx

    def _parted(self, grads: list[Any], ys: list[NDArray]) -> list[NDArray | None]:
        """The gradients in the outputs of both directions."""
        mode, dtype = self.merge_mode, ys[0].dtype
        if mode is None:
            return [
                None if dy is None else self._checked_array(dy, y.shape, "pre_grad", dtype)
                for dy, y in zip(grads, ys)
            ]
        if grads[0] is None:
            return [None, None]
        width = ys[0].shape[-1]
        whole = width + ys[1].shape[-1] if mode == "concat" else width
        dy = self._checked_array(grads[0], (*ys[0].shape[:-1], whole), "pre_grad", dtype)
        if mode == "concat":
            return [np.ascontiguousarray(part) for part in (dy[..., :width], dy[..., width:])]
        if mode == "mul":
            return [dy * ys[1], dy * ys[0]]
        half = dy * dtype.type(0.5) if mode == "ave" else dy
        return [half, half]

    def reset_states(self) -> None:
        """Let the next batch start from zero, if the layers are `stateful`."""
        for layer in self._both:
            layer.reset_states()


def _like(layer: Any) -> Any:
    """A new layer with the options of `layer`."""
    if not isinstance(layer, Recurrent):
        return layer
    other = type(layer).from_json(layer.to_json())
    other.trainable = layer.trainable
    return other


class TimeDistributed(Layer):
    """Apply a layer to every step separately: it sees (N, T, ...) as (N*T, ...).

    Parameters
    ----------
    layer : Layer
        With one input and one output.
    """

    def __init__(self, layer: Layer) -> None:
        self.layer = layer_from(layer)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON types."""
        return {"layer": self.layer.nested_config()}

    @property
    def in_shape(self) -> Shape | None:
        """That of the layer, with an axis of steps."""
        shape = self.layer.declared_shape
        return None if shape is None else (None, None, *shape[1:])

    def build(self, in_shape: Shape) -> Shape:
        """Connect the layer to the shape of one step."""
        if len(in_shape) < 3:
            raise self._error("The input must have at least 3 axes", shape=in_shape)
        if self.layer.n_outputs > 1:
            raise self._error("The layer must have one output", outputs=self.layer.n_outputs)
        out = self.layer.shape_for(Value((None, *in_shape[2:])))
        return (None, in_shape[1], *out[1:])

    def forward(self, input: ArrayLike, train: bool = True) -> NDArray:
        """Return the output of the layer for every step.

        Parameters
        ----------
        input : array_like, shape (N, T, ...)
        train : bool
            Whether to keep what `backward` needs.

        Returns
        -------
        ndarray, shape (N, T, ...)
        """
        if self.out_shape is None:
            raise self._not_built()
        x = np.asarray(input)
        if x.ndim < 3 or 0 in x.shape:
            raise self._shape_error(x.shape, ("N", "T", "...", "D"))
        steps = x.reshape(-1, *x.shape[2:])
        y, _ = self.layer.forward_masked((steps,), (None,), train)
        if train:
            self._cache = x.shape, y.shape
        return y.reshape(*x.shape[:2], *y.shape[1:])

    def backward(self, pre_grad: ArrayLike) -> NDArray | None:
        """Return the gradient in the input, and fill those of the layer."""
        x_shape, y_shape = self._saved_for_backward()
        dy = np.asarray(pre_grad)
        if dy.shape != (*x_shape[:2], *y_shape[1:]):
            raise self._shape_error(dy.shape, (*x_shape[:2], *y_shape[1:]), "pre_grad")
        dx = self.layer.backward(dy.reshape(y_shape))
        return None if dx is None else dx.reshape(x_shape)

    def reset_states(self) -> None:
        """Call `reset_states` of the layer, if it has it."""
        reset = getattr(self.layer, "reset_states", None)
        if reset is not None:
            reset()
