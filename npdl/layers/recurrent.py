"""Recurrent layers over batches of sequences, input of shape (N, T, n_in).

The formulas, and the layout of the one weight matrix `AllW` of each layer, stand in
``npdl._ext.rnn_np``. The state between two steps is the output h, in an LSTM followed by the cell
state c, both of shape (N, U). The layers differ in their kernels and the number of their gates.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl import activations, initializations, regularizers
from npdl._checks import check_int, check_number
from npdl._ext import kernels, rnn_np
from npdl.activations import Activation
from npdl.layers.base import Layer, ParameterView, Shape, fits

State = tuple[ArrayLike | None, ...]


class Recurrent(Layer):
    """Base of the recurrent layers; itself it can't run.

    Parameters
    ----------
    n_out : int
        Number of units U.
    n_in : int, optional
        Number of features of each step; only the first layer of a network has to be told.
    nb_batch, nb_seq : int, optional
        Samples and steps, as far as they are known beforehand; any others are taken too.
    init : str or Initializer
        Of the weights of the input, (n_in, U) for each gate.
    inner_init : str or Initializer
        Of the weights of the state, (U, U) for each gate. Biases start at zero.
    activation : str or Activation
    return_sequence : bool
        Whether the output is that of every step, (N, T, U), or of the last alone, (N, U).
    regularizer : str or Regularizer, optional, keyword-only
        Of `AllW` but for its first row, the biases.

    Attributes
    ----------
    AllW : ndarray, shape (1 + n_in + U, gates * U)
        The weights: rows bias, input, state; columns gate by gate. `dAllW` is its gradient.
    hn : ndarray, shape (N, U)
        The last output of the last training forward pass.
    dh0 : ndarray, shape (N, U)
        Gradient in the first state, after a backward pass.
    """

    AllW = ParameterView("AllW")
    dAllW = ParameterView("AllW", "grad")

    hn: NDArray | None = None
    dh0: NDArray | None = None
    need_grad: bool = True

    #: The forward and the backward kernel, how many gates they have, and how many states.
    _kernel_names: ClassVar[tuple[str, ...]] = ()
    _n_gates: ClassVar[int] = 1
    _n_states: ClassVar[int] = 1

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

    @property
    def in_shape(self) -> Shape | None:
        """(None, nb_seq, n_in), if `n_in` was given."""
        return None if self.n_in is None else (None, self.nb_seq, self.n_in)

    def build(self, in_shape: Shape) -> Shape:
        """Create `AllW`."""
        self._rank(in_shape, 3)
        n_in = self._size(in_shape, 2, "n_in", self.n_in)
        units, gates = self.n_out, self._n_gates
        blocks = [
            np.hstack([self.init((n_in, units)) for _ in range(gates)]),
            np.hstack([self.inner_init((units, units)) for _ in range(gates)]),
        ]
        self.add_parameter("AllW", np.vstack([np.zeros((1, gates * units)), *blocks]))
        steps = self.nb_seq if in_shape[1] is None else in_shape[1]
        return (None, steps, units) if self.return_sequence else (None, units)

    def forward(
        self,
        input: ArrayLike,
        mask: ArrayLike | None = None,
        h0: ArrayLike | None = None,
        *,
        train: bool = True,
    ) -> NDArray:
        """Return the output of every step, or of the last, see `return_sequence`.

        Parameters
        ----------
        input : array_like, shape (N, T, n_in)
        mask : array_like, shape (N, T), optional
            A step where it is 0 keeps the state as it was, and its output is the kept state.
        h0 : array_like, shape (N, U), optional
            The first state; zero if not given.
        train : bool
            Whether to remember what `backward` needs, and to set `hn`.
        """
        return self._run(input, mask, (h0,), train)

    def backward(self, pre_grad: ArrayLike, dhn: ArrayLike | None = None) -> NDArray | None:
        """Return the gradient in the input; fill `dAllW`, and set `dh0`.

        Parameters
        ----------
        pre_grad : array_like
            Gradient in the output, of its shape.
        dhn : array_like, shape (N, U), optional
            A further gradient in the last state `hn`.
        """
        return self._run_back(pre_grad, (dhn,))

    def _regularized(self) -> list[tuple[NDArray, NDArray]]:
        return [(self.AllW[1:], self.dAllW[1:])]

    def _activations(self) -> tuple[Activation, ...]:
        """The activations in the order in which the kernels take them."""
        return (self.activation,)

    def _kernels(self) -> tuple[Any, list[Any]]:
        """The namespace of the kernels, and the activations as they take them.

        The twins alone take an activation that has no kernel code.
        """
        if not self._kernel_names:
            raise NotImplementedError(f"{type(self).__name__} is a base class and has no kernels.")
        acts = self._activations()
        codes = [activation.kernel_code for activation in acts]
        if None in codes:
            return rnn_np, [activations.kernel_act(activation) for activation in acts]
        return kernels(), codes

    def _run(self, input: ArrayLike, mask: ArrayLike | None, first: State, train: bool) -> NDArray:
        if self.out_shape is None:
            raise self._not_built()
        units, train = self.n_out, train and self.need_grad
        w = self._named["AllW"].value
        n_in = len(w) - 1 - units
        x = self._numbers(input, w.dtype)
        if not fits(x.shape, ("N", "T", n_in)):
            raise self._misshapen(x.shape, ("N", "T", n_in))
        n, t, _ = x.shape
        steps = None
        if mask is not None:
            steps = (self._array(mask, (n, t), "mask") != 0).astype(np.uint8)
        start = [
            np.zeros((n, units), x.dtype) if s is None else self._array(s, (n, units), name).copy()
            for s, name in zip(first, ("h0", "c0"))
        ]
        # What the forward kernel fills and the backward kernel reads: h, [c], [gates].
        if train:
            widths = [units] * self._n_states + [self._n_gates * units] * (self._n_gates > 1)
            filled: list[Any] = [
                self._buffer(f"filled{k}", (n, t, width), w.dtype) for k, width in enumerate(widths)
            ]
        else:  # h alone
            filled = [np.empty((n, t, units), w.dtype)]
            filled += [None] * (self._n_states - 1 + (self._n_gates > 1))
        module, acts = self._kernels()
        forward = getattr(module, self._kernel_names[0])
        forward(x, w, *start, steps, *filled, *acts)
        if train:
            self._cache = x, start, steps, filled
            self._set_last([state[:, -1].copy() for state in filled[: self._n_states]])
        return filled[0] if self.return_sequence else filled[0][:, -1].copy()

    def _run_back(self, pre_grad: ArrayLike, last: State) -> NDArray | None:
        if not self.need_grad:
            raise RuntimeError(f"A layer made with need_grad=False has no backward {self._where}.")
        x, start, steps, filled = self._remembered()
        w = self._named["AllW"]
        n, t, _ = x.shape
        ends = [
            None if d is None else self._array(d, (n, self.n_out), name)
            for d, name in zip(last, ("dhn", "dcn"))
        ]
        dh = None
        if self.return_sequence:
            dh = self._array(pre_grad, (n, t, self.n_out), "pre_grad")
        else:
            dy = self._array(pre_grad, (n, self.n_out), "pre_grad")
            ends[0] = dy if ends[0] is None else ends[0] + dy
        dx = self._input_buffer(x)
        dstart = [np.empty_like(s) for s in start]
        module, acts = self._kernels()
        backward = getattr(module, self._kernel_names[1])
        backward(x, w.value, *start, steps, *filled, dh, *ends, dx, w.grad, *dstart, *acts)
        self._set_start_gradients(dstart)
        return dx

    def _set_last(self, states: list[NDArray]) -> None:
        (self.hn,) = states

    def _set_start_gradients(self, gradients: list[NDArray]) -> None:
        (self.dh0,) = gradients


class SimpleRNN(Recurrent):
    """Simple recurrent layer, ``h' = activation(b + x W_x + h W_h)``.

    Parameters
    ----------
    **kwargs
        The arguments of `Recurrent`.
    """

    _kernel_names = "rnn_forward", "rnn_backward"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class Gated(Recurrent):
    """Base of the recurrent layers with gates.

    Parameters
    ----------
    gate_activation : str or Activation
    need_grad : bool
        Whether a forward pass remembers what `backward` needs.
    **kwargs
        The arguments of `Recurrent`.
    """

    def __init__(
        self, gate_activation: Any = "sigmoid", need_grad: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.gate_activation = activations.get(gate_activation)
        self.need_grad = bool(need_grad)

    def _activations(self) -> tuple[Activation, ...]:
        return self.activation, self.gate_activation


class GRU(Gated):
    """Gated recurrent unit (Cho et al. 2014); the reset gate acts before the product.

    ``z, r = gate(b + x W_x + h W_h)``, ``ĥ = activation(b + x W_x + (h∘r) W_h)``,
    ``h' = (1-z)∘ĥ + z∘h``. The columns of `AllW` are z, r, h.

    Parameters
    ----------
    gate_activation : str or Activation
        Of z and r.
    need_grad : bool
        Whether a forward pass remembers what `backward` needs.
    **kwargs
        The arguments of `Recurrent`; `activation` is that of ĥ.
    """

    _kernel_names = "gru_forward", "gru_backward"
    _n_gates = 3


class LSTM(Gated):
    """Long short-term memory (Hochreiter and Schmidhuber 1997; forget gate: Gers et al. 2000).

    ``i, f, o = gate(b + x W_x + h W_h)``, ``g = activation(b + x W_x + h W_h)``,
    ``c' = f∘c + i∘g``, ``h' = o∘activation(c')``. The columns of `AllW` are i, f, o, g.

    Parameters
    ----------
    gate_activation : str or Activation
        Of i, f and o.
    need_grad : bool
        Whether a forward pass remembers what `backward` needs.
    forget_bias_num : float
        What the bias of f starts at.
    **kwargs
        The arguments of `Recurrent`; `activation` is that of g and of the output.

    Attributes
    ----------
    cn, dc0 : ndarray, shape (N, U)
        As `hn` and `dh0`, of the cell.
    """

    _kernel_names = "lstm_forward", "lstm_backward"
    _n_gates = 4
    _n_states = 2

    cn: NDArray | None = None
    dc0: NDArray | None = None

    def __init__(
        self,
        gate_activation: Any = "sigmoid",
        need_grad: bool = True,
        forget_bias_num: float = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(gate_activation, need_grad, **kwargs)
        self.forget_bias_num = check_number(
            "forget_bias_num", forget_bias_num, "(-inf, inf)", layer=self.name
        )

    def build(self, in_shape: Shape) -> Shape:
        """Create `AllW`."""
        out_shape = super().build(in_shape)
        self.AllW[0, self.n_out : 2 * self.n_out] = self.forget_bias_num
        return out_shape

    def forward(  # type: ignore[override]
        self,
        input: ArrayLike,
        mask: ArrayLike | None = None,
        c0: ArrayLike | None = None,
        h0: ArrayLike | None = None,
        *,
        train: bool = True,
    ) -> NDArray:
        """Return the output of every step, or of the last, see `return_sequence`.

        Parameters
        ----------
        input : array_like, shape (N, T, n_in)
        mask : array_like, shape (N, T), optional
            A step where it is 0 keeps the state as it was, and its output is the kept state.
        c0, h0 : array_like, shape (N, U), optional
            The first cell state and output; zero if not given.
        train : bool
            Whether to remember what `backward` needs, and to set `hn` and `cn`.
        """
        return self._run(input, mask, (h0, c0), train)

    def backward(  # type: ignore[override]
        self, pre_grad: ArrayLike, dcn: ArrayLike | None = None, dhn: ArrayLike | None = None
    ) -> NDArray | None:
        """Return the gradient in the input; fill `dAllW`, and set `dh0` and `dc0`.

        Parameters
        ----------
        pre_grad : array_like
            Gradient in the output, of its shape.
        dcn, dhn : array_like, shape (N, U), optional
            Further gradients in the last cell state `cn` and output `hn`.
        """
        return self._run_back(pre_grad, (dhn, dcn))

    def _set_last(self, states: list[NDArray]) -> None:
        self.hn, self.cn = states

    def _set_start_gradients(self, gradients: list[NDArray]) -> None:
        self.dh0, self.dc0 = gradients


class BatchLSTM(LSTM):
    """`LSTM` with the arguments of `forward` in another order; the same cell.

    Parameters
    ----------
    gate_activation, need_grad, forget_bias_num, **kwargs
        As in `LSTM`.
    """

    def forward(  # type: ignore[override]
        self,
        input: ArrayLike,
        c0: ArrayLike | None = None,
        h0: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        train: bool = True,
    ) -> NDArray:
        """Return the output of every step, or of the last; see `LSTM.forward`."""
        return self._run(input, mask, (h0, c0), train)
