"""Level 2: a network of layers that is connected and run as one, forward and backward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from numpy.typing import NDArray

from npdl import graph
from npdl._checks import error_message
from npdl.batch import ONE, Names
from npdl.graph import Named
from npdl.layers.base import Layer, Shape
from npdl.layers.block import Block
from npdl.layers.flat import flatten
from npdl.layers.node import Value, as_values
from npdl.layers.owning import named_arrays
from npdl.layers.plan import Plan
from npdl.layers.tree import unique_names
from npdl.persistence import Persistent


class Functional(Persistent):
    """Layers, inputs and outputs: the part of `npdl.model.Model` that needs no data and no loss."""

    #: The graph's inputs and outputs; None for a chain of layers.
    inputs: Named | None = None
    outputs: Named | None = None

    _plan: Plan | None = None
    _block: Block | None = None

    def __init__(
        self,
        layers: Any = None,
        outputs: Any = None,
        *,
        inputs: Any = None,
        name: str | None = None,
    ) -> None:
        self.name = name
        self.layers: list[Layer] = []
        self.compiled = False
        self._names: dict[Layer, str] = {}
        layers = layers if inputs is None else inputs
        if outputs is not None:
            self.connect(layers, outputs)
            return
        for layer in graph.chain(layers):
            self.add(layer)

    # ------------------------------------------------------------------------------ the graph

    def connect(self, inputs: Any, outputs: Any) -> None:
        """Become the network from some symbolic values to others; see the class."""
        self.inputs, entries = Named.of(inputs, "inputs")
        self.outputs, ends = Named.of(outputs, "outputs")
        self._plan = Plan(entries, ends)
        self.layers = list(self._plan.layers)
        self.give_names()
        flatten(self.layers)

    def add(self, layer: Any) -> None:
        """Append a layer, or a model as a layer; compile the model again afterwards."""
        if self.inputs is not None:
            raise ValueError("Layers can't be added to a graph: make a new Model(inputs, outputs).")
        if isinstance(layer, Functional):
            layer = layer.as_layer()
        if not isinstance(layer, Layer):
            raise TypeError(f"A model is made of instances of Layer. Received: {layer!r}")
        if any(layer is other for other in self.layers):
            raise ValueError(
                "To share weights, call the layer on values, see npdl.Input: a layer can "
                f"be in a list only once. Received: {layer.name!r}"
            )
        self.layers.append(layer)
        self.compiled = False

    def pop(self) -> Layer:
        """Remove the last layer and return it; compile the model again afterwards."""
        if self.inputs is not None or not self.layers:
            raise ValueError("Only a chain of layers has a last layer that can be taken away.")
        self.compiled = False
        return self.layers.pop()

    def as_layer(self) -> Block:
        """This model as a layer of other models; it shares the weights."""
        if self._block is None:
            plan = None if self.inputs is None else self._plan
            self._block = Block(None if plan else self.layers, plan=plan)
            if self.name is not None:
                self._block.name = self.name
        return self._block

    def __call__(self, *values: Any) -> Any:
        """Call the model as a layer on symbolic values; see `Layer.__call__`."""
        if not as_values(values):
            got = ", ".join(type(v).__name__ for v in values) or "nothing"
            raise TypeError(
                "A model is called on symbolic values, see npdl.Input; use predict() for arrays. "
                f"Received: {got}"
            )
        return self.as_layer()(*values)

    def __repr__(self) -> str:
        name = "" if self.name is None else f"{self.name!r}, "
        if self.inputs is None:
            return f"{type(self).__name__}({name}{self.layers!r})"
        ends = f"{', '.join(self.input_names)} -> {', '.join(self.output_names)}"
        return f"<{type(self).__name__} {name}{ends}: {len(self.layers)} layers>"

    def give_names(self) -> list[str]:
        """The name of each layer in this model; names given before are kept."""
        names = unique_names(self.layers, self._names)
        for layer, name in zip(self.layers, names):
            if layer._name is None:
                self._names[layer] = layer._auto_name = name
        return names

    def adopt_names(self, layers: Mapping[str, Layer]) -> None:
        """Take over the names that the layers had in another model."""
        self._names = {layer: name for name, layer in layers.items() if layer._name is None}

    @property
    def layer_names(self) -> list[str]:
        """The names of the layers in this model, which in another one may have others."""
        names = [layer._name or self._names.get(layer) for layer in self.layers]
        if None in names or len({*names}) < len(names):
            return self.give_names()
        return names  # type: ignore[return-value]

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """Return a layer by its name in this model, or by its place.

        Raises
        ------
        ValueError
            If there is none; the message lists the names.
        """
        if index is not None:
            return self.layers[index]
        names = self.layer_names
        if name not in names:
            raise ValueError(error_message(f"`name` must be one of {', '.join(names)}", name=name))
        return self.layers[names.index(name)]

    @property
    def input_names(self) -> list[str]:
        """The names of the inputs, for data that are passed as a dict."""
        if self.inputs is None:
            return ["input"]
        taken = {name for name in self.inputs.names if name is not None}
        return [name or _free(f"input_{i}", taken) for i, name in enumerate(self.inputs.names, 1)]

    @property
    def output_names(self) -> list[str]:
        """The names of the outputs: their keys in the dict that was passed, or their layers'."""
        if self.outputs is None or self._plan is None:
            return ["output"]
        by_layer = dict(zip(self.layers, self.layer_names))
        makers = {slot: step.owner for slot, step in self._plan.makers.items()}
        found: list[str] = []
        for slot, given in zip(self._plan.out_slots, self.outputs.names):
            name = given or (by_layer[makers[slot]] if slot in makers else "output")
            found.append(name if name not in found else _free(f"{name}_{len(found)}", {*found}))
        return found

    @property
    def data_names(self) -> Names:
        """The names of inputs and outputs, under which data may be passed."""
        if self.inputs is None:
            return ONE
        return Names(tuple(self.input_names), tuple(self.output_names))

    @property
    def input_shape(self) -> Any:
        """The shape of the input, None for open sizes; a list where there are several."""
        shapes = self.require_plan("input_shape").in_shapes
        return shapes[0] if len(shapes) == 1 else [*shapes]

    @property
    def output_shape(self) -> Any:
        """The shape of the output, None for open sizes; a list where there are several."""
        shapes = self.require_plan("output_shape").out_shapes
        return shapes[0] if len(shapes) == 1 else [*shapes]

    @property
    def plan(self) -> Plan | None:
        """The steps of this model; None as long as its layers are not connected."""
        plan = self._plan
        if plan is None or not plan.fits():
            return None
        return plan if self.inputs is not None or plan.layers == self.layers else None

    @property
    def built(self) -> bool:
        """Whether all layers are connected."""
        return self.plan is not None

    def build(self, input_shape: Shape | None = None) -> None:
        """Connect the layers, each to the one before it.

        A layer that is connected keeps its weights if they fit, and also where another model uses
        it for inputs of another size.

        Parameters
        ----------
        input_shape : tuple, optional
            Shape of the input with its sample axis, such as ``(None, 1, 28, 28)``; not needed if
            the first layer declares it.

        Raises
        ------
        ValueError
            If a shape is unknown, or does not fit.
        """
        if self.inputs is not None and self._plan is not None:
            self._plan = self._plan.rewired([Value(shape) for shape in self._plan.in_shapes])
            self._watch_terms()
            return
        self.give_names()
        shape = graph.entry_shape(self.layers[0]) if input_shape is None else tuple(input_shape)
        if shape is None:
            self.layers[0].connect_to()  # the error says what is missing
            shape = self.layers[0].out_shape
        self._plan = graph.plan_chain(self.layers, shape)  # type: ignore[arg-type]
        flatten(self.layers)
        self._watch_terms()

    def _watch_terms(self) -> None:
        """Let a new plan keep the values that terms of the loss take; see `Trainer`."""

    def build_for(self, x: tuple[NDArray, ...]) -> Plan:
        """The plan; the layers are connected for data of these shapes, if they are not yet."""
        plan = self.plan
        if plan is None:
            self.build((None, *x[0].shape[1:]))
            plan = self.require_plan("build")
        return plan

    # ------------------------------------------------------------------- forward and backward

    def arrays_for(self, values: Any, names: list[str], what: str) -> tuple[Any, ...]:
        """One array for each input, or output: from one, a list, a tuple or a dict by name."""
        if len(names) == 1:
            if isinstance(values, Mapping) and values.keys() == {names[0]}:
                return (values[names[0]],)
            return (values,)
        if isinstance(values, Mapping):
            if values.keys() != {*names}:
                rule = f"`{what}` must hold {', '.join(map(repr, names))}"
                raise ValueError(error_message(rule, keys=[*values]))
            return tuple(values[name] for name in names)
        if not isinstance(values, list | tuple) or len(values) != len(names):
            got = len(values) if isinstance(values, list | tuple) else type(values).__name__
            rule = f"`{what}` must be a list of {len(names)} arrays, or a dict by name"
            raise ValueError(error_message(f"{rule} ({', '.join(names)})", received=got))
        return tuple(values)

    def forward(self, X: Any, train: bool = True, mask: Any = None) -> Any:
        """Return the output for one batch; see `Layer.forward`.

        Parameters
        ----------
        X : array_like; a list, tuple or dict of them for a model of several inputs
        train : bool
        mask : array_like, shape (N, T), optional
            0 for padding; for several inputs a list. It goes to all layers that take one, as long
            as there are steps, see `Layer.next_mask`.

        Returns
        -------
        ndarray, or list or dict of ndarray
            In the form in which the outputs were passed to `Model`.
        """
        plan = self.require_plan("forward")
        inputs = self.arrays_for(X, self.input_names, "X") if len(plan.in_shapes) > 1 else (X,)
        masks = None
        if mask is not None:
            masks = (mask,) if len(plan.in_shapes) == 1 else tuple(mask)
        outputs, _ = plan.forward(inputs, train, masks)
        return self.packed(outputs)

    def packed(self, outputs: list[Any], names: Sequence[str] | None = None) -> Any:
        """One item for each output, in the form in which the outputs were passed to `Model`.

        `names` are those of the outputs, if they are known: finding them takes time.
        """
        if self.outputs is None:
            return outputs[0]
        return self.outputs.packed(outputs, self.output_names if names is None else names)

    def backward(self, pre_grad: Any) -> Any:
        """Return the gradient in the last training input, and fill the parameters' gradients.

        Parameters
        ----------
        pre_grad : array_like
            Gradient in the output; for several outputs a list or dict like what `forward` returned.

        Returns
        -------
        ndarray or None; a list of them where there are several inputs
        """
        plan = self.require_plan("backward")
        grads = (pre_grad,)
        if len(plan.out_slots) > 1:
            grads = self.arrays_for(pre_grad, self.output_names, "pre_grad")
        found = plan.backward(grads)
        return found[0] if len(found) == 1 else found

    def trace(self, X: Any, mask: Any = None) -> Iterator[tuple[Layer, NDArray]]:
        """Yield each layer with its output for one batch, in inference mode."""
        plan = self.require_plan("trace")
        inputs = self.arrays_for(X, self.input_names, "X") if len(plan.in_shapes) > 1 else (X,)
        yield from plan.trace(inputs, None if mask is None else (mask,))

    # ----------------------------------------------------------------------------- parameters

    @property
    def trainable(self) -> bool:
        """Whether training changes any layer; setting it sets that of all layers."""
        return any(layer.trainable for layer in self.layers)

    @trainable.setter
    def trainable(self, trainable: bool) -> None:
        for layer in self.layers:
            layer.trainable = trainable

    @property
    def params(self) -> list[NDArray]:
        """The arrays that are trained, of all layers, each once."""
        return [p for p, _ in self.param_grads]

    @property
    def grads(self) -> list[NDArray]:
        """The gradients of `params`, in the same order."""
        return [g for _, g in self.param_grads]

    @property
    def param_grads(self) -> list[tuple[NDArray, NDArray]]:
        """Pairs of `params` and `grads`."""
        pairs = (pair for layer in self.layers for pair in layer.param_grads)
        return list({id(pair[0]): pair for pair in pairs}.values())

    def named_arrays(self) -> Iterator[tuple[str, NDArray, bool]]:
        """Yield (name, array, trained or not) of all arrays, ``"dense_1/W"``, each once."""
        seen: set[int] = set()
        for name, layer in zip(self.layer_names, self.layers):
            for path, array, trained in named_arrays(layer):
                if id(array) not in seen:
                    seen.add(id(array))
                    yield f"{name}/{path}", array, trained

    @property
    def weights(self) -> dict[str, NDArray]:
        """All arrays of all layers by name, ``"dense_1/W"``: trained, frozen and running ones."""
        return {name: array for name, array, _ in self.named_arrays()}

    def count_params(self) -> int:
        """Return how many numbers the model owns."""
        return sum(array.size for _, array, _ in self.named_arrays())

    def require_plan(self, what: str) -> Plan:
        """The plan, for a method of this name, which needs a built model."""
        plan = self.plan
        if plan is None and self.layers and all(one.out_shape is not None for one in self.layers):
            self.build()  # another network has connected the layers
            plan = self.plan
        if plan is None:
            raise RuntimeError(f"The model must be built before {what}. Call compile() or build().")
        return plan

    # ---------------------------------------------------------------------------------- show

    def summary(self, file: TextIO | None = None) -> None:
        """Print a table of the layers, and the memory that the model needs.

        Parameters
        ----------
        file : text file, optional
            Standard output by default.
        """
        shape = self.layers[0].declared_shape if self.layers and self.plan is None else None
        if shape is not None and None not in shape[1:]:
            self.build()
        from npdl.summary import print_summary

        print_summary(self, file)


def _free(name: str, taken: Iterable[str]) -> str:
    """`name`, with underscores appended while it is taken."""
    while name in taken:
        name += "_"
    return name
