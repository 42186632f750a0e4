"""The base class of the recurrent layers: options, states and the calls of the kernels.

The state between two steps is the output h, in an LSTM followed by the cell state c, both of shape
(N, U). A pass is prepared by `_begin`, run by the kernel call of `_call`, and finished by `_end`,
so that `Bidirectional` can run the passes of two layers at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl import activations, initializations, regularizers
from npdl._checks import check_int, check_number, error_message
from npdl._ext import copied, kernels, rnn_np
from npdl.activations import Activation
from npdl.layers._walk import KernelCall, Walk, run
from npdl.layers.base import Layer, ParameterView, Shape, shape_fits
from npdl.layers.node import Value, as_values
from npdl.layers.tree import every_layer
from npdl.utils.random import get_rng

State = tuple[ArrayLike | None, ...]


class Recurrent(Layer):
    """Abstract base of the recurrent layers.

    Parameters
    ----------
    n_out : int
        Number of units U.
    n_in : int, optional
        Number of features of each step; needed only for the first layer of a network.
    nb_batch, nb_seq : int, optional
        Numbers of samples and steps, if known; other sizes are accepted too.
    init : str or Initializer
        Initializer of the weights of the input, (n_in, U) for each gate.
    inner_init : str or Initializer
        Initializer of the weights of the state, (U, U) for each gate. Biases start at zero.
    activation : str or Activation
    return_sequence : bool
        Whether the output is that of every step, (N, T, U), or only of the last, (N, U).
    regularizer : str or Regularizer, optional, keyword-only
        Penalty on the weights in `AllW`, not on the biases.
    return_state : bool, keyword-only
        Whether the output is a tuple: the usual output, and the last state, h or h and c.
    stateful : bool, keyword-only
        Whether a batch starts from the final state of the previous batch, in training and at
        prediction, until `reset_states`.
    go_backwards : bool, keyword-only
        Whether to run from the last step to the first. The outputs are then in this order too.
    dropout, recurrent_dropout : float in [0, 1), keyword-only
        Fraction of the input and of the state to drop in training. The mask is drawn once for each
        sequence, and is the same in all its steps (Gal and Ghahramani 2016).
    use_bias : bool, keyword-only
        Without biases their rows of `AllW` are not read, and stay 0.

    Attributes
    ----------
    AllW : ndarray, shape (1 + n_in + U, gates * U)
        The weights: rows bias, input, state; columns gate by gate. `dAllW` is its gradient.
    hn : ndarray, shape (N, U)
        The last output of the last training forward pass.
    dh0 : ndarray, shape (N, U)
        Gradient in the first state, after a backward pass.
    """

    color = "#2a7f62"

    AllW = ParameterView("AllW")
    dAllW = ParameterView("AllW", "grad")

    hn: NDArray | None = None
    dh0: NDArray | None = None
    need_grad: bool = True

    #: The kernels, how many gates they have, and how many states; rows of biases.
    _kernel: ClassVar[str] = ""
    _n_gates: ClassVar[int] = 1
    _n_states: ClassVar[int] = 1
    _n_biases: int = 1

    #: The state that the next batch starts from, if `stateful`.
    _state: tuple[NDArray, ...] | None = None

    def __init__(
        self,
        n_out: int,
        n_in: int | None = None,
        nb_batch: int | None = None,
        nb_seq: int | None = None,
        init: Any = "glorot_uniform",
        inner_init: Any = "orthogonal",
        activation: Any = "tanh",
        return_sequence: bool = False,
        *,
        regularizer: Any = None,
        return_state: bool = False,
        stateful: bool = False,
        go_backwards: bool = False,
        dropout: float = 0,
        recurrent_dropout: float = 0,
        use_bias: bool = True,
    ) -> None:
        self.n_out = check_int("n_out", n_out, layer=self.name)
        self.n_in = self._optional_int("n_in", n_in)
        self.nb_batch = self._optional_int("nb_batch", nb_batch)
        self.nb_seq = self._optional_int("nb_seq", nb_seq)
        self.init = initializations.get(init)
        self.inner_init = initializations.get(inner_init)
        self.activation = activations.get(activation)
        self.return_sequence = bool(return_sequence)
        self.regularizer = regularizers.get(regularizer)
        self.return_state = bool(return_state)
        self.stateful = bool(stateful)
        self.go_backwards = bool(go_backwards)
        self.dropout = check_number("dropout", dropout, "[0, 1)", layer=self.name)
        self.recurrent_dropout = check_number(
            "recurrent_dropout", recurrent_dropout, "[0, 1)", layer=self.name
        )
        self.use_bias = bool(use_bias)

    @classmethod
    def _positional(
        cls, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """``LSTM(32)`` is ``LSTM(n_out=32)``; everything else must be named."""
        if not args or not cls.__init__.__module__.startswith("npdl.") or cls is Recurrent:
            return args, kwargs
        number = hasattr(args[0], "__index__") and not isinstance(args[0], bool)
        if len(args) == 1 and number and "n_out" not in kwargs:
            return (), {"n_out": args[0], **kwargs}
        rule = f"{cls.__name__} takes `n_out` alone without a name, as in {cls.__name__}(32)"
        raise TypeError(error_message(rule, arguments=args))

    @property
    def n_outputs(self) -> int:  # type: ignore[override]
        """How many arrays `forward` returns."""
        return 1 + self.return_state * self._n_states

    @property
    def in_shape(self) -> Shape | None:
        """(None, nb_seq, n_in), if `n_in` was given."""
        return None if self.n_in is None else (None, self.nb_seq, self.n_in)

    def build(self, in_shape: Shape, *states: Shape) -> Any:
        """Create `AllW`."""
        self._check_rank(in_shape, 3)
        n_in = self._axis_size(in_shape, 2, "n_in", self.n_in)
        units, gates = self.n_out, self._n_gates
        if len(states) > self._n_states:
            rule = f"A first state must have {self._n_states} parts at most"
            raise self._error(rule, shapes=states)
        for shape in states:
            if len(shape) != 2 or shape[1] not in (None, units):
                raise self._error(f"A first state must have shape (N, {units})", shape=shape)
        blocks = [  # the initializers reject shapes that are too large for a file
            np.hstack([self.init((n_in, units)) for _ in range(gates)]),
            np.hstack([self.inner_init((units, units)) for _ in range(gates)]),
        ]
        self._state = None
        biases = np.zeros((self._n_biases, gates * units))
        self.add_parameter("AllW", np.vstack([biases, *blocks]))
        steps = self.nb_seq if in_shape[1] is None else in_shape[1]
        y = (None, steps, units) if self.return_sequence else (None, units)
        return (y, *[(None, units)] * self._n_states) if self.return_state else y

    def call_inputs(self, *values: Value, **options: Any) -> tuple[Value, ...]:
        """The sequence, then the parts of `initial_state`.

        Parameters
        ----------
        *values : Value
        initial_state : Value or tuple of Value, optional
            (h,), and of an LSTM (h, c).
        """
        state = options.pop("initial_state", None)
        if state is not None:
            given = state if isinstance(state, tuple | list) else (state,)
            parts = as_values(given)
            if not parts or len(values) + len(parts) > 1 + self._n_states:
                rule = f"`initial_state` must be {self._n_states} symbolic values"
                raise TypeError(error_message(rule, layer=self.name, initial_state=state))
            values = (*values, *parts)
        return super().call_inputs(*values, **options)

    def forward(
        self,
        input: ArrayLike,
        mask: ArrayLike | None = None,
        h0: ArrayLike | None = None,
        *,
        train: bool = True,
    ) -> Any:
        """Return the output of every step, or of the last, see `return_sequence`.

        Parameters
        ----------
        input : array_like, shape (N, T, n_in)
        mask : array_like, shape (N, T), optional
            A step where it is 0 leaves the state unchanged, and its output is that state. The input
            of such a step has no effect.
        h0 : array_like, shape (N, U), optional
            The first state; by default zero, or if `stateful` the final state of the last batch.
        train : bool
            Whether to keep what `backward` needs, and to set `hn`.

        Returns
        -------
        ndarray, or with `return_state` a tuple of that and the last state
        """
        return self._run(input, mask, (h0,), train)

    def forward_masked(
        self, inputs: Sequence[Any], masks: Sequence[NDArray | None], train: bool
    ) -> tuple[Any, Any]:
        """Return the output and its mask; the inputs are the sequence, and h0, c0 if given."""
        if len(inputs) == 1:
            return super().forward_masked(inputs, masks, train)
        first = (*inputs[1:], *(None,) * self._n_states)[: self._n_states]
        y = self._run(inputs[0], masks[0], first, train, n_given=len(inputs) - 1)
        return y, self.mask_after(inputs, masks, y)

    def backward(self, pre_grad: Any, dhn: ArrayLike | None = None) -> Any:
        """Return the gradient in the input; fill `dAllW`, and set `dh0`.

        Parameters
        ----------
        pre_grad : array_like
            Gradient in the output, of its shape; a tuple with `return_state`, None for no gradient.
        dhn : array_like, shape (N, U), optional
            A further gradient in the last state `hn`.

        Returns
        -------
        ndarray or None
            A tuple with the gradients in the first state, where this was an input of the network.
        """
        return self._run_back(pre_grad, (dhn,))

    def step(self, x: ArrayLike, state: Any = None) -> tuple[NDArray, tuple[NDArray, ...]]:
        """Run one step at prediction, for example to generate text; the layer is not changed.

        Parameters
        ----------
        x : array_like, shape (N, n_in)
        state : tuple of array_like of shape (N, U), optional
            The state that the previous step returned, (h,) or (h, c); zero if not given.

        Returns
        -------
        y : ndarray, shape (N, U)
        state : tuple of ndarray
        """
        given = state if isinstance(state, tuple | list) else (state,)
        if state is None:
            given = (None,) * self._n_states
        if len(given) != self._n_states:
            rule = f"`state` must have {self._n_states} parts"
            raise self._error(rule, parts=len(given))
        w = self._weights()
        rows = self._checked_array(x, ("N", len(w) - self._n_biases - self.n_out), "x", w.dtype)
        walk = self._begin(rows[:, None], None, tuple(given), False, keep_states=True)
        run([self._call("forward", walk)])
        states = tuple(walk.last())
        return states[0], states

    def reset_states(self) -> None:
        """Let the next batch start from zero, if the layer is `stateful`."""
        self._state = None

    def next_mask(self, masks: Sequence[NDArray | None], y: Any) -> Any:
        """The mask of the input, in the order of the output."""
        mask = masks[0]
        if mask is not None and self.go_backwards:
            mask = mask[:, ::-1]
        return super().next_mask([mask], y)

    def _regularized(self) -> list[tuple[NDArray, NDArray]]:
        n = self._n_biases
        return [] if self.dAllW is None else [(self.AllW[n:], self.dAllW[n:])]

    def _activations(self) -> tuple[Activation, ...]:
        """The activations in the order in which the kernels take them."""
        return (self.activation,)

    # -------------------------------------------------------------------------------- the walk

    def _weights(self) -> NDArray:
        """The current weights, without biases if there are none."""
        if self.out_shape is None:
            raise self._not_built()
        w = self._parameters_by_name["AllW"].value
        if not self.use_bias:
            w = w.copy()
            w[: self._n_biases] = 0
        return w

    def _begin(
        self,
        input: ArrayLike,
        mask: ArrayLike | None,
        initial_state: State,
        train: bool,
        *,
        reverse: bool | None = None,
        keep_states: bool = False,
    ) -> Walk:
        """Check the arguments of a forward pass, and make the arrays for it."""
        w, units = self._weights(), self.n_out
        n_in = len(w) - self._n_biases - units
        x = self._as_array(input, w.dtype)
        if not shape_fits(x.shape, ("N", "T", n_in)):
            raise self._shape_error(x.shape, ("N", "T", n_in))
        n, t, _ = x.shape
        mask_u8 = None
        if mask is not None:
            mask_u8 = self._mask_bytes(mask, (n, t), train)
        if (
            self.stateful
            and self._state is not None
            and all(part is None for part in initial_state)
        ):
            initial_state = self._state
            if len(self._state[0]) != n:
                rule = f"A stateful layer keeps to batches of {len(self._state[0])} samples until "
                raise self._error(rule + "reset_states()", samples=n)
        start = [
            np.zeros((n, units), x.dtype)
            if part is None
            else copied(self._checked_array(part, (n, units), name, w.dtype))
            for part, name in zip(initial_state, ("h0", "c0"))
        ]
        drops = (
            self._drawn("drop_x", (n, n_in), self.dropout if train else 0, w.dtype),
            self._drawn("drop_h", (n, units), self.recurrent_dropout if train else 0, w.dtype),
        )
        # Arrays that the forward kernel fills and the backward kernel reads: h, [c], [gates].
        train = train and self.need_grad
        states = [units] * (self._n_states if train or keep_states else 1)
        if train:
            columns = self._n_gates + self._n_biases - 1
            widths = [*states, *[columns * units] * (self._n_gates > 1)]
            saved: list[Any] = [
                self._buffer(f"saved{k}", (n, t, width), w.dtype) for k, width in enumerate(widths)
            ]
        else:
            saved = [np.empty((n, t, width), w.dtype) for width in states]
            saved += [None] * (self._n_states - len(states) + (self._n_gates > 1))
        backwards = self.go_backwards if reverse is None else reverse
        return Walk(x, w, start, mask_u8, saved, backwards, drops, self._n_states)

    def _mask_bytes(self, mask: Any, shape: tuple[int, int], train: bool) -> NDArray:
        """The mask as the kernels take it; a copy if it is kept."""
        if isinstance(mask, np.ndarray) and mask.dtype == np.uint8 and not train:
            if mask.shape == shape and mask.flags.c_contiguous:
                return mask
        return (self._checked_array(mask, shape, "mask") != 0).astype(np.uint8)

    def _drawn(self, key: str, shape: tuple[int, int], p: float, dtype: Any) -> NDArray | None:
        """The dropout factors, 0 or 1 / (1 - p). One seed for all of them, as in `Dropout`."""
        if p == 0:
            return None
        seed = int(get_rng().integers(2**64, dtype=np.uint64))
        factors, kept = self._buffer(key, shape, dtype), np.empty(shape, np.uint8)
        ones = np.ones(shape, dtype)
        kernels().dropout_forward(ones.ravel(), seed, p, factors.reshape(-1), kept.reshape(-1))
        return factors

    def _call(self, way: str, walk: Walk, *gradients: Any) -> KernelCall:
        """The call of the kernel; only the twins take an activation without a kernel code."""
        if not self._kernel:
            raise NotImplementedError(f"{type(self).__name__} is a base class and has no kernels.")
        module: Any = kernels()
        acts = self._activations()
        codes: list[Any] = [activation.kernel_code for activation in acts]
        if None in codes:
            module, codes = rnn_np, [activations.activation_argument(act) for act in acts]
        args = walk.backward_args(codes, *gradients) if gradients else walk.forward_args(codes)
        return KernelCall(module, f"{self._kernel}_{way}", args)

    def _end(self, walk: Walk, train: bool) -> list[NDArray]:
        """Keep the last states where requested, and return them."""
        last = walk.last()
        if self.stateful:
            self._state = tuple(state.copy() for state in last)
        if train and self.need_grad:
            self._set_final_state(last)
        return last

    def _run(
        self,
        input: ArrayLike,
        mask: ArrayLike | None,
        first: State,
        train: bool,
        n_given: int = 0,
    ) -> Any:
        keep = self.return_state or self.stateful
        walk = self._begin(input, mask, first, train, keep_states=keep)
        run([self._call("forward", walk)])
        last = self._end(walk, train)
        if train and self.need_grad:
            self._cache = walk, n_given
        y = walk.sequence(in_order_of_steps=False) if self.return_sequence else last[0]
        if self.return_state:
            return (y, *map(copied, last))
        return y if self.return_sequence or not train else y.copy()

    def _run_back(self, pre_grad: Any, last: State) -> Any:
        if not self.need_grad:
            raise RuntimeError(f"A layer made with need_grad=False has no backward {self._where}.")
        walk, n_given = self._saved_for_backward()
        dy, *ends = pre_grad if self.return_state else (pre_grad, *[None] * self._n_states)
        n, t, _ = walk.x.shape
        shape = (n, t, self.n_out) if self.return_sequence else (n, self.n_out)
        dh = None if dy is None else self._checked_array(dy, shape, "pre_grad", walk.w.dtype)
        parts = [list(pair) for pair in zip(ends, last)]
        if not self.return_sequence:
            parts[0].append(dh)
            dh = None
        elif walk.reverse and dh is not None:
            dh = np.ascontiguousarray(dh[:, ::-1])
        dx = self._input_buffer(walk.x)
        call, dstart = self._back(walk, dh, self._summed(walk, parts), dx)
        run([call])
        self._end_back(dstart)
        return (dx, *dstart[:n_given]) if n_given else dx

    def _summed(self, walk: Walk, ends: Sequence[Sequence[Any]]) -> list[NDArray | None]:
        """The sums of all gradients in each part of the last state."""
        shape, dtype = walk.start[0].shape, walk.w.dtype
        found: list[NDArray | None] = []
        for name, parts in zip(("dhn", "dcn"), ends):
            arrays = [self._checked_array(d, shape, name, dtype) for d in parts if d is not None]
            found.append(sum(arrays[1:], arrays[0]) if arrays else None)
        return found

    def _back(
        self, walk: Walk, dh: NDArray | None, ends: list[NDArray | None], dx: NDArray | None
    ) -> tuple[KernelCall, list[NDArray]]:
        """The call of the backward kernel, and the gradients in the first state that it fills."""
        dstart = [np.empty_like(part) for part in walk.start]
        dw = self._parameters_by_name["AllW"].grad
        return self._call("backward", walk, dh, ends, dx, dw, dstart), dstart

    def _end_back(self, dstart: list[NDArray]) -> None:
        if not self.use_bias and self.dAllW is not None:
            self.dAllW[: self._n_biases] = 0
        self._set_start_gradients(dstart)

    def _set_final_state(self, states: list[NDArray]) -> None:
        (self.hn,) = states

    def _set_start_gradients(self, gradients: list[NDArray]) -> None:
        (self.dh0,) = gradients


def is_stateful(layer: Layer) -> TypeGuard[Recurrent]:
    """Whether a layer keeps its state from batch to batch."""
    return isinstance(layer, Recurrent) and layer.stateful


@contextlib.contextmanager
def states_kept(layers: Iterable[Layer]) -> Iterator[None]:
    """Let stateful layers start from zero in a ``with`` block; restore their states after it."""
    kept = [(one, one._state) for one in every_layer(layers) if is_stateful(one)]
    try:
        for layer, _ in kept:
            layer._state = None
        yield
    finally:
        for layer, state in kept:
            layer._state = state
