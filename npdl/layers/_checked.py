"""The checks of a layer: the shapes it is built for, and the arrays it is called with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl._checks import check_int, error_message
from npdl._dtype import FLOATS
from npdl._ext import copied
from npdl.layers._shapes import Shape, UnknownSize, shape_fits, shape_matches, shape_text
from npdl.layers.parameter import Parameter
from npdl.utils.random import get_dtype

#: The kinds of dtype that hold real numbers.
_REAL = "buif"


class Checked:
    """Mixin of `npdl.layers.Layer`: its checks, whose errors name the layer."""

    name: str
    _parameters_by_name: Mapping[str, Parameter]

    @property
    def _where(self) -> str:
        return f"(layer {self.name!r})"

    def _error(self, rule: str, **received: Any) -> ValueError:
        """A ValueError that says what was expected, what was received, and in which layer."""
        return ValueError(error_message(rule, layer=self.name, **received))

    def _not_built(self) -> RuntimeError:
        return RuntimeError(f"connect_to must be called before forward {self._where}.")

    def _optional_int(self, name: str, value: Any) -> int | None:
        """Return a positive integer, or None as it is."""
        return None if value is None else check_int(name, value, layer=self.name)

    def _check_rank(self, in_shape: Shape, *ranks: int) -> None:
        """Check the number of axes of the shape that a layer is built for."""
        if len(in_shape) not in ranks:
            rule = f"The input must have {' or '.join(map(str, ranks))} axes"
            raise self._error(rule, shape=in_shape)

    def _axis_size(self, in_shape: Shape, axis: int, name: str, declared: int | None = None) -> int:
        """The size of one axis of the input, which has to be known and to agree with `declared`."""
        size = in_shape[axis] if declared is None or in_shape[axis] is not None else declared
        if size is None:
            rule = f"The input's axis {axis} must be known"
            raise UnknownSize(error_message(rule, layer=self.name, shape=in_shape))
        if declared is not None and size != declared:
            raise self._error(
                f"`{name}` must be {size}, as the previous layer has it", **{name: declared}
            )
        return size

    def _checked_array(
        self,
        value: ArrayLike,
        shape: Sequence[Any],
        what: str = "input",
        dtype: np.dtype | None = None,
    ) -> NDArray:
        """Return `value` as a C-ordered array of the layer's dtype, after checking its shape.

        Parameters
        ----------
        value : array_like
        shape : sequence
            A number for a fixed size, a letter for any size, ``"..."`` for any further axes.
        what : str
            What the error message calls the array.
        dtype : dtype, optional
            That of the parameters, where the caller knows it.
        """
        array = self._as_array(value, dtype, what)
        if array.shape != shape and not shape_fits(array.shape, tuple(shape)):
            raise self._shape_error(array.shape, shape, what)
        return array

    def _as_array(
        self, value: ArrayLike, dtype: np.dtype | None = None, what: str = "input"
    ) -> NDArray:
        """Like `_checked_array`, without the check of the shape.

        A layer with parameters passes their dtype.
        """
        array = np.asarray(value)
        if not array.flags.c_contiguous:
            array = copied(array)
        own = array.dtype
        if own is dtype or (dtype is None and own in FLOATS and not self._parameters_by_name):
            return array  # the common case
        if own.kind not in _REAL:
            rule = f"`{what}` must hold real numbers"
            raise TypeError(error_message(rule, layer=self.name, dtype=own.name))
        return np.asarray(array, dtype or self._dtype_for(array), order="C")

    def _shape_error(self, shape: tuple[int, ...], wanted: Sequence[Any], what: str = "input"):
        """The error for an array whose shape is not `wanted`, or that is empty."""
        empty = shape_matches(shape, wanted)
        rule = "must not be empty" if empty else f"must have shape {shape_text(wanted)}"
        return self._error(f"`{what}` {rule}", shape=shape)

    def _dtype_for(self, array: NDArray) -> np.dtype:
        """The dtype to compute in: that of the parameters, else the array's own if it is usable."""
        for parameter in self._parameters_by_name.values():
            return parameter.value.dtype
        return array.dtype if array.dtype in FLOATS else get_dtype()
