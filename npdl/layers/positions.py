"""Embeddings of the positions of steps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl import initializations
from npdl._checks import check_int
from npdl._ext import kernels
from npdl.layers._fusing import add_arrays
from npdl.layers.base import Layer, ParameterView, Shape

#: Samples that a kernel adds to the table one by one.
FEW = 8


class PositionEmbedding(Layer):
    """Add a learned vector to each step, which encodes its position.

    Input of shape (N, T, D) gives output of this shape, for T up to `length`.

    Parameters
    ----------
    length : int
        The most steps that an input may have.
    init : str or Initializer, keyword-only
        Initializer of `positions`, shape (length, D).
    """

    color = "#6b4fa0"

    positions = ParameterView("positions")
    dpositions = ParameterView("positions", "grad")

    def __init__(self, length: int, *, init: Any = "glorot_uniform") -> None:
        self.length = check_int("length", length, layer=self.name)
        self.init = initializations.get(init)

    def build(self, in_shape: Shape) -> Shape:
        """Create `positions`."""
        self._check_rank(in_shape, 3)
        self._fits(in_shape)
        self.add_parameter(
            "positions", self.init((self.length, self._axis_size(in_shape, 2, "size")))
        )
        return in_shape

    def _fits(self, shape: Shape) -> None:
        if shape[1] is not None and shape[1] > self.length:
            raise self._error(f"The input must have at most {self.length} steps", shape=shape)

    def forward(
        self, input: ArrayLike, train: bool = True, mask: ArrayLike | None = None
    ) -> NDArray:
        """Return the input plus the vectors of its steps.

        Parameters
        ----------
        input : array_like, shape (N, T, D)
        train : bool
            Whether to keep what `backward` needs.
        mask : array_like, shape (N, T), optional
            0 for padding, whose gradients are then left out.
        """
        if self.out_shape is None:
            raise self._not_built()
        table = self._parameters_by_name["positions"].value
        x = self._checked_array(input, ("N", "T", table.shape[1]), "input", table.dtype)
        self._fits(x.shape)
        steps = None if mask is None else self._checked_array(mask, x.shape[:2], "mask") != 0
        y = self._buffer("y", x.shape, x.dtype) if train else np.empty(x.shape, x.dtype)
        if len(x) <= FEW:
            for sample, out in zip(x, y):
                add_arrays(sample, table[: x.shape[1]], out)
        else:
            np.add(x, table[: x.shape[1]], out=y)
        if train:
            self._cache = steps, x.shape, x.dtype
        return y

    def backward(self, pre_grad: ArrayLike) -> NDArray | None:
        """Return the gradient in the input, and fill `dpositions`.

        Parameters
        ----------
        pre_grad : array_like, shape (N, T, D)
        """
        steps, shape, dtype = self._saved_for_backward()
        dy = self._checked_array(pre_grad, shape, "pre_grad", dtype)
        if steps is not None:
            masked, dy = dy, self._buffer("dx", shape, dtype)
            np.copyto(dy, masked)
            dy[~steps] = 0
        grad = self.dpositions
        if grad is not None:
            rows = np.tile(np.arange(shape[1]), shape[0])
            kernels().embedding_backward(rows, dy.reshape(-1, shape[2]), grad)
        return dy if self.need_input_grad else None
