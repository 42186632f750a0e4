"""The base of `Dense` and the convolutions: an affine map of the input, then an activation."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl import activations
from npdl._ext import copied
from npdl._ext.activation_np import LINEAR
from npdl.activations import Activation, KernelCode
from npdl.layers.base import Layer, ParameterView

_IDENTITY: KernelCode = (LINEAR, 1.0)


class Affine(Layer):
    """``act(affine(input))`` with weights `W` and bias `b`.

    An activation that the kernels know runs fused inside them; any other one is called as an object
    between the linear kernels, on the whole output. A subclass defines `_affine_forward` and
    `_affine_backward`.
    """

    activation: Activation = activations.Linear()
    use_bias: bool = True

    #: The axis along which softmax and similar activations run by default.
    _rows_along: int = -1

    W = ParameterView("W")
    b = ParameterView("b")
    dW = ParameterView("W", "grad")
    db = ParameterView("b", "grad")

    def _affine_forward(
        self, input: ArrayLike, act: KernelCode, train: bool
    ) -> tuple[NDArray, NDArray]:
        """Return the input, checked, and the output ``act(affine(input))``."""
        raise NotImplementedError

    def _affine_backward(
        self, x: NDArray, y: NDArray, dy: NDArray, act: KernelCode
    ) -> NDArray | None:
        """Fill dW and db, and return the gradient in `x`."""
        raise NotImplementedError

    def forward(self, input: ArrayLike, train: bool = True) -> NDArray:
        """Return the output of the layer.

        Parameters
        ----------
        input : array_like
            Shape as in the description of the class.
        train : bool
            Whether to keep what `backward` needs.
        """
        activation, z = self.activation, None
        code = activation.kernel_code
        x, y = self._affine_forward(input, _IDENTITY if code is None else code, train)
        if code is None:
            z = y
            y = self._back(activations.apply_activation(activation, self._rows(z), keep=train))
        if train:
            self._cache = x, z, y
        return y

    def backward(self, pre_grad: ArrayLike) -> NDArray | None:
        """Return the gradient in the input, and fill `dW` and `db`.

        Parameters
        ----------
        pre_grad : array_like
            Gradient in the output, of its shape.
        """
        x, z, y = self._saved_for_backward()
        dy = self._checked_array(pre_grad, y.shape, "pre_grad", y.dtype)
        code = self.activation.kernel_code
        if code is None:
            rows = map(self._rows, (z, y, dy))
            return self.backward_linear(self._back(self.activation.backward(*rows)))
        return self._affine_backward(x, y, dy, code)

    def forward_linear(self, input: ArrayLike, train: bool = True) -> NDArray:
        """Return the output without the activation; `backward_linear` is its backward pass."""
        x, z = self._affine_forward(input, _IDENTITY, train)
        if train:
            self._cache = x, z, z
        return z

    def backward_linear(self, pre_grad: ArrayLike) -> NDArray | None:
        """Return the gradient in the input from that in the pre-activation; fill `dW` and `db`."""
        x, _, y = self._saved_for_backward()
        dz = self._checked_array(pre_grad, y.shape, "pre_grad", y.dtype)
        return self._affine_backward(x, dz, dz, _IDENTITY)

    @property
    def _turned(self) -> bool:
        """Whether the output must be transposed so that the activation runs along its last axis."""
        return self._rows_along != -1 and getattr(self.activation, "axis", None) == -1

    def _rows(self, z: NDArray) -> NDArray:
        """The output in the layout in which an activation object takes it."""
        if not self._turned:
            return z
        return copied(np.moveaxis(z, self._rows_along, -1))

    def _back(self, rows: NDArray) -> NDArray:
        """The inverse of `_rows`."""
        if not self._turned:
            return rows
        return copied(np.moveaxis(rows, -1, self._rows_along))

    def _add_weights(self, weights: NDArray, n_bias: int) -> None:
        """Add `W`, and `b` where there is a bias."""
        self.add_parameter("W", weights)
        if self.use_bias:
            self.add_parameter("b", np.zeros(n_bias))

    def _weights(self) -> tuple[NDArray, NDArray | None]:
        """`W`, and `b` if there is one."""
        own = self._parameters_by_name
        return own["W"].value, own["b"].value if self.use_bias else None

    def _weight_grads(self) -> tuple[NDArray | None, NDArray | None]:
        """The arrays for the gradients of `W` and `b`; None where they are not needed."""
        own = self._parameters_by_name
        return own["W"].grad, own["b"].grad if self.use_bias else None
