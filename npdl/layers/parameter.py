"""Parameters: the arrays that a layer owns, each with its gradient."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Parameter:
    """An array that a layer owns, with its gradient.

    Attributes
    ----------
    name : str
        Name within the layer, such as ``"W"``.
    value : ndarray
        The array. Optimizers change it in place.
    grad : ndarray or None
        Gradient of the loss in `value`, filled by each backward pass; None where not `trainable`.
    trainable : bool
        Whether training changes it. Setting it to False drops `grad`, which is then no longer
        computed.
    learns : bool
        False for arrays that are part of the layer's state but have no gradient, such as running
        means: freezing and unfreezing a layer does not affect them.
    """

    #: `home` is the place of value and gradient in the arrays of a model, see `npdl.layers.flat`.
    __slots__ = ("_trainable", "grad", "home", "learns", "name", "value")

    #: How often any parameter was frozen or unfrozen; a model that trains looks for changes.
    switches: ClassVar[int] = 0

    def __init__(
        self, name: str, value: NDArray, trainable: bool = True, *, learns: bool | None = None
    ) -> None:
        self.name = name
        self.value = value
        self.learns = trainable if learns is None else learns
        self.grad: NDArray | None = None
        self.home: tuple[NDArray, NDArray] | None = None
        self.trainable = trainable

    @classmethod
    def constant(cls, name: str, value: NDArray) -> Parameter:
        """A parameter that nothing changes, made in little time."""
        parameter = cls.__new__(cls)
        parameter.__setstate__((name, value, False, False, None))
        return parameter

    @property
    def trainable(self) -> bool:
        """Whether training changes the array."""
        return self._trainable

    @trainable.setter
    def trainable(self, trainable: bool) -> None:
        if bool(trainable) is not getattr(self, "_trainable", None):
            Parameter.switches += 1
        self._trainable = bool(trainable)
        if not trainable:
            self.grad = None
        elif self.grad is None:
            at_home = self.home is not None and self.home[0] is self.value
            self.grad = self.home[1] if self.home and at_home else np.zeros_like(self.value)
            self.grad[...] = 0

    def __getstate__(self) -> tuple[Any, ...]:
        return self.name, self.value, self.learns, self._trainable, self.grad

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.name, self.value, self.learns, self._trainable, self.grad = state
        self.home = None


class ParameterView:
    """Attribute of a layer that reads, or overwrites in place, one of its parameters.

    ``W = ParameterView("W")`` and ``dW = ParameterView("W", "grad")`` in a class body make
    ``layer.W`` and ``layer.dW``. The attribute is None until the layer is built.
    """

    def __init__(self, name: str, field: Literal["value", "grad"] = "value") -> None:
        self._name = name
        self._is_grad = field == "grad"

    def __get__(self, layer: Any, owner: type | None = None) -> Any:
        if layer is None:
            return self
        parameter = layer._parameters_by_name.get(self._name)
        if parameter is None:
            return None
        return parameter.grad if self._is_grad else parameter.value

    def __set__(self, layer: Any, value: ArrayLike) -> None:
        array = self.__get__(layer)
        if array is None:
            raise ValueError(f"Parameter {self._name!r} does not exist yet {layer._where}.")
        value = np.asarray(value)
        if value.shape != array.shape:
            raise layer._error(f"`{self._name}` must have shape {array.shape}", shape=value.shape)
        array[...] = value
