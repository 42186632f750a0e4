"""The parameters and sublayers of a layer."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl.layers._checked import Checked
from npdl.layers.parameter import Parameter
from npdl.layers.tree import collect, every_layer, unique_names
from npdl.regularizers import Regularizer
from npdl.utils.random import get_dtype


class Owner(Checked):
    """Mixin of `npdl.layers.Layer`: its parameters and sublayers."""

    regularizer: Regularizer | None = None

    _trainable: bool = True
    #: The dtypes of parameters that differ from the model's in a file, by name.
    _dtypes: Mapping[str, Any] = MappingProxyType({})
    #: The layer's own parameters by name; faster to read in a forward pass than a view.
    _parameters_by_name: Mapping[str, Parameter] = MappingProxyType({})

    def add_parameter(self, name: str, value: ArrayLike, trainable: bool = True) -> NDArray:
        """Append a parameter, a copy of `value` in npdl's dtype, and return its array.

        The array may move to other memory when the layer becomes part of a model. Read it through
        `ParameterView`, or as ``self.parameters[0].value``.
        """
        array = np.array(value, dtype=self._dtypes.get(name, get_dtype()), order="C")
        made = Parameter(name, array, trainable and self._trainable, learns=trainable)
        self._set_own((*self._parameters_by_name.values(), made))
        return array

    @property
    def sublayers(self) -> tuple[Any, ...]:
        """The layers that this one keeps as attributes, or in lists, tuples or dicts of them."""
        found: dict[int, Any] = {}
        for key, value in vars(self).items():
            if key not in ("prev_layer", "follower"):
                collect(value, found)
        return tuple(found.values())

    def named_sublayers(self) -> list[tuple[str, Any]]:
        """The sublayers, each with a name that no other one of them has."""
        layers = self.sublayers
        return list(zip(unique_names(layers), layers)) if layers else []

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield each parameter with its name, ``"W"``, or ``"dense_1/W"`` in a sublayer."""
        yield from self._parameters_by_name.items()
        for name, layer in self.named_sublayers():
            for path, parameter in layer.named_parameters():
                yield f"{name}/{path}", parameter

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The layer's own parameters, in the order of adding, then those of its sublayers."""
        own = tuple(self._parameters_by_name.values())
        return own + tuple(p for layer in self.sublayers for p in layer.parameters)

    @parameters.setter
    def parameters(self, parameters: Iterable[Parameter]) -> None:
        inner = {id(p) for layer in self.sublayers for p in layer.parameters}
        self._set_own(p for p in parameters if id(p) not in inner)

    def _set_own(self, parameters: Iterable[Parameter]) -> None:
        parameters = tuple(parameters)
        names = [p.name for p in parameters]
        if len(set(names)) < len(names):
            raise self._error("The names of parameters must differ", names=names)
        self._parameters_by_name = dict(zip(names, parameters))

    @property
    def trainable(self) -> bool:
        """Whether training changes the layer's parameters."""
        return self._trainable

    @trainable.setter
    def trainable(self, trainable: bool) -> None:
        self._trainable = bool(trainable)
        for parameter in self._parameters_by_name.values():
            parameter.trainable = self._trainable and parameter.learns
        for layer in self.sublayers:
            layer.trainable = trainable

    @property
    def params(self) -> list[NDArray]:
        """The arrays that are trained."""
        own = [p.value for p in self._parameters_by_name.values() if p.trainable]
        return own + [array for layer in self.sublayers for array in layer.params]

    @property
    def grads(self) -> list[NDArray]:
        """The gradients of `params`, in the same order."""
        own = [p.grad for p in self._parameters_by_name.values() if p.grad is not None]
        return own + [array for layer in self.sublayers for array in layer.grads]

    @property
    def param_grads(self) -> list[tuple[NDArray, NDArray]]:
        """Pairs of `params` and `grads`."""
        return list(zip(self.params, self.grads, strict=True))

    def get_weights(self) -> list[NDArray]:
        """Return copies of all arrays of the layer."""
        return [array.copy() for _, array, _ in named_arrays(self)]

    def set_weights(self, weights: Sequence[ArrayLike]) -> None:
        """Take over the arrays that `get_weights` returned.

        Parameters
        ----------
        weights : sequence of array_like

        Raises
        ------
        ValueError
            If their number, or a shape, differs; nothing is changed then.
        """
        own = list(named_arrays(self))
        new = [np.asarray(array) for array in weights]
        if [a.shape for a in new] != [a.shape for _, a, _ in own]:
            wanted = ", ".join(f"{name} {a.shape}" for name, a, _ in own)
            raise self._error(f"The weights must be {wanted}", shapes=[a.shape for a in new])
        for (_, array, _), value in zip(own, new):
            array[...] = value

    def count_params(self) -> int:
        """Return how many numbers the layer owns."""
        return sum(array.size for _, array, _ in named_arrays(self))

    def penalty(self) -> float:
        """Return the term that the layer adds to the loss of a model, see `npdl.regularizers`.

        A model asks each layer, and each sublayer by itself. A subclass may add a term of its own;
        then it also extends `add_penalty_gradient`.
        """
        rule = self.regularizer
        return 0.0 if rule is None else sum(rule.forward(w) for w, _ in self._regularized())

    def add_penalty_gradient(self) -> None:
        """Add the gradient of `penalty` to `grads`, as a model does after `backward`."""
        if self.regularizer is not None:
            for weights, grad in self._regularized():
                grad += self.regularizer.backward(weights)

    def _regularized(self) -> list[tuple[NDArray, NDArray]]:
        """The weights that `regularizer` penalizes, and their gradients."""
        if not keeps_its_arrays(self):
            return [(w, grad) for w, grad in self.param_grads if w.ndim > 1]
        own = ((p.value, p.grad) for p in self._parameters_by_name.values() if p.grad is not None)
        return [(w, grad) for w, grad in own if w.ndim > 1]


