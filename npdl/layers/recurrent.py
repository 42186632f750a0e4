"""Recurrent layers over batches of sequences, input of shape (N, T, n_in).

The formulas, and the layout of the weight matrix `AllW` of each layer, are in ``npdl._ext.rnn_np``.
The layers differ in their kernels and the number of their gates.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike, NDArray

from npdl import activations
from npdl._checks import check_number
from npdl.activations import Activation
from npdl.layers._recurrent import Recurrent, is_stateful, states_kept
from npdl.layers.base import Shape

__all__ = [
    "GRU",
    "LSTM",
    "BatchLSTM",
    "Gated",
    "Recurrent",
    "SimpleRNN",
    "is_stateful",
    "states_kept",
]


class SimpleRNN(Recurrent):
    """Simple recurrent layer, ``h' = activation(b + x W_x + h W_h)``.

    Parameters
    ----------
    **kwargs
        The arguments of `Recurrent`.
    """

    _kernel = "rnn"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class Gated(Recurrent):
    """Base of the recurrent layers with gates.

    Parameters
    ----------
    gate_activation : str or Activation
    need_grad : bool
        Whether a forward pass keeps what `backward` needs.
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

    With `reset_after` there is a second bias b_h, the second row of `AllW`, and the gate acts after
    the product: ``z, r = gate(b + x W_x + b_h + h W_h)``,
    ``ĥ = activation(b + x W_x + r∘(b_h + h W_h))``.

    Parameters
    ----------
    gate_activation : str or Activation
        Activation of z and r.
    need_grad : bool
        Whether a forward pass keeps what `backward` needs.
    reset_after : bool, keyword-only
        True is the default of Keras, and the only form of PyTorch and cuDNN.
    **kwargs
        The arguments of `Recurrent`; `activation` is that of ĥ.
    """

    _kernel = "gru"
    _n_gates = 3

    def __init__(
        self,
        gate_activation: Any = "sigmoid",
        need_grad: bool = True,
        *,
        reset_after: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(gate_activation, need_grad, **kwargs)
        self.reset_after = bool(reset_after)
        self._n_biases = 1 + self.reset_after


class LSTM(Gated):
    """Long short-term memory (Hochreiter and Schmidhuber 1997; forget gate: Gers et al. 2000).

    ``i, f, o = gate(b + x W_x + h W_h)``, ``g = activation(b + x W_x + h W_h)``,
    ``c' = f∘c + i∘g``, ``h' = o∘activation(c')``. The columns of `AllW` are i, f, o, g.

    Parameters
    ----------
    gate_activation : str or Activation
        Activation of i, f and o.
    need_grad : bool
        Whether a forward pass keeps what `backward` needs.
    forget_bias_num : float
        Initial value of the bias of f.
    **kwargs
        The arguments of `Recurrent`; `activation` is that of g and of the output.

    Attributes
    ----------
    cn, dc0 : ndarray, shape (N, U)
        As `hn` and `dh0`, of the cell.
    """

    _kernel = "lstm"
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

    def build(self, in_shape: Shape, *states: Shape) -> Any:
        """Create `AllW`."""
        out_shape = super().build(in_shape, *states)
        if self.use_bias:
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
    ) -> Any:
        """Return the output of every step, or of the last, see `return_sequence`.

        Parameters
        ----------
        input : array_like, shape (N, T, n_in)
        mask : array_like, shape (N, T), optional
            A step where it is 0 keeps the state as it was, and its output is the kept state.
        c0, h0 : array_like, shape (N, U), optional
            The first cell state and output; if not given, zero, or where the last batch ended if
            `stateful`.
        train : bool
            Whether to keep what `backward` needs, and to set `hn` and `cn`.

        Returns
        -------
        ndarray, or with `return_state` a tuple of that, h and c
        """
        return self._run(input, mask, (h0, c0), train)

    def backward(  # type: ignore[override]
        self, pre_grad: Any, dcn: ArrayLike | None = None, dhn: ArrayLike | None = None
    ) -> Any:
        """Return the gradient in the input; fill `dAllW`, and set `dh0` and `dc0`.

        Parameters
        ----------
        pre_grad : array_like
            Gradient in the output, of its shape; a tuple with `return_state`, None for no gradient.
        dcn, dhn : array_like, shape (N, U), optional
            Further gradients in the last cell state `cn` and output `hn`.
        """
        return self._run_back(pre_grad, (dhn, dcn))

    def _set_final_state(self, states: list[NDArray]) -> None:
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
    ) -> Any:
        """Return the output of every step, or of the last; see `LSTM.forward`."""
        return self._run(input, mask, (h0, c0), train)
