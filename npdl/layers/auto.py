"""Layers whose backward pass is derived by the package `autograd`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl._autograd import make_vjp
from npdl._checks import error_message
from npdl._registry import custom_object, function_name
from npdl.layers.base import Layer, Shape


class AutoLayer(Layer):
    """Base of layers with a derived backward pass: needs ``npdl[autodiff]``.

    A subclass adds its parameters in `build` with `add_parameter` and defines ``compute(self, x,
    **parameters)`` in functions of `autograd.numpy`. `build` may return the shape of the output;
    otherwise a trial of `compute` shows it. A layer with several inputs has ``compute(self, a, b,
    **parameters)``; arguments named `mask` and `train` get the mask of the steps and whether this
    is training.

    An operation takes some 15 µs, forward and backward: use this for one unusual layer, not for a
    whole network. `compute` must not change arrays in place, and must keep the dtype of its input:
    ``anp.zeros(3)`` is float64.

    Examples
    --------
    >>> import numpy as np
    >>> import autograd.numpy as anp
    >>> from npdl.autodiff import AutoLayer
    >>> class Scale(AutoLayer):
    ...     def build(self, in_shape):
    ...         self.add_parameter("scale", np.ones(in_shape[-1]))
    ...
    ...     def compute(self, x, scale):
    ...         return x * anp.exp(scale)
    >>> from npdl.testing import check_layer
    >>> check_layer(Scale, (4, 5))
    """

    def compute(self, *inputs: Any, **parameters: Any) -> Any:
        """Return the output, in functions of `autograd.numpy`.

        Parameters
        ----------
        *inputs : ndarray
        **parameters : ndarray
            The parameters by name.
        """
        raise NotImplementedError(f"{type(self).__name__} must define compute(x, **parameters).")

    def _built(self, in_shapes: tuple[Shape, ...]) -> Any:
        out_shape: Any = self.build(*in_shapes)
        return self._tried(in_shapes) if out_shape is None else super()._returned(out_shape)

    def _tried(self, in_shapes: tuple[Shape, ...]) -> Any:
        """The shape of the output, from two trials with different sizes on the open axes."""
        found = []
        for samples, size in ((2, 5), (3, 7)):
            shapes: Any = [(samples, *(n or size for n in s[1:])) for s in in_shapes]
            arrays: list[Any] = [p.value for p in self._parameters_by_name.values()]
            dtype = np.result_type(*arrays) if arrays else np.float32
            with np.errstate(all="ignore"):
                y = self._computed([np.ones(s, dtype) for s in shapes], {}, False, None)
            found.append([np.shape(a) for a in (y if isinstance(y, tuple) else (y,))])
        out = [tuple(n if n == m else None for n, m in zip(*both)) for both in zip(*found)]
        return tuple(out) if isinstance(y, tuple) else out[0]

    def _computed(self, xs: list[Any], learned: dict[str, Any], train: bool, mask: Any) -> Any:
        """The result of `compute`; `learned` has parameters in place of the layer's own."""
        options = {"mask": mask, "train": train}
        own = {name: p.value for name, p in self._parameters_by_name.items()}
        wanted = _names(type(self).compute)
        own.update({name: value for name, value in options.items() if name in wanted})
        return self.compute(*xs, **{**own, **learned})

    def forward(self, *inputs: ArrayLike, train: bool = True, mask: Any = None) -> Any:
        """Return the output of `compute`.

        Parameters
        ----------
        *inputs : array_like
        train : bool
            Whether to keep what `backward` needs.
        mask : array_like, optional
            The mask of the steps, for `compute`.
        """
        if self.out_shape is None:
            raise self._not_built()
        xs: list[Any] = []
        for x in inputs:
            array = np.asarray(x)
            xs.append(array if array.dtype.kind in "iub" else self._as_array(x))
        if not train:
            return self._own(self._computed(xs, {}, False, mask), xs)
        learned = {n: p.value for n, p in self._parameters_by_name.items() if p.grad is not None}
        moving = [i for i, x in enumerate(xs) if x.dtype.kind == "f" and self.need_input_grad]

        def function(variables: Any) -> Any:
            some, parameters = variables
            arguments = list(xs)
            for i, x in zip(moving, some):
                arguments[i] = x
            return self._computed(arguments, {n: parameters[n] for n in learned}, True, mask)

        variables: Any = tuple(xs[i] for i in moving), learned
        if moving or learned:
            pull_back, y = make_vjp(function, variables, f"layer {self.name!r}")
        else:
            pull_back, y = (lambda _: ((), {})), function(variables)
        self._cache = pull_back, y, moving, len(xs)
        return self._own(y, xs)

    def _own(self, y: Any, xs: list[Any]) -> Any:
        """Outputs in the dtype of the inputs, which share no memory with them."""
        if isinstance(y, tuple | list):
            return tuple(self._own(array, xs) for array in y)
        dtype = next((x.dtype for x in xs if x.dtype.kind == "f"), None)
        own = self._parameters_by_name.values()
        dtype = dtype or next((p.value.dtype for p in own), np.asarray(y).dtype)
        array = np.asarray(y, dtype, order="C")
        shared = [*xs, *(p.value for p in own)]
        return array.copy() if any(np.may_share_memory(array, a) for a in shared) else array

    def backward(self, pre_grad: Any) -> Any:
        """Return the gradient in each input, and fill the parameters' gradients."""
        pull_back, y, moving, count = self._saved_for_backward()
        if isinstance(y, tuple):
            dy: Any = tuple(
                np.zeros_like(a) if g is None else np.asarray(g, a.dtype)
                for a, g in zip(y, pre_grad)
            )
        else:
            dy = np.asarray(self._checked_array(pre_grad, y.shape, "pre_grad"), y.dtype)
        some, parameters = pull_back(dy)
        for name, grad in parameters.items():
            self._parameters_by_name[name].grad[...] = grad  # type: ignore[index]
        grads: list[NDArray | None] = [None] * count
        for i, grad in zip(moving, some):
            grads[i] = np.array(grad, order="C")
        return tuple(grads) if count > 1 else grads[0]


class Lambda(AutoLayer):
    """A function as a layer without parameters: needs ``npdl[autodiff]`` for training.

    Parameters
    ----------
    function : callable
        Takes one or several arrays with the samples on axis 0, and uses functions of
        `autograd.numpy`. An argument named `mask` or `train` gets the mask of the steps, or whether
        this is training.
        To be saved it needs a name: `npdl.saving.register` it, or pass it in `custom_objects`.

    Examples
    --------
    >>> import autograd.numpy as anp
    >>> from npdl.autodiff import Lambda
    >>> layer = Lambda(lambda x: anp.mean(x, axis=1))
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        if isinstance(function, str):  # in a configuration
            function = custom_object(function)
        if not callable(function):
            raise TypeError(error_message("`function` must be callable", function=function))
        self.function = function

    def get_config(self) -> dict[str, Any]:
        """Return the function's name, which `custom_objects` must then know."""
        return {"function": function_name(self.function, "layer")}

    def build(self, *in_shapes: Any, **kwargs: Any) -> Any:
        """Find the shape of the output by a trial; there are no parameters."""
        return None

    def _computed(self, xs, learned, train, mask):
        options = {"mask": mask, "train": train}
        wanted = _names(self.function)
        return self.function(*xs, **{k: v for k, v in options.items() if k in wanted})


@lru_cache(256)
def _names(function: Callable[..., Any]) -> frozenset[str]:
    try:
        return frozenset(inspect.signature(function).parameters)
    except ValueError:  # one written in C has no signature
        return frozenset()