def keeps_its_arrays(layer: Any) -> bool:
    """Whether `params` and `grads` are those of npdl, whose arrays stay the same objects."""
    return type(layer).params is Owner.params and type(layer).grads is Owner.grads


def named_arrays(layer: Any) -> Iterator[tuple[str, NDArray, bool]]:
    """Yield (name, array, trained or not) of all arrays of a layer, ``"W"``, ``"dense_1/W"``."""
    if type(layer).params is not Owner.params:  # a user's list
        for i, array in enumerate(layer.params):
            yield str(i), array, True
        return
    for parameter in layer._parameters_by_name.values():
        yield parameter.name, parameter.value, parameter.trainable
    for name, sub in layer.named_sublayers():
        for path, array, trained in named_arrays(sub):
            yield f"{name}/{path}", array, trained


def twin(layer: Any) -> Any:
    """A copy of a layer that shares its weights, with its own gradients and caches."""
    memo: dict[int, Any] = {}
    inner = [*every_layer([layer])]
    for one in inner:
        if not any(one.prev_layer is other for other in inner):
            memo[id(one.prev_layer)] = one.prev_layer
        memo.update((id(array), array) for _, array, _ in named_arrays(one))
        memo.update((id(v), v) for v in vars(one).values() if isinstance(v, np.ndarray))
        for grad in one.grads:
            memo.pop(id(grad), None)
    return copy.deepcopy(layer, memo)


def relocate(layer: Any, parameter: Parameter, value: NDArray, grad: NDArray | None) -> None:
    """Move a parameter to other arrays, and copy the old values into them.

    A user's layer may keep the same arrays as attributes: they are replaced too.
    """
    for field, new in (("value", value), ("grad", grad)):
        old = getattr(parameter, field)
        if old is None or new is None:
            continue
        new[...] = old
        setattr(parameter, field, new)
        vars(layer).update({k: new for k, v in vars(layer).items() if v is old})
