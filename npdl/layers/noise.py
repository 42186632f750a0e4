"""Noise in training: dropped maps, and added normal noise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl._checks import check_number
from npdl._ext import kernels
from npdl.layers.base import Layer, Shape
from npdl.utils.random import get_rng


class SpatialDropout(Layer):
    """Drop whole maps in training (Tompson et al. 2015).

    In images (N, C, H, W), a channel of a sample is kept or set to 0 as a whole; in sequences (N,
    T, D), a feature in all steps of a sample. Neighbours, which are strongly correlated, would
    otherwise reveal what was dropped. The rest is scaled by ``1 / (1 - p)``. At prediction the
    output is the input itself.

    Each training pass draws one number from npdl's generator, as `Dropout` does.

    Parameters
    ----------
    p : float in [0, 1)
        Fraction to drop.
    """

    def __init__(self, p: float) -> None:
        self.p = check_number("p", p, "[0, 1)", layer=self.name)

    def build(self, in_shape: Shape) -> Shape:
        """Check the rank of the input."""
        self._check_rank(in_shape, 3, 4)
        return in_shape

    def forward(self, input: ArrayLike, train: bool = True) -> NDArray:
        """Return the maps that are kept, scaled; with ``train=False``, the input itself.

        Parameters
        ----------
        input : array_like, shape (N, C, H, W) or (N, T, D)
        train : bool
            Whether to drop.
        """
        x = self._checked_array(input, ("N", "...", "F"))
        self._check_rank(x.shape, 3, 4)
        if not train:
            return x
        n, maps = len(x), x.shape[1] if x.ndim == 4 else x.shape[2]
        scale, kept = np.empty(n * maps, x.dtype), np.empty(n * maps, np.uint8)
        seed = int(get_rng().integers(2**64, dtype=np.uint64))
        kernels().dropout_forward(np.ones_like(scale), seed, self.p, scale, kept)
        scale = scale.reshape((n, maps, 1, 1) if x.ndim == 4 else (n, 1, maps))
        y = self._buffer("y", x.shape, x.dtype)
        np.multiply(x, scale, out=y)
        self._cache = scale, x.shape
        return y

    def backward(self, pre_grad: ArrayLike) -> NDArray | None:
        """Return the gradient in the input: that of the maps that were kept, scaled likewise."""
        scale, shape = self._saved_for_backward()
        dy = self._checked_array(pre_grad, shape, "pre_grad", scale.dtype)
        if not self.need_input_grad:
            return None
        return np.multiply(dy, scale, out=self._buffer("dx", shape, scale.dtype))


class GaussianNoise(Layer):
    """Add normal numbers to the input in training; at prediction the output is the input itself.

    The numbers come from npdl's generator, which draws the same ones on every machine.

    Parameters
    ----------
    std : float, at least 0
        Standard deviation of the noise.
    """

    def __init__(self, std: float) -> None:
        self.std = check_number("std", std, "[0, inf)", layer=self.name)

    def forward(self, input: ArrayLike, train: bool = True) -> NDArray:
        """Return the input with noise; with ``train=False``, the input itself.

        Parameters
        ----------
        input : array_like, shape (N, ...)
        train : bool
            Whether to add noise.
        """
        x = self._checked_array(input, ("N", "..."))
        if not train:
            return x
        y = self._buffer("y", x.shape, x.dtype)
        dtype: Any = x.dtype
        get_rng().standard_normal(out=y, dtype=dtype)
        y *= x.dtype.type(self.std)
        y += x
        self._cache = x.shape, x.dtype
        return y

    def backward(self, pre_grad: ArrayLike) -> NDArray | None:
        """Return the gradient in the input, which is that in the output."""
        shape, dtype = self._saved_for_backward()
        dy = self._checked_array(pre_grad, shape, "pre_grad").astype(dtype, copy=False)
        return dy if self.need_input_grad else None
