"""The base class of layers, and the parameters that they own.

A layer is built once, by `Layer.connect_to`, and then runs forward and backward on arrays. What it
learns lives in its `parameters`; `params` and `grads` are views of them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from npdl._checks import check_int, complaint
from npdl._dtype import FLOATS
from npdl._registry import Configurable, snake_case
from npdl.regularizers import Regularizer
from npdl.utils.random import get_dtype

#: The kinds of dtype that hold real numbers.
_REAL = "buif"

#: A shape whose unknown axes, the sample axis above all, are None.
Shape = tuple[int | None, ...]


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
        False for arrays that belong to the layer's state but are not learned by gradient.
    """

    __slots__ = ("grad", "name", "trainable", "value")

    def __init__(self, name: str, value: NDArray, trainable: bool = True) -> None:
        self.name = name
        self.value = value
        self.grad = np.zeros_like(value) if trainable else None
        self.trainable = trainable


class ParameterView:
    """Attribute of a layer that reads, or overwrites in place, one of its parameters.

    ``W = ParameterView("W")`` and ``dW = ParameterView("W", "grad")`` in a class body make
    ``layer.W`` and ``layer.dW``. The attribute is None until the layer is built.
    """

    def __init__(self, name: str, field: Literal["value", "grad"] = "value") -> None:
        self._name = name
        self._is_grad = field == "grad"

    def __get__(self, layer: Layer | None, owner: type | None = None) -> Any:
        if layer is None:
            return self
        parameter = layer._named.get(self._name)
        if parameter is None:
            return None
        return parameter.grad if self._is_grad else parameter.value

    def __set__(self, layer: Layer, value: ArrayLike) -> None:
        array = self.__get__(layer)
        if array is None:
            raise ValueError(f"Parameter {self._name!r} does not exist yet {layer._where}.")
        value = np.asarray(value)
        if value.shape != array.shape:
            raise layer._error(f"`{self._name}` must have shape {array.shape}", shape=value.shape)
        array[...] = value


