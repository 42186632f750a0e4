"""The base class of layers.

A layer is built once, by `Layer.connect_to` or by a call on symbolic values, and then runs forward
and backward on arrays. Its weights are in its `parameters`; `params` and `grads` are views of
them. A layer may own further layers, its `sublayers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from npdl._calls import call_forward
from npdl._checks import error_message
from npdl._registry import Configurable, config_name, snake_case
from npdl.initializations import no_random_init
from npdl.layers._names import LayerType
from npdl.layers._shapes import Shape, cached_by_shape, shape_fits, shape_matches
from npdl.layers.node import Node, Value, as_values
from npdl.layers.owning import Owner, twin
from npdl.layers.parameter import Parameter, ParameterView
from npdl.layers.tree import shared_number

#: Attributes that copies and pickles of a layer do without.
_PASSING = frozenset(
    ("_buffers", "_cache", "keep_buffers", "need_input_grad", "follower", "prepared_for")
)

__all__ = [
    "Layer",
    "Parameter",
    "ParameterView",
    "Shape",
    "cached_by_shape",
    "shape_fits",
    "shape_matches",
]


class Layer(Owner, Configurable, metaclass=LayerType):
    """Base class of all layers, to be subclassed for layers of your own.

    A subclass defines `forward` and `backward`. If it learns something, it either creates its
    parameters in `build` with `add_parameter`, or overrides the properties `params` and `grads`
    with lists of its own arrays. Calling ``super().__init__()`` is not needed.

    ``layer.trainable = False`` freezes the parameters, before or after the layer is built.

    Attributes
    ----------
    parameters : tuple of Parameter
        All parameters of the layer and its sublayers, trainable or not; the layer's own ones have
        unique names.
    sublayers : tuple of Layer
        The layers that this one keeps as attributes, or in lists or dicts of them.
    regularizer : Regularizer or None
        Adds a penalty on the weights to the loss: all trained parameters of two or more axes, no
        biases.
    prev_layer : Layer or None
        The layer that feeds this one; following it reaches the whole network.
    out_shape : tuple or None
        Shape of the output, None on the sample axis; known once the layer is connected.
    need_input_grad : bool
        Whether `backward` has to return the gradient in the input. Where False it returns None.
    keep_buffers : bool
        Whether arrays are kept from one training step to the next instead of being allocated again.
    """

    prev_layer: Any = None
    out_shape: Shape | None = None
    need_input_grad: bool = True
    keep_buffers: bool = False

    #: The activation layer whose work this one does too while a model trains, see `takes_over`.
    follower: Any = None
    #: The plan that prepared the layer for training last, see `Plan.begin_training`.
    prepared_for: Any = None
    #: How many arrays `forward` returns: a tuple of them if there are several.
    n_outputs: int = 1
    #: Of the layer's box in a drawing, see `npdl.plot_model`.
    color: str = "#a9b3bd"
    #: Whether the layer makes a mask of steps out of its input, see `make_mask`.
    makes_mask: bool = False
    #: Whether a model has trained the layer; its weights are then never drawn again.
    was_trained: bool = False

    _name: str | None = None
    _auto_name: str | None = None
    #: The shape of the input as `input_shape=` gave it, for layers without such an argument.
    _declared: Shape | None = None
    #: The shapes that the layer was built for; None if it is not, or builds itself.
    _in_shapes: tuple[Shape, ...] | None = None
    _buffers: dict[str, NDArray] | None = None
    _cache: tuple | None = None

    # --------------------------------------------------------------------------- configuration

    @property
    def name(self) -> str:
        """Name of the layer; by default a numbered one from its model, or that of its class."""
        return self._name or self._auto_name or snake_case(type(self).__name__)

    @name.setter
    def name(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise TypeError(error_message("`name` must be a string", name=name))
        self._name = name

    @classmethod
    def _positional(
        cls, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the constructor, where positional ones mean something else."""
        return args, kwargs

    def to_json(self) -> dict[str, Any]:
        """Return the constructor's arguments as a dict of JSON types."""
        return self.get_config()

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> Layer:
        """Make a layer from the dict that `to_json` returned.

        The new layer has the same options; its parameters are drawn by `connect_to`.
        """
        return cls(**config)

    def saved_config(self) -> dict[str, Any]:
        """`to_json` for a file that also holds the parameters, and so may leave out their contents.

        Arrays may stay arrays here.
        """
        return self.to_json()

    def nested_config(self) -> dict[str, Any]:
        """The layer's entry in a file: class, name, configuration, and whether it is frozen.

        A layer that occurs twice in a network is described once; see `npdl.layers.tree.writing`.
        """
        number, written = shared_number(self)
        if written:
            return {"same": number}
        entry: dict[str, Any] = {"class": config_name(self), "config": self.to_json()}
        if number is not None:
            entry["number"] = number
        if self._name is not None:
            entry["name"] = self._name
        return entry if self._trainable else {**entry, "trainable": False}

    def __getstate__(self) -> dict[str, Any]:
        """The state for `pickle` and `copy.deepcopy`: everything except kept arrays."""
        return {k: v for k, v in self.__dict__.items() if k not in _PASSING}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        # Buffers from `joblib` or pickle's protocol 5 may be read-only.
        fresh: dict[int, NDArray] = {}
        for parameter in self._parameters_by_name.values():
            for field in ("value", "grad"):
                array = getattr(parameter, field)
                if array is not None and not array.flags.writeable:
                    fresh[id(array)] = np.array(array)
                    setattr(parameter, field, fresh[id(array)])
        vars(self).update({k: fresh[id(v)] for k, v in state.items() if id(v) in fresh})

    # ------------------------------------------------------------------------------ connection

    @property
    def in_shape(self) -> Shape | None:
        """Shape of the input as the constructor's arguments declare it; None if they do not."""
        return None

    def __call__(self, *values: Any, **options: Any) -> Any:
        """Call the layer on symbolic values, see `npdl.Input`, and return its symbolic output.

        Parameters
        ----------
        *values : Value, or list of Value
            The inputs. A layer that is called again shares its weights.
        **options
            Further inputs by name, for layers that have them.

        Returns
        -------
        Value, or tuple of Value
            A tuple where the layer has several outputs.
        """
        found = as_values(values)
        if not found:
            got = ", ".join(type(v).__name__ for v in values) or "nothing"
            raise TypeError(
                "A layer is called on symbolic values, see npdl.Input; use forward() for arrays. "
                f"Received: {got} {self._where}"
            )
        return Node(self, self.call_inputs(*found, **options)).output

    def call_inputs(self, *values: Value, **options: Any) -> tuple[Value, ...]:
        """The values that a call of the layer reads; a subclass may take further ones by name."""
        if options:
            rule = f"A call of {type(self).__name__} takes only values"
            raise TypeError(error_message(rule, layer=self.name, **options))
        return values

    def connect_to(self, prev_layer: Any = None, *others: Any) -> None:
        """Connect to the layer that feeds this one, create the parameters and set `out_shape`.

        Parameters
        ----------
        prev_layer : Layer, optional
            Anything with an attribute `out_shape`. Without it, the layer is the first of its
            network, and its own arguments (``n_in``, ``input_shape``, ...) give its input's shape.
        *others
            The same for the further inputs of a layer that has several.

        Raises
        ------
        ValueError
            If the shape of the input is unknown, does not fit, or contradicts the arguments.
        """
        if prev_layer is None:
            shape = self.declared_shape
            if shape is None:
                raise ValueError(
                    "The first layer must be told the shape of its input, "
                    f"or be connected to a layer {self._where}."
                )
            shapes = [shape]
        else:
            shapes = [source.out_shape for source in (prev_layer, *others)]
            if None in shapes:
                raise ValueError(f"The previous layer must be connected first {self._where}.")
        self.parameters = ()
        self._cache = self._buffers = None
        self.was_trained = False
        self._in_shapes = tuple(map(tuple, shapes))
        self.out_shape = self._built(self._in_shapes)
        node = prev_layer.node if isinstance(prev_layer, Value) else None
        self.prev_layer = prev_layer if node is None else node.layer

    def _built(self, in_shapes: tuple[Shape, ...]) -> Shape:
        return self._returned(self.build(*in_shapes))

    def _returned(self, out_shape: Any) -> Shape:
        """The shape that `build` returned, if it is one."""
        if not isinstance(out_shape, tuple):
            rule = "`build` must return the shape of the output, a tuple"
            raise TypeError(error_message(rule, layer=self.name, returned=out_shape))
        return out_shape

    @property
    def declared_shape(self) -> Shape | None:
        """`in_shape`, or what ``input_shape=`` gave to a layer that has no such argument."""
        return self._declared if self.in_shape is None else self.in_shape

    def shape_for(self, *sources: Any) -> Any:
        """Shape of the output for inputs from `sources`; connects the layer if it is not.

        A layer that is built keeps its weights. It takes inputs of other sizes where the shapes of
        its weights do not depend on them.

        Parameters
        ----------
        *sources
            Objects with an attribute `out_shape`.

        Raises
        ------
        ValueError
            If the weights do not fit.
        """
        if self.out_shape is None:
            self.connect_to(*sources)
            if self.prev_layer is None:  # a user's `connect_to`
                node = getattr(sources[0], "node", None)
                self.prev_layer = sources[0] if node is None else node.layer
            return self.out_shape
        shapes = tuple(tuple(source.out_shape) for source in sources)
        if self._in_shapes is None or shapes == self._in_shapes:
            return self.out_shape
        return self.compute_output_shape(*shapes)

    def compute_output_shape(self, *in_shapes: Shape) -> Any:
        """Shape of the output for inputs of these shapes; the layer is not changed.

        Parameters
        ----------
        *in_shapes : tuple
            With the sample axis, None for sizes that are open.

        Raises
        ------
        ValueError
            If the layer, or its weights, can't take such inputs.
        """
        other = twin(self)
        with no_random_init(2**62):
            other.parameters = ()
            out_shape = other._built(in_shapes)
        mine, theirs = (dict(layer.named_parameters()) for layer in (self, other))
        for name in mine:
            want, got = mine[name].value.shape, theirs[name].value.shape
            if want != got:
                raise self._error(
                    f"The layer was built for inputs of shape {_one(self._in_shapes)}, with "
                    f"{name!r} of shape {want}; it can't take inputs for which {name!r} must have "
                    f"shape {got}",
                    shape=_one(in_shapes),
                )
        return out_shape

    def build(self, *in_shapes: Any, **kwargs: Any) -> Any:
        """Create the parameters for inputs of these shapes, and return the output's shape."""
        return in_shapes[0]

    # ----------------------------------------------------------------------------- computation

    def forward(self, input: ArrayLike, *args: Any, **kwargs: Any) -> NDArray:
        """Return the output for a batch of samples.

        The layers of npdl take an argument ``train=True``. In training they keep what `backward`
        will need; with ``train=False``, at prediction, they keep nothing, so several threads may
        predict at once. Between a training `forward` and its `backward`, leave the input and the
        output as they are: both are read again.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward.")

    def backward(self, pre_grad: ArrayLike, *args: Any, **kwargs: Any) -> NDArray | None:
        """Return the gradient in the last training input, and fill the parameters' gradients.

        Parameters
        ----------
        pre_grad : array_like
            Gradient of the loss in the output of the last training `forward`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define backward.")

    def forward_masked(
        self, inputs: Sequence[Any], masks: Sequence[NDArray | None], train: bool
    ) -> tuple[Any, Any]:
        """Return the output and its mask, for inputs and their masks, as a network runs a layer.

        A layer that owns layers overrides this where masks travel through them.

        Parameters
        ----------
        inputs : sequence of array_like
        masks : sequence of ndarray or None
            For each input its mask, shape (N, T), 0 for padding; None if it has none.
        train : bool

        Returns
        -------
        output : ndarray or tuple of ndarray
        mask : ndarray or None
            A tuple where there are several outputs.
        """
        mask: Any = masks[0] if len(masks) == 1 else tuple(masks)
        masked = any(one is not None for one in masks)
        y = call_forward(self, tuple(inputs), train, mask if masked else None)
        return y, self.mask_after(inputs, masks, y)

    def mask_after(self, inputs: Sequence[Any], masks: Sequence[NDArray | None], y: Any) -> Any:
        """Return the mask of the output, including that of `make_mask`."""
        if self.makes_mask:
            made = self.make_mask(*map(np.asarray, inputs))
            if made is not None:
                before = masks[0]
                masks = [made if before is None else made * (before != 0), *masks[1:]]
        return self.next_mask(masks, y) if any(mask is not None for mask in masks) else None

    def next_mask(self, masks: Sequence[NDArray | None], y: Any) -> Any:
        """Return the mask of the output, for the masks of the inputs.

        By default that of the first input, as long as the output still has its steps.

        Parameters
        ----------
        masks : sequence of ndarray or None
            For each input its mask, shape (N, T), 0 for padding; None if it has none.
        y : ndarray
            The output; a tuple where there are several, which then have a tuple of masks.
        """
        mask = masks[0]
        if isinstance(y, tuple):
            return tuple(_kept(mask, array) for array in y)
        return _kept(mask, y)

    def make_mask(self, *inputs: NDArray) -> NDArray | None:
        """Return the mask that the layer makes of its inputs, if `makes_mask` is true."""
        raise NotImplementedError(f"{type(self).__name__} must define make_mask.")

    def takes_over(self, layer: Layer) -> bool:
        """Whether this layer can do the work of the `layer` behind it, as its `follower`."""
        return False

    def begin_training(self, need_input_grad: bool) -> None:
        """Keep arrays from step to step from now on; a model calls this before it trains."""
        self.keep_buffers, self.need_input_grad = True, need_input_grad
        for layer in self.sublayers:
            layer.begin_training(True)

    def end_training(self) -> None:
        """Undo `begin_training`; no `backward` can follow."""
        self.keep_buffers, self.need_input_grad, self._cache = False, True, None
        for layer in self.sublayers:
            layer.end_training()

    def _saved_for_backward(self) -> tuple:
        """The data that the last training forward pass saved for the backward pass."""
        if self._cache is None:
            raise RuntimeError(
                f"backward must come after a training forward pass {self._where}. "
                "Call forward(..., train=True) first."
            )
        return self._cache

    def _buffer(self, key: str, like: tuple[int, ...], dtype: DTypeLike) -> NDArray:
        """An uninitialized array for an output, a cache or a gradient of a training step.

        With `keep_buffers` the array of the last step is reused if it fits. Inference
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
        """The array for the gradient in the input `x`; None where it is not needed."""
        return self._buffer("dx", x.shape, x.dtype) if self.need_input_grad else None


def _kept(mask: NDArray | None, y: NDArray) -> NDArray | None:
    """The mask, if an array still has its steps."""
    return mask if mask is not None and y.ndim >= 3 and y.shape[:2] == mask.shape else None


def _one(shapes: Sequence[Shape] | None) -> Any:
    """A single shape, or a tuple of several."""
    return shapes[0] if shapes is not None and len(shapes) == 1 else shapes