class Layer(Configurable):
    """Base class of all layers, to be subclassed for layers of your own.

    A subclass defines `forward` and `backward`. If it learns something, it either creates its
    parameters in `build` with `add_parameter`, or overrides the properties `params` and `grads`
    with lists of its own arrays. Calling ``super().__init__()`` is not needed.

    Attributes
    ----------
    parameters : tuple of Parameter
        Everything the layer owns, trainable or not; each has a name of its own.
    regularizer : Regularizer or None
        What the weights add to the loss: all trained parameters of two or more axes, no biases.
    prev_layer : Layer or None
        The layer that feeds this one; following it reaches the whole network.
    out_shape : tuple or None
        Shape of the output, None on the sample axis; known once the layer is connected.
    need_input_grad : bool
        Whether `backward` has to return the gradient in the input. Where False it returns None.
    keep_buffers : bool
        Whether arrays are kept from one training step to the next instead of being made anew.
    """

    regularizer: Regularizer | None = None
    prev_layer: Any = None
    out_shape: Shape | None = None
    need_input_grad: bool = True
    keep_buffers: bool = False

    _name: str | None = None
    #: `parameters` by name. A forward pass reads it directly, which is quicker than the views are.
    _named: Mapping[str, Parameter] = MappingProxyType({})
    _buffers: dict[str, NDArray] | None = None
    _cache: tuple | None = None

    # --------------------------------------------------------------------------- configuration

    @property
    def name(self) -> str:
        """Name of the layer; by default that of its class, as in ``"batch_normal"``."""
        return self._name or snake_case(type(self).__name__)

    @name.setter
    def name(self, name: str) -> None:
        self._name = name

    def to_json(self) -> dict[str, Any]:
        """Return the constructor's arguments as a dict of JSON types."""
        return self.get_config()

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> Layer:
        """Make a layer from the dict that `to_json` returned.

        The new layer has the same options; its parameters are drawn anew by `connect_to`.
        """
        return cls(**config)

    def saved_config(self) -> dict[str, Any]:
        """`to_json` for a file that holds the parameters too, and so can leave out what they tell.

        Arrays may stay arrays here.
        """
        return self.to_json()

    def __getstate__(self) -> dict[str, Any]:
        """What `pickle` and `copy.deepcopy` take: all but the arrays of the last step."""
        passing = ("_buffers", "_cache", "keep_buffers", "need_input_grad")
        return {k: v for k, v in self.__dict__.items() if k not in passing}

    # ------------------------------------------------------------------------------ connection

    @property
    def in_shape(self) -> Shape | None:
        """Shape of the input as the constructor's arguments declare it; None if they do not."""
        return None

    def connect_to(self, prev_layer: Any = None) -> None:
        """Connect to the layer that feeds this one, create the parameters and set `out_shape`.

        Parameters
        ----------
        prev_layer : Layer, optional
            Anything with an attribute `out_shape`. Without it, the layer is the first of its
            network, and its own arguments (``n_in``, ``input_shape``, ...) tell its input's shape.

        Raises
        ------
        ValueError
            If the shape of the input is unknown, does not fit, or contradicts the arguments.
        """
        if prev_layer is None:
            shape = self.in_shape
            if shape is None:
                raise ValueError(
                    "The first layer must be told the shape of its input, "
                    f"or be connected to a layer {self._where}."
                )
        else:
            shape = prev_layer.out_shape
            if shape is None:
                raise ValueError(f"The previous layer must be connected first {self._where}.")
        self.parameters = ()
        self._cache = self._buffers = None
        self.out_shape = self.build(tuple(shape))
        self.prev_layer = prev_layer

    def build(self, in_shape: Shape) -> Shape:
        """Create the parameters for an input of this shape, and return the output's shape."""
        return in_shape

    def add_parameter(self, name: str, value: ArrayLike, trainable: bool = True) -> NDArray:
        """Append a parameter, a copy of `value` in npdl's dtype, and return its array."""
        array = np.array(value, dtype=get_dtype(), order="C")
        self.parameters = (*self.parameters, Parameter(name, array, trainable))
        return array

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """All that the layer owns, in the order in which it was added."""
        return tuple(self._named.values())

    @parameters.setter
    def parameters(self, parameters: Iterable[Parameter]) -> None:
        parameters = tuple(parameters)
        names = [p.name for p in parameters]
        if len(set(names)) < len(names):
            raise self._error("The names of parameters must differ", names=names)
        self._named = dict(zip(names, parameters))

    @property
    def params(self) -> list[NDArray]:
        """The arrays that are trained."""
        return [p.value for p in self._named.values() if p.trainable]

    @property
    def grads(self) -> list[NDArray]:
        """The gradients of `params`, in the same order."""
        return [p.grad for p in self._named.values() if p.trainable and p.grad is not None]

    @property
    def param_grads(self) -> list[tuple[NDArray, NDArray]]:
        """Pairs of `params` and `grads`."""
        return list(zip(self.params, self.grads, strict=True))

    def penalty(self) -> float:
        """Return what the weights add to the loss of a model, see `npdl.regularizers`."""
        rule = self.regularizer
        return 0.0 if rule is None else sum(rule.forward(w) for w, _ in self._regularized())

    def add_penalty_gradient(self) -> None:
        """Add the gradient of `penalty` to `grads`, as a model does after `backward`."""
        if self.regularizer is not None:
            for weights, grad in self._regularized():
                grad += self.regularizer.backward(weights)

    def _regularized(self) -> list[tuple[NDArray, NDArray]]:
        """The weights that `regularizer` looks at, and their gradients."""
        return [(w, grad) for w, grad in self.param_grads if w.ndim > 1]

    # ----------------------------------------------------------------------------- computation

    def forward(self, input: ArrayLike, *args: Any, **kwargs: Any) -> NDArray:
        """Return the output for a batch of samples.

        The layers of npdl take an argument ``train=True``. In training they remember what
        `backward` will need; with ``train=False``, at prediction, they write nothing on
        themselves, so that several threads may predict at once. Between a training `forward` and
        its `backward`, leave the input and the output as they are: both are read again.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward.")

    def backward(self, pre_grad: ArrayLike, *args: Any, **kwargs: Any) -> NDArray | None:
        """Return the gradient in the last training input, and fill the parameters' gradients.

        Parameters
        ----------
        pre_grad : array_like
            Gradient of the loss in what the last training `forward` returned.
        """
        raise NotImplementedError(f"{type(self).__name__} must define backward.")

    def _remembered(self) -> tuple:
        """What the last training forward pass left for the backward pass."""
        if self._cache is None:
            raise RuntimeError(
                f"backward must come after a training forward pass {self._where}. "
                "Call forward(..., train=True) first."
            )
        return self._cache

    def _buffer(self, key: str, like: tuple[int, ...], dtype: DTypeLike) -> NDArray:
        """An array of unset values for an output, a cache or a gradient of a training step.

        With `keep_buffers` the array of the last step is handed out again if it fits. Inference
        makes new arrays instead, since it must not write on the layer.
        """
        if not self.keep_buffers:
            return np.empty(like, dtype)
        if self._buffers is None:
            self._buffers = {}
        kept = self._buffers.get(key)
        if kept is None or kept.shape != like or kept.dtype != dtype:
            kept = self._buffers[key] = np.empty(like, dtype)
        return kept

    def _input_buffer(self, x: NDArray) -> NDArray | None:
        """The array for the gradient in the input `x`; None where nobody needs it."""
        return self._buffer("dx", x.shape, x.dtype) if self.need_input_grad else None

    # ---------------------------------------------------------------------------------- checks

    @property
    def _where(self) -> str:
        return f"(layer {self.name!r})"

    def _error(self, rule: str, **received: Any) -> ValueError:
        """A ValueError that says what is expected, what came, and in which layer."""
        return ValueError(complaint(rule, layer=self.name, **received))

    def _not_built(self) -> RuntimeError:
        return RuntimeError(f"connect_to must be called before forward {self._where}.")

    def _optional_int(self, name: str, value: Any) -> int | None:
        """Return a positive integer, or None as it is."""
        return None if value is None else check_int(name, value, layer=self.name)

    def _rank(self, in_shape: Shape, *ranks: int) -> None:
        """Check the number of axes of the shape that a layer is built for."""
        if len(in_shape) not in ranks:
            rule = f"The input must have {' or '.join(map(str, ranks))} axes"
            raise self._error(rule, shape=in_shape)

    def _size(self, in_shape: Shape, axis: int, name: str, declared: int | None = None) -> int:
        """The size of one axis of the input, which has to be known and to agree with `declared`."""
        size = in_shape[axis] if declared is None or in_shape[axis] is not None else declared
        if size is None:
            raise self._error(f"The input's axis {axis} must be known", shape=in_shape)
        if declared is not None and size != declared:
            raise self._error(
                f"`{name}` must be {size}, as the previous layer has it", **{name: declared}
            )
        return size

    def _array(
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
            A size where one is fixed, a letter where any will do, ``"..."`` for any further axes.
        what : str
            What the error message calls the array.
        dtype : dtype, optional
            That of the parameters, where the caller knows it.
        """
        array = self._numbers(value, dtype, what)
        if array.shape != shape and not fits(array.shape, tuple(shape)):
            raise self._misshapen(array.shape, shape, what)
        return array

    def _numbers(
        self, value: ArrayLike, dtype: np.dtype | None = None, what: str = "input"
    ) -> NDArray:
        """Do what `_array` does, but for the shape.

        A layer whose parameters tell the dtype passes it.
        """
        array = np.asarray(value, order="C")
        own = array.dtype
        if own is dtype or (dtype is None and own in FLOATS and not self._named):
            return array  # as nearly always
        if own.kind not in _REAL:
            rule = f"`{what}` must hold real numbers"
            raise TypeError(complaint(rule, layer=self.name, dtype=own.name))
        return np.asarray(array, dtype or self._dtype_for(array), order="C")

    def _misshapen(self, shape: tuple[int, ...], wanted: Sequence[Any], what: str = "input"):
        """The error of an array that has another shape than `wanted`, or holds nothing."""
        empty = matches(shape, wanted)
        rule = "must not be empty" if empty else f"must have shape {_spelled(wanted)}"
        return self._error(f"`{what}` {rule}", shape=shape)

    def _dtype_for(self, array: NDArray) -> np.dtype:
        """The dtype to compute in: that of the parameters, else the array's own if it is usable."""
        for parameter in self._named.values():
            return parameter.value.dtype
        return array.dtype if array.dtype in FLOATS else get_dtype()


def _spelled(shape: Sequence[Any]) -> str:
    """``("N", "...", 5)`` -> ``"(N, ..., 5)"``."""
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


def matches(shape: tuple[int, ...], expected: Sequence[Any]) -> bool:
    """Whether a shape is as expected: sizes, letters for any size, "..." for any axes."""
    if "..." in expected:
        gap = expected.index("...")
        tail = len(expected) - gap - 1
        return (
            len(shape) >= gap + tail
            and _fit(shape[:gap], expected[:gap])
            and _fit(shape[len(shape) - tail :], expected[gap + 1 :])
        )
    return len(shape) == len(expected) and _fit(shape, expected)


def _fit(sizes: Sequence[int], expected: Sequence[Any]) -> bool:
    for size, want in zip(sizes, expected):
        if size != want and not isinstance(want, str):
            return False
    return True


#: Decorates the functions that work out from shapes and options, and from nothing else, whether an
#: input fits a layer and what comes out. Few shapes come, and they come again at each call.
by_shape = functools.lru_cache(1024)


@by_shape
def fits(shape: tuple[int, ...], expected: tuple[Any, ...]) -> bool:
    """Whether the shape of an array is as expected, see `matches`, and it holds anything."""
    return 0 not in shape and matches(shape, expected)
